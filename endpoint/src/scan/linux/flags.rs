//! Yes/no facts that files show.

use std::io;

use tierway_common::facts::Domain;

use super::root::Root;
use crate::scan::{Collected, Problem};

/// Maintainer scripts leave this file to say that a reboot is needed; `/var/run` is the older name.
pub(crate) const REBOOT_REQUIRED: [&str; 2] = ["/run/reboot-required", "/var/run/reboot-required"];

/// Reads `flag:reboot-pending`. What dpkg says adds flags to the same domain.
pub(in crate::scan) fn scan(root: &Root, collected: &mut Collected) {
    let mut pending = Some(false);
    for path in REBOOT_REQUIRED {
        match root.locate(path) {
            Ok(_) => {
                pending = Some(true);
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                pending = None;
                collected.problems.push(Problem(format!("could not look for `{path}`: {error}")));
            }
        }
    }
    if let Some(pending) = pending {
        collected.set("flag:reboot-pending", if pending { "true" } else { "false" });
    }
    let source = format!("{} and the package manager's states", REBOOT_REQUIRED[0]);
    collected.domain("flag", Domain::Asked { source });
}
