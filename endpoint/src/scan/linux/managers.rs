//! Other programs that install updates on this system by themselves: unattended-upgrades, dnf-automatic.

use std::io::{self, Read};

use tierway_common::facts::Domain;

use super::root::Root;
use crate::scan::{Collected, Problem};

/// What unattended-upgrades is started by; of two that say so the later counts.
const PERIODIC: [&str; 3] = [
    "/etc/apt/apt.conf.d/10periodic",
    "/etc/apt/apt.conf.d/20auto-upgrades",
    "/etc/apt/apt.conf.d/50unattended-upgrades",
];
const SETTING: &str = "APT::Periodic::Unattended-Upgrade";

/// Timers of dnf-automatic that are enabled, and whether it installs by them whatever its configuration says.
const TIMERS: [(&str, bool); 3] = [
    ("/etc/systemd/system/timers.target.wants/dnf-automatic-install.timer", true),
    ("/etc/systemd/system/timers.target.wants/dnf-automatic.timer", false),
    ("/etc/systemd/system/timers.target.wants/dnf5-automatic.timer", false),
];
const AUTOMATIC: &str = "/etc/dnf/automatic.conf";

/// Longest configuration that is read: they have some 5 KiB.
const CONFIG_BYTES_MAX: u64 = 256 << 10;

/// Reads the domain `manager`; packages were read before.
pub(in crate::scan) fn scan(root: &Root, collected: &mut Collected) {
    let mut wanted = None;
    for path in PERIODIC {
        if let Some(text) = read(root, path, collected) {
            wanted = periodic(&text).or(wanted);
        }
    }
    let there = collected.facts.values.keys().any(|key| key.starts_with("package:deb:unattended-upgrades:"));
    if there && wanted == Some(true) {
        collected.set("manager:unattended-upgrades", format!("installs updates, by `{SETTING}`"));
    }
    if let Some((_, installs)) = TIMERS.iter().find(|(timer, _)| root.locate(timer).is_ok()) {
        let applies = *installs || read(root, AUTOMATIC, collected).is_some_and(|text| applies(&text));
        let does = if applies { "installs updates" } else { "looks for updates" };
        collected.set("manager:dnf-automatic", format!("{does}, by its timer"));
    }
    collected.domain("manager", Domain::Complete { source: "/etc".to_owned() });
}

fn read(root: &Root, path: &str, collected: &mut Collected) -> Option<String> {
    let mut text = String::new();
    match root.file(path).and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => Some(text),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
        Err(error) => {
            collected.problems.push(Problem(format!("could not read `{path}`: {error}")));
            None
        }
    }
}

/// What a part of apt's configuration says last of the setting; apt takes `0` and nothing for no.
fn periodic(text: &str) -> Option<bool> {
    // A comment does not begin with the setting.
    text.lines().rev().find_map(|line| {
        let value = line.trim().strip_prefix(SETTING)?.split('"').nth(1)?;
        Some(!matches!(value, "" | "0"))
    })
}

/// Whether dnf-automatic's configuration has it install.
fn applies(text: &str) -> bool {
    let said = text.lines().rev().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "apply_updates").then(|| value.trim().to_ascii_lowercase())
    });
    said.is_some_and(|value| matches!(value.as_str(), "yes" | "true" | "1" | "on"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_updates_by_itself_is_told_and_what_only_could_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let check = |package: bool, wanted: &[(&str, &str)]| {
            let mut collected = Collected::default();
            if package {
                collected.set("package:deb:unattended-upgrades:all", "2.9");
            }
            scan(&Root::open(directory.path()).unwrap(), &mut collected);
            let found = collected.facts.values.iter().filter(|(key, _)| key.starts_with("manager:"));
            let found: Vec<_> = found.map(|(key, value)| (key.as_str(), value.as_str())).collect();
            assert_eq!((found.as_slice(), collected.problems.len()), (wanted, 0));
        };
        check(true, &[]);
        write(PERIODIC[0], "APT::Periodic::Unattended-Upgrade \"0\";\n");
        write(
            PERIODIC[1],
            "// APT::Periodic::Unattended-Upgrade \"0\";\nAPT::Periodic::Unattended-Upgrade \"1\";\n",
        );
        let does = "installs updates, by `APT::Periodic::Unattended-Upgrade`";
        check(true, &[("manager:unattended-upgrades", does)]);
        check(false, &[]);
        write(PERIODIC[1], "APT::Periodic::Unattended-Upgrade \"0\";\n");
        check(true, &[]);
        write(TIMERS[1].0, "");
        check(true, &[("manager:dnf-automatic", "looks for updates, by its timer")]);
        write(AUTOMATIC, "[commands]\napply_updates = Yes\n");
        check(true, &[("manager:dnf-automatic", "installs updates, by its timer")]);
    }
}
