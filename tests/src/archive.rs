//! A Debian archive of the test's own: real `.deb` files, signed indices, served over HTTP.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use jiff::{SignedDuration, Timestamp};
use tierway_central::sources::testing::{Server, Suite, new_key, public};
use tierway_common::trust::digest::Digest;

/// Date of the archive's first state; each further one is an hour later.
const FIRST_STATE: &str = "2026-11-01T10:00:00Z";

/// One package to put into the archive.
#[derive(Clone, Debug)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Further control lines, such as `Depends: a (>= 1)`.
    pub control: Vec<String>,
    /// Maintainer scripts by name.
    pub scripts: BTreeMap<String, String>,
    /// Files by absolute path.
    pub files: BTreeMap<String, String>,
}

impl Package {
    /// A package with one file that names its version.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        let files = [(format!("/usr/share/{name}/version"), format!("{version}\n"))].into();
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            control: Vec::new(),
            scripts: BTreeMap::new(),
            files,
        }
    }

    /// With a further control line.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.control.push(line.to_owned());
        self
    }

    /// With a maintainer script.
    #[must_use]
    pub fn script(mut self, name: &str, text: &str) -> Self {
        self.scripts.insert(name.to_owned(), text.to_owned());
        self
    }

    /// The `.deb`, made by dpkg-deb.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let more: String = self.control.iter().map(|line| format!("{line}\n")).collect();
        let control = format!(
            "Package: {}\nVersion: {}\nArchitecture: amd64\nMaintainer: Test <test@example.org>\n\
             Description: made by a test\n{more}",
            self.name, self.version
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        for (name, text) in &self.scripts {
            let path = tree.join("DEBIAN").join(name);
            fs::write(&path, text).unwrap();
            run("chmod", &["755".as_ref(), path.as_os_str()]);
        }
        for (path, text) in &self.files {
            let path = tree.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let deb = dir.path().join("package.deb");
        run(
            "dpkg-deb",
            &[
                "--root-owner-group".as_ref(),
                "-Znone".as_ref(),
                "-b".as_ref(),
                tree.as_os_str(),
                deb.as_os_str(),
            ],
        );
        fs::read(deb).unwrap()
    }
}

/// Runs a program to its end; a failure ends the test with what it said.
pub fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The archive: suite `test-security` with updates, suite `test` with what they may need besides.
pub struct Archive {
    server: Server,
    key: pgp::composed::SignedSecretKey,
    security: Vec<String>,
    base: Vec<String>,
    state: i64,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Archive {
    /// An empty archive that is served.
    pub async fn start() -> Self {
        let key = new_key("2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
        let mut archive =
            Self { server: Server::start().await, key, security: Vec::new(), base: Vec::new(), state: 0 };
        archive.publish();
        archive
    }

    /// Adds an update and the `.deb` that it brings.
    pub fn update(&mut self, package: &Package) {
        let stanza = self.put("security", package);
        self.security.push(stanza);
    }

    /// Adds an update of which only name and version matter: these bytes are served as its package.
    pub fn listed(&mut self, name: &str, version: &str, bytes: Vec<u8>) {
        let stanza = self.serve("security", name, version, "", bytes);
        self.security.push(stanza);
    }

    /// As [`Archive::listed`], in the place of every version of the package that there was.
    pub fn replaced(&mut self, name: &str, version: &str, bytes: Vec<u8>) {
        self.withdrawn(name);
        self.listed(name, version, bytes);
    }

    /// Takes a package out with every version.
    pub fn withdrawn(&mut self, name: &str) {
        let head = format!("Package: {name}\n");
        for gone in self.security.extract_if(.., |stanza| stanza.starts_with(&head)) {
            let file = gone.lines().find_map(|line| line.strip_prefix("Filename: ")).unwrap();
            self.server.remove(&format!("/security/{file}"));
        }
    }

    /// Adds a package that updates may need.
    pub fn besides(&mut self, package: &Package) {
        let stanza = self.put("debian", package);
        self.base.push(stanza);
    }

    fn put(&self, archive: &str, package: &Package) -> String {
        let Package { name, version, control, .. } = package;
        let more: String = control.iter().map(|line| format!("{line}\n")).collect();
        self.serve(archive, name, version, &more, package.build())
    }

    fn serve(&self, archive: &str, name: &str, version: &str, more: &str, deb: Vec<u8>) -> String {
        let file = format!("pool/{name}_{version}_amd64.deb");
        let stanza = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: {file}\nSize: {}\nSHA256: {}\n{more}",
            deb.len(),
            Digest::of(&deb)
        );
        self.server.put(&format!("/{archive}/{file}"), deb);
        stanza
    }

    /// Signs and serves what was added, as a state later than the one before.
    pub fn publish(&mut self) {
        let first: Timestamp = FIRST_STATE.parse().unwrap();
        let date = first + SignedDuration::from_hours(self.state);
        // A suite keeps its date for as long as the program runs; a test has few of them.
        let date = date.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string().leak();
        self.state += 1;
        Suite::new("/security", "test-security", date)
            .with("main", "amd64", &self.security)
            .publish(&self.server, &self.key);
        Suite::new("/debian", "test", date)
            .with("main", "amd64", &self.base)
            .publish(&self.server, &self.key);
    }

    /// The server, to make it misbehave or to see what was asked of it.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The part of central's configuration that names it; its keyring is written to `dir`.
    #[must_use]
    pub fn source(&self, dir: &Path) -> String {
        let keyring = dir.join("archive.gpg");
        fs::write(&keyring, public(&self.key)).unwrap();
        let url = &self.server.url;
        format!(
            "[[source]]\nkind = \"debian\"\nname = \"debian\"\ncatalogue = \"debian-12\"\nos_version = \"12\"\n\
             url = \"{url}/security\"\nsuite = \"test-security\"\ncomponents = [\"main\"]\narchitectures = [\"amd64\"]\n\
             keyrings = [\"{}\"]\nbase = [{{ url = \"{url}/debian\", suite = \"test\", components = [\"main\"] }}]\n",
            keyring.display()
        )
    }
}
