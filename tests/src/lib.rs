//! A whole fleet in one process, for the flows and the benchmarks: a signed Debian archive, central, relays, endpoints, real
//! TLS over loopback, every folder its own.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    reason = "a harness of tests: what goes wrong must end the test; programs it starts make packages and roots"
)]

pub mod archive;
pub mod bench;
pub mod crowd;
pub mod fleet;
pub mod fuzz;
pub mod heard;
pub mod hostile;
pub mod power;
pub mod processes;
pub mod programs;
pub mod protocol;
pub mod reporter;
pub mod roots;
pub mod scale;
pub mod simulation;
pub mod skip;
pub mod small_disk;
pub mod tierctl;
pub mod wine;
pub mod year;
