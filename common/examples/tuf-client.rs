//! A TUF client for the command line, in the form that conformance suites drive.
//!
//! ```text
//! tuf-client --metadata-dir DIR init TRUSTED_ROOT
//! tuf-client --metadata-dir DIR --metadata-url URL refresh
//! tuf-client --metadata-dir DIR --metadata-url URL --target-name PATH [--target-name PATH …]
//!            --target-base-url URL --target-dir DIR download
//! ```
//!
//! Exits with 0 or 1. Speaks HTTP/1.1 without TLS: whatever it fetches is verified, and this is no product.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use clap::{Parser, Subcommand};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tierway_common::{
    clock::Clock,
    daemon::chain::Chain,
    trust::{
        digest::Digest,
        tuf::{Client, FetchError, Fetcher, Limits, file_name, metadata::TargetFile, quote},
    },
};
use tokio::{net::TcpStream, time::timeout};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// How long a server may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Slower than this a server only wants to hold us up; bytes a second, from the first byte on.
const RATE_MIN: u64 = 2_000;

/// What a file may take whatever its length.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest name that every common file system takes, with room for `.partial`.
const FILE_NAME_BYTES_MAX: usize = 240;

#[derive(Debug, Parser)]
#[command(about = "A TUF client in the form that conformance suites drive", version)]
struct Arguments {
    /// Where trusted metadata is kept.
    #[arg(long, global = true, default_value = "metadata")]
    metadata_dir: PathBuf,
    /// Where metadata is fetched from.
    #[arg(long, global = true)]
    metadata_url: Option<String>,
    /// Path of a target; may be repeated.
    #[arg(long, global = true)]
    target_name: Vec<String>,
    /// Where targets are fetched from.
    #[arg(long, global = true)]
    target_base_url: Option<String>,
    /// Where targets are kept.
    #[arg(long, global = true)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes a root metadata file as the root of trust; asks nobody.
    Init {
        /// The file.
        trusted_root: PathBuf,
    },
    /// Brings the four top-level roles up to date.
    Refresh,
    /// Refreshes, and fetches the targets that are not there yet.
    Download,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(err) => {
            let _ = err.print();
            return ExitCode::from(u8::from(err.use_stderr()));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(err) => return failed(&err),
    };
    match runtime.block_on(run(&arguments, Clock::system().now())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => failed(&*err),
    }
}

fn failed(err: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("tuf-client: {}", Chain(err));
    ExitCode::FAILURE
}

async fn run(arguments: &Arguments, now: Timestamp) -> Result<(), AnyError> {
    let Arguments { metadata_dir, metadata_url, target_name, target_base_url, target_dir, command } =
        arguments;
    fs::create_dir_all(metadata_dir)?;
    if let Command::Init { trusted_root } = command {
        return Ok(Client::<Http>::init(metadata_dir, &fs::read(trusted_root)?)?);
    }
    let base = metadata_url.as_deref().ok_or("`--metadata-url` is missing")?;
    let http = Http { base: base.to_owned() };
    let mut client = Client::open(metadata_dir, http, Limits::default())?;
    client.refresh(now).await?;
    if matches!(command, Command::Download) {
        let base = target_base_url.as_deref().ok_or("`--target-base-url` is missing")?;
        let dir = target_dir.as_deref().ok_or("`--target-dir` is missing")?;
        fs::create_dir_all(dir)?;
        for name in target_name {
            let target =
                client.find(name, now).await?.ok_or_else(|| format!("there is no target `{name}`"))?;
            let remote = remote_name(name, &target, client.consistent_snapshot());
            download(&join(base, &remote), &target, &dir.join(local_name(name))).await?;
        }
    }
    Ok(())
}

/// Metadata over HTTP.
#[derive(Debug)]
struct Http {
    base: String,
}

impl Fetcher for Http {
    async fn metadata(
        &self,
        role: &str,
        version: Option<u64>,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, FetchError> {
        let mut content = Vec::new();
        let take = |piece: &[u8]| {
            content.extend_from_slice(piece);
            Ok(())
        };
        match get(&join(&self.base, &file_name(role, version)), bytes_max, take).await {
            Ok(Found::Yes) => Ok(Some(content.into())),
            Ok(Found::No) => Ok(None),
            Err(err) => Err(FetchError::new(err)),
        }
    }
}

fn join(base: &str, name: &str) -> String {
    format!("{}/{name}", base.trim_end_matches('/'))
}

/// The target's path below the base URL: with its digest before the last part in consistent snapshots.
fn remote_name(path: &str, target: &TargetFile, consistent_snapshot: bool) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@/".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    let path: String = path.bytes().map(encode).collect();
    match (consistent_snapshot, path.rsplit_once('/')) {
        (false, _) => path,
        (true, Some((directory, name))) => format!("{directory}/{}.{name}", target.hashes.prefix()),
        (true, None) => format!("{}.{path}", target.hashes.prefix()),
    }
}

/// One file name for a target path, the same each time, that does not leave its directory.
fn local_name(path: &str) -> String {
    let name = quote(path);
    match name.strip_prefix('.') {
        _ if name.is_empty() || name.len() > FILE_NAME_BYTES_MAX => Digest::of(path.as_bytes()).to_string(),
        Some(rest) => format!("%2E{rest}"),
        None => name,
    }
}

/// Whether the file is there and is the target.
fn is_there(path: &Path, target: &TargetFile) -> io::Result<bool> {
    let mut file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    if file.metadata()?.len() != target.length {
        return Ok(false);
    }
    let mut checker = target.hashes.checker();
    let mut piece = vec![0; 64 * 1024];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(checker.finish()),
            count => checker.update(&piece[..count]),
        }
    }
}

/// Fetches the target unless it is there. What is not the target never gets its name.
async fn download(url: &str, target: &TargetFile, path: &Path) -> Result<(), AnyError> {
    if is_there(path, target)? {
        return Ok(());
    }
    let dir = path.parent().ok_or("the target directory is no directory")?;
    let mut partial = tempfile::NamedTempFile::new_in(dir)?;
    let mut checker = target.hashes.checker();
    let mut length = 0;
    let take = |piece: &[u8]| {
        checker.update(piece);
        length += piece.len() as u64;
        partial.write_all(piece)
    };
    if matches!(get(url, target.length, take).await?, Found::No) {
        return Err(format!("there is no `{url}`").into());
    }
    if length != target.length || !checker.finish() {
        return Err(format!("`{url}` is not the target that the metadata names").into());
    }
    partial.as_file().sync_all()?;
    partial.persist(path)?;
    Ok(())
}

enum Found {
    Yes,
    No,
}

/// One request on one connection; the body piece by piece to `take`, at most `bytes_max` bytes of it.
async fn get(
    url: &str,
    bytes_max: u64,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Found, AnyError> {
    let time_max = PATIENCE + Duration::from_secs(bytes_max / RATE_MIN);
    let transfer = async {
        let uri: Uri = url.parse()?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("`{url}` is not an http:// URL").into());
        }
        let host = uri.host().ok_or("the URL has no host")?;
        let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
        let stream = timeout(SILENCE_MAX, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender or the server; what goes wrong on it shows in the answer.
        let connection = tokio::spawn(connection);
        let request = Request::get(uri.path())
            .header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
            .body(Empty::<Bytes>::new())?;
        let answer = timeout(SILENCE_MAX, sender.send_request(request)).await??;
        let found = match answer.status() {
            StatusCode::OK => Found::Yes,
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Found::No,
            status => return Err(format!("`{url}` was answered with {status}").into()),
        };
        let mut body = answer.into_body();
        let mut left = bytes_max;
        while let Found::Yes = found
            && let Some(frame) = timeout(SILENCE_MAX, body.frame()).await?
        {
            if let Some(piece) = frame?.data_ref() {
                left = left
                    .checked_sub(piece.len() as u64)
                    .ok_or_else(|| format!("`{url}` has more than {bytes_max} bytes"))?;
                take(piece)?;
            }
        }
        connection.abort();
        Ok(found)
    };
    timeout(time_max, transfer).await?
}
