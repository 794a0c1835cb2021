//! Central gathers updates, publishes what was approved, and knows every computer.
//!
//! Down: [`sources`] → [`catalog`] → [`policy`] → [`publish`]. Up: [`inventory`] → [`compliance`] → [`fleet`].
//! [`state`] keeps what is known, on disk and in memory as one; [`rpc`] is the door.

// How it runs.
pub mod config;
pub mod doctor;
pub mod init;
pub mod layout;
pub mod rpc;
pub mod server;

// What is kept.
pub mod model;
pub mod state;
pub mod store;

// Who.
pub mod audit;
pub mod enroll;
pub mod leases;
pub mod text;

// Up.
pub mod compliance;
pub mod exposure;
pub mod fleet;
pub mod forecast;
pub mod histogram;
pub mod inventory;
pub mod timing;

// Down.
pub mod calls;
pub mod catalog;
pub mod decide;
pub mod download;
pub mod packages;
pub mod plan;
pub mod policy;
pub mod publish;
pub mod roots;
pub mod sources;
