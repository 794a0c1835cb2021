//! A Debian computer, as far as the endpoint looks at it.

use std::{
    fs,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use tierway_common::transport::identity::Role;
use tierway_endpoint::local;
use tierway_proto::v1;
use tierway_tests::bench::{place, site::Site, updates};

use super::steps::Computer;

const UNIT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/tierway-endpoint.service"));

pub(crate) struct Linux {
    program: PathBuf,
    dir: PathBuf,
}

impl Linux {
    /// In `dir`; its tier above is at `above`.
    pub(crate) fn new(program: &Path, dir: &Path, site: &Site, above: SocketAddr) -> Self {
        let _ = site.join(dir, Role::Endpoint, "endpoint", Some(&above.to_string()));
        write_root(&dir.join("root"));
        let config = format!(
            "data_dir = \"{0}\"\nroot = \"{0}/root\"\nlocal_socket = \"{0}/local.sock\"\ndisk_free_bytes_min = 0\n",
            dir.display()
        );
        fs::write(dir.join("endpoint.toml"), config).expect("written");
        Self { program: program.to_owned(), dir: dir.to_owned() }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("local.sock")
    }
}

impl Computer for Linux {
    fn start(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).expect("a file");
        place::command(&self.program)
            .envs(UNIT.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('=')))
            .arg("--config")
            .arg(self.dir.join("endpoint.toml"))
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).expect("a log")
    }

    async fn checked(&self) -> Option<usize> {
        let mut local = local::connect(&self.socket()).await.ok()?;
        let status = local.status(v1::LocalStatusRequest {}).await.ok()?.into_inner();
        if status.last_check == 0 {
            return None;
        }
        assert_eq!(status.last_error, "", "the check met a problem");
        Some(status.patches.len())
    }

    async fn check(&self) -> usize {
        let mut local = local::connect(&self.socket()).await.expect("it answers");
        let done = local.check_now(v1::LocalCheckNowRequest {}).await.expect("checked").into_inner();
        assert_eq!(done.problems, Vec::<String>::new());
        usize::try_from(done.needed).expect("a number")
    }
}

/// A Debian root as far as a scan looks at it.
fn write_root(root: &Path) {
    for folder in ["etc", "usr/lib", "var/lib/dpkg", "run"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let release = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
    fs::write(root.join("etc/os-release"), release).expect("written");
    fs::write(root.join("var/lib/dpkg/status"), updates::status()).expect("written");
}
