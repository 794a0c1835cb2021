//! Probes of Linux systems. Each reads one domain; the parsers take bytes and are tested on any system.

pub mod dpkg;
pub mod files;
pub mod flags;
pub mod managers;
pub mod os;
pub mod root;
pub mod zone;
