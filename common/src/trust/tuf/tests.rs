//! The client against a repository that can say anything.

mod attacks;
mod delegations;
mod forge;
mod keeping;
mod noise;
