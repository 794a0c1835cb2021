//! Systems to patch: made of two files where nothing is installed, copies of a real Debian root where it is.

use std::{ffi::OsStr, fs, path::Path};

use crate::archive::{Package, run};

/// Below `root`, the files that a scan of a Debian 12 system reads; `packages` are name and version.
pub fn made_up(root: &Path, packages: &[(&str, &str)]) {
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
    fs::write(root.join("etc/os-release"), "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n")
        .unwrap();
    fs::write(root.join("var/lib/dpkg/status"), status(packages)).unwrap();
}

/// A dpkg status file.
#[must_use]
pub fn status(packages: &[(&str, &str)]) -> String {
    [("dpkg", "1.21.22")]
        .iter()
        .chain(packages)
        .map(|(name, version)| {
            format!(
                "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\
                 Maintainer: Test <test@example.org>\nDescription: made by a test\n\n"
            )
        })
        .collect()
}

/// A copy of the real root `pristine` at `root`, with `packages` installed there.
pub fn real(pristine: &Path, root: &Path, packages: &[Package]) {
    run("cp", &["-a".as_ref(), pristine.as_os_str(), root.as_os_str()]);
    if packages.is_empty() {
        return;
    }
    let inside: Vec<_> = (0..packages.len()).map(|number| format!("/tmp/{number}.deb")).collect();
    for (path, package) in inside.iter().zip(packages) {
        fs::write(root.join(path.trim_start_matches('/')), package.build()).unwrap();
    }
    let mut arguments = vec![root.as_os_str(), "dpkg".as_ref(), "-i".as_ref()];
    arguments.extend(inside.iter().map(AsRef::<OsStr>::as_ref));
    run("chroot", &arguments);
    for path in &inside {
        fs::remove_file(root.join(path.trim_start_matches('/'))).unwrap();
    }
}

/// What dpkg itself says is installed, `None` when it is not.
#[must_use]
pub fn installed_version(root: &Path, package: &str) -> Option<String> {
    let text = run(
        "chroot",
        &[
            root.as_os_str(),
            "dpkg-query".as_ref(),
            "-W".as_ref(),
            "-f=${Package} ${Version} ${db:Status-Abbrev}\n".as_ref(),
        ],
    );
    text.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (name, version, status) = (words.next()?, words.next()?, words.next()?);
        (name == package && status.starts_with("ii")).then(|| version.to_owned())
    })
}
