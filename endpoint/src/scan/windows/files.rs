//! The files that rules ask for: whether they are there, their size, times, version and digest.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    time::SystemTime,
};

use jiff::Timestamp;
use tierway_common::facts::Domain;

use super::{place::locate, registry::Registry, resource};
use crate::scan::{Asked, Collected, hash::Budget};

/// Reads the domain `file` as far as `asked`.
pub(super) fn scan(registry: &dyn Registry, asked: &Asked, budget: &mut Budget, collected: &mut Collected) {
    for path in &asked.files {
        look(registry, path, asked.hashed.contains(path), budget, PathBuf::from, collected);
    }
    asked.tell_refused(collected);
    collected.domain("file", Domain::Asked { source: "the file system".to_owned() });
}

/// Reads what is asked of one file. `open_as` turns a path of Windows into one that can be opened here.
pub(super) fn look(
    registry: &dyn Registry,
    path: &str,
    hashed: bool,
    budget: &mut Budget,
    open_as: impl Fn(String) -> PathBuf,
    collected: &mut Collected,
) {
    let located = match locate(registry, path) {
        Ok(Some(located)) => open_as(located),
        Ok(None) => return collected.set(format!("file:{path}"), "absent"),
        Err(reason) => return collected.problem(format!("could not look for `{path}`: {reason}")),
    };
    let metadata = match fs::metadata(&located) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return collected.set(format!("file:{path}"), "absent");
        }
        Err(error) => return collected.problem(format!("could not look at `{path}`: {error}")),
    };
    collected.set(format!("file:{path}"), "present");
    if !metadata.is_file() {
        return;
    }
    collected.set(format!("file:{path}#size"), metadata.len().to_string());
    for (part, time) in [("created", metadata.created()), ("modified", metadata.modified())] {
        if let Some(moment) = time.ok().and_then(moment) {
            collected.set(format!("file:{path}#{part}"), moment.to_string());
        }
    }
    match File::open(&located).and_then(|mut file| resource::read(&mut file)) {
        Ok(Some(resource::Resource { version: [a, b, c, d], language })) => {
            collected.set(format!("file:{path}#version"), format!("{a}.{b}.{c}.{d}"));
            collected.set(format!("file:{path}#language"), language.to_string());
        }
        // A file without a version compares as the lowest, as Windows has it.
        Ok(None) => collected.set(format!("file:{path}#version"), "0.0.0.0"),
        Err(error) => collected.problem(format!("could not read `{path}`: {error}")),
    }
    if hashed {
        match budget.digest(path, metadata.len(), || File::open(&located)) {
            Ok(digest) => collected.set(format!("file:{path}#sha256"), digest.to_string()),
            Err(reason) => collected.problem(reason),
        }
    }
}

/// In whole seconds: vendors compare so, and file systems keep them differently.
fn moment(time: SystemTime) -> Option<Timestamp> {
    Timestamp::from_second(Timestamp::try_from(time).ok()?.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{registry::Written, resource::program},
        *,
    };

    #[test]
    fn a_file_is_told_with_its_version_size_times_and_digest() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = program([1, 2, 3, 4], 0x409, None);
        fs::write(directory.path().join("x.dll"), &bytes).unwrap();
        fs::write(directory.path().join("x.txt"), "abc").unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        let below = directory.path().to_owned();
        let here = move |path: String| below.join(path.rsplit('\\').next().unwrap());
        let mut registry = Written::default();
        registry.text(r"HKLM\SOFTWARE\V", "Dir", "C:\\V");
        let mut collected = Collected::default();
        for (path, hashed) in [
            (r"%HKLM\SOFTWARE\V#Dir%\x.dll", false),
            (r"C:\x.txt", true),
            (r"C:\d", true),
            (r"C:\none", false),
            ("/etc/passwd", false),
            (r"%system32%\x", false),
        ] {
            look(&registry, path, hashed, &mut Budget::new(), &here, &mut collected);
        }
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for (key, wanted) in [
            (r"file:%HKLM\SOFTWARE\V#Dir%\x.dll", Some("present")),
            (r"file:%HKLM\SOFTWARE\V#Dir%\x.dll#version", Some("1.2.3.4")),
            (r"file:%HKLM\SOFTWARE\V#Dir%\x.dll#language", Some("1033")),
            (r"file:%HKLM\SOFTWARE\V#Dir%\x.dll#size", Some(bytes.len().to_string().as_str())),
            (r"file:%HKLM\SOFTWARE\V#Dir%\x.dll#sha256", None),
            (r"file:C:\x.txt#version", Some("0.0.0.0")),
            (r"file:C:\x.txt#language", None),
            (r"file:C:\x.txt#sha256", Some(digest)),
            (r"file:C:\d", Some("present")),
            (r"file:C:\d#size", None),
            (r"file:C:\none", Some("absent")),
            ("file:/etc/passwd", Some("absent")),
            (r"file:%system32%\x", None),
        ] {
            assert_eq!(collected.facts.values.get(key).map(String::as_str), wanted, "{key}");
        }
        let modified = &collected.facts.values[r"file:C:\x.txt#modified"];
        assert!(modified.parse::<Timestamp>().is_ok() && modified.ends_with('Z'), "{modified}");
        assert_eq!(
            collected.problems,
            [crate::scan::Problem(
                r"could not look for `%system32%\x`: the registry does not say where `%system32%` is"
                    .to_owned()
            )]
        );
    }
}
