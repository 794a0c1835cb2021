//! Who may say what: digests, keys, the authenticated metadata and the envelopes of reports.

pub mod digest;
