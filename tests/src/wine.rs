//! A Windows of a test's own: Wine with a fresh drive, without a display.
//!
//! What Wine does not have (rights of files, masked properties in logs, recovery actions) shows nothing here.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tierway_common::programs::{End, Program, Ran};

use crate::{
    programs::{self, Ended},
    skip::skip,
};

/// Where Debian has Wine; it is on no path.
const WINE: &str = "/usr/lib/wine/wine64";
const SERVER: &str = "/usr/lib/wine/wineserver64";

/// No program of a test takes longer, also where several tests share a slow computer.
const PROGRAM_LIMIT: Duration = Duration::from_secs(600);
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// What a made-up package installs, for `wixl`.
const PACKAGE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<Wix xmlns="http://schemas.microsoft.com/wix/2006/wi">
  <Product Id="*" Name="Sample App" Manufacturer="Example" Language="1033" Codepage="1252" Version="$(var.Version)"
           UpgradeCode="5B1E0C77-51B9-4A3A-9C53-0E6F0C0C9A01">
    <Package InstallerVersion="500" Compressed="yes" InstallScope="perMachine" Manufacturer="Example"/>
    <MajorUpgrade DowngradeErrorMessage="A newer one is installed."/>
    <Media Id="1" Cabinet="app.cab" EmbedCab="yes"/>
    <Directory Id="TARGETDIR" Name="SourceDir">
      <Directory Id="ProgramFiles64Folder">
        <Directory Id="INSTALLDIR" Name="Sample App">
          <Component Id="Content" Guid="5B1E0C77-51B9-4A3A-9C53-0E6F0C0C9A02" Win64="yes">
            <File Id="content.txt" Name="content.txt" Source="content.txt" DiskId="1" KeyPath="yes"/>
          </Component>
        </Directory>
      </Directory>
    </Directory>
    <Feature Id="Main" Level="1"><ComponentRef Id="Content"/></Feature>
  </Product>
</Wix>
"#;

/// A Windows; it is gone, with everything that runs in it, when this is dropped.
#[derive(Debug)]
pub struct Wine {
    prefix: TempDir,
    /// Services end with the last program of a person; this one waits for input that never comes.
    awake: Option<Child>,
}

/// The endpoint for Windows that `deploy/test` built; `None`, said, where there is none.
///
/// # Panics
///
/// As [`skip`], unless the variable is empty: then `deploy/test` found that its toolchain cannot be had here.
#[must_use]
pub fn program(what: &str) -> Option<PathBuf> {
    let named = std::env::var_os("TIERWAY_TEST_WINDOWS");
    if named.as_ref().is_some_and(|named| named.is_empty()) {
        println!("skipped: {what}, since apt does not offer the toolchain for Windows here");
        return None;
    }
    let program = named.map(PathBuf::from).filter(|path| path.is_file());
    if program.is_none() {
        skip(what, "`TIERWAY_TEST_WINDOWS` names no program (deploy/test makes one)");
    }
    program
}

impl Wine {
    /// A Windows 10 in which nobody has done anything; takes some 15 s and 700 MB.
    #[must_use]
    pub fn start() -> Self {
        let prefix = tempfile::tempdir().unwrap();
        let mut wine = Self { prefix, awake: None };
        assert_eq!(wine.run(&["wineboot", "-i"]).code, Some(0));
        assert_eq!(wine.run(&["winecfg", "-v", "win10"]).code, Some(0));
        assert!(wine.server(&["-w"]).status().unwrap().success());
        wine.wake();
        wine
    }

    /// Keeps its services running from now on.
    fn wake(&mut self) {
        let mut cmd = self.command();
        cmd.arg("cmd");
        cmd.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.awake = Some(cmd.spawn().unwrap());
    }

    /// What starts a program of Windows, its first argument; the process is that program.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(WINE);
        command.current_dir(self.prefix.path()).env_clear().envs(self.environment());
        command
    }

    /// The same with its arguments, on a desktop with a taskbar that is shown on an X display of 640 times 520 pixels.
    #[must_use]
    pub fn on_display(&self, display: &str, program: &[&str]) -> Command {
        let mut command = self.command();
        // The first desktop was made without a display, and stays so.
        command.args(["explorer", "/desktop=shell,640x520"]).args(program).env("DISPLAY", display);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn server(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(SERVER);
        command.args(arguments).env("WINEPREFIX", self.prefix.path());
        command
    }

    /// What a program gets in its environment: neither a display nor what Wine has to say of itself.
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut environment = tierway_common::programs::environment();
        environment.extend([
            ("WINEPREFIX", self.prefix.path().into()),
            ("WINEARCH", "win64".into()),
            ("WINEDEBUG", "-all".into()),
            ("WINEDLLOVERRIDES", "mscoree,mshtml=".into()),
        ]);
        environment
    }

    /// Runs a program of Windows to its end. Of its exit code 8 bits are left: 1603 is 67.
    ///
    /// # Panics
    ///
    /// When it has not ended after ten minutes: it is killed, and the panic names it and what it printed.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Ended {
        let program = Program {
            path: WINE.into(),
            arguments: arguments.iter().map(|argument| argument.as_ref().to_owned()).collect(),
            command_line: String::new(),
            directory: self.prefix.path().to_owned(),
            environment: self.environment(),
            limit: PROGRAM_LIMIT,
            grace: Duration::ZERO,
            tail_bytes_max: OUTPUT_BYTES_MAX,
        };
        // On a thread of its own, since this one may belong to a runtime. The desktop of Wine that the first
        // program starts keeps its output open for as long as anything runs; that is why it goes to files.
        let running = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(tierway_common::programs::run(&program, self.prefix.path())).unwrap()
        };
        let Ran { end, output, errors, took } = thread::scope(|scope| scope.spawn(running).join().unwrap());
        let code = match end {
            End::Exited(code) => Some(code),
            End::Signalled(_) => None,
            End::TimedOut => panic!("{:?} did not end in {took:?}: {output:?} {errors:?}", program.arguments),
        };
        Ended { code, output: output.text.replace('\r', ""), errors: errors.text }
    }

    /// Runs Windows Installer quietly, with a log.
    pub fn msiexec(&self, verb: &str, package: &Path, properties: &[String]) -> Ended {
        let mut arguments = vec!["msiexec".to_owned(), verb.to_owned(), within(package), "/qn".to_owned()];
        arguments.extend(["/l*v".to_owned(), r"C:\install.log".to_owned()]);
        arguments.extend_from_slice(properties);
        self.run(&arguments)
    }

    /// A value of the registry, as `reg query` shows it; `None` without it.
    #[must_use]
    pub fn registry(&self, key: &str, value: &str) -> Option<String> {
        let ended = self.run(&["reg", "query", key, "/v", value]);
        (ended.code == Some(0)).then_some(ended.output)
    }

    /// Where `path` of drive C is on this computer.
    #[must_use]
    pub fn drive(&self, path: &str) -> PathBuf {
        self.prefix.path().join("drive_c").join(path)
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        let _ = self.server(&["-k"]).status();
        if let Some(mut awake) = self.awake.take() {
            let _ = awake.kill();
            let _ = awake.wait();
        }
        let _ = self.server(&["-w"]).status();
    }
}

/// A path of this computer as Wine shows it to Windows.
#[must_use]
pub fn within(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}

/// Makes an MSI of the product `Sample App` whose file `content.txt` has this content.
///
/// # Panics
///
/// When wixl fails, or complains.
#[must_use]
pub fn sample_package(folder: &Path, version: &str, content: &str) -> PathBuf {
    fs::write(folder.join("app.wxs"), PACKAGE).unwrap();
    fs::write(folder.join("content.txt"), content).unwrap();
    let name = format!("app-{version}.msi");
    let made = Command::new("wixl")
        .current_dir(folder)
        .args(["-a", "x64", "-D", &format!("Version={version}"), "-o", &name, "app.wxs"])
        .output();
    let made = Ended::from(made.unwrap());
    assert_eq!((made.code, made.errors.as_str()), (Some(0), ""));
    folder.join(name)
}

/// What `deploy/msi/build` says of an MSI that it did not sign.
const UNSIGNED: &str = "msi/build: not signed: no --certificate was given\n";

/// The MSI of this version of `endpoint` or `relay`, made of `program`, of the endpoint also of the tray beside it, and not signed.
///
/// # Panics
///
/// When it cannot be made, or `deploy/msi/build` does not say that it is not signed.
#[must_use]
pub fn msi(tier: &str, folder: &Path, program: &Path, version: &str) -> PathBuf {
    let made = build_msi(tier, folder, program, &["--version", version]);
    assert_eq!((made.code, made.errors.as_str()), (Some(0), UNSIGNED));
    PathBuf::from(made.output.trim())
}

/// Runs `deploy/msi/build` with these arguments beside the programs and the folder.
pub fn build_msi(tier: &str, folder: &Path, program: &Path, arguments: &[&str]) -> Ended {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/msi/build");
    let tray = program.with_file_name("tierway-tray.exe").display().to_string();
    let (program, folder) = (program.display().to_string(), folder.display().to_string());
    let tray = ["--tray", &tray];
    let tray: &[&str] = if tier == "endpoint" { &tray } else { &[] };
    let arguments = [&[tier, "--exe", &program, "--to", &folder], tray, arguments].concat();
    programs::run_if_there(build, &arguments).unwrap()
}

/// Windows tells a product that it is removed for a newer one; Wine does not, so that the package says it here.
///
/// # Panics
///
/// When msibuild fails.
pub fn gives_way(package: &Path) {
    let told = "UPDATE `Upgrade` SET `Remove`='ALL UPGRADINGPRODUCTCODE=1' WHERE `ActionProperty`='WIX_UPGRADE_DETECTED'";
    let package = package.display().to_string();
    let changed = programs::run_if_there("msibuild", &[&package, "-q", told]).unwrap();
    assert_eq!((changed.code, changed.errors.as_str()), (Some(0), ""));
}

/// Fails the test unless all `parts` are in what the program printed.
///
/// # Panics
///
/// When one is not.
pub fn said(ended: &Ended, parts: &[&str]) {
    for part in parts {
        assert!(ended.output.contains(part), "`{part}` is not in: {} {}", ended.output, ended.errors);
    }
}
