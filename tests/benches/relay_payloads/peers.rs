//! Servers to compare with: nginx over the same files, and squid with the same files in its cache.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, RootCertStore, version::TLS13};
use rustls_pki_types::CertificateDer;
use tierway_common::{
    transport::{SERVER_NAME, tls},
    trust::digest::Digest,
};
use tierway_tests::bench::{
    load::Web,
    place,
    process::{self, Server},
};

/// How long one may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs.
pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) server: Server,
    /// How to speak to it; without TLS when there is none.
    pub(super) tls: Option<Arc<ClientConfig>>,
    _dir: tempfile::TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Nginx,
    Squid,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Squid => "squid, no TLS",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Squid => "squid",
        }
    }
}

/// The path of a payload.
pub(super) fn path(digest: &Digest) -> String {
    let hex = digest.to_string();
    format!("/{}/{hex}", &hex[..2])
}

/// All that are installed, over the folder `payloads`. squid has fetched `files` from a server that is gone then, so what
/// it serves afterwards comes from its cache.
pub(super) async fn all(payloads: &Path, files: &[Digest]) -> Vec<Peer> {
    let certificate = Certificate::new();
    let Some(nginx) = nginx(payloads, Some(&certificate)) else { return Vec::new() };
    let origin = self::nginx(payloads, None).expect("as the one before it");
    let Some(squid) = squid(origin.server.address) else { return vec![nginx] };
    let mut web = Web::connect(squid.server.address, None).await;
    for digest in files {
        web.get(&path(digest)).await;
    }
    vec![nginx, squid]
}

/// What nginx shows: a P-256 certificate signed by itself, with its key in front.
struct Certificate {
    pem: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).expect("a certificate");
        let pem = made.signing_key.serialize_pem() + &made.cert.pem();
        Self { pem, der: made.cert.der().clone() }
    }

    /// For those who know it.
    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(tls::provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A folder that a server may write to which runs as another user.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("a folder");
    dir
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port")
}

fn written(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("written");
    path
}

/// Starts it on the core of servers, and waits until it listens; `worker` is the process that does the work. `None`, said,
/// where it is not installed.
fn start(
    kind: Kind,
    arguments: &[&str],
    address: SocketAddr,
    worker: impl Fn(&Child) -> Option<u32>,
) -> Option<Server> {
    let program = kind.program();
    if place::command("which").arg(program).output().is_ok_and(|output| !output.status.success()) {
        assert!(env::var_os("TIERWAY_REQUIRE").is_none(), "{program} is required");
        println!("skipped: the comparison with {program}, which is not installed");
        return None;
    }
    let core = place::SERVER.to_string();
    let mut child =
        place::command("taskset").args(["-c", &core, program]).args(arguments).spawn().expect("it starts");
    let patience = Instant::now() + PATIENCE;
    loop {
        if let Some(worker) = worker(&child)
            && TcpStream::connect(address).is_ok()
        {
            return Some(Server::of(child, worker, address));
        }
        assert!(child.try_wait().expect("a child").is_none(), "{program} did not start");
        assert!(Instant::now() < patience, "{program} does not listen");
        std::thread::yield_now();
    }
}

/// nginx with one worker over the folder `payloads`.
fn nginx(payloads: &Path, certificate: Option<&Certificate>) -> Option<Peer> {
    let (dir, address) = (folder(), free_address());
    let show = dir.path().display();
    let tls = match certificate {
        Some(certificate) => {
            let pem = written(dir.path(), "pem", &certificate.pem);
            format!(
                "listen {address} ssl;\n    ssl_certificate {0};\n    ssl_certificate_key {0};\n    ssl_protocols TLSv1.3;\n\
                 \x20   ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;",
                pem.display()
            )
        }
        None => format!("listen {address};"),
    };
    let config = format!(
        "user root;\ndaemon off;\nworker_processes 1;\npid {show}/pid;\nerror_log {show}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 100000000;\n  keepalive_timeout 600;\n\
         \x20 client_body_temp_path {show}/body;\n  proxy_temp_path {show}/proxy;\n  fastcgi_temp_path {show}/fastcgi;\n\
         \x20 uwsgi_temp_path {show}/uwsgi;\n  scgi_temp_path {show}/scgi;\n\
         \x20 server {{\n    {tls}\n    root {};\n  }}\n}}\n",
        payloads.display(),
    );
    let config = written(dir.path(), "nginx.conf", &config);
    let (config, prefix) = (config.display().to_string(), show.to_string());
    let arguments = ["-c", &config, "-p", &prefix];
    let server = start(Kind::Nginx, &arguments, address, |child| process::first_child(child.id()))?;
    let tls = certificate.map(Certificate::client);
    Some(Peer { kind: Kind::Nginx, server, tls, _dir: dir })
}

/// squid before the server `origin`, with its cache in memory.
fn squid(origin: SocketAddr) -> Option<Peer> {
    let (dir, address) = (folder(), free_address());
    let config = format!(
        "http_port {address} accel defaultsite=bench\n\
         cache_peer {} parent {} 0 no-query no-digest originserver\n\
         http_access allow all\ncache_mem 700 MB\nmaximum_object_size 200 MB\nmaximum_object_size_in_memory 200 MB\n\
         refresh_pattern . 1440 100% 10080 override-expire ignore-reload\n\
         access_log none\ncache_store_log none\ncache_log /dev/null\nnetdb_filename none\npinger_enable off\n\
         pid_filename none\ncoredump_dir {}\nclient_lifetime 1 day\n",
        origin.ip(),
        origin.port(),
        dir.path().display(),
    );
    let config = written(dir.path(), "squid.conf", &config).display().to_string();
    let server = start(Kind::Squid, &["-N", "-f", &config], address, |child| Some(child.id()))?;
    Some(Peer { kind: Kind::Squid, server, tls: None, _dir: dir })
}
