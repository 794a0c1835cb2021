//! TUF between Tierway and the reference client (PyPI `tuf`): it reads what we write, and we accept and refuse
//! what it does.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, OnceLock},
    thread,
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use serde_json::{Value, json};
use tempfile::TempDir;
use tierway_common::{
    clock::Clock,
    trust::{
        digest::Digest,
        keys::SigningKey,
        tuf::{
            Target,
            writer::{Repository, Roles, Signers, Validity, first_root, next_root},
        },
    },
};
use tierway_tests::programs;

#[expect(clippy::disallowed_methods, reason = "a test runs the neighbours' programs")]
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

/// The directory of build results that this test is in, such as `target/debug`.
fn build_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

fn support(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("support").join(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// A Python with the reference client, or `None` and one printed line.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || {
        let venv = build_dir().parent().unwrap().join("python-tuf");
        let found = command(support("python-tuf")).arg(venv).output().map_err(|err| err.to_string())?;
        if found.status.success() {
            Ok(PathBuf::from(text(&found.stdout)))
        } else {
            Err(text(&found.stderr).lines().last().unwrap_or_default().to_owned())
        }
    };
    match PYTHON.get_or_init(find) {
        Ok(python) => Some(python),
        Err(reason) => {
            #[expect(clippy::disallowed_methods, reason = "CI says that nothing may be skipped")]
            let required = std::env::var("TIERWAY_REQUIRE").is_ok();
            assert!(!required, "{reason}");
            println!("skipped: {reason}");
            None
        }
    }
}

/// Files on loopback HTTP, by path.
#[derive(Clone, Debug)]
struct Server {
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { files: Arc::default(), port: listener.local_addr().unwrap().port() };
        let files = Arc::clone(&server.files);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut request = BufReader::new(&stream).lines().map_while(Result::ok);
                let first = request.next().unwrap_or_default();
                request.by_ref().find(String::is_empty);
                let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
                let (status, body) = match files.lock().unwrap().get(&path) {
                    Some(bytes) => ("200 OK", bytes.clone()),
                    None => ("404 Not Found", Bytes::new()),
                };
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                // A reader that has gone has seen enough.
                let _ = (&stream).write_all(&[head.as_bytes(), &body].concat());
            }
        });
        server
    }

    fn put(&self, path: impl Into<String>, bytes: impl Into<Bytes>) {
        self.files.lock().unwrap().insert(path.into(), bytes.into());
    }

    fn get(&self, path: &str) -> Bytes {
        self.files.lock().unwrap()[path].clone()
    }

    fn store(&self, published: Vec<(String, Bytes)>) {
        for (name, bytes) in published {
            self.put(format!("metadata/{name}"), bytes);
        }
    }
}

/// A repository as central keeps it, on a server, and a reader with a memory of its own.
struct Scene {
    server: Server,
    repository: Repository,
    online: SigningKey,
    root_keys: Vec<SigningKey>,
    first_root: Bytes,
    now: Timestamp,
    reader: TempDir,
    contents: BTreeMap<String, Bytes>,
}

fn generate(count: usize) -> Vec<SigningKey> {
    (0..count).map(|_| SigningKey::generate(&SystemRandom::new()).unwrap()).collect()
}

fn roles(root: &[SigningKey], online: &SigningKey) -> Roles {
    let keys = root.iter().map(SigningKey::public).collect();
    Roles::with_online_key(Signers { keys, threshold: 2 }, online.public())
}

impl Scene {
    fn new() -> Self {
        let now = Clock::system().now();
        let (root_keys, online) = (generate(3), generate(1).remove(0));
        let signing: Vec<_> = root_keys.iter().take(2).collect();
        let validity = Validity::default();
        let first_root = first_root(&roles(&root_keys, &online), &validity, &signing, now).unwrap();
        let repository = Repository::begin(&first_root, validity).unwrap();
        let server = Server::start();
        server.store(repository.current().files);
        let (reader, contents) = (tempfile::tempdir().unwrap(), BTreeMap::new());
        Self { server, repository, online, root_keys, first_root, now, reader, contents }
    }

    fn publish(&mut self, name: &str, content: &str) {
        let content = Bytes::copy_from_slice(content.as_bytes());
        let digest = Digest::of(&content);
        self.server.put(format!("targets/{digest}.{name}"), content.clone());
        self.contents.insert(name.to_owned(), content);
        let target = |(name, content): (&String, &Bytes)| {
            let custom = Some(custom(name));
            (name.clone(), Target { length: content.len() as u64, sha256: Digest::of(content), custom })
        };
        let targets = self.contents.iter().map(target).collect();
        let published = self.repository.publish(&targets, &[&self.online], self.now).unwrap();
        self.server.store(published.files);
    }

    /// What the reference client says of the repository, having read it before or not.
    fn read(&self, python: &Path) -> Value {
        let dir = |name: &str| {
            let dir = self.reader.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            dir
        };
        let root = self.reader.path().join("trusted-root.json");
        std::fs::write(&root, &self.first_root).unwrap();
        let url = |part: &str| format!("http://127.0.0.1:{}/{part}/", self.server.port);
        let done = command(python)
            .arg(support("tuf-read.py"))
            .arg(dir("metadata"))
            .args([url("metadata"), url("targets")])
            .arg(dir("targets"))
            .arg(root)
            .args(self.contents.keys())
            .output()
            .unwrap();
        json_of(&done)
    }

    #[track_caller]
    fn assert_read(&self, python: &Path, versions: &Value) {
        let read = self.read(python);
        assert_eq!(&read["versions"], versions, "{read}");
        for (name, content) in &self.contents {
            let target = &read["targets"][name];
            assert_eq!(std::fs::read(target["path"].as_str().unwrap()).unwrap(), *content, "{name}");
            assert_eq!(target["custom"], custom(name), "{name}");
        }
    }
}

/// What a catalogue says of itself, with what JSON writers get wrong.
fn custom(name: &str) -> Value {
    json!({ "kind": { "pool": name }, "documents": 50_000, "fits": [null, true, "ä \"\\ \n \u{1F600}"] })
}

#[track_caller]
fn json_of(done: &Output) -> Value {
    assert!(done.status.success(), "{}", text(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn the_reference_client_follows_a_repository_of_ours_and_its_new_root() {
    let Some(python) = python() else { return };
    let mut scene = Scene::new();
    scene.publish("debian-12", "root node");
    scene.assert_read(python, &json!({ "root": 1, "timestamp": 1, "snapshot": 1, "targets": 1 }));

    scene.publish("debian-12", "another root node");
    scene.publish("policy-default", "policy");
    scene.assert_read(python, &json!({ "root": 1, "timestamp": 3, "snapshot": 3, "targets": 3 }));

    let later = scene.now + SignedDuration::from_mins(60);
    let refreshed = scene.repository.refresh_timestamp(&[&scene.online], later).unwrap();
    scene.server.store(refreshed.files);
    scene.assert_read(python, &json!({ "root": 1, "timestamp": 4, "snapshot": 3, "targets": 3 }));

    // Every key is replaced; a reader that was away for all of it follows as well.
    for version in 2..=3 {
        let (new_keys, online) = (generate(3), generate(1).remove(0));
        let signing: Vec<_> = scene.root_keys[1..].iter().chain(&new_keys[..2]).collect();
        let (_, present) = scene.repository.root_file();
        let validity = Validity::default();
        let next = next_root(&present, &roles(&new_keys, &online), &validity, &signing, scene.now).unwrap();
        let taken = scene.repository.take_root(&next, &[&online], scene.now).unwrap();
        scene.server.store(taken.files);
        (scene.root_keys, scene.online) = (new_keys, online);
        let (timestamp, rest) = (version + 3, version + 2);
        scene.assert_read(
            python,
            &json!({ "root": version, "timestamp": timestamp, "snapshot": rest, "targets": rest }),
        );
    }
    scene.reader = tempfile::tempdir().unwrap();
    scene.assert_read(python, &json!({ "root": 3, "timestamp": 6, "snapshot": 5, "targets": 5 }));
}

#[test]
fn the_reference_client_refuses_a_repository_of_ours_that_was_tampered_with() {
    let Some(python) = python() else { return };
    let mut scene = Scene::new();
    scene.publish("debian-12", "root node");
    let first_timestamp = scene.server.get("metadata/timestamp.json");
    scene.publish("debian-12", "another root node");
    let target = format!("targets/{}.debian-12", Digest::of(b"another root node"));
    let mut cases = 0;
    for file in ["metadata/timestamp.json", "metadata/2.snapshot.json", "metadata/2.targets.json", &target] {
        let good = scene.server.get(file);
        // The last letter of what is signed or said, and the end of the file.
        for at in [good.len() / 2, good.len() - 4] {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            scene.server.put(file, bad);
            scene.reader = tempfile::tempdir().unwrap();
            let read = scene.read(python);
            assert!(read["refused"].is_string(), "{file} at {at}: {read}");
            cases += 1;
        }
        scene.server.put(file, good);
    }
    assert_eq!(cases, 8);
    scene.assert_read(python, &json!({ "root": 1, "timestamp": 2, "snapshot": 2, "targets": 2 }));
    scene.server.put("metadata/timestamp.json", first_timestamp);
    let read = scene.read(python);
    assert!(read["refused"].as_str().unwrap().contains("BadVersion"), "{read}");
}

#[test]
fn our_client_accepts_trusts_and_downloads_what_the_reference_client_does() {
    let Some(python) = python() else { return };
    let client = programs::path("examples/tuf-client");
    let done = command(python).arg(support("tuf-differential.py")).arg(client).output().unwrap();
    println!("{}", text(&done.stdout));
    assert!(done.status.success(), "{}\n{}", text(&done.stdout), text(&done.stderr));
}
