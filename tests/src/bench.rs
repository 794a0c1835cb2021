//! What the benchmarks share.
//!
//! The measure is CPU seconds of the server process for a unit of work. Server and client have a core each,
//! competitors take turns, the first round is dropped, and a ratio is the median of the ratios of the rounds:
//! so the figures mean something on a machine that others use too.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

// Around what is measured.
pub mod counter;
pub mod load;
pub mod place;
pub mod process;
pub mod table;

// What is measured, and on what.
pub mod publisher;
pub mod site;
pub mod updates;
