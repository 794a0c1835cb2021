//! For tests, here and of the whole fleet: a server that misbehaves on demand, and archives signed by keys made here.

#![expect(clippy::unwrap_used, reason = "only tests enable this module")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use jiff::Timestamp;
use pgp::{
    composed::{
        CleartextSignedMessage, EncryptionCaps, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
        SignedSecretKey, SubkeyParamsBuilder,
    },
    packet::SignatureConfig,
    ser::Serialize as _,
    types::{Password, SigningKey},
};
use tierway_common::trust::digest::Digest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// How the server answers for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Well,
    /// With a status and no body.
    Status(u16),
    /// Breaks off after so many bytes of the body.
    Cut(usize),
    /// Never ends.
    Endless,
    /// The whole file, whatever range was asked for.
    IgnoresRange,
}

/// One request, as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// As answered.
    pub status: u16,
}

#[derive(Debug, Default)]
struct Shared {
    files: BTreeMap<String, Bytes>,
    /// What is left to be done for a path; the last one stays.
    manners: BTreeMap<String, Vec<Manner>>,
    seen: Vec<Seen>,
}

/// An HTTP/1.1 server on a free port of the loopback.
#[derive(Clone, Debug)]
pub struct Server {
    pub url: String,
    shared: Arc<Mutex<Shared>>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Mutex::new(Shared::default()));
        let server = Self { url, shared };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move {
                    // The client may hang up at any time.
                    let _ = server.answer(stream).await;
                });
            }
        });
        server
    }

    pub fn put(&self, path: &str, bytes: impl Into<Bytes>) {
        self.shared.lock().unwrap().files.insert(path.to_owned(), bytes.into());
    }

    pub fn remove(&self, path: &str) {
        assert!(self.shared.lock().unwrap().files.remove(path).is_some(), "no `{path}`");
    }

    pub fn paths(&self) -> Vec<String> {
        self.shared.lock().unwrap().files.keys().cloned().collect()
    }

    pub fn file(&self, path: &str) -> Bytes {
        self.shared.lock().unwrap().files[path].clone()
    }

    /// The next answers for `path`, the last of them for ever.
    pub fn behave(&self, path: &str, manners: &[Manner]) {
        let reversed = manners.iter().rev().cloned().collect();
        self.shared.lock().unwrap().manners.insert(path.to_owned(), reversed);
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.lock().unwrap().seen)
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        // Through a proxy the target is absolute.
        let path = target.strip_prefix(&self.url).unwrap_or(&target).to_owned();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let (bytes, manner) = {
            let mut shared = self.shared.lock().unwrap();
            let manner = match shared.manners.get_mut(&path) {
                Some(left) if left.len() > 1 => left.pop().unwrap(),
                Some(left) => left[0].clone(),
                None => Manner::Well,
            };
            (shared.files.get(&path).cloned(), manner)
        };
        let etag = format!("\"{}\"", bytes.as_ref().map(|b| Digest::of(b).to_string()).unwrap_or_default());
        let from: Option<usize> = headers
            .get("range")
            .filter(|_| manner != Manner::IgnoresRange)
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let (status, from) = match (&bytes, &manner) {
            (_, Manner::Status(status)) => (*status, 0),
            (None, _) => (404, 0),
            _ if headers.get("if-none-match") == Some(&etag) => (304, 0),
            (Some(bytes), _) if from.is_some_and(|from| from >= bytes.len()) => (416, 0),
            _ => from.map_or((200, 0), |from| (206, from)),
        };
        self.shared.lock().unwrap().seen.push(Seen { path, headers, status });
        let bytes = bytes.filter(|_| matches!(status, 200 | 206)).unwrap_or_default();
        let body = bytes.slice(from.min(bytes.len())..);
        let mut answer = format!("HTTP/1.1 {status} X\r\nconnection: close\r\netag: {etag}\r\n");
        if status == 206 {
            let last = bytes.len() - 1;
            write!(answer, "content-range: bytes {from}-{last}/{}\r\n", bytes.len()).unwrap();
        }
        if manner != Manner::Endless {
            write!(answer, "content-length: {}\r\n", body.len()).unwrap();
        }
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
        match manner {
            Manner::Cut(after) => stream.write_all(&body[..after.min(body.len())]).await?,
            Manner::Endless => loop {
                stream.write_all(&[b'x'; 65536]).await?;
            },
            _ => stream.write_all(&body).await?,
        }
        stream.shutdown().await
    }
}

/// A certificate with a primary key that only certifies and a subkey that signs, made at `created`.
pub fn new_key(created: Timestamp) -> SignedSecretKey {
    let created = pgp::types::Timestamp::from_secs(u32::try_from(created.as_second()).unwrap());
    let subkey = SubkeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(true)
        .can_encrypt(EncryptionCaps::None)
        .created_at(created)
        .build()
        .unwrap();
    let mut parameters = SecretKeyParamsBuilder::default();
    parameters
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(false)
        .can_encrypt(EncryptionCaps::None)
        .created_at(created)
        .primary_user_id("Test Archive <archive@example.org>".into())
        .subkeys(vec![subkey]);
    parameters.build().unwrap().generate(rand::thread_rng()).unwrap()
}

/// The certificate's public part, binary.
pub fn public(key: &SignedSecretKey) -> Vec<u8> {
    SignedPublicKey::from(key.clone()).to_bytes().unwrap()
}

/// Clearsigns `text` with the signing subkey.
pub fn clearsign(key: &SignedSecretKey, text: &str) -> String {
    clearsign_as(&key.secret_subkeys[0].key, text, |_| {})
}

/// Clearsigns `text` with any key, after `change` was made to what is to be signed.
pub fn clearsign_as(key: &impl SigningKey, text: &str, change: impl Fn(&mut SignatureConfig)) -> String {
    use pgp::packet::{SignatureType, Subpacket, SubpacketData};
    let mut config = SignatureConfig::from_key(rand::thread_rng(), key, SignatureType::Text).unwrap();
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(pgp::types::Timestamp::now())).unwrap(),
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint())).unwrap(),
    ];
    change(&mut config);
    let message = CleartextSignedMessage::new(text, config, key, &Password::empty()).unwrap();
    message.to_armored_string(Default::default()).unwrap()
}

/// `text`, packed.
pub fn xz(text: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A suite to publish.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Path of the archive on the server.
    pub archive: &'static str,
    pub suite: &'static str,
    pub date: &'static str,
    pub valid_until: Option<&'static str>,
    /// Component and architecture → index.
    pub indices: BTreeMap<(&'static str, &'static str), String>,
}

impl Suite {
    pub fn new(archive: &'static str, suite: &'static str, date: &'static str) -> Self {
        Self { archive, suite, date, valid_until: None, indices: BTreeMap::new() }
    }

    pub fn with(mut self, component: &'static str, architecture: &'static str, stanzas: &[String]) -> Self {
        self.indices.insert((component, architecture), stanzas.join("\n"));
        self
    }

    /// The text of its release, and its files by their path below the suite.
    pub fn build(&self) -> (String, BTreeMap<String, Bytes>) {
        let mut files = BTreeMap::new();
        let mut listed = String::new();
        for ((component, architecture), text) in &self.indices {
            let path = format!("{component}/binary-{architecture}/Packages");
            for (suffix, bytes) in [("", text.clone().into_bytes()), (".xz", xz(text.as_bytes()))] {
                let digest = Digest::of(&bytes);
                writeln!(listed, " {digest} {} {path}{suffix}", bytes.len()).unwrap();
                if suffix == ".xz" {
                    let folder = path.strip_suffix("Packages").unwrap();
                    files.insert(format!("{folder}by-hash/SHA256/{digest}"), bytes.clone().into());
                    files.insert(format!("{path}.xz"), bytes.into());
                }
            }
        }
        let valid = self.valid_until.map(|until| format!("Valid-Until: {until}\n")).unwrap_or_default();
        let text = format!(
            "Origin: Test\nSuite: {0}\nCodename: {0}\nDate: {1}\n{valid}Acquire-By-Hash: yes\n\
             Architectures: amd64 i386\nSHA256:\n{listed}",
            self.suite, self.date
        );
        (text, files)
    }

    /// Path on the server.
    pub fn path(&self, below: &str) -> String {
        format!("{}/dists/{}/{below}", self.archive, self.suite)
    }

    pub fn publish(&self, server: &Server, key: &SignedSecretKey) {
        let (text, files) = self.build();
        for (path, bytes) in files {
            server.put(&self.path(&path), bytes);
        }
        server.put(&self.path("InRelease"), clearsign(key, &text));
    }
}

/// A stanza of an index. `more` are further lines.
pub fn stanza(name: &str, version: &str, architecture: &str, more: &str) -> String {
    let digest = Digest::of(format!("{name} {version} {architecture}").as_bytes());
    let more = if more.is_empty() { String::new() } else { format!("{more}\n") };
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n\
         Filename: pool/{name}_{version}_{architecture}.deb\nSize: 100\nSHA256: {digest}\n{more}"
    )
}
