//! The Merkle map: documents under sorted keys, in bounded nodes that are blobs.
