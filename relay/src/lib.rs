//! The relay of a site: mirrors what its site needs, forwards what its site says.
//!
//! It decides nothing and reads no report. Downward it hands on what the TUF metadata vouches for, after
//! checking it; upward it keeps every report on disk until the tier above has it on disk.

// Downward.
pub mod mirror;
pub mod payloads;
pub mod seen;
pub mod sync;

// Upward.
pub mod outbox;
pub mod resync;
pub mod up;

// Its doors.
pub mod config;
pub mod downstream;
#[cfg(windows)]
pub mod installer;
pub mod server;
#[cfg(windows)]
pub mod service;
