use tierway_common::schema::CatalogueKind;

use super::*;
use crate::{
    audit,
    catalog::tests::{Bench, bench, blobs, update},
    sources::local::tests::{app, deb},
};

struct Own {
    bench: Bench,
    payloads: Blobs,
    packages: Packages,
    _dir: tempfile::TempDir,
}

fn own() -> Own {
    let (bench, dir) = (bench(), tempfile::tempdir().unwrap());
    let payloads = blobs(dir.path());
    let packages = Packages::open(bench.state.clone(), bench.catalog.clone(), payloads.clone()).unwrap();
    Own { bench, payloads, packages, _dir: dir }
}

impl Own {
    fn send(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut writer = self.packages.writer(digest, bytes.len() as u64).unwrap();
        writer.write(bytes).unwrap();
        writer.finish().unwrap();
        digest
    }

    fn add(&self, name: &str, bytes: &[u8], wishes: Wishes) -> Result<Added, PackagesError> {
        let digest = self.send(bytes);
        self.packages.add("operator:ana", digest, name, wishes, Trial::Earnest)
    }

    fn audited(&self) -> Vec<(String, String)> {
        let records = audit::list(self.bench.state.store(), self.bench.state.tenant(), 0, 100).unwrap();
        let ours = records.into_iter().filter(|record| record.action.ends_with("package"));
        ours.map(|record| (record.action, record.object)).collect()
    }
}

const OLD: &str = "{AAAAAAAA-0000-0000-0000-000000000010}";
const NEW: &str = "{AAAAAAAA-0000-0000-0000-000000000011}";

#[test]
fn a_package_is_in_the_catalogue_until_it_is_removed_and_both_are_audited() {
    let own = own();
    let (old, new) = (app("1.0.0", OLD), app("1.1.0", NEW));
    let first = own.add("app-1.0.msi", &old, Wishes::default()).unwrap();
    assert_eq!((first.outcome, first.update.id.as_str()), (Outcome::Added, "local/app_1.0.0"));
    let second = own.add("app-1.1.msi", &new, Wishes::default()).unwrap();
    assert_eq!(second.update.supersedes, std::slice::from_ref(&first.update.id));
    let listed = own.packages.list().unwrap();
    assert_eq!(listed[0].update.superseded_by, std::slice::from_ref(&second.update.id));
    assert!(listed.iter().all(|package| package.present));
    {
        let model = own.bench.state.model();
        let record = &model.catalogues()[&own::catalogue().unwrap()];
        assert_eq!((&record.kind, record.documents), (&CatalogueKind::Updates, 2));
        assert_eq!(model.sources()[&own::source().unwrap()].updates, 2);
        assert_eq!(model.update_by_id(&second.update.id).unwrap().payload_bytes, new.len() as u64);
    }
    let sequence = own.packages.remove("operator:ana", "app_1.1.0").unwrap();
    assert_eq!(sequence, second.audit_sequence + 1);
    let listed = own.packages.list().unwrap();
    assert_eq!((listed.len(), listed[0].update.superseded_by.len()), (1, 0));
    own.packages.remove("operator:ana", "local/app_1.0.0").unwrap();
    assert!(own.bench.state.model().catalogues().is_empty());
    assert!(own.bench.state.model().update_by_id(&first.update.id).unwrap().gone);
    let unknown = own.packages.remove("operator:ana", "app_1.0.0").unwrap_err();
    assert_eq!(unknown.to_string(), "there is no package `app_1.0.0`");
    let acts: Vec<_> = own.audited().into_iter().rev().collect();
    assert_eq!(
        acts.iter().map(|(action, object)| (action.as_str(), object.as_str())).collect::<Vec<_>>(),
        [
            ("add package", "package:local/app_1.0.0"),
            ("add package", "package:local/app_1.1.0"),
            ("remove package", "package:local/app_1.1.0"),
            ("remove package", "package:local/app_1.0.0"),
        ]
    );
}

#[test]
fn a_trial_and_the_same_again_change_nothing_and_other_wishes_replace() {
    let own = own();
    let bytes = app("1.1.0", NEW);
    let digest = own.send(&bytes);
    let add = |title: Option<&str>, trial| {
        let wishes = Wishes { title: title.map(str::to_owned), ..Wishes::default() };
        own.packages.add("operator:ana", digest, "app.msi", wishes, trial).unwrap()
    };
    let tried = add(None, Trial::Trial);
    assert_eq!((tried.outcome, tried.audit_sequence), (Outcome::Added, 0));
    assert!(own.packages.list().unwrap().is_empty() && own.audited().is_empty());
    assert!(own.payloads.pins(PIN_OWNER).is_empty());
    let added = add(None, Trial::Earnest);
    own.bench.clock.advance(jiff::SignedDuration::from_secs(60));
    let again = add(None, Trial::Earnest);
    assert_eq!((again.outcome, again.audit_sequence), (Outcome::Unchanged, 0));
    assert_eq!(again.update, added.update);
    let other = add(Some("Our App"), Trial::Earnest);
    assert_eq!((other.outcome, other.update.title.as_str()), (Outcome::Changed, "Our App"));
    assert_eq!(own.audited().len(), 2);
}

#[test]
fn the_same_name_and_version_with_another_file_is_refused() {
    let own = own();
    own.add("app.msi", &app("1.1.0", NEW), Wishes::default()).unwrap();
    let error = own.add("app.msi", &app("1.1.0", OLD), Wishes::default()).unwrap_err();
    assert!(matches!(error, PackagesError::Other { .. }), "{error}");
    let wishes = Wishes { name: Some("app-old".to_owned()), ..Wishes::default() };
    own.add("app.msi", &app("1.1.0", OLD), wishes).unwrap();
    assert_eq!(own.packages.list().unwrap().len(), 2);
}

#[test]
fn the_file_of_a_package_stays_when_room_is_needed_and_goes_when_it_is_removed() {
    let own = own();
    let (bytes, unused) = (app("1.1.0", NEW), deb(".gz", "Package: a\nVersion: 1\nArchitecture: all\n"));
    let added = own.add("app.msi", &bytes, Wishes::default()).unwrap();
    own.send(&unused);
    assert_eq!(own.payloads.pins(PIN_OWNER).iter().copied().collect::<Vec<_>>(), [Digest::of(&bytes)]);
    own.packages.remove("operator:ana", added.update.id.as_str()).unwrap();
    assert!(own.payloads.pins(PIN_OWNER).is_empty());
    // After a crash between the change and its pins.
    own.add("app.msi", &bytes, Wishes::default()).unwrap();
    own.payloads.pin(PIN_OWNER, &BTreeSet::new()).unwrap();
    Packages::open(own.bench.state.clone(), own.bench.catalog.clone(), own.payloads.clone()).unwrap();
    assert_eq!(own.payloads.pins(PIN_OWNER).len(), 1);
}

#[test]
fn a_file_that_is_not_here_or_has_no_possible_name_makes_no_package() {
    let own = own();
    let add = |digest, name: &str| {
        own.packages.add("operator:ana", digest, name, Wishes::default(), Trial::Earnest).unwrap_err()
    };
    let absent = add(Digest::of(b"nothing"), "a.msi");
    assert!(matches!(absent, PackagesError::Absent { .. }), "{absent}");
    let here = own.send(b"MZ");
    for name in ["", "..", "a/b.msi", r"a\b.msi", "C:a.msi", "a\0.msi", " a.msi", "a.msi.", &"x".repeat(201)]
        .into_iter()
        .chain(["con", "NUL.exe", "aux.tar.gz", "Prn .msi", "com1.exe", "LPT9", "COM².exe", "CONIN$"])
    {
        let error = add(here, name);
        assert!(matches!(error, PackagesError::FileName { .. }), "{name:?}: {error}");
    }
    for name in ["console.exe", "com0.exe", "com10.exe", "lpt.exe", "a.con"] {
        let error = add(here, name);
        assert!(matches!(error, PackagesError::Local(_)), "{name:?}: {error}");
    }
}

#[test]
fn an_upload_that_broke_off_goes_on_and_a_wrong_one_leaves_nothing() {
    let own = own();
    let bytes = app("1.1.0", NEW);
    let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
    let mut writer = own.packages.writer(digest, length).unwrap();
    writer.write(&bytes[..1000]).unwrap();
    drop(writer);
    assert_eq!(own.packages.prepare(digest, length).unwrap(), Prepared::From(1000));
    let mut writer = own.packages.writer(digest, length).unwrap();
    assert!(matches!(
        own.packages.prepare(digest, length),
        Err(PackagesError::Blob(BlobError::Writing { .. }))
    ));
    writer.write(&bytes[1000..]).unwrap();
    writer.finish().unwrap();
    assert_eq!(own.packages.prepare(digest, length).unwrap(), Prepared::Present);
    let wrong = Digest::of(b"other");
    let mut writer = own.packages.writer(wrong, 5).unwrap();
    writer.write(b"bytes").unwrap();
    assert!(matches!(writer.finish(), Err(BlobError::Mismatch { .. })));
    assert_eq!(own.packages.prepare(wrong, 5).unwrap(), Prepared::From(0));
    let error = own.packages.prepare(wrong, FILE_BYTES_MAX + 1).unwrap_err();
    assert!(matches!(error, PackagesError::TooLong { .. }), "{error}");
}

#[test]
fn packages_stay_when_the_configuration_names_no_source() {
    let own = own();
    own.add("app.msi", &app("1.1.0", NEW), Wishes::default()).unwrap();
    let synced = own.bench.synced(&[update("openssl", "3")]);
    own.bench.catalog.apply(&own.bench.source, synced).unwrap();
    let withdrawn = own.bench.catalog.withdraw(&[]).unwrap();
    assert_eq!(
        withdrawn.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["debian-12", "debian-12-pool"]
    );
    assert_eq!(own.packages.list().unwrap().len(), 1);
}
