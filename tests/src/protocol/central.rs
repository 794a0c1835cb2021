//! The real central on a simulated disk, and what people do there.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tempfile::TempDir;
use tierway_central::{
    calls::{self, Whom, Wish},
    config::{Config, File},
    enroll::{EnrollError, NewIds, NewToken},
    init,
    layout::Layout,
    model::Write,
    server::{self, Around, Central},
    store::tables::PendingPolicy,
};
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    clock::Clock,
    daemon::{stop::Stop, tasks::Tasks},
    enrollment::Token,
    id::TenantId,
    schema::{Approval, Decision, Group, Members},
    store::{Row, Store as _, StoreError, sled_store::SledStore, table},
    transport::identity::Role,
    trust::keys::SigningKey,
};

use super::{
    disk::Disk,
    net::{CENTRAL, Net},
    published,
};
use crate::simulation::random::Random;

/// The folders of central that are not made while it runs.
const FOLDERS: [&str; 3] = ["ca", "trust", "identity"];
/// PKCS #8 before the 32 bytes of an Ed25519 key (RFC 8410).
const KEY_HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A central that was initialised, once for all seeds: keys are random, and nothing that is decided depends on them.
#[derive(Debug)]
struct Template {
    dir: TempDir,
    rows: Vec<Row>,
}

fn template(start: Timestamp) -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        init::init(&layout, &tenant(), "tester", &Clock::manual(start)).unwrap();
        // In what is published stands its public half.
        let key = [&KEY_HEAD[..], &[7; 32]].concat();
        SigningKey::from_pkcs8(&key, "lease").unwrap().save(&layout.lease_key()).unwrap();
        let rows = SledStore::open(&layout.store()).unwrap().scan(b"", None, usize::MAX).unwrap();
        Template { dir, rows }
    })
}

/// Whose fleet it is.
#[must_use]
pub fn tenant() -> TenantId {
    "default".parse().unwrap()
}

/// Rows of a central that was initialised at `start`.
#[must_use]
pub fn rows(start: Timestamp) -> &'static [Row] {
    &template(start).rows
}

/// Sets the folder of a central up that has the payloads of so many generations.
pub fn set_up(dir: &Path, start: Timestamp, generations: u64) {
    for folder in FOLDERS {
        fs::create_dir_all(dir.join(folder)).unwrap();
        for entry in fs::read_dir(template(start).dir.path().join(folder)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.join(folder).join(entry.file_name())).unwrap();
        }
    }
    let options = BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 };
    let payloads = Blobs::open(&dir.join("payloads"), options).unwrap();
    for generation in 1..=generations {
        payloads.put(&published::payload(generation)).unwrap();
    }
}

/// A central that runs.
#[derive(Debug)]
pub struct Running {
    /// It.
    pub central: Arc<Central>,
    _tasks: Tasks,
}

/// Opens central in `dir` and lets it begin.
///
/// # Errors
///
/// When its disk fails meanwhile.
pub fn start(
    dir: PathBuf,
    disk: &Disk,
    net: &Net,
    clock: Clock,
    ids: Arc<Mutex<Random>>,
) -> Result<Running, server::StartError> {
    let file = File {
        data_dir: dir,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        public_address: Some("central.invalid:1".to_owned()),
        disk_free_bytes_min: 0,
        ..File::default()
    };
    let config = Config::new(file, "localhost").unwrap();
    let stop = Stop::new();
    let mut tasks = Tasks::new(clock.clone(), stop.clone());
    let told = move || {
        let mut random = ids.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, second) = (random.bits().to_be_bytes(), random.bits().to_be_bytes());
        std::array::from_fn(|at| if at < 8 { first[at] } else { second[at - 8] })
    };
    let ids = NewIds::Told(Arc::new(told));
    let around = Around { store: Arc::new(disk.clone()), ids, clock, board: tasks.board(), stop };
    let (central, intake) = server::open(config, around)?;
    tasks.spawn("intake", intake.run());
    server::tasks::begin_publishing(&mut tasks, &central);
    net.opens(CENTRAL, server::door(&central));
    Ok(Running { central, _tasks: tasks })
}

/// What people do at central; each is tried again by whoever wanted it when the disk fails.
impl Running {
    /// A token for so many machines.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn token(&self, role: Role, uses: u32) -> Option<Token> {
        let wanted = NewToken {
            role,
            site: "osaka".parse().unwrap(),
            uses,
            valid: Duration::from_secs(7 * 24 * 3600),
            servers: vec!["relay.invalid:1".to_owned()],
            groups: Vec::new(),
            name: String::new(),
        };
        Some(self.central.enrollment.create_token(&wanted, "operator:tester").ok()?.0)
    }

    /// Sets the policy.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn set_policy(&self) -> Result<(), StoreError> {
        self.central
            .state
            .change(|_, change| {
                for (key, document) in published::POLICY {
                    let row = PendingPolicy { tenant: &tenant(), key };
                    table::put(&mut change.batch, &row, &Some(document.to_owned()))?;
                }
                let (id, level) = (published::GROUP.parse().unwrap(), Some("all".parse().unwrap()));
                change.write(Write::Group(Group { id, priority: 1, members: Members::Everyone, level }));
                Ok::<_, StoreError>(())
            })
            .map(drop)
    }

    /// A generation comes out, as one of `so_far`, and is approved.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn release(&self, generation: u64, so_far: u64) -> Result<(), String> {
        let applied = self.central.catalog.apply(&published::source(), published::synced(so_far));
        applied.map_err(|error| error.to_string())?;
        self.central
            .state
            .change(|_, change| {
                change.write(Write::Approval(Approval {
                    group: published::GROUP.parse().unwrap(),
                    update: published::id(generation),
                    decision: Decision::Approve,
                    at: change.now,
                    renewed: None,
                    by: "operator:tester".to_owned(),
                    rings: None,
                }));
                Ok::<_, StoreError>(())
            })
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// Shuts an endpoint out; true when it is.
    #[must_use]
    pub fn revoke(&self, id: &str) -> bool {
        let revoked = self.central.enrollment.revoke(id, "lost", "operator:tester");
        matches!(revoked, Ok(_) | Err(EnrollError::Revoked(_)))
    }

    /// Everybody is called to check now, and to tell everything.
    pub fn call(&self) {
        let wish = Wish { report_inventory: true, roaming: true, offline: true };
        // A disk that fails leaves a wish of somebody who can wish again.
        let _ = calls::call(&self.central, "operator:tester", &Whom::Many { site: None, group: None }, wish);
    }
}
