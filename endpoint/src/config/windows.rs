//! Below the folder of programs' data for all users, wherever this Windows has it.
//!
//! A configuration in the data folder is read when nobody but the system and administrators can have put it there.

use std::path::PathBuf;

use tierway_common::rules::place::Folder;

use crate::{
    scan::windows::{place::folder, registry::SystemRegistry},
    service::folder::is_sealed,
};

pub(super) fn data_dir() -> PathBuf {
    let programs =
        folder(&SystemRegistry, Folder::ProgramData).unwrap_or_else(|_| r"C:\ProgramData".to_owned());
    PathBuf::from(programs).join("Tierway").join("endpoint")
}

pub(super) fn local_socket() -> PathBuf {
    PathBuf::from(r"\\.\pipe\tierway-endpoint")
}

pub(super) fn file() -> Option<PathBuf> {
    let dir = data_dir();
    let file = dir.join("endpoint.toml");
    (is_sealed(&dir) && file.is_file()).then_some(file)
}
