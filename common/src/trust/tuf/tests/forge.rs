//! A repository in memory whose every word a test can forge, and a client of it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::trust::{
    digest::Digest,
    keys::SigningKey,
    tuf::{Client, FetchError, Fetcher, Limits, Trusted, TufError, canonical::Json, file_name},
};

/// The same key for the same number.
pub(super) fn key(number: u8) -> SigningKey {
    let der = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &[number; 32]].concat();
    SigningKey::from_pkcs8(&der, "test").unwrap()
}

pub(super) fn now() -> Timestamp {
    "2026-11-20T03:00:00Z".parse().unwrap()
}

pub(super) fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// What a repository serves, and what was asked of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Served(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    files: BTreeMap<String, Bytes>,
    asked: Vec<String>,
}

impl Served {
    fn lock(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap()
    }

    pub(super) fn put(&self, file: &str, bytes: impl Into<Bytes>) {
        self.lock().files.insert(file.to_owned(), bytes.into());
    }

    pub(super) fn get(&self, file: &str) -> Option<Bytes> {
        self.lock().files.get(file).cloned()
    }

    pub(super) fn remove(&self, file: &str) {
        self.lock().files.remove(file);
    }

    pub(super) fn all(&self) -> BTreeMap<String, Bytes> {
        self.lock().files.clone()
    }

    pub(super) fn replace(&self, files: BTreeMap<String, Bytes>) {
        self.lock().files = files;
    }

    /// What was asked for since the last time.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().asked)
    }
}

/// A content that stands for a server that never stops.
pub(super) const ENDLESS: &[u8] = b"endless";

/// A content that stands for a connection that breaks.
pub(super) const BROKEN: &[u8] = b"broken";

impl Fetcher for Served {
    async fn metadata(
        &self,
        role: &str,
        version: Option<u64>,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, FetchError> {
        let file = file_name(role, version);
        let found = self.get(&file);
        self.lock().asked.push(file);
        match found.as_deref() {
            Some(ENDLESS) => Ok(Some(vec![b' '; usize::try_from(bytes_max).unwrap() + 1].into())),
            Some(BROKEN) => Err(FetchError::new("connection reset")),
            _ => Ok(found),
        }
    }
}

/// A repository: what each role says, who signs it.
#[derive(Debug)]
pub(super) struct Forge {
    pub(super) served: Served,
    /// The `signed` part of each role, to be changed at will.
    pub(super) says: BTreeMap<String, Value>,
    /// Numbers of the keys that sign a role.
    pub(super) signers: BTreeMap<String, Vec<u8>>,
    /// Whether length and digest are given where they may be left out.
    pub(super) hashes: bool,
}

fn common(kind: &str) -> Value {
    json!({ "_type": kind, "spec_version": "1.0.34", "version": 1, "expires": "2027-11-20T03:00:00Z" })
}

pub(super) fn key_json(number: u8) -> (String, Value) {
    let public = key(number).public();
    let value = json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": public } });
    (public.key_id().to_string(), value)
}

pub(super) fn target_json(content: &str) -> Value {
    json!({ "length": content.len(), "hashes": { "sha256": Digest::of(content.as_bytes()) } })
}

impl Forge {
    /// Version 1 of everything; root signed by key 1, timestamp by 2, snapshot by 3, targets by 4.
    pub(super) fn new() -> Self {
        let mut says: BTreeMap<String, Value> =
            ["root", "timestamp", "snapshot", "targets"].map(|role| (role.to_owned(), common(role))).into();
        let root = says.get_mut("root").unwrap();
        root["consistent_snapshot"] = true.into();
        root["keys"] = json!({});
        root["roles"] = json!({});
        says.get_mut("timestamp").unwrap()["meta"] = json!({});
        says.get_mut("snapshot").unwrap()["meta"] = json!({});
        says.get_mut("targets").unwrap()["targets"] = json!({});
        let mut forge = Self { served: Served::default(), says, signers: BTreeMap::new(), hashes: false };
        for (role, number) in [("root", 1), ("timestamp", 2), ("snapshot", 3), ("targets", 4)] {
            forge.keys(role, &[number], 1);
        }
        forge.put("root");
        forge.refer("targets", "snapshot");
        forge.refer("snapshot", "timestamp");
        for role in ["targets", "snapshot", "timestamp"] {
            forge.put(role);
        }
        forge
    }

    pub(super) fn say(&mut self, role: &str) -> &mut Value {
        self.says.get_mut(role).unwrap()
    }

    pub(super) fn version(&self, role: &str) -> u64 {
        self.says[role]["version"].as_u64().unwrap()
    }

    /// Makes these the keys of a top-level role, in the root and for signing.
    pub(super) fn keys(&mut self, role: &str, numbers: &[u8], threshold: u64) {
        let root = self.says.get_mut("root").unwrap();
        let mut keyids = Vec::new();
        for number in numbers {
            let (keyid, value) = key_json(*number);
            root["keys"][&keyid] = value;
            keyids.push(keyid);
        }
        root["roles"][role] = json!({ "keyids": keyids, "threshold": threshold });
        self.signers.insert(role.to_owned(), numbers.to_vec());
    }

    /// A role that does not exist yet, to which `delegator` delegates; signed by key `number`.
    pub(super) fn delegate(&mut self, delegator: &str, role: &str, number: u8, more: &Value) {
        let (keyid, value) = key_json(number);
        let says = self.say(delegator);
        if says.get("delegations").is_none() {
            says["delegations"] = json!({ "keys": {}, "roles": [] });
        }
        says["delegations"]["keys"][&keyid] = value;
        let mut delegation = json!({ "name": role, "keyids": [keyid], "threshold": 1, "terminating": false });
        delegation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        says["delegations"]["roles"].as_array_mut().unwrap().push(delegation);
        let new = || {
            let mut says = common("targets");
            says["targets"] = json!({});
            says["version"] = 0.into();
            says
        };
        self.says.entry(role.to_owned()).or_insert_with(new);
        self.signers.entry(role.to_owned()).or_insert_with(|| vec![number]);
    }

    /// The file of a role, signed, as it now is.
    pub(super) fn signed(&self, role: &str) -> Bytes {
        let says = &self.says[role];
        let canonical = Json::deserialize(says).unwrap().canonical();
        let sign = |number: &u8| {
            let key = key(*number);
            json!({ "keyid": key.public().key_id(), "sig": hex::encode(key.sign(&canonical)) })
        };
        let signatures: Vec<Value> = self.signers[role].iter().map(sign).collect();
        serde_json::to_vec(&json!({ "signatures": signatures, "signed": says })).unwrap().into()
    }

    /// Where a role's file is served.
    pub(super) fn file(&self, role: &str) -> String {
        let consistent = self.says["root"]["consistent_snapshot"] == true;
        let versioned = role == "root" || consistent && role != "timestamp";
        file_name(role, versioned.then(|| self.version(role)))
    }

    /// Signs a role and serves it.
    pub(super) fn put(&mut self, role: &str) {
        self.served.put(&self.file(role), self.signed(role));
    }

    /// Serves other bytes where a role's file is.
    pub(super) fn put_raw(&mut self, role: &str, bytes: impl Into<Bytes>) {
        self.served.put(&self.file(role), bytes);
    }

    /// Has `by` name the present file of `role`.
    pub(super) fn refer(&mut self, role: &str, by: &str) {
        let mut meta = json!({ "version": self.version(role) });
        if self.hashes {
            let bytes = self.signed(role);
            meta["length"] = bytes.len().into();
            meta["hashes"] = json!({ "sha256": Digest::of(&bytes) });
        }
        self.say(by)["meta"][format!("{role}.json")] = meta;
    }

    /// New versions of the roles and of everything that refers to them, as it should be.
    pub(super) fn release(&mut self, roles: &[&str]) {
        for role in roles {
            self.bump(role);
            self.put(role);
            self.refer(role, "snapshot");
        }
        self.release_snapshot();
    }

    pub(super) fn release_snapshot(&mut self) {
        self.bump("snapshot");
        self.put("snapshot");
        self.refer("snapshot", "timestamp");
        self.release_timestamp();
    }

    pub(super) fn release_timestamp(&mut self) {
        self.bump("timestamp");
        self.put("timestamp");
    }

    pub(super) fn release_root(&mut self) {
        self.bump("root");
        self.put("root");
    }

    pub(super) fn bump(&mut self, role: &str) {
        let version = self.version(role) + 1;
        self.say(role)["version"] = version.into();
    }

    /// A client that trusts version 1 of the root.
    pub(super) fn client(&self) -> Tester {
        let dir = tempfile::tempdir().unwrap();
        let root = self.served.get("1.root.json").unwrap();
        Client::<Served>::init(dir.path(), &root).unwrap();
        Tester { dir, served: self.served.clone() }
    }
}

/// A client that is started anew for every step, as if the program had been.
#[derive(Debug)]
pub(super) struct Tester {
    dir: TempDir,
    served: Served,
}

impl Tester {
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn open(&self) -> Result<Client<Served>, TufError> {
        Client::open(self.dir(), self.served.clone(), Limits::default())
    }

    pub(super) fn refresh(&self, now: Timestamp) -> Result<Trusted, TufError> {
        run(async { self.open()?.refresh(now).await })
    }

    /// What the client found out about a path.
    pub(super) fn find(&self, path: &str, now: Timestamp) -> Result<Option<Digest>, TufError> {
        run(async {
            let mut client = self.open()?;
            client.refresh(now).await?;
            Ok(client.find(path, now).await?.and_then(|file| file.hashes.sha256()))
        })
    }

    pub(super) fn trusted(&self) -> Result<Option<Trusted>, TufError> {
        run(async { self.open()?.trusted().await })
    }

    /// Versions on disk, by role.
    pub(super) fn versions(&self) -> BTreeMap<String, u64> {
        let mut versions = BTreeMap::new();
        for entry in std::fs::read_dir(self.dir()).unwrap() {
            let path = entry.unwrap().path();
            let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let role = path.file_stem().unwrap().to_str().unwrap().to_owned();
            versions.insert(role, json["signed"]["version"].as_u64().unwrap());
        }
        versions
    }
}

pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// Whether the error is of the kind that `expected` begins with, said in full.
#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(result: Result<T, TufError>, expected: &str, case: &str) {
    let text = match result {
        Ok(accepted) => panic!("{case}: accepted {accepted:?}"),
        Err(err) => crate::daemon::chain::Chain(&err).to_string(),
    };
    assert!(text.contains(expected), "{case}: `{text}` where `{expected}` was expected");
}
