//! The endpoint: scans its computer, decides by the published rules what applies, installs what was
//! approved, reports.

// What is.
pub mod host;
pub mod people;
pub mod probe;
pub mod scan;
pub mod signs;

// What is to be done, decided without doing anything.
pub mod consent;
pub mod due;
pub mod phase;
pub mod plan;
pub mod policy;
pub mod remind;
pub mod rhythm;
pub mod terms;
pub mod wishes;

// What is done, and remembered.
pub mod install;
pub mod ledger;
pub mod reboot;

// From the tier above, and back to it.
pub mod calls;
pub mod catalogues;
pub mod fetch;
pub mod report;
pub mod rules;
pub mod watch;

// The whole.
pub mod agent;
pub mod config;
pub mod cycle;
pub mod local;
#[cfg(windows)]
pub mod service;
pub mod show;
