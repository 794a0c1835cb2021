use jiff::SignedDuration;
use ring::rand::SystemRandom;
use tierway_common::{
    schema::{Approval, Decision, Group, Members},
    trust::tuf::writer::{Roles, Signers, first_root},
};

use super::*;
use crate::{
    catalog::tests::{Bench, bench, update},
    model::Write,
    state::Change,
};

struct Press {
    bench: Bench,
    root: Bytes,
    online: SigningKey,
}

impl Press {
    fn new() -> Self {
        let bench = bench();
        let random = SystemRandom::new();
        let (root, online) = (SigningKey::generate(&random).unwrap(), SigningKey::generate(&random).unwrap());
        let roles = Roles::with_online_key(Signers::one(root.public()), online.public());
        let root = first_root(&roles, &Validity::default(), &[&root], bench.clock.now()).unwrap();
        Self { bench, root, online }
    }

    fn open(&self) -> Publisher {
        let online = SigningKey::from_pkcs8(self.online.pkcs8(), "test").unwrap();
        Publisher::open(self.bench.state.clone(), self.bench.trees.clone(), &self.root, online).unwrap()
    }

    fn change(&self, decide: impl FnOnce(&mut Change)) {
        self.bench
            .state
            .change(|_, change| {
                decide(change);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    fn approve(&self, name: &str) {
        self.change(|change| {
            change.write(Write::Approval(Approval {
                group: "pilot".parse().unwrap(),
                update: format!("debian-12/{name}").parse().unwrap(),
                decision: Decision::Approve,
                at: change.now,
                renewed: None,
                by: "operator:admin".to_owned(),
                rings: None,
            }));
        });
    }

    fn policy(&self, publisher: &Publisher) -> Vec<String> {
        let root = publisher.published().roots[&"policy-default".parse().unwrap()];
        let mut keys = Vec::new();
        tree::walk_prefix(&root, "", &self.bench.trees, &mut |key, _| keys.push(key.to_owned())).unwrap();
        keys
    }
}

fn group() -> Group {
    Group { id: "pilot".parse().unwrap(), priority: 1, members: Members::Everyone, level: None }
}

#[test]
fn what_changed_is_published_once_and_what_did_not_is_not_published_again() {
    let press = Press::new();
    let publisher = press.open();
    assert_eq!(publisher.publish().unwrap(), Outcome::Published { version: 1, more: false });
    assert_eq!(publisher.publish().unwrap(), Outcome::Unchanged { more: false });
    press.bench.apply(&[update("a", "1")]);
    press.change(|change| change.write(Write::Group(group())));
    press.approve("a_1");
    assert_eq!(publisher.publish().unwrap(), Outcome::Published { version: 2, more: false });
    assert_eq!(press.policy(&publisher), ["approval/pilot/debian-12/a_1", "group/pilot"]);
    assert_eq!(publisher.published().roots.len(), 3);
    assert_eq!(publisher.publish().unwrap(), Outcome::Unchanged { more: false });
    // Something that is changed and changed back is no news.
    press.approve("b_1");
    press.change(|change| {
        change.write(Write::NoApproval("pilot".parse().unwrap(), "debian-12/b_1".parse().unwrap()));
    });
    assert_eq!(publisher.publish().unwrap(), Outcome::Unchanged { more: false });
    let prefix = table::prefixed::<tables::PendingPolicy<'_>>(b"");
    assert!(press.bench.state.store().scan(&prefix, None, 10).unwrap().is_empty(), "nothing is pending");
}

#[test]
fn a_withdrawn_catalogue_leaves_what_is_published() {
    let press = Press::new();
    let publisher = press.open();
    press.bench.apply(&[update("a", "1")]);
    publisher.publish().unwrap();
    assert_eq!(publisher.published().roots.len(), 3);
    press.bench.catalog.withdraw(&[]).unwrap();
    assert_eq!(publisher.publish().unwrap(), Outcome::Published { version: 2, more: false });
    let left: Vec<_> = publisher.published().roots.keys().cloned().collect();
    assert_eq!(left, ["policy-default".parse().unwrap()]);
}

#[test]
fn many_changes_go_out_in_parts_and_none_is_left_behind() {
    let press = Press::new();
    let publisher = press.open();
    let count = PENDING_AT_ONCE + 10;
    press.change(|change| {
        for number in 0..count {
            let id = format!("g{number:05}").parse().unwrap();
            change.write(Write::Group(Group { id, ..group() }));
        }
    });
    assert_eq!(publisher.publish().unwrap(), Outcome::Published { version: 1, more: true });
    assert_eq!(publisher.publish().unwrap(), Outcome::Published { version: 2, more: false });
    assert_eq!(press.policy(&publisher).len(), count);
}

#[test]
fn large_documents_go_out_in_parts_that_a_batch_holds_and_none_is_left_behind() {
    let press = Press::new();
    let publisher = press.open();
    let tenant = press.bench.state.tenant();
    const COUNT: usize = 200;
    for numbers in [0..COUNT / 2, COUNT / 2..COUNT] {
        press.change(|change| {
            for number in numbers {
                let row = tables::PendingPolicy { tenant, key: &format!("level/{number:03}") };
                table::put(&mut change.batch, &row, &Some("a".repeat(31 * 1024))).unwrap();
            }
        });
    }
    let (mut versions, mut more) = (0, true);
    while more {
        let Outcome::Published { version, more: others } = publisher.publish().unwrap() else { panic!() };
        let covered = press.bench.state.publications().with(press.bench.clock.now());
        assert_eq!(covered.map(|(version, _)| version), (!others).then_some(version), "the last holds all");
        (versions, more) = (version, others);
        assert!(versions < 10);
    }
    assert!(versions > 1, "it is more than one part");
    assert_eq!(press.policy(&publisher).len(), COUNT);
}

#[test]
fn what_is_published_is_told_while_the_next_publication_is_made() {
    let press = Press::new();
    let publisher = press.open();
    publisher.publish().unwrap();
    let _made = publisher.writer.lock().unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            (publisher.published().timestamp_version, publisher.policy_document("group/pilot").unwrap())
        });
        assert_eq!(asked.join().unwrap(), (1, None));
    });
    assert!(publisher.root_expires() > press.bench.clock.now());
}

#[test]
fn after_a_restart_the_same_bytes_are_served_and_versions_go_on() {
    let press = Press::new();
    let first = press.open();
    press.bench.apply(&[update("a", "1")]);
    first.publish().unwrap();
    press.bench.apply(&[update("a", "1"), update("b", "1")]);
    first.publish().unwrap();
    let files = |publisher: &Publisher| {
        [("root", None), ("root", Some(1)), ("targets", Some(1)), ("targets", None), ("snapshot", Some(2))]
            .map(|(role, version)| publisher.metadata(role, version).unwrap())
    };
    let (before, timestamp) = (files(&first), first.timestamp());
    drop(first);
    let second = press.open();
    assert_eq!((files(&second), second.timestamp()), (before, timestamp));
    assert_eq!(second.publish().unwrap(), Outcome::Unchanged { more: false });
    press.approve("a_1");
    assert_eq!(second.publish().unwrap(), Outcome::Published { version: 3, more: false });
    for (role, version) in [("root", Some(2)), ("snapshot", Some(9)), ("timestamp", Some(1)), ("king", None)]
    {
        assert_eq!(second.metadata(role, version), None, "{role} {version:?}");
    }
}

#[test]
fn a_timestamp_signed_again_has_a_later_version_and_end_and_the_same_targets() {
    let press = Press::new();
    let publisher = press.open();
    assert_eq!(publisher.refresh().unwrap(), 0, "nothing is published yet");
    publisher.publish().unwrap();
    let targets = publisher.metadata("targets", None);
    let mut news = publisher.news();
    news.mark_unchanged();
    press.bench.clock.advance(SignedDuration::from_hours(1));
    let changed = publisher.published().changed;
    assert_eq!(publisher.refresh().unwrap(), 2);
    let published = publisher.published();
    assert_eq!((published.changed, published.signed), (changed, Some(press.bench.clock.now())));
    assert_eq!(publisher.metadata("targets", None), targets);
    assert_eq!(publisher.publish().unwrap(), Outcome::Unchanged { more: false });
    assert!(!news.has_changed().unwrap(), "nobody is called for it");
}

#[test]
fn updates_and_decisions_are_of_note_and_what_concerns_single_computers_is_not_also_after_a_restart() {
    let press = Press::new();
    let publisher = press.open();
    press.bench.apply(&[update("a", "1")]);
    publisher.publish().unwrap();
    let news = |publisher: &Publisher| {
        let News { changed, of_note } = *publisher.news().borrow();
        (changed, of_note)
    };
    assert_eq!(news(&publisher), (1, 1));
    press.change(|change| {
        let row = tables::PendingPolicy { tenant: press.bench.state.tenant(), key: "timing/debian-12/a_1" };
        table::put(&mut change.batch, &row, &Some("{}".to_owned())).unwrap();
    });
    publisher.publish().unwrap();
    assert_eq!(news(&publisher), (2, 1));
    press.approve("a_1");
    publisher.publish().unwrap();
    assert_eq!(news(&publisher), (3, 3));
    press.bench.apply(&[update("a", "2")]);
    publisher.publish().unwrap();
    assert_eq!(news(&publisher), (4, 4));
    publisher.refresh().unwrap();
    assert_eq!(news(&publisher), (4, 4), "what was signed again is no news");
    drop(publisher);
    assert_eq!(news(&press.open()), (5, 4), "relays look, and nobody else");
}

#[test]
fn published_trees_are_pinned_and_old_ones_are_let_go() {
    let press = Press::new();
    let publisher = press.open();
    press.bench.apply(&[update("a", "1")]);
    publisher.publish().unwrap();
    let catalogue = "debian-12".parse().unwrap();
    let old = publisher.published().roots[&catalogue];
    publisher.pin().unwrap();
    assert!(press.bench.trees.pins(PIN_OWNER).contains(&old));
    for number in 0..=KEPT_BEFORE {
        press.bench.apply(&[update("a", &(number + 2).to_string())]);
        publisher.publish().unwrap();
    }
    publisher.pin().unwrap();
    let pins = press.bench.trees.pins(PIN_OWNER);
    assert!(!pins.contains(&old) && pins.contains(&publisher.published().roots[&catalogue]));
    let outdated = format!("{}.targets.json", 1);
    assert!(!publisher.served().files.contains_key(&outdated), "old versions are dropped");
    let row = tables::Metadata { tenant: press.bench.state.tenant(), name: &outdated, chunk: 0 };
    assert_eq!(table::get(press.bench.state.store(), &row).unwrap(), None);
}
