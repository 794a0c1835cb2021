use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tierway_common::{blobs::BlobOptions, schema::Install};

use super::*;
use crate::sources::{
    fetch::HttpFetch,
    testing::{Manner, Server},
};

const RETRY: Retry = Retry { attempts: 3, delay: Duration::from_millis(1) };
const OPTIONS: Options = Options { concurrency: 4, bytes_per_second: None, retry: RETRY };

struct Bench {
    server: Server,
    blobs: Blobs,
    fetch: HttpFetch,
    stop: Stop,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn with_quota(quota_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            server: Server::start().await,
            blobs: Blobs::open(dir.path(), BlobOptions { quota_bytes, free_floor_bytes: 0 }).unwrap(),
            fetch: HttpFetch::new(None, Duration::from_secs(10)).unwrap(),
            stop: Stop::new(),
            _dir: dir,
        }
    }

    async fn new() -> Self {
        Self::with_quota(1 << 30).await
    }

    /// A payload of `bytes` bytes that differ by name, on the server.
    fn offer(&self, name: &str, bytes: usize) -> Wanted {
        let content: Vec<u8> = name.bytes().cycle().take(bytes).collect();
        self.server.put(&path(name), content.clone());
        let url = format!("{}{}", self.server.url, path(name));
        let payload = Payload { digest: Digest::of(&content), bytes: bytes as u64, url };
        Wanted { package: name.to_owned(), payload }
    }

    async fn download(&self, wanted: &[Wanted]) -> Downloaded {
        download(&self.fetch, &self.blobs, wanted.to_vec(), OPTIONS, &self.stop, &|_| {}).await
    }
}

fn path(name: &str) -> String {
    format!("/pool/{name}.deb")
}

#[tokio::test]
async fn what_is_missing_is_fetched_and_progress_adds_up() {
    let bench = Bench::new().await;
    let wanted: Vec<Wanted> = (0..20).map(|n| bench.offer(&format!("p{n}"), 10_000 + n)).collect();
    bench.blobs.put(&bench.server.file(&path("p0"))).unwrap();
    let twice: Vec<Wanted> = wanted.iter().chain(&wanted).cloned().collect();
    let last = Mutex::new(Progress::default());
    let tell = |progress| *last.lock().unwrap() = progress;
    let downloaded = download(&bench.fetch, &bench.blobs, twice, OPTIONS, &bench.stop, &tell).await;
    assert!(downloaded.failed.is_empty(), "{:?}", downloaded.failed);
    assert_eq!((downloaded.fetched.len(), downloaded.present, downloaded.left), (19, 1, 0));
    let bytes = wanted[1..].iter().map(|wanted| wanted.payload.bytes).sum();
    assert_eq!(
        last.into_inner().unwrap(),
        Progress { files: 19, files_total: 19, bytes, bytes_total: bytes }
    );
    assert!(wanted.iter().all(|wanted| bench.blobs.contains(&wanted.payload.digest)));
    assert_eq!(bench.server.seen().len(), 19);
}

#[tokio::test]
async fn a_payload_that_breaks_off_goes_on_where_it_was() {
    let bench = Bench::new().await;
    let wanted = bench.offer("big", 1_000_000);
    let manners = [Manner::Cut(300_000), Manner::Status(503), Manner::Cut(200_000), Manner::Well];
    bench.server.behave(&path("big"), &manners);
    let downloaded = bench.download(std::slice::from_ref(&wanted)).await;
    assert_eq!(downloaded.fetched, [wanted.payload.digest], "{:?}", downloaded.failed);
    let ranges: Vec<_> = bench.server.seen().iter().map(|seen| seen.headers.get("range").cloned()).collect();
    let range = |from: &str| Some(format!("bytes={from}-"));
    assert_eq!(ranges, [None, range("300000"), range("300000"), range("500000")]);
}

#[tokio::test]
async fn a_server_without_ranges_is_endured() {
    let bench = Bench::new().await;
    let wanted = bench.offer("big", 1_000_000);
    bench.server.behave(&path("big"), &[Manner::Cut(300_000), Manner::IgnoresRange]);
    let downloaded = bench.download(std::slice::from_ref(&wanted)).await;
    assert_eq!(downloaded.fetched, [wanted.payload.digest], "{:?}", downloaded.failed);
}

#[tokio::test]
async fn the_next_run_goes_on_where_this_one_gave_up_and_does_not_trust_what_was_left() {
    let bench = Bench::new().await;
    let wanted = bench.offer("big", 1_000_000);
    bench.server.behave(&path("big"), &[Manner::Cut(300_000), Manner::Status(403)]);
    let downloaded = bench.download(std::slice::from_ref(&wanted)).await;
    assert!(matches!(&downloaded.failed[..], [PayloadError::Fetch { .. }]), "{:?}", downloaded.failed);
    bench.server.behave(&path("big"), &[Manner::Well]);
    bench.server.seen();
    assert_eq!(bench.download(std::slice::from_ref(&wanted)).await.fetched.len(), 1);
    assert_eq!(bench.server.seen()[0].headers["range"], "bytes=300000-");

    // The same with other bytes left from before: found out at the end, and fetched anew.
    let wanted = bench.offer("other", 1000);
    let mut writer = bench.blobs.writer(&wanted.payload.digest, Some(1000)).unwrap();
    writer.write(b"wrong").unwrap();
    drop(writer);
    let downloaded = bench.download(std::slice::from_ref(&wanted)).await;
    assert_eq!(downloaded.fetched, [wanted.payload.digest], "{:?}", downloaded.failed);
}

/// Payload, what happens to it, and words that the error must have.
type Harm = (&'static str, fn(&Bench), &'static str);

#[tokio::test]
async fn a_wrong_payload_is_refused_by_name_and_not_kept_while_the_others_come() {
    let bench = Bench::new().await;
    let good = bench.offer("good", 5000);
    let wrong: [Harm; 6] = [
        (
            "flipped",
            |bench| {
                let mut bytes = bench.server.file("/pool/flipped.deb").to_vec();
                bytes[77] ^= 1;
                bench.server.put("/pool/flipped.deb", bytes);
            },
            "has the digest",
        ),
        (
            "short",
            |bench| {
                let bytes = bench.server.file("/pool/short.deb");
                bench.server.put("/pool/short.deb", bytes.slice(..4000));
            },
            "has 4000 bytes, not 5000",
        ),
        ("long", |bench| bench.server.put("/pool/long.deb", vec![b'l'; 6000]), "bytes, not 5000"),
        ("endless", |bench| bench.server.behave("/pool/endless.deb", &[Manner::Endless]), "bytes, not 5000"),
        ("gone", |bench| bench.server.remove("/pool/gone.deb"), "is not at"),
        ("down", |bench| bench.server.behave("/pool/down.deb", &[Manner::Status(500)]), "could not fetch"),
    ];
    for (name, harm, words) in wrong {
        let wanted = bench.offer(name, 5000);
        harm(&bench);
        let downloaded = bench.download(&[wanted.clone(), good.clone()]).await;
        assert!(bench.blobs.contains(&good.payload.digest), "{name}");
        assert!(!bench.blobs.contains(&wanted.payload.digest), "{name}");
        let [error] = &downloaded.failed[..] else { panic!("{name}: {:?}", downloaded.failed) };
        let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        let text = format!("{error}: {source}");
        for word in [words, &format!("`{name}`"), &format!("/pool/{name}.deb")] {
            assert!(text.contains(word), "{name}: `{word}` is not in: {text}");
        }
        assert_eq!(bench.blobs.usage().partial_bytes, 0, "{name}: nothing wrong is left to continue");
        bench.blobs.remove(&good.payload.digest).unwrap();
    }
}

#[tokio::test]
async fn no_more_are_fetched_at_once_than_configured() {
    let bench = Bench::new().await;
    let wanted: Vec<Wanted> = (0..24).map(|n| bench.offer(&format!("p{n}"), 200_000)).collect();
    for concurrency in [1, 3] {
        let options = Options { concurrency, ..OPTIONS };
        let fetch = Counting::new(&bench, concurrency as u64);
        let all = download(&fetch, &bench.blobs, wanted.clone(), options, &bench.stop, &|_| {});
        tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
        assert_eq!(fetch.most.load(Ordering::SeqCst), concurrency as u64);
        for wanted in &wanted {
            bench.blobs.remove(&wanted.payload.digest).unwrap();
        }
    }
}

/// Counts answers that are open.
struct Counting {
    inner: HttpFetch,
    now: std::sync::Arc<AtomicU64>,
    most: AtomicU64,
    /// So many must be open before the first goes on.
    together: u64,
}

struct Counted<B>(B, std::sync::Arc<AtomicU64>);

impl Counting {
    fn new(bench: &Bench, together: u64) -> Self {
        Self { inner: bench.fetch.clone(), now: std::sync::Arc::default(), most: AtomicU64::new(0), together }
    }
}

impl<B: Body> Body for Counted<B> {
    async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        self.0.chunk().await
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fetch for Counting {
    type Body = Counted<<HttpFetch as Fetch>::Body>;

    async fn get(
        &self,
        url: &str,
        validators: Option<&super::super::fetch::Validators>,
        offset: u64,
    ) -> Result<Answer<Self::Body>, FetchError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        // The first ones wait for each other, so that nothing rests on which of them is quicker.
        while self.most.load(Ordering::SeqCst) < self.together {
            tokio::task::yield_now().await;
        }
        match self.inner.get(url, validators, offset).await? {
            Answer::Found { offset, validators, body } => {
                Ok(Answer::Found { offset, validators, body: Counted(body, self.now.clone()) })
            }
            _ => panic!("every payload is there"),
        }
    }
}

#[tokio::test]
async fn the_bandwidth_limit_holds_over_all_downloads_together() {
    let bench = Bench::new().await;
    let wanted: Vec<Wanted> = (0..4).map(|n| bench.offer(&format!("p{n}"), 100_000)).collect();
    let options = Options { bytes_per_second: Some(200_000), ..OPTIONS };
    let begun = Instant::now();
    let downloaded = download(&bench.fetch, &bench.blobs, wanted, options, &bench.stop, &|_| {}).await;
    assert_eq!(downloaded.fetched.len(), 4);
    // One second's worth is the burst, the rest takes its time.
    assert!(begun.elapsed() >= Duration::from_millis(950), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stop_leaves_what_came_for_the_next_run() {
    let bench = Bench::new().await;
    let wanted: Vec<Wanted> = (0..3).map(|n| bench.offer(&format!("p{n}"), 4 << 20)).collect();
    let options = Options { concurrency: 1, ..OPTIONS };
    let tell = |progress: Progress| {
        if progress.bytes > 1 << 20 {
            bench.stop.request();
        }
    };
    let downloaded = download(&bench.fetch, &bench.blobs, wanted.clone(), options, &bench.stop, &tell).await;
    assert_eq!((downloaded.fetched.len(), downloaded.left, downloaded.failed.len()), (0, 3, 0));
    assert!(bench.blobs.usage().partial_bytes > 1 << 20);
}

#[tokio::test]
async fn without_room_nothing_more_is_begun() {
    let bench = Bench::with_quota(20_000).await;
    let wanted: Vec<Wanted> = (0..5).map(|n| bench.offer(&format!("p{n}"), 9_000)).collect();
    let pinned = wanted.iter().map(|wanted| wanted.payload.digest).collect();
    bench.blobs.pin("payloads", &pinned).unwrap();
    let options = Options { concurrency: 1, ..OPTIONS };
    let downloaded = download(&bench.fetch, &bench.blobs, wanted, options, &bench.stop, &|_| {}).await;
    assert_eq!((downloaded.fetched.len(), downloaded.left), (2, 2));
    let [PayloadError::Blob { source: BlobError::QuotaExceeded { .. }, .. }] = &downloaded.failed[..] else {
        panic!("{:?}", downloaded.failed)
    };
}

fn package(name: &str, depends: &str) -> DebPackage {
    DebPackage {
        name: name.to_owned(),
        version: "1".to_owned(),
        architecture: "amd64".to_owned(),
        payload: Payload { digest: Digest::of(name.as_bytes()), bytes: 1, url: String::new() },
        control: [("Depends".to_owned(), depends.to_owned())].into(),
    }
}

fn update(name: &str, superseded_by: &[&str], packages: Vec<DebPackage>) -> Update {
    Update {
        id: format!("debian-12/{name}").parse().unwrap(),
        title: name.to_owned(),
        product: name.to_owned(),
        version: "1".to_owned(),
        severity: tierway_common::schema::Severity::Unspecified,
        class: Default::default(),
        released: jiff::Timestamp::UNIX_EPOCH,
        references: Vec::new(),
        applicable: tierway_common::rules::expr::Expr::Const(true),
        installed: tierway_common::rules::expr::Expr::Const(false),
        supersedes: Vec::new(),
        superseded_by: superseded_by.iter().map(|id| id.parse().unwrap()).collect(),
        install: Install::Deb { packages },
        result_codes: Default::default(),
    }
}

#[test]
fn which_payloads_are_wanted_follows_the_setting() {
    let updates = [
        update(
            "signed",
            &[],
            vec![package("image", "image-50 (= 1), initramfs | dracut"), package("udeb", "")],
        ),
        update("kernel", &[], vec![package("image-50", "base (>= 2)"), package("image-50-dbg", "")]),
        update("ssl", &[], vec![package("ssl", "libc6")]),
        update("ssl-old", &["debian-12/ssl"], vec![package("ssl-old", "")]),
    ];
    let names = |which| {
        let needed = |id: &UpdateId, package: &DebPackage| id.name() == "signed" && package.name == "image";
        let approved = |id: &UpdateId| id.name().starts_with("ssl");
        let mut names: Vec<String> =
            select(which, &updates, &needed, &approved).into_iter().map(|wanted| wanted.package).collect();
        names.iter_mut().for_each(|name| *name = name.replace("_1_amd64", ""));
        names.sort();
        names.join(" ")
    };
    assert_eq!(names(Which::Needed), "image image-50");
    assert_eq!(names(Which::Approved), "ssl ssl-old");
    assert_eq!(names(Which::All), "image image-50 image-50-dbg ssl udeb");
}

#[test]
fn the_daily_download_is_off_and_at_three_until_configured() {
    let config: Config = toml::from_str("").unwrap();
    assert_eq!((config.enabled, config.at.to_string().as_str()), (false, "03:00:00"));
    assert_eq!((config.which, config.concurrency), (Which::Needed, 4));
    let config: Config =
        toml::from_str("enabled = true\nat = \"04:30\"\nzone = \"Asia/Tokyo\"\nwhich = \"all\"").unwrap();
    assert_eq!(config.time_zone().unwrap(), TimeZone::get("Asia/Tokyo").unwrap());
    let nowhere = Config { zone: Some("Mars/Base".to_owned()), ..config };
    assert!(nowhere.time_zone().unwrap_err().to_string().contains("Mars/Base"));
    assert!(toml::from_str::<Config>("when = 3").unwrap_err().to_string().contains("when"));
}
