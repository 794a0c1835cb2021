//! Rules: a tree of tests over facts, its value in three-valued logic, and why it has that value.
//!
//! [`expr`] is the tree, [`limits`] what a tree may be, [`mod@evaluate`] its value, [`mod@explain`] the
//! reasons for people, [`compile`] the same value for fifty thousand trees at once. All of them ask the
//! same smallest questions, so they cannot differ in what a test means.

pub mod expr;
pub mod limits;
pub mod place;

mod atom;
pub mod compile;
pub mod evaluate;
pub mod explain;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod sample;

pub use self::{
    evaluate::{Truth, Verdict, evaluate, verdict},
    explain::explain,
    limits::check,
};
