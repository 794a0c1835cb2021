//! The endpoint: scans its computer, decides by the published rules what applies, installs what was
//! approved, reports.

// What is.
pub mod scan;

// What is to be done, decided without doing anything.
pub mod plan;
pub mod policy;

// What is done, and remembered.
pub mod install;
pub mod ledger;
