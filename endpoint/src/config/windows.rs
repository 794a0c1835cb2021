//! Below the folder of programs' data for all users, wherever this Windows has it.
//!
//! A configuration in the data folder is read when nobody but the system and administrators can have put it there.

use std::path::PathBuf;

use tierway_common::windows::{folder::is_sealed, program_data};

use crate::service::data_folder;

pub(super) fn data_dir() -> PathBuf {
    program_data().join("Tierway").join("endpoint")
}

pub(super) fn local_socket() -> PathBuf {
    PathBuf::from(r"\\.\pipe\tierway-endpoint")
}

pub(super) fn file() -> Option<PathBuf> {
    let dir = data_dir();
    let file = dir.join("endpoint.toml");
    (is_sealed(data_folder(&dir, &dir)) && file.is_file()).then_some(file)
}
