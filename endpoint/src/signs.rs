//! Signs that this computer must be rebooted, and which boot it is in: values that decisions are made from.
//!
//! Pure. A sign is proven anew by each scan, so that none sticks: what is pending is what the scan of this
//! boot found, never what an earlier boot left.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which boot the computer is in: another value after every boot, whatever the clock says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(pub String);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One sign that a reboot is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sign {
    /// Of which kind.
    pub kind: SignKind,
    /// A sentence without a period.
    pub detail: String,
    /// The file it was read from.
    pub source: String,
}

/// Kinds of signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignKind {
    /// A package asked for it.
    Asked,
    /// A newer kernel is installed than the one that runs.
    Kernel,
    /// The system's first processes still use a library that was replaced; only a boot renews them.
    Init,
    /// Other processes do: restarting them is enough, so this sign alone needs no reboot.
    Library,
    /// Something is prepared to be done at the next boot.
    Prepared,
    /// Somebody else has ordered one: told, and no need of its own.
    Scheduled,
}

impl SignKind {
    /// Whether it needs a reboot by itself.
    #[must_use]
    pub fn needs_reboot(self) -> bool {
        !matches!(self, Self::Library | Self::Scheduled)
    }
}

/// Whether one of `signs` needs a reboot.
#[must_use]
pub fn reboot_needed(signs: &[Sign]) -> bool {
    signs.iter().any(|sign| sign.kind.needs_reboot())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_a_restart_renews_needs_no_reboot() {
        let sign = |kind| Sign { kind, detail: String::new(), source: String::new() };
        assert!(!reboot_needed(&[sign(SignKind::Library), sign(SignKind::Scheduled)]));
        assert!(reboot_needed(&[sign(SignKind::Library), sign(SignKind::Kernel)]));
        assert!(!reboot_needed(&[]));
    }
}
