//! Tierway's programs as people start them, and other programs that a test needs.

use std::{
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Output},
    sync::Once,
};

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it exited with; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub output: String,
    /// What it complained of.
    pub errors: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), output: text(&output.stdout), errors: text(&output.stderr) }
    }
}

/// What cargo builds for [`path`], as `deploy/test` does. Of the whole workspace, and with an example, libraries have those
/// features that they have for all tests, and need not be built for programs once more.
const PROGRAMS: [&str; 4] = ["--workspace", "--bins", "--example", "tuf-client"];

/// Where the program `name` of this workspace is (an example has `examples/` before its name), built from the present
/// sources in the profile of the test.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    BUILT.call_once(|| {
        // Not there when the test's executable is started by hand: then what is beside it must do.
        let Some(cargo) = std::env::var_os("CARGO") else { return };
        let mut build = Command::new(cargo);
        build.args([
            "build",
            "--quiet",
            "--profile",
            profile,
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ]);
        build.args(PROGRAMS);
        // What cargo says of this test's package would be read by build scripts, as `ring`'s: they run anew whenever it
        // changes, and all that depends on them is built once more.
        for (name, _) in std::env::vars_os() {
            let is_of_a_package =
                |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
            if name.to_str().is_some_and(is_of_a_package) {
                build.env_remove(name);
            }
        }
        let built = Ended::from(build.output().unwrap());
        assert_eq!(built.code, Some(0), "{}", built.errors);
    });
    let path = folder.join(name);
    assert!(path.is_file(), "`{}` is not built", path.display());
    path
}

/// Runs a program of this workspace to its end.
pub fn run<A: AsRef<OsStr>>(name: &str, arguments: &[A]) -> Ended {
    Command::new(path(name)).args(arguments).output().unwrap().into()
}

/// The same with a clock that is `days` ahead (behind when negative); `None` without the program `faketime`.
pub fn run_days_off<A: AsRef<OsStr>>(days: i32, name: &str, arguments: &[A]) -> Option<Ended> {
    let mut command = Command::new("faketime");
    command.args(["-f", &format!("{days:+}d")]).arg(path(name)).args(arguments);
    run_to_its_end(&mut command)
}

/// Runs a program that may not be there to its end; `None` when it is not.
pub fn run_if_there<A: AsRef<OsStr>>(name: &str, arguments: &[A]) -> Option<Ended> {
    run_to_its_end(Command::new(name).args(arguments))
}

/// The same of a program with an environment, or whatever else there is to say.
pub fn run_to_its_end(command: &mut Command) -> Option<Ended> {
    command.output().ok().map(Ended::from)
}
