//! Signs in the registry that Windows must be restarted.

use super::registry::{RESTART, Registry, text};
use crate::{
    scan::Problem,
    signs::{Sign, SignKind},
};

/// Keys that are there only while a restart is needed, with what they mean.
const KEYS: [(&str, &str); 6] = [
    (RESTART, "an installed update waits for a restart"),
    (
        r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending",
        "component servicing waits for a restart",
    ),
    (
        r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootInProgress",
        "component servicing is restarting the computer",
    ),
    (
        r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\PackagesPending",
        "packages of Windows wait for a restart",
    ),
    (
        r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired",
        "Windows Update waits for a restart",
    ),
    (
        r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\PostRebootReporting",
        "Windows Update has not reported since a restart",
    ),
];

/// Set by old packages of updates until the next boot.
const VOLATILE: [&str; 2] = [r"HKLM\SOFTWARE\Microsoft\Updates", r"HKLM32\SOFTWARE\Microsoft\Updates"];

const MANAGER: &str = r"HKLM\SYSTEM\CurrentControlSet\Control\Session Manager";
const NAMES: &str = r"HKLM\SYSTEM\CurrentControlSet\Control\ComputerName";

/// What asks for a restart, ascending, and what could not be looked at.
///
/// Files that a program wants to be renamed or removed at the next boot are many and mostly of no account, so
/// they need no restart by themselves, see [`SignKind::Library`].
#[must_use]
pub fn signs(registry: &dyn Registry) -> (Vec<Sign>, Vec<Problem>) {
    let (mut signs, mut problems) = (Vec::new(), Vec::new());
    let sign = |kind, detail: &str, source: &str| Sign {
        kind,
        detail: detail.to_owned(),
        source: source.to_owned(),
    };
    for (key, detail) in KEYS {
        match registry.has(key) {
            Ok(true) => signs.push(sign(SignKind::Asked, detail, key)),
            Ok(false) => {}
            Err(reason) => problems.push(Problem(reason)),
        }
    }
    for key in VOLATILE {
        match registry.value(key, "UpdateExeVolatile") {
            Ok(value) if value.as_ref().and_then(|data| data.number()).unwrap_or(0) != 0 => {
                signs.push(sign(SignKind::Asked, "an old update waits for a restart", key));
            }
            Ok(_) => {}
            Err(reason) => problems.push(Problem(reason)),
        }
    }
    for name in ["PendingFileRenameOperations", "PendingFileRenameOperations2"] {
        match registry.value(MANAGER, name) {
            Ok(Some(data)) if data.bytes.iter().any(|byte| *byte != 0) => {
                let detail = "files are replaced at the next restart";
                signs.push(sign(SignKind::Library, detail, &format!("{MANAGER}#{name}")));
            }
            Ok(_) => {}
            Err(reason) => problems.push(Problem(reason)),
        }
    }
    let named = |which: &str| text(registry, &format!("{NAMES}\\{which}"), "ComputerName");
    match (named("ActiveComputerName"), named("ComputerName")) {
        (Ok(Some(active)), Ok(Some(next))) if !active.eq_ignore_ascii_case(&next) => {
            let detail = format!("the computer is called `{next}` after the next restart");
            signs.push(sign(SignKind::Prepared, &detail, NAMES));
        }
        (Ok(_), Ok(_)) => {}
        (Err(reason), _) | (_, Err(reason)) => problems.push(Problem(reason)),
    }
    signs.sort();
    (signs, problems)
}

#[cfg(test)]
mod tests {
    use super::{super::registry::Written, *};
    use crate::signs::reboot_needed;

    #[test]
    fn each_sign_is_told_with_its_key_and_renames_alone_need_no_restart() {
        let mut registry = Written::default();
        registry
            .texts(MANAGER, "PendingFileRenameOperations", &["\\??\\C:\\x"])
            .text(&format!("{NAMES}\\ActiveComputerName"), "ComputerName", "A")
            .text(&format!("{NAMES}\\ComputerName"), "ComputerName", "a")
            .number(VOLATILE[0], "UpdateExeVolatile", 0);
        let (found, problems) = signs(&registry);
        assert_eq!((found.len(), reboot_needed(&found), problems.as_slice()), (1, false, &[][..]));
        registry.key(KEYS[1].0).number(VOLATILE[1], "UpdateExeVolatile", 1);
        registry.text(&format!("{NAMES}\\ComputerName"), "ComputerName", "B");
        let (found, _) = signs(&registry);
        let sources: Vec<_> = found.iter().map(|sign| (sign.kind, sign.source.as_str())).collect();
        assert_eq!(
            sources,
            [
                (SignKind::Asked, VOLATILE[1]),
                (SignKind::Asked, KEYS[1].0),
                (SignKind::Library, format!("{MANAGER}#PendingFileRenameOperations").as_str()),
                (SignKind::Prepared, NAMES),
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_is_a_problem_and_no_sign() {
        let mut registry = Written::default();
        registry.forbidden.push(MANAGER.to_owned());
        let (found, problems) = signs(&registry);
        assert_eq!((found.len(), problems.len()), (0, 2));
    }
}
