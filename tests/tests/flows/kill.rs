//! The three tiers as processes, killed at random moments while they work.
//!
//! One task works: the vendor brings one update after the other, the endpoint finds it, has it installed,
//! reports it. Another kills: it picks a tier and a moment by a seed, kills it as `kill -9` does, looks at
//! what it left on disk, starts it again and looks at what central knows. At the end nothing may be missing.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tierway_common::{clock::Clock, trust::digest::Digest};
use tierway_proto::v1::{self, admin_client::AdminClient};
use tierway_tests::{
    archive::{Archive, Package},
    fleet::until,
    processes::{Processes, Tier, check, programs},
    roots::{installed_version, made_up, real, status},
    skip::pristine_root,
};
use tonic::transport::Channel;

/// What a killed tier may take until it serves again.
const RESTART_MAX: Duration = Duration::from_secs(5);
/// What one update may take under fire.
const PATIENCE: Duration = Duration::from_secs(90);
/// Lines that postinst scripts write, below a real root.
const INSTALLS: &str = "var/log/tierway-test-installs";
/// Packages of a root; no run comes so far that it needs more.
const PACKAGES: usize = 200;

/// Random numbers that a seed repeats (SplitMix64).
struct Random(u64);

impl Random {
    /// By `TIERWAY_SEED`, else by the time; the seed is printed.
    fn new(what: &str) -> Self {
        let given = std::env::var_os("TIERWAY_SEED").and_then(|seed| seed.to_str()?.parse().ok());
        let seed = given.unwrap_or_else(|| Clock::system().now().as_millisecond().cast_unsigned());
        println!("{what}: TIERWAY_SEED={seed}");
        Self(seed)
    }

    /// Below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// Up to `longest_ms` milliseconds, in which the others go on.
    async fn pause(&mut self, longest_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.below(longest_ms + 1))).await;
    }
}

fn package(number: usize) -> String {
    format!("package{number:03}")
}

fn patch(number: usize) -> String {
    format!("debian-12/{}_2.0", package(number))
}

/// What the working task shares with the killing one.
struct Work<'a> {
    dir: &'a Path,
    admin: AdminClient<Channel>,
    endpoint: String,
    enough: &'a Cell<bool>,
}

impl Work<'_> {
    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Puts one more update into the archive and has central read it.
    async fn bring(&self, archive: &mut Archive, update: &Package) {
        archive.update(update);
        archive.publish();
        until("central has read the archive", async || {
            let request = v1::SyncSourceRequest { name: None };
            let Ok(progress) = self.admin.clone().sync_source(request).await else { return false };
            let mut progress = progress.into_inner();
            loop {
                match progress.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
        })
        .await;
    }

    async fn decide(&self, patch: &str, decision: &str) {
        until("a decision is taken", async || {
            let request = v1::DecidePatchesRequest {
                patches: vec![patch.to_owned()],
                all_needed: false,
                group: "everyone".to_owned(),
                decision: decision.to_owned(),
                ..v1::DecidePatchesRequest::default()
            };
            self.admin.clone().decide_patches(request).await.is_ok()
        })
        .await;
    }

    /// Lets the endpoint check until what it says of `patch` is enough; that is nothing when the update is
    /// neither needed nor failed.
    async fn check_until(
        &self,
        what: &str,
        patch: &str,
        mut enough: impl AsyncFnMut(Option<&v1::LocalPatch>) -> bool,
    ) {
        patiently(async || {
            let (answer, status) =
                check(self.dir).await.map_err(|gone| format!("{patch}: {what}: {gone:?}"))?;
            let found = status.patches.iter().find(|found| found.patch == patch);
            if enough(found).await { Ok(()) } else { Err(format!("{patch}: {what}: {answer:?} {found:?}")) }
        })
        .await;
    }

    /// Updates that somebody else installs on the computer, once the endpoint found them needed.
    async fn installed_by_hand(&self, archive: &mut Archive) -> usize {
        let mut done = 0;
        while !self.enough.get() {
            let number = done;
            self.bring(archive, &Package::new(&package(number), "2.0")).await;
            self.check_until("it is found needed", &patch(number), async |found| found.is_some()).await;
            done += 1;
            let status = status_with(done);
            let path = self.root().join("var/lib/dpkg/status");
            fs::write(path.with_extension("new"), status).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
            self.check_until("it is found installed", &patch(number), async |found| found.is_none()).await;
        }
        done
    }

    /// Updates that the endpoint installs.
    async fn installed_by_the_endpoint(&self, archive: &mut Archive) -> usize {
        let mut done = 0;
        while !self.enough.get() {
            let (name, patch) = (package(done), patch(done));
            let script =
                format!("#!/bin/sh\nif [ \"$1\" = configure ]; then echo {name} >> /{INSTALLS}; fi\n");
            self.bring(archive, &Package::new(&name, "2.0").script("postinst", &script)).await;
            self.decide(&patch, "approve").await;
            let mut approved_again = String::new();
            self.check_until("it is installed", &patch, async |found| {
                // Cut off by a kill, it would be left alone for half an hour, and then for longer.
                if let Some(found) = found.filter(|found| found.detail.contains("tried"))
                    && found.detail != approved_again
                {
                    approved_again.clone_from(&found.detail);
                    self.decide(&patch, "clear").await;
                    self.decide(&patch, "approve").await;
                }
                let installs = fs::read_to_string(self.root().join(INSTALLS)).unwrap_or_default();
                found.is_none() && installs.contains(&name)
            })
            .await;
            done += 1;
        }
        done
    }

    async fn shown(&self) -> BTreeMap<String, v1::EndpointPatch> {
        let mut found = None;
        until("central shows the endpoint", async || {
            let request = v1::GetEndpointRequest { name_or_id: self.endpoint.clone() };
            found = self.admin.clone().get_endpoint(request).await.ok();
            found.is_some()
        })
        .await;
        let patches = found.unwrap().into_inner().patches;
        patches.into_iter().map(|row| (row.patch.clone(), row)).collect()
    }

    /// Kills a tier `kills` times, each time one of `victims`, and looks at what it comes back with.
    async fn kill(&self, processes: &mut Processes, random: &mut Random, kills: u32, victims: &[Tier]) {
        let mut counts = BTreeMap::new();
        let (mut longest, mut verified, mut before) = (Duration::ZERO, BTreeSet::new(), BTreeMap::new());
        for _ in 0..kills {
            random.pause(600).await;
            let victim = victims[usize::try_from(random.below(victims.len() as u64)).unwrap()];
            assert_nothing_goes_back(&before, &self.shown().await);
            before = self.shown().await;
            random.pause(300).await;
            processes.kill(victim);
            assert_blobs_are_whole(&processes.data(victim), &mut verified);
            let took = processes.restart(victim).await;
            assert!(took < RESTART_MAX, "the {victim:?} took {took:?} until it served again");
            longest = longest.max(took);
            *counts.entry(victim).or_insert(0) += 1;
            assert_nothing_goes_back(&before, &self.shown().await);
        }
        self.enough.set(true);
        println!(
            "killed {counts:?}, {kills} in all; at most {longest:?} until it served again; {} blobs whole",
            verified.len()
        );
    }

    /// Waits until central shows the first `done` updates installed with all their times, and nothing else.
    async fn converged(&self, done: usize, authorized: bool) {
        patiently(async || {
            let (answer, _) = check(self.dir).await.map_err(|gone| gone.to_string())?;
            let shown = self.shown().await;
            let good = |number: usize| {
                let Some(row) = shown.get(&patch(number)) else { return false };
                let times = row.times.unwrap_or_default();
                row.state == "installed"
                    && times.detected > 0
                    && times.applied >= times.detected
                    && (times.authorized > 0) == authorized
            };
            let agreed = answer.needed == 0
                && answer.problems.is_empty()
                && shown.len() == done
                && (0..done).all(good);
            if agreed { Ok(()) } else { Err(format!("endpoint {answer:?}, central {shown:#?}")) }
        })
        .await;
    }

    /// What holds whatever was killed when.
    async fn assert_nothing_is_lost(&self, processes: &Processes, done: usize) {
        let audit = self.admin.clone().verify_audit(v1::VerifyAuditRequest {}).await.unwrap().into_inner();
        assert!(audit.records > 0 && audit.broken_at.is_none(), "{audit:?}");
        let request = v1::WhyRequest { endpoint: self.endpoint.clone(), patch: patch(done - 1) };
        let why = self.admin.clone().why(request).await.unwrap().into_inner();
        assert_eq!((why.verdict.as_str(), why.reported_state.as_str()), ("installed", "installed"));
        until("the relay's outbox is empty", async || {
            let relays = self.admin.clone().list_relays(v1::ListRelaysRequest {}).await.unwrap().into_inner();
            relays.relays.iter().all(|relay| relay.outbox_reports == 0)
        })
        .await;
        // Sequence numbers have no gap: central missed none of the transitions that were acknowledged below.
        for (tier, never) in [
            (Tier::Central, "reports are missing"),
            (Tier::Central, "refused a report"),
            (Tier::Relay, "refused a report"),
            (Tier::Endpoint, "refused a report"),
            (Tier::Endpoint, "the ledger was damaged"),
        ] {
            let log = processes.log(tier);
            let line = log.lines().find(|line| line.contains(never));
            assert_eq!(line, None, "{tier:?}");
        }
        let mut verified = BTreeSet::new();
        for tier in Tier::ALL {
            assert_blobs_are_whole(&processes.data(tier), &mut verified);
        }
        assert!(!verified.is_empty());
    }
}

/// Waits until `done` is; fails with what it said last when that takes too long.
async fn patiently(mut done: impl AsyncFnMut() -> Result<(), String>) {
    let mut said = String::new();
    let waiting = async {
        while let Err(not_yet) = done().await {
            said = not_yet;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "waited in vain: {said}");
}

/// The status file of a made-up root on which the first `done` updates are installed.
fn status_with(done: usize) -> String {
    let names: Vec<String> = (0..PACKAGES).map(package).collect();
    let version = |number: usize| if number < done { "2.0" } else { "1.0" };
    let packages: Vec<(&str, &str)> =
        names.iter().enumerate().map(|(number, name)| (name.as_str(), version(number))).collect();
    status(&packages)
}

/// What central showed once it shows on, and installed does not become needed again.
fn assert_nothing_goes_back(
    before: &BTreeMap<String, v1::EndpointPatch>,
    after: &BTreeMap<String, v1::EndpointPatch>,
) {
    for (patch, before) in before {
        let after = after.get(patch).unwrap_or_else(|| panic!("central forgot {before:?}"));
        let (old, new) = (before.times.unwrap_or_default(), after.times.unwrap_or_default());
        let kept = |old: i64, new: i64| old == 0 || new > 0;
        assert!(
            (before.state != "installed" || after.state == "installed")
                && kept(old.detected, new.detected)
                && (old.applied == 0 || old.applied == new.applied),
            "{before:?} became {after:?}"
        );
    }
}

/// Every blob below `dir` hashes to its name; those in `verified` were looked at before and have not changed.
fn assert_blobs_are_whole(dir: &Path, verified: &mut BTreeSet<(PathBuf, u64, SystemTime)>) {
    // A file may go while another process works on the folder.
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.map_while(Result::ok) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            // Partials are allowed to be just that.
            if name != "partial" {
                assert_blobs_are_whole(&path, verified);
            }
        } else if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let key = (path.clone(), metadata.len(), metadata.modified().unwrap());
            if verified.contains(&key) {
                continue;
            }
            let Ok(bytes) = fs::read(&path) else { continue };
            assert_eq!(Digest::of(&bytes).to_string(), name, "{}", path.display());
            verified.insert(key);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_they_sync_and_report_no_tier_loses_anything() {
    let Some(programs) = programs("killing processes while they sync and report") else { return };
    let mut random = Random::new("killing while they sync and report");
    let mut archive = Archive::start().await;
    let dir = tempfile::tempdir().unwrap();
    made_up(&dir.path().join("root"), &[]);
    fs::write(dir.path().join("root/var/lib/dpkg/status"), status_with(0)).unwrap();
    let mut processes = Processes::start(&programs, dir, &archive).await;
    let folder = processes.dir.path().to_owned();
    let enough = Cell::new(false);
    let work = Work {
        dir: &folder,
        admin: processes.admin.clone(),
        endpoint: processes.endpoint.clone(),
        enough: &enough,
    };
    let (done, ()) = tokio::join!(
        work.installed_by_hand(&mut archive),
        work.kill(&mut processes, &mut random, 140, &Tier::ALL)
    );
    println!("{done} updates were found needed and found installed");
    work.converged(done, false).await;
    work.assert_nothing_is_lost(&processes, done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_they_install_no_tier_loses_anything_and_nothing_is_installed_twice() {
    let what = "killing processes while they install";
    let Some(programs) = programs(what) else { return };
    let Some(pristine) = pristine_root(what) else { return };
    let mut random = Random::new(what);
    let mut archive = Archive::start().await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let old: Vec<Package> = (0..PACKAGES).map(|number| Package::new(&package(number), "1.0")).collect();
    real(&pristine, &root, &old);
    let mut processes = Processes::start(&programs, dir, &archive).await;
    let folder = processes.dir.path().to_owned();
    let enough = Cell::new(false);
    let work = Work {
        dir: &folder,
        admin: processes.admin.clone(),
        endpoint: processes.endpoint.clone(),
        enough: &enough,
    };
    // Mostly the one that installs.
    let victims = [Tier::Endpoint, Tier::Endpoint, Tier::Endpoint, Tier::Relay, Tier::Central];
    let (done, ()) = tokio::join!(
        work.installed_by_the_endpoint(&mut archive),
        work.kill(&mut processes, &mut random, 80, &victims)
    );
    println!("{done} updates were installed");
    work.converged(done, true).await;
    work.assert_nothing_is_lost(&processes, done).await;
    let installs = fs::read_to_string(root.join(INSTALLS)).unwrap();
    let expected: Vec<String> = (0..done).map(package).collect();
    assert_eq!(installs.lines().collect::<Vec<_>>(), expected, "each once, in the order in which they came");
    for number in 0..done {
        assert_eq!(installed_version(&root, &package(number)).as_deref(), Some("2.0"));
    }
}
