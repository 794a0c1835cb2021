//! The endpoint: scans its computer, decides by the published rules what applies, installs what was
//! approved, reports.

// What is.
pub mod scan;

// What is done.
pub mod install;
