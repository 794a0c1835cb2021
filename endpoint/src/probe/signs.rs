//! Signs that the running system must be rebooted, each from a source of its own.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use tierway_common::{facts::Facts, files, processes::Process};

use crate::{
    install::deb::depends::compare,
    scan::linux::{flags::REBOOT_REQUIRED, root::Root},
    signs::{Sign, SignKind},
};

/// Names of packages that asked, one a line.
const ASKED_BY: &str = "/run/reboot-required.pkgs";
/// Longest file of such small ones.
const SMALL_BYTES_MAX: u64 = 64 << 10;
/// Names told in one sign.
const NAMES_MAX: usize = 5;
/// Processes whose memory is looked at.
const MAPPED_PROCESSES_MAX: usize = 4_096;
/// Read of one process's map: a browser's has about 1 MiB.
const MAP_BYTES_MAX: u64 = 4 << 20;

/// Beginnings of the names of libraries whose holes are everybody's: the C library, TLS, compression.
const CORE: &[&str] = &["libc.", "libc-", "ld-", "libssl.", "libcrypto.", "libgnutls.", "libz.", "liblzma."];

/// The message bus cannot be restarted under the programs that use it.
const BUS: &[&str] = &["dbus-daemon", "dbus-broker"];

/// What the files below `root` say: packages that asked, and what is prepared for the next boot.
#[must_use]
pub fn of_root(root: &Path) -> Vec<Sign> {
    let mut signs: Vec<Sign> = Root::open(root).ok().as_ref().and_then(asked).into_iter().collect();
    if root == Path::new("/") {
        signs.extend(prepared(root));
    }
    signs
}

fn asked(root: &Root) -> Option<Sign> {
    let source = REBOOT_REQUIRED.into_iter().find(|path| root.locate(path).is_ok())?;
    let mut text = String::new();
    let read = root.file(ASKED_BY).and_then(|file| file.take(SMALL_BYTES_MAX).read_to_string(&mut text));
    let names: BTreeSet<&str> = text.lines().map(str::trim).filter(|name| !name.is_empty()).collect();
    let detail = match (read, names.is_empty()) {
        (Ok(_), false) => format!("asked for by {}", several(&names)),
        _ => "a package asked for it".to_owned(),
    };
    Some(Sign { kind: SignKind::Asked, detail, source: source.to_owned() })
}

/// What systemd is told to do at the next boot, or has been told to do.
fn prepared(root: &Path) -> Vec<Sign> {
    let mut signs = Vec::new();
    for path in ["system-update", "etc/system-update"] {
        if root.join(path).symlink_metadata().is_ok() {
            let detail = "an offline update waits for the next boot".to_owned();
            signs.push(Sign { kind: SignKind::Prepared, detail, source: format!("/{path}") });
        }
    }
    let path = "run/systemd/shutdown/scheduled";
    if let Ok(Some(bytes)) = files::read_if_there(&root.join(path), SMALL_BYTES_MAX) {
        let text = String::from_utf8_lossy(&bytes);
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let mode = field("MODE").unwrap_or("shutdown");
        let at = field("USEC")
            .and_then(|at| at.parse::<i64>().ok())
            .and_then(|at| jiff::Timestamp::from_second(at / 1_000_000).ok());
        let at = at.map(|at| format!(" at {at}")).unwrap_or_default();
        let detail = format!("somebody has ordered a {mode}{at} already");
        signs.push(Sign { kind: SignKind::Scheduled, detail, source: format!("/{path}") });
    }
    signs
}

/// Whether a newer kernel of the running one's flavour is installed. `release` and `version` are those of
/// `uname -r` and `uname -v`. A kernel that no package brought says nothing.
#[must_use]
pub fn kernel(facts: &Facts, release: &str, version: &str) -> Option<Sign> {
    // `6.1.0-26-cloud-amd64`: version, ABI, flavour.
    let flavour = |release: &str| release.splitn(3, '-').nth(2).map(str::to_owned);
    let own = flavour(release)?;
    let (mut newest, mut newest_version) = (release.to_owned(), None);
    for (key, installed) in &facts.values {
        let Some(name) = key.strip_prefix("package:deb:linux-image-") else { continue };
        let Some((found, _)) = name.rsplit_once(':') else { continue };
        if !found.starts_with(|c: char| c.is_ascii_digit()) || flavour(found).as_ref() != Some(&own) {
            continue;
        }
        if compare(found, &newest).is_some_and(std::cmp::Ordering::is_ge) {
            newest = found.to_owned();
            newest_version = Some(installed.clone());
        }
    }
    let installed = newest_version?;
    let source = "installed packages and the running kernel".to_owned();
    let kind = SignKind::Kernel;
    if newest != release {
        let detail = format!("the kernel `{release}` runs and `{newest}` is installed");
        return Some(Sign { kind, detail, source });
    }
    // `#1 SMP PREEMPT_DYNAMIC Debian 6.1.112-1 (2024-09-30)`.
    let running = version.split(' ').skip_while(|word| *word != "Debian").nth(1)?;
    let newer = compare(&installed, running).is_some_and(std::cmp::Ordering::is_gt);
    let detail = format!("the kernel {running} runs and {installed} is installed");
    newer.then_some(Sign { kind, detail, source })
}

/// Libraries that were replaced and are still used: by the first process and the message bus, which only a
/// boot renews, and by others, which a restart does.
#[must_use]
pub fn libraries(proc: &Path, processes: &[Process]) -> Vec<Sign> {
    let (mut init, mut others) = (BTreeSet::new(), BTreeSet::new());
    let mut count = 0_usize;
    for process in processes.iter().take(MAPPED_PROCESSES_MAX) {
        let first = process.id == 1 || BUS.contains(&process.name.as_str()) && process.parent == 1;
        let replaced = replaced(proc, process.id, first);
        if replaced.is_empty() {
            continue;
        }
        if first {
            init.extend(replaced.iter().map(|library| format!("{library} in {}", process.name)));
        } else {
            count += 1;
            others.insert(process.name.clone());
        }
    }
    let sign = |kind, detail| Sign { kind, detail, source: "/proc/*/maps".to_owned() };
    let mut signs = Vec::new();
    if !init.is_empty() {
        let init = several(&init.iter().map(String::as_str).collect());
        signs.push(sign(SignKind::Init, format!("replaced and still used: {init}")));
    }
    if count > 0 {
        let names = several(&others.iter().map(String::as_str).collect());
        signs.push(sign(SignKind::Library, format!("{count} processes use replaced libraries: {names}")));
    }
    signs
}

/// Names of the libraries that a process has mapped and that are no longer there, all or only [`CORE`].
fn replaced(proc: &Path, id: i32, all: bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let Ok(file) = File::open(proc.join(format!("{id}/maps"))) else { return found };
    for line in BufReader::new(file.take(MAP_BYTES_MAX)).split(b'\n') {
        let Ok(line) = line else { break };
        // `7f0e… r-xp 00028000 08:01 1234 /usr/lib/x86_64-linux-gnu/libc.so.6 (deleted)`; only one mapping of
        // each is executable.
        let Ok(line) = std::str::from_utf8(&line) else { continue };
        let Some(line) = line.strip_suffix(" (deleted)") else { continue };
        let executable = line.split(' ').nth(1).is_some_and(|rights| rights.contains('x'));
        let Some(path) = line.find('/').map(|begin| &line[begin..]) else { continue };
        let library =
            ["/usr/lib/", "/lib/", "/usr/lib64/", "/lib64/"].iter().any(|folder| path.starts_with(folder));
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        // dpkg renames what it replaces: `libc.so.6.dpkg-tmp`, or the name with `;` and a number on others.
        let name = name
            .split(';')
            .next()
            .unwrap_or(name)
            .trim_end_matches(".dpkg-tmp")
            .trim_end_matches(".dpkg-new");
        if executable
            && library
            && name.contains(".so")
            && (all || CORE.iter().any(|core| name.starts_with(core)))
        {
            found.insert(name.to_owned());
        }
    }
    found
}

/// Names as a list for people, at most [`NAMES_MAX`].
fn several(names: &BTreeSet<&str>) -> String {
    let mut text =
        names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX {
        text += &format!(" and {} more", names.len() - NAMES_MAX);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn images(images: &[(&str, &str)]) -> Facts {
        let value = |(name, version): &(&str, &str)| {
            (format!("package:deb:linux-image-{name}:amd64"), (*version).to_owned())
        };
        Facts { values: images.iter().map(value).collect(), ..Facts::default() }
    }

    #[test]
    fn a_kernel_newer_than_the_running_one_asks_for_a_reboot() {
        let runs = ("6.1.0-26-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.112-1 (2024-09-30)");
        for (installed, detail) in [
            (&[("amd64", "6.1.119-1"), ("6.1.0-26-amd64", "6.1.112-1")][..], None),
            (
                &[("6.1.0-26-amd64", "6.1.112-1"), ("6.1.0-27-amd64", "6.1.115-1")],
                Some("the kernel `6.1.0-26-amd64` runs and `6.1.0-27-amd64` is installed"),
            ),
            (
                &[("6.1.0-9-amd64", "6.1.27-1"), ("6.1.0-26-amd64", "6.1.113-1")],
                Some("the kernel 6.1.112-1 runs and 6.1.113-1 is installed"),
            ),
            (&[("6.1.0-26-amd64", "6.1.112-1"), ("6.1.0-27-cloud-amd64", "6.1.115-1")], None),
            (&[("6.1.0-9-amd64", "6.1.27-1")], None),
            (&[], None),
        ] {
            let found = kernel(&images(installed), runs.0, runs.1).map(|sign| sign.detail);
            assert_eq!(found.as_deref(), detail, "{installed:?}");
        }
        assert_eq!(kernel(&images(&[("6.1.0-26-amd64", "6.1.112-1")]), "6.18.44-fc-v657", "#1 SMP"), None);
        assert_eq!(kernel(&images(&[]), "6.18", ""), None);
    }

    #[test]
    fn a_replaced_library_asks_for_a_boot_only_in_what_a_restart_cannot_renew() {
        let proc = tempfile::tempdir().unwrap();
        let mapped = |path: &str, rights: &str| {
            format!("7f00-7f01 {rights} 00028000 08:01 99                 {path}\n")
        };
        let library = "/usr/lib/x86_64-linux-gnu/libc.so.6 (deleted)";
        let maps = [
            (1, mapped("/usr/lib/systemd/libsystemd-shared-252.so (deleted)", "r-xp")),
            (20, mapped(library, "r-xp") + &mapped(library, "r--p")),
            (21, mapped("/usr/lib/x86_64-linux-gnu/libssl.so.3;5f2a (deleted)", "r-xp")),
            (22, mapped("/usr/lib/x86_64-linux-gnu/libssl.so.3", "r-xp")),
            (23, mapped("/memfd:libc.so (deleted)", "r-xp") + &mapped("/tmp/libc.so (deleted)", "r-xp")),
            (24, mapped("/usr/lib/x86_64-linux-gnu/libfoo.so.1 (deleted)", "r-xp")),
            (25, mapped(library, "rw-p")),
        ];
        let mut processes = Vec::new();
        for (id, text) in &maps {
            fs::create_dir(proc.path().join(id.to_string())).unwrap();
            fs::write(proc.path().join(format!("{id}/maps")), text).unwrap();
            let name = if *id == 1 { "systemd".to_owned() } else { format!("p{id}") };
            processes.push(Process { id: *id, parent: 1, name, uid: 0, session: *id, terminal: 0, began: 0 });
        }
        let found = libraries(proc.path(), &processes);
        let found: Vec<_> = found.iter().map(|sign| (sign.kind, sign.detail.as_str())).collect();
        assert_eq!(
            found,
            [
                (SignKind::Init, "replaced and still used: `libsystemd-shared-252.so in systemd`"),
                (SignKind::Library, "2 processes use replaced libraries: `p20`, `p21`"),
            ]
        );
    }

    #[test]
    fn packages_that_asked_are_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("run")).unwrap();
        assert_eq!(of_root(root.path()), []);
        fs::write(root.path().join("run/reboot-required"), "").unwrap();
        assert_eq!(of_root(root.path())[0].detail, "a package asked for it");
        fs::write(root.path().join("run/reboot-required.pkgs"), "linux-base\nlibc6\nlibc6\n").unwrap();
        assert_eq!(of_root(root.path())[0].detail, "asked for by `libc6`, `linux-base`");
    }

    #[test]
    fn what_systemd_was_told_is_told() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/systemd/shutdown")).unwrap();
        fs::write(root.path().join("system-update"), "").unwrap();
        let scheduled = "USEC=1795600800000000\nWARN_WALL=1\nMODE=reboot\n";
        fs::write(root.path().join("run/systemd/shutdown/scheduled"), scheduled).unwrap();
        let found: Vec<_> = prepared(root.path()).into_iter().map(|sign| (sign.kind, sign.detail)).collect();
        let expected = [
            (SignKind::Prepared, "an offline update waits for the next boot"),
            (SignKind::Scheduled, "somebody has ordered a reboot at 2026-11-25T10:00:00Z already"),
        ];
        assert_eq!(found, expected.map(|(kind, detail)| (kind, detail.to_owned())));
    }
}
