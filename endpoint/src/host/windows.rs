//! As the registry and the kernel tell.

use sysinfo::{MemoryRefreshKind, System};

use crate::scan::windows::registry::{SystemRegistry, text};

/// What the system says of itself, whatever this program was built for.
const ENVIRONMENT: &str = r"HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment";

pub(super) fn machine() -> String {
    let named = text(&SystemRegistry, ENVIRONMENT, "PROCESSOR_ARCHITECTURE").ok().flatten();
    named.unwrap_or_else(|| "amd64".to_owned()).to_ascii_lowercase()
}

pub(super) fn memory_bytes() -> u64 {
    let Ok(mut system) = System::new() else { return 0 };
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    system.total_memory()
}
