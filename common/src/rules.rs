//! Rules: a tree of tests over facts, its value in three-valued logic, and why it has that value.

pub mod expr;
