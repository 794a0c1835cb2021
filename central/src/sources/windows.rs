//! Updates for Windows, from whatever their vendors publish: read into one model and lowered to documents.
//!
//! Four encodings say the same things: the server's document of an update and the pieces that clients are given
//! ([`update`]), the catalogue for computers without a network ([`offline`]), and vendors' catalogues
//! ([`sdp`]). Nothing here touches a network or believes a signature; who brings the bytes has done that.

// From bytes to elements.
pub mod cabinet;
pub mod xml;

// What they say.
pub mod model;
pub mod rules;

// The encodings.
pub mod offline;
pub mod sdp;
pub mod update;

// What is made of it.
pub mod documents;
pub mod lower;
