//! A Windows computer: Wine, with as many products of Windows Installer in its registry as the Debian one has packages.

use std::{
    fs,
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use tierway_common::transport::identity::Role;
use tierway_tests::{
    bench::{
        place,
        process::Seen,
        site::Site,
        updates::windows::{CATALOGUE, registry},
    },
    programs::Ended,
    wine::{Wine, within},
};

use super::steps::{Computer, Step};

/// Of drive C.
const DATA: &str = "tierway";
const CONFIG: &str = r"C:\tierway\endpoint.toml";
const LOG: &str = "tierway/log";

/// The compiler that `deploy/windows-toolchain` installs.
const COMPILER: [&str; 3] = ["/usr/bin/rustc", "--target", "x86_64-pc-windows-gnu"];
/// Says that it runs, and waits.
const EMPTY: &str = "fn main() { println!(); let _ = std::io::stdin().read_line(&mut String::new()); }\n";

pub(crate) struct Windows {
    wine: Wine,
    program: PathBuf,
}

impl Windows {
    /// A fresh one, whose tier above is at `above`.
    pub(crate) fn new(program: &Path, site: &Site, above: SocketAddr) -> Self {
        let wine = Wine::start();
        let data = wine.drive(DATA);
        let _ = site.join(&data, Role::Endpoint, "endpoint-windows", Some(&above.to_string()));
        let config = "data_dir = 'C:\\tierway'\nlocal_socket = '\\\\.\\pipe\\tierway-footprint'\ndisk_free_bytes_min = 0\n";
        fs::write(data.join("endpoint.toml"), config).expect("written");
        let products = data.join("products.reg");
        fs::write(&products, registry()).expect("written");
        let imported = wine.run(&["reg", "import", &within(&products)]);
        assert_eq!(imported.code, Some(0), "{imported:?}");
        Self { wine, program: program.to_owned() }
    }

    /// What a program takes that does nothing, as each program of Rust is made; made in `dir`.
    pub(crate) fn empty_program(&self, dir: &Path) -> Step {
        fs::write(dir.join("empty.rs"), EMPTY).expect("written");
        let made = place::command(COMPILER[0])
            .args(&COMPILER[1..])
            .args(["-O", "-C", "strip=symbols", "--out-dir"])
            .arg(dir)
            .arg(dir.join("empty.rs"))
            .output();
        let made = Ended::from(made.expect("a compiler"));
        assert_eq!(made.code, Some(0), "{}", made.errors);
        let mut empty = self.wine.command();
        empty.arg(dir.join("empty.exe"));
        let empty = empty.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut empty = empty.spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(empty.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let step = Step::since(Duration::ZERO, Seen(empty.id()));
        // Its input ends here, and so does it.
        drop(empty.stdin.take());
        empty.wait().expect("it ends");
        step
    }

    fn ask(&self, verb: &str) -> Ended {
        let program = self.program.display().to_string();
        self.wine.run(&[&program, "--config", CONFIG, verb])
    }
}

impl Computer for Windows {
    fn start(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.wine.drive(LOG)).expect("a file");
        let mut command = self.wine.command();
        command.arg(&self.program).args(["--config", CONFIG, "serve"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.wine.drive(LOG)).expect("a log")
    }

    async fn checked(&self) -> Option<usize> {
        let status = self.ask("status");
        let checked = status.output.lines().find_map(|line| line.strip_prefix("CHECKED"))?;
        if checked.trim().starts_with("never") {
            return None;
        }
        assert!(!status.output.contains("\nPROBLEM"), "the check met a problem: {}", status.output);
        Some(status.output.lines().filter(|line| line.starts_with(CATALOGUE)).count())
    }

    async fn check(&self) -> usize {
        let done = self.ask("check-now");
        assert_eq!(done.code, Some(0), "{done:?}");
        let needed = done.output.strip_prefix("checked: ").and_then(|rest| rest.split(' ').next());
        needed.and_then(|needed| needed.parse().ok()).expect("how many are needed")
    }
}
