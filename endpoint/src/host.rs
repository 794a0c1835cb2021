//! The computer by kind and measure, as its system tells it without a program being started.

#[cfg_attr(unix, path = "host/unix.rs")]
#[cfg_attr(windows, path = "host/windows.rs")]
mod system;

/// What sort of machine it is: as `uname -m` says, of Windows as it names itself, in lower case (`amd64`).
#[must_use]
pub fn machine() -> String {
    system::machine()
}

/// Memory in bytes; 0 where that is not known.
#[must_use]
pub fn memory_bytes() -> u64 {
    system::memory_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computer_has_a_machine_and_memory() {
        assert!(!machine().is_empty());
        assert!(memory_bytes() > 64 << 20, "{}", memory_bytes());
    }
}
