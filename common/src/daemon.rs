//! What the three binaries share: configuration files, logging, stop signals, tasks, places, error chains.

pub mod chain;
pub mod config;
pub mod disk;
pub mod logging;
pub mod places;
pub mod stop;
pub mod tasks;
