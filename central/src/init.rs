//! `tierway-central init`: keys, certificates, the first metadata, the first operator.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::rand::{SecureRandom, SystemRandom};
use tierway_common::{
    clock::Clock,
    enrollment::{Applicant, EnrollmentError},
    files,
    id::{IdError, TenantId},
    schema::{Group, Members},
    store::{Store, StoreError, sled_store::SledStore},
    transport::identity::Role,
    trust::{
        digest::Digest,
        keys::{KeyError, SigningKey},
        tuf::writer::{Roles, Signers, Validity, WriteError, first_root},
    },
};

use crate::{
    enroll::{
        EnrollError, Enrollment, RENEWAL_GRACE,
        ca::{self, Authority, CaError, Material},
    },
    layout::Layout,
    model::Write,
    state::State,
};

/// The group that every tenant has from the beginning.
pub const EVERYONE: &str = "everyone";
/// Site of central and of operators that do not belong to any.
pub const CENTRAL_SITE: &str = "central";
/// Longest PEM file read back.
const PEM_BYTES_MAX: u64 = 64 * 1024;

/// Why nothing was set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one already.
    #[error("`{path}` is there already: this central has been initialised")]
    Initialised {
        /// What is there.
        path: PathBuf,
    },
    /// There is none yet.
    #[error("`{path}` is not there: run `tierway-central init` first")]
    NotInitialised {
        /// What is missing.
        path: PathBuf,
    },
    /// A folder or file.
    #[error("could not {doing} `{path}`")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The authority.
    #[error("could not set up the certification authority")]
    Ca(#[from] CaError),
    /// A signing key.
    #[error("could not set up a signing key")]
    Key(#[from] KeyError),
    /// The first metadata.
    #[error("could not write the first metadata")]
    Trust(#[from] WriteError),
    /// The store.
    #[error("could not set up the store")]
    Store(#[from] StoreError),
    /// An identity.
    #[error("could not issue an identity")]
    Enroll(#[from] EnrollError),
    /// An identity on disk.
    #[error("could not keep an identity")]
    Keep(#[from] EnrollmentError),
    /// The operator's name.
    #[error("this cannot be the operator's name")]
    Name(#[from] IdError),
}

/// Sets up everything below `layout` for `tenant`, with an identity for `operator`.
///
/// # Errors
///
/// [`InitError`]; what was written by then has to be removed before the next try.
pub fn init(layout: &Layout, tenant: &TenantId, operator: &str, clock: &Clock) -> Result<(), InitError> {
    for path in [layout.root_certificate(), layout.trust_root(), layout.store()] {
        if path.exists() {
            return Err(InitError::Initialised { path });
        }
    }
    let random: Arc<dyn SecureRandom + Send + Sync> = Arc::new(SystemRandom::new());
    let now = clock.now();
    let folders = [
        layout.dir().to_owned(),
        layout.dir().join("ca"),
        layout.dir().join("trust"),
        layout.offline(),
        layout.identity(),
        layout.operator(),
    ];
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    for path in folders {
        let made = files::create_folders_by(&builder, &path);
        made.map_err(|source| InitError::File { doing: "create", path, source })?;
    }

    let (root, issuing) = ca::create(now, random.as_ref())?;
    write(&layout.root_key(), root.key_pem.as_bytes(), 0o600)?;
    write(&layout.issuing_key(), issuing.key_pem.as_bytes(), 0o600)?;
    write(&layout.issuing_certificate(), issuing.certificate_pem.as_bytes(), 0o644)?;

    let (trust_root, online) =
        (SigningKey::generate(random.as_ref())?, SigningKey::generate(random.as_ref())?);
    let roles = Roles::with_online_key(Signers::one(trust_root.public()), online.public());
    let metadata = first_root(&roles, &Validity::default(), &[&trust_root], now)?;
    trust_root.save(&layout.trust_root_key())?;
    online.save(&layout.online_key())?;

    let store: Arc<dyn Store> = Arc::new(SledStore::open(&layout.store())?);
    let state = Arc::new(State::open(tenant.clone(), store, clock.clone())?);
    state.change(|_, change| {
        let id = EVERYONE.parse()?;
        change.write(Write::Group(Group { id, priority: 0, members: Members::Everyone, level: None }));
        change.audit("central", "init", format!("tenant:{tenant}"), String::new());
        Ok::<_, InitError>(())
    })?;
    let authority = Authority::open(&root.certificate_pem, &issuing)?;
    let enrollment = Enrollment::new(state, authority, Digest::of(&metadata), RENEWAL_GRACE, random);
    let site = CENTRAL_SITE.parse()?;
    for (role, id, dir) in
        [(Role::Central, CENTRAL_SITE, layout.identity()), (Role::Operator, operator, layout.operator())]
    {
        let applicant = Applicant::new()?;
        let issued = enrollment.issue_directly(role, &site, id, applicant.csr_der())?;
        applicant.keep(&issued.chain, &dir)?;
    }
    // Last, since their presence says that all of this is done.
    write(&layout.trust_root(), &metadata, 0o644)?;
    write(&layout.root_certificate(), root.certificate_pem.as_bytes(), 0o644)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InitError> {
    let error = |source| InitError::File { doing: "write", path: path.to_owned(), source };
    files::replace(path, bytes, mode).map_err(error)
}

/// Reads a file that `init` wrote.
///
/// # Errors
///
/// [`InitError::NotInitialised`], [`InitError::File`].
pub fn read(path: &Path) -> Result<Vec<u8>, InitError> {
    files::read_if_there(path, PEM_BYTES_MAX)
        .map_err(|source| InitError::File { doing: "read", path: path.to_owned(), source })?
        .ok_or_else(|| InitError::NotInitialised { path: path.to_owned() })
}

/// The key that signs leases; made when there is none, as in what an earlier version set up.
///
/// # Errors
///
/// [`KeyError`].
pub fn lease_key(layout: &Layout, random: &dyn SecureRandom) -> Result<SigningKey, KeyError> {
    let path = layout.lease_key();
    match SigningKey::load(&path) {
        Err(KeyError::Absent { .. }) => {
            let key = SigningKey::generate(random)?;
            key.save(&path)?;
            Ok(key)
        }
        found => found,
    }
}

/// The authority that `init` set up.
///
/// # Errors
///
/// [`InitError`].
pub fn authority(layout: &Layout) -> Result<Authority, InitError> {
    let text = |path: PathBuf| Ok::<_, InitError>(String::from_utf8_lossy(&read(&path)?).into_owned());
    let issuing = Material {
        certificate_pem: text(layout.issuing_certificate())?,
        key_pem: text(layout.issuing_key())?,
    };
    Ok(Authority::open(&text(layout.root_certificate())?, &issuing)?)
}
