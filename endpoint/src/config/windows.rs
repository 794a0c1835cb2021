//! Below the folder of programs' data for all users, wherever this Windows has it.

use std::path::PathBuf;

use tierway_common::rules::place::Folder;

use crate::scan::windows::{place::folder, registry::SystemRegistry};

pub(super) fn data_dir() -> PathBuf {
    let programs =
        folder(&SystemRegistry, Folder::ProgramData).unwrap_or_else(|_| r"C:\ProgramData".to_owned());
    PathBuf::from(programs).join("Tierway").join("endpoint")
}

pub(super) fn local_socket() -> PathBuf {
    PathBuf::from(r"\\.\pipe\tierway-endpoint")
}
