//! For the person at the machine: an icon, and a window with what is due and what he may choose.
//!
//! A program of its own without privileges, one in each session: it speaks to the endpoint's local door and to nothing
//! else, and what it asks is granted or refused there. It is drawn without a graphics card, the same on every system.

// What is shown.
pub mod page;
pub mod picture;
pub mod view;

// How.
pub mod canvas;
pub mod icon;
pub mod talk;
pub mod window;
