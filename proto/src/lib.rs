//! The messages of Tierway, generated from `proto/tierway/v1`, and the only conversions to and from them.
//!
//! A message lives for one call. What lives longer is a document (`tierway_common::schema`) and
//! travels in a message as bytes.

pub mod blob_stream;
pub mod invitation;
pub mod joining;
pub mod metadata;
pub mod notices;
pub mod sync;
pub mod upstream;

/// Longest answer to an operator, who central lets in by name: the longest list that comes as one, 200,000 leases, has
/// half of it.
pub const OPERATOR_ANSWER_BYTES_MAX: usize = 64 << 20;

/// Generated: messages, clients and servers.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("tierway.v1");
}
