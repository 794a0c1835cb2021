//! What our services of Windows share: how the service manager runs one, its log, its data folder, and where the
//! registry says that the folders of this Windows are.

mod event_log;
pub mod folder;
pub mod service;

use std::path::PathBuf;

use windows_registry::LOCAL_MACHINE;

/// `KEY_READ` in the view of 64-bit programs.
const READ: u32 = 0x0002_0019 | 0x0100;

const SYSTEM: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const SHELL: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Explorer\Shell Folders";
const NAMES: [(&str, &str); 2] = [
    (r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters", "Hostname"),
    (r"SYSTEM\CurrentControlSet\Control\ComputerName\ActiveComputerName", "ComputerName"),
];

/// A text of the registry of this computer; `None` where there is none, and where it cannot be read.
fn text(key: &str, name: &str) -> Option<String> {
    let key = LOCAL_MACHINE.options().access(READ).open(key).ok()?;
    key.get_string(name).ok().filter(|text| !text.is_empty())
}

fn folder(key: &str, name: &str, mostly: &str) -> PathBuf {
    text(key, name).map_or_else(|| mostly.into(), |path| path.trim_end_matches('\\').into())
}

/// The folder of the system's own programs; where it mostly is when the registry does not say.
#[must_use]
pub fn system_folder() -> PathBuf {
    folder(SYSTEM, "SystemRoot", r"C:\windows").join("system32")
}

/// The folder of programs' data for all users, as [`system_folder`].
#[must_use]
pub fn program_data() -> PathBuf {
    folder(SHELL, "Common AppData", r"C:\ProgramData")
}

/// The name of this computer as it knows itself; `unnamed` when the registry does not say.
pub(crate) fn host_name() -> String {
    NAMES.into_iter().find_map(|(key, name)| text(key, name)).unwrap_or_else(|| "unnamed".to_owned())
}
