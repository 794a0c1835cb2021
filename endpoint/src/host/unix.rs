//! As the kernel tells.

pub(super) fn machine() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

pub(super) fn memory_bytes() -> u64 {
    rustix::system::sysinfo().totalram
}
