//! In which time zone the computer is, by localtime(5).

use std::io::{self, Read};

use jiff::tz::TimeZone;
use tierway_common::facts::Domain;

use super::root::Root;
use crate::scan::Collected;

/// A link to the zone's file, or a copy of it.
const LOCALTIME: &str = "/etc/localtime";
/// Where Debian keeps the name for those that copied the file.
const NAME: &str = "/etc/timezone";
/// In the path of a zone's file its name follows on this.
const FOLDER: &str = "zoneinfo/";
/// Longer than the name of any zone.
const NAME_BYTES_MAX: u64 = 256;

/// Reads the domain `clock`: `clock:zone`, an IANA name that is known here.
pub(in crate::scan) fn scan(root: &Root, collected: &mut Collected) {
    let named = name(root).and_then(|(name, source)| match TimeZone::get(&name) {
        Ok(_) => Ok((name, source)),
        Err(_) => Err(format!("`{source}` names the time zone `{name}`, which is not known")),
    });
    match named {
        Ok((name, source)) => {
            collected.set("clock:zone", name);
            collected.domain("clock", Domain::Complete { source: source.to_owned() });
        }
        Err(reason) => {
            collected.domain("clock", Domain::Failed { source: LOCALTIME.to_owned(), reason });
        }
    }
}

/// The name of the zone and the file that says it.
fn name(root: &Root) -> Result<(String, &'static str), String> {
    let unread = |path: &str, error: &io::Error| format!("could not read `{path}`: {error}");
    match root.link(LOCALTIME) {
        Ok(Some(target)) => match target.split_once(FOLDER) {
            Some((_, name)) => Ok((name.to_owned(), LOCALTIME)),
            None => Err(format!("`{LOCALTIME}` leads to `{target}`, which names no time zone")),
        },
        Ok(None) => match read(root) {
            Ok(text) => Ok((text.trim().to_owned(), NAME)),
            Err(error) => {
                Err(format!("`{LOCALTIME}` is a copy without a name, and {}", unread(NAME, &error)))
            }
        },
        // As localtime(5) has it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(("UTC".to_owned(), LOCALTIME)),
        Err(error) => Err(unread(LOCALTIME, &error)),
    }
}

fn read(root: &Root) -> io::Result<String> {
    let mut text = String::new();
    root.file(NAME)?.take(NAME_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    /// What is read of a root that was made like this.
    fn check(make: impl Fn(&Path), expected: Result<&str, &str>) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("etc")).unwrap();
        make(&directory.path().join("etc"));
        let mut collected = Collected::default();
        scan(&Root::open(directory.path()).unwrap(), &mut collected);
        let found = match &collected.facts.domains["clock"] {
            Domain::Failed { reason, .. } => Err(reason.as_str()),
            _ => Ok(collected.facts.values["clock:zone"].as_str()),
        };
        assert_eq!(found, expected);
        assert_eq!(collected.problems.len(), usize::from(expected.is_err()));
    }

    #[test]
    fn the_zone_is_what_the_link_names_wherever_it_leads() {
        for (target, name) in [
            ("/usr/share/zoneinfo/Asia/Tokyo", "Asia/Tokyo"),
            ("../usr/share/zoneinfo/America/Argentina/Ushuaia", "America/Argentina/Ushuaia"),
            ("/usr/share/zoneinfo/Etc/UTC", "Etc/UTC"),
        ] {
            check(|etc| symlink(target, etc.join("localtime")).unwrap(), Ok(name));
        }
    }

    #[test]
    fn a_computer_that_says_nothing_is_in_utc() {
        check(|_| (), Ok("UTC"));
    }

    #[test]
    fn a_copied_zone_has_the_name_that_is_written_beside_it() {
        let copy = |etc: &Path| fs::write(etc.join("localtime"), "TZif2").unwrap();
        let named = |etc: &Path| {
            copy(etc);
            fs::write(etc.join("timezone"), "Europe/Berlin\n").unwrap();
        };
        check(named, Ok("Europe/Berlin"));
        let reason = "`/etc/localtime` is a copy without a name, and could not read `/etc/timezone`: \
                      No such file or directory (os error 2)";
        check(copy, Err(reason));
    }

    #[test]
    fn a_zone_that_nobody_knows_is_none() {
        check(
            |etc| symlink("/usr/share/zoneinfo/Mars/Olympus", etc.join("localtime")).unwrap(),
            Err("`/etc/localtime` names the time zone `Mars/Olympus`, which is not known"),
        );
        check(
            |etc| symlink("/nowhere", etc.join("localtime")).unwrap(),
            Err("`/etc/localtime` leads to `/nowhere`, which names no time zone"),
        );
    }
}
