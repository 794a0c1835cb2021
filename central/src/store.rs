//! Where central keeps what it knows: [`tables`] is the data model.

pub mod chunked;
pub mod tables;
#[cfg(test)]
pub(crate) mod testing;
