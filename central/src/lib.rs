//! Central gathers updates, publishes what was approved, and knows every computer.
//!
//! Down: [`sources`] → `catalog` → [`policy`] → `publish`. Up: `inventory` → [`compliance`].
//! [`state`] keeps what is known, on disk and in memory as one; `rpc` is the door.

// What is kept.
pub mod model;
pub mod state;
pub mod store;

// Who.
pub mod audit;
pub mod enroll;
pub mod text;

// Up.
pub mod compliance;
pub mod inventory;

// Down.
pub mod policy;
pub mod sources;
