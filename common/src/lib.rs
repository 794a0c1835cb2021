//! What the tiers agree on: ids, documents, rules and their evaluation, trust, transport.
//!
//! Nothing here knows a tier. [`schema`], [`rules`], [`calendar`], [`version`] and [`tree`] do no I/O and read no clock.

// What is said.
pub mod id;
pub mod schema;

// How it is decided.
pub mod calendar;
pub mod facts;
pub mod lease;
pub mod rings;
pub mod rules;
pub mod service;
pub mod version;

// How it is carried and kept.
pub mod blobs;
#[cfg(feature = "store")]
pub mod store;
pub mod tree;
pub mod trust;

// How a process lives.
pub mod clock;
pub mod daemon;
pub mod enrollment;
pub mod files;
pub mod host;
pub mod notices;
#[cfg(unix)]
pub mod processes;
pub mod programs;
pub mod schedule;
pub mod seal;
pub mod transport;
#[cfg(windows)]
pub mod windows;
