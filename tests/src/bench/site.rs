//! A site: a certification authority, machines with identities, and a real relay.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ring::rand::SystemRandom;
use tierway_central::enroll::ca::{self, Authority};
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    clock::Clock,
    daemon::stop::Stop,
    enrollment::Applicant,
    id::TenantId,
    transport::{
        dial::Route,
        identity::{Holder, Role},
        tls::Identity,
    },
    trust::{
        keys::SigningKey,
        tuf::writer::{Repository, Roles, Signers, Validity, first_root},
    },
};
use tierway_relay::{config::Config, server};

use super::{place, process};

/// Where nobody listens: the tier above is gone.
pub const NOWHERE: &str = "127.0.0.1:9";

/// The tenant of all benchmarks.
#[must_use]
pub fn tenant() -> TenantId {
    "default".parse().expect("a tenant")
}

/// Who signs certificates and what is published.
#[derive(Debug)]
pub struct Site {
    authority: Authority,
    clock: Clock,
    /// Signs all roles of the repository.
    pub key: SigningKey,
    root: bytes::Bytes,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// A fresh one.
    #[must_use]
    pub fn new() -> Self {
        let (clock, random) = (Clock::system(), SystemRandom::new());
        let (root, issuing) = ca::create(clock.now(), &random).expect("an authority");
        let authority = Authority::open(&root.certificate_pem, &issuing).expect("an authority");
        let key = SigningKey::generate(&random).expect("a key");
        let roles = Roles::with_online_key(Signers::one(key.public()), key.public());
        let root = first_root(&roles, &Validity::default(), &[&key], clock.now()).expect("a root");
        Self { authority, clock, key, root }
    }

    /// The repository that machines of this site trust, with nothing published.
    #[must_use]
    pub fn repository(&self) -> Repository {
        Repository::begin(&self.root, Validity::default()).expect("a repository")
    }

    /// Makes `dir` the data folder of a machine that has joined, below the tier at `above`.
    #[must_use]
    pub fn join(&self, dir: &Path, role: Role, id: &str, above: Option<&str>) -> Identity {
        let applicant = Applicant::new().expect("a key");
        let key = ca::requested_key(applicant.csr_der()).expect("a key");
        let holder =
            Holder { tenant: tenant(), site: "lyon".parse().expect("a site"), role, id: id.to_owned() };
        let issued =
            self.authority.issue(&holder, key, self.clock.now(), &SystemRandom::new()).expect("issued");
        fs::create_dir_all(dir.join("trust")).expect("a folder");
        fs::write(dir.join("trust/root.json"), &self.root).expect("written");
        let route = serde_json::to_vec(&Route::direct(above.unwrap_or(NOWHERE))).expect("JSON");
        fs::write(dir.join("upstream.json"), route).expect("written");
        Identity::load(&applicant.keep(&issued.chain, &dir.join("identity")).expect("kept")).expect("loads")
    }
}

/// Blobs without limits in `dir`.
#[must_use]
pub fn blobs(dir: &Path) -> Blobs {
    Blobs::open(dir, BlobOptions { quota_bytes: 50 << 30, free_floor_bytes: 0 }).expect("blobs")
}

/// The relay, as its program runs it, on the server's core; the tier above is gone. For
/// [`process::Server::again`].
pub fn serve_relay(dir: PathBuf) {
    place::pin(place::SERVER);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stop = Stop::new();
        let config = Config { data_dir: dir, listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        let running = server::start(config, Clock::system(), stop.clone()).await.expect("it starts");
        println!("{}", running.address);
        std::thread::spawn(move || {
            process::wait_for_end();
            stop.request();
        });
        running.ended().await;
    });
}
