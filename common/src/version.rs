//! Orderings of versions, one file each.
