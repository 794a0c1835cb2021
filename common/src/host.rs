//! The name of the computer, as its system tells it without a program being started.

/// The name of this computer as it knows itself.
#[cfg(unix)]
#[must_use]
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of this computer as it knows itself.
#[cfg(windows)]
#[must_use]
pub fn name() -> String {
    crate::windows::host_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computer_has_a_name() {
        assert!(!name().is_empty());
    }
}
