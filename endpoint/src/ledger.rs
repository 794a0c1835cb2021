//! What this computer remembers of each update: where it stands, since when, and what was tried.
//!
//! [`Book`] is the memory and its rules, pure; [`Ledger`] keeps a book on disk so that it survives a crash
//! at any moment: an attempt is on disk before it begins, and one that a crash cut off is found open
//! afterwards and settled by a fresh scan, see [`Ledger::settle`].

pub mod book;
pub mod journal;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use jiff::Timestamp;
use tierway_common::{
    id::UpdateId,
    rules::Verdict,
    schema::{DETAIL_BYTES_MAX, StateEntry},
};

pub use self::book::{
    Attempt, Book, Boots, Conditions, Event, Failing, HISTORY_MAX, RECORDS_MAX, Record, TakenOver, Waits,
};
use self::journal::{Journal, JournalError};
use crate::{
    install::{codes::Outcome, deb::apt::cut},
    scan::Problem,
};

/// A book on disk. One process has it open.
#[derive(Debug)]
pub struct Ledger {
    book: Book,
    journal: Journal,
}

impl Ledger {
    /// Opens the ledger in `directory`, which is made when it is not there. What cannot be read is moved
    /// aside and told as a problem: the states come back with the next scan.
    ///
    /// # Errors
    ///
    /// When the file system fails, or another process has it open.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Problem>), JournalError> {
        let (journal, book, problems) = Journal::open(directory)?;
        Ok((Self { book, journal }, problems))
    }

    /// What is known.
    #[must_use]
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Takes in what a scan found; durable when it returns. Returns the states that changed, by update.
    ///
    /// # Errors
    ///
    /// When the file system fails; then nothing is taken in.
    pub fn observe(
        &mut self,
        now: Timestamp,
        verdicts: &BTreeMap<UpdateId, Verdict>,
        conditions: &Conditions,
    ) -> Result<Vec<StateEntry>, JournalError> {
        let mut events = self.book.compare(now, verdicts, conditions);
        let mut room = RECORDS_MAX.saturating_sub(self.book.records().count());
        let before = events.len();
        events.retain(|event| {
            let Event::Observed { update, .. } = event else { return true };
            if self.book.record(update).is_some() {
                return true;
            }
            room = match room.checked_sub(1) {
                Some(room) => room,
                None => return false,
            };
            true
        });
        if events.len() < before {
            tracing::warn!(left_out = before - events.len(), "the ledger has no room for more updates");
        }
        self.record(events)
    }

    /// Writes down that an attempt begins; durable when it returns, so that a crash leaves it open.
    ///
    /// # Errors
    ///
    /// When the file system fails; then the attempt must not begin.
    pub fn begin(&mut self, update: &UpdateId, now: Timestamp) -> Result<(), JournalError> {
        self.record(vec![Event::Began { update: update.clone(), at: now }]).map(|_| ())
    }

    /// Writes down how the open attempt ended and how long its installer took, if it was started; durable
    /// when it returns.
    ///
    /// # Errors
    ///
    /// When the file system fails; then the attempt stays open.
    pub fn end(
        &mut self,
        update: &UpdateId,
        now: Timestamp,
        outcome: Outcome,
        detail: Option<&str>,
        took: Option<Duration>,
    ) -> Result<Vec<StateEntry>, JournalError> {
        let detail = detail.map(|detail| cut(detail, DETAIL_BYTES_MAX).to_owned());
        // To the next whole second: what is measured makes time limits.
        let seconds = |took: Duration| u32::try_from(took.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        let took_seconds = took.map(seconds);
        self.record(vec![Event::Ended { update: update.clone(), at: now, outcome, detail, took_seconds }])
    }

    /// Ends attempts that a crash left open, by what a fresh scan says: an update that is installed was
    /// installed by the attempt, one that is still needed was interrupted. One whose verdict is unknown stays
    /// open. To be called before anything else is planned, and not while the package manager of the attempt
    /// may still be at work, see [`crate::install::Engine::clean`].
    ///
    /// # Errors
    ///
    /// When the file system fails; then nothing is ended.
    pub fn settle(
        &mut self,
        now: Timestamp,
        verdicts: &BTreeMap<UpdateId, Verdict>,
        conditions: &Conditions,
    ) -> Result<Vec<StateEntry>, JournalError> {
        let mut events = Vec::new();
        for update in self.book.open() {
            let (outcome, detail) = match verdicts.get(update) {
                Some(Verdict::Unknown { .. }) => continue,
                Some(Verdict::Installed) if !conditions.incomplete.contains(update) => {
                    (Outcome::Success, Some("found installed after an interruption".to_owned()))
                }
                Some(Verdict::Needed | Verdict::Installed) => (Outcome::Interrupted, None),
                Some(Verdict::NotApplicable) | None => (Outcome::NotNeeded, None),
            };
            tracing::info!(%update, outcome = %outcome.sentence(), "settled an attempt that was cut off");
            let took_seconds = None;
            events.push(Event::Ended { update: update.clone(), at: now, outcome, detail, took_seconds });
        }
        self.record(events)
    }

    /// Writes events down in their order; they are on disk when it returns. Returns where the updates stand that
    /// they changed, each once.
    ///
    /// # Errors
    ///
    /// When the file system fails; then nothing is taken in.
    pub fn record(&mut self, events: Vec<Event>) -> Result<Vec<StateEntry>, JournalError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        self.journal.append(&events)?;
        let entries = latest(events.into_iter().filter_map(|event| self.book.apply(event)).collect());
        // What was written is safe; a shorter form of it can wait.
        if let Err(error) = self.journal.compact_if_long(&self.book) {
            tracing::warn!(%error, "could not compact the ledger");
        }
        Ok(entries)
    }
}

/// The last entry of each update, in the order in which those came.
#[must_use]
pub fn latest(entries: Vec<StateEntry>) -> Vec<StateEntry> {
    let mut seen = BTreeSet::new();
    let mut kept: Vec<StateEntry> =
        entries.into_iter().rev().filter(|entry| seen.insert(entry.update.clone())).collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tierway_common::schema::{State, Waiting};

    use super::*;
    use crate::{consent::Purpose, signs::BootId, wishes::Wish};

    fn id(name: &str) -> UpdateId {
        format!("debian-12/{name}").parse().unwrap()
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    fn unknown(reason: &str) -> Verdict {
        Verdict::Unknown { reason: reason.to_owned() }
    }

    /// A verdict about the one update `a`.
    fn about(verdict: Verdict) -> BTreeMap<UpdateId, Verdict> {
        [(id("a"), verdict)].into()
    }

    /// What happens to the update `a`, minute by minute.
    enum Step {
        Scan(Verdict),
        ScanReboot(Verdict),
        ScanIncomplete(Verdict),
        Attempt(Outcome),
    }

    /// State, minute since, detected, applied.
    type Told = (State, i64, Option<i64>, Option<i64>);

    /// Plays `steps` one a minute and compares the states told after each.
    fn check(steps: Vec<(Step, Option<Told>)>) {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        for (minute, (step, expected)) in (0..).zip(steps) {
            let now = at(minute);
            let conditions = |reboot_pending, incomplete| Conditions {
                reboot_pending,
                incomplete: if incomplete { [id("a")].into() } else { BTreeSet::new() },
            };
            let told = match step {
                Step::Scan(verdict) => ledger.observe(now, &about(verdict), &conditions(false, false)),
                Step::ScanReboot(verdict) => ledger.observe(now, &about(verdict), &conditions(true, false)),
                Step::ScanIncomplete(verdict) => {
                    ledger.observe(now, &about(verdict), &conditions(false, true))
                }
                Step::Attempt(outcome) => {
                    ledger.begin(&id("a"), now).unwrap();
                    ledger.end(&id("a"), now, outcome, Some("said"), None)
                }
            }
            .unwrap();
            let expected = expected.map(|(state, since, detected, applied)| {
                (state, at(since), detected.map(at), applied.map(at))
            });
            let told: Vec<_> =
                told.iter().map(|entry| (entry.state, entry.at, entry.detected, entry.applied)).collect();
            assert_eq!(told, expected.into_iter().collect::<Vec<_>>(), "at minute {minute}");
            let (again, problems) = reopened(directory.path(), &mut ledger);
            assert_eq!((&again, problems.len()), (&ledger.book, 0), "after reopening at minute {minute}");
        }
    }

    /// The book as another process would read it now.
    fn reopened(directory: &Path, _held: &mut Ledger) -> (Book, Vec<Problem>) {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let (ledger, problems) = Ledger::open(copy.path()).unwrap();
        (ledger.book, problems)
    }

    #[test]
    fn an_update_has_the_times_at_which_it_was_found_needed_and_installed() {
        check(vec![
            (Step::Scan(Verdict::NotApplicable), None),
            (Step::Scan(Verdict::Needed), Some((State::Needed, 1, Some(1), None))),
            (Step::Scan(Verdict::Needed), None),
            (Step::Scan(unknown("x")), Some((State::Unknown, 3, Some(1), None))),
            (Step::Scan(unknown("y")), Some((State::Unknown, 3, Some(1), None))),
            (Step::Scan(Verdict::Needed), Some((State::Needed, 5, Some(1), None))),
            (Step::Attempt(Outcome::Success), Some((State::Installed, 6, Some(1), Some(6)))),
            // The same state, now verified.
            (Step::Scan(Verdict::Installed), Some((State::Installed, 6, Some(1), Some(6)))),
            (Step::Scan(unknown("x")), Some((State::Unknown, 8, Some(1), Some(6)))),
            (Step::Scan(Verdict::Installed), Some((State::Installed, 9, Some(1), Some(6)))),
            (Step::Scan(Verdict::Needed), Some((State::Needed, 10, Some(10), None))),
            (Step::Scan(Verdict::Installed), Some((State::Installed, 11, Some(10), Some(11)))),
            (Step::Scan(Verdict::NotApplicable), Some((State::NotApplicable, 12, Some(10), Some(11)))),
            (Step::Scan(Verdict::Installed), Some((State::Installed, 13, None, None))),
        ]);
    }

    #[test]
    fn a_failed_update_stays_failed_until_it_is_installed() {
        check(vec![
            (Step::Scan(Verdict::Needed), Some((State::Needed, 0, Some(0), None))),
            (Step::Attempt(Outcome::ScriptFailed), Some((State::Failed, 1, Some(0), None))),
            (Step::Scan(Verdict::Needed), None),
            (Step::ScanIncomplete(Verdict::Installed), None),
            (Step::Scan(unknown("x")), Some((State::Unknown, 4, Some(0), None))),
            (Step::Scan(Verdict::Needed), Some((State::Failed, 5, Some(0), None))),
            (Step::Scan(Verdict::Installed), Some((State::Installed, 6, Some(0), Some(6)))),
            (Step::Scan(Verdict::Needed), Some((State::Needed, 7, Some(7), None))),
        ]);
    }

    #[test]
    fn a_lock_that_is_busy_leaves_an_update_needed() {
        check(vec![
            (Step::Scan(Verdict::Needed), Some((State::Needed, 0, Some(0), None))),
            (Step::Attempt(Outcome::LockBusy), Some((State::Needed, 0, Some(0), None))),
            (Step::Scan(Verdict::Needed), None),
            (Step::Attempt(Outcome::NotNeeded), None),
        ]);
    }

    #[test]
    fn a_reboot_is_pending_until_it_is_not_asked_for_any_more() {
        check(vec![
            (Step::Scan(Verdict::Needed), Some((State::Needed, 0, Some(0), None))),
            (
                Step::Attempt(Outcome::SuccessRebootRequired),
                Some((State::RebootPending, 1, Some(0), Some(1))),
            ),
            (Step::ScanReboot(Verdict::Installed), None),
            (Step::Scan(Verdict::Installed), Some((State::Installed, 3, Some(0), Some(1)))),
            (Step::ScanReboot(Verdict::Installed), None),
        ]);
    }

    #[test]
    fn an_attempt_that_a_crash_left_open_is_settled_by_a_fresh_scan() {
        for (verdict, incomplete, expected) in [
            (Some(Verdict::Installed), false, Some(State::Installed)),
            (Some(Verdict::Installed), true, Some(State::Failed)),
            (Some(Verdict::Needed), false, Some(State::Failed)),
            (None, false, None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
            ledger.observe(at(0), &about(Verdict::Needed), &Conditions::default()).unwrap();
            ledger.begin(&id("a"), at(1)).unwrap();
            drop(ledger);
            let (mut ledger, problems) = Ledger::open(directory.path()).unwrap();
            assert_eq!(problems, []);
            assert_eq!(ledger.book().open().collect::<Vec<_>>(), [&id("a")]);
            let verdicts = verdict.clone().map(about).unwrap_or_default();
            let incomplete = if incomplete { [id("a")].into() } else { BTreeSet::new() };
            let conditions = Conditions { incomplete, ..Conditions::default() };
            let entries = ledger.settle(at(2), &verdicts, &conditions).unwrap();
            assert_eq!(entries.first().map(|entry| entry.state), expected, "{verdict:?}");
            assert_eq!(ledger.book().open().count(), 0);
            assert_eq!(ledger.book().history().count(), 1);
            assert_eq!(ledger.settle(at(3), &verdicts, &conditions).unwrap(), []);
        }
    }

    #[test]
    fn an_attempt_whose_verdict_is_unknown_stays_open() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        ledger.begin(&id("a"), at(0)).unwrap();
        let verdicts = about(unknown("dpkg"));
        assert_eq!(ledger.settle(at(1), &verdicts, &Conditions::default()).unwrap(), []);
        assert_eq!(ledger.observe(at(1), &verdicts, &Conditions::default()).unwrap(), []);
        assert_eq!(ledger.book().open().count(), 1);
    }

    #[test]
    fn equal_failures_are_counted_and_another_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        for (outcome, times) in [
            (Outcome::TimedOut, 1),
            (Outcome::TimedOut, 2),
            (Outcome::Failed(1), 1),
            (Outcome::Failed(2), 1),
            (Outcome::Failed(2), 2),
        ] {
            ledger.begin(&id("a"), at(0)).unwrap();
            ledger.end(&id("a"), at(0), outcome, None, None).unwrap();
            let failing = ledger.book().record(&id("a")).unwrap().failing.clone().unwrap();
            assert_eq!((failing.outcome, failing.times), (outcome, times));
        }
        assert_eq!(ledger.book().record(&id("a")).unwrap().attempts, 5);
    }

    #[test]
    fn the_history_keeps_the_latest_only() {
        let mut book = Book::default();
        for minute in 0..=i64::try_from(HISTORY_MAX).unwrap() {
            let outcome = Outcome::Success;
            let (detail, took_seconds) = (None, None);
            book.apply(Event::Ended { update: id("a"), at: at(minute), outcome, detail, took_seconds });
        }
        assert_eq!(book.history().count(), HISTORY_MAX);
        assert_eq!(book.history().next().unwrap().ended, at(1));
    }

    #[test]
    fn a_crash_at_any_byte_of_an_append_loses_nothing_that_was_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        ledger.observe(at(0), &about(Verdict::Needed), &Conditions::default()).unwrap();
        let before = ledger.book.clone();
        let journal = directory.path().join("journal-0");
        let acknowledged = fs::read(&journal).unwrap().len();
        ledger.begin(&id("a"), at(1)).unwrap();
        let after = ledger.book.clone();
        drop(ledger);
        let whole = fs::read(&journal).unwrap();
        for length in acknowledged..=whole.len() {
            fs::write(&journal, &whole[..length]).unwrap();
            let (mut ledger, problems) = Ledger::open(directory.path()).unwrap();
            assert_eq!(problems, []);
            assert_eq!(ledger.book, if length == whole.len() { after.clone() } else { before.clone() });
            // What follows a cut line is not joined to it.
            ledger.begin(&id("b"), at(2)).unwrap();
            drop(ledger);
            let (ledger, problems) = Ledger::open(directory.path()).unwrap();
            assert!(problems.is_empty() && ledger.book.record(&id("b")).is_some());
        }
    }

    #[test]
    fn of_what_was_recorded_at_once_a_power_cut_leaves_all_or_nothing_and_is_no_damage() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        ledger.begin(&id("a"), at(0)).unwrap();
        let before = ledger.book.clone();
        let journal = directory.path().join("journal-0");
        let acknowledged = fs::read(&journal).unwrap().len();
        let verdicts = (0..100).map(|number| (id(&number.to_string()), unknown("why"))).collect();
        ledger.observe(at(1), &verdicts, &Conditions::default()).unwrap();
        drop(ledger);
        let whole = fs::read(&journal).unwrap();
        assert!(whole.len() > acknowledged + 2 * 4096);
        for page in (acknowledged..whole.len()).step_by(4096) {
            let mut torn = whole.clone();
            let end = (page + 4096).min(whole.len());
            torn[page..end].fill(0);
            fs::write(&journal, torn).unwrap();
            let (ledger, problems) = Ledger::open(directory.path()).unwrap();
            assert_eq!(problems, []);
            assert_eq!(ledger.book, before);
        }
    }

    #[test]
    fn damage_is_told_and_what_came_before_it_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        for name in ["a", "b", "c"] {
            ledger.begin(&id(name), at(0)).unwrap();
        }
        drop(ledger);
        let journal = directory.path().join("journal-0");
        let text = fs::read_to_string(&journal).unwrap();
        fs::write(&journal, text.replace("debian-12/b", "debian-12/x")).unwrap();
        let (ledger, problems) = Ledger::open(directory.path()).unwrap();
        assert_eq!(ledger.book.open().collect::<Vec<_>>(), [&id("a")]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].0.contains("journal-0` is damaged"), "{}", problems[0]);
        drop(ledger);
        let (ledger, problems) = Ledger::open(directory.path()).unwrap();
        assert_eq!((ledger.book.open().count(), problems.len()), (1, 0));
        drop(ledger);
        fs::write(directory.path().join("snapshot"), "00000000 {}\n").unwrap();
        assert_eq!(Ledger::open(directory.path()).unwrap().1.len(), 1);
    }

    #[test]
    fn a_long_journal_is_folded_and_a_crash_meanwhile_leaves_the_old_or_the_new() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        // As a crash leaves it that comes before the first snapshot is in place.
        fs::write(directory.path().join("journal-1"), "").unwrap();
        let reason = "x".repeat(DETAIL_BYTES_MAX);
        let many = usize::try_from(journal::JOURNAL_BYTES_MAX).unwrap() / DETAIL_BYTES_MAX;
        let verdicts = (0..many).map(|number| (id(&number.to_string()), unknown(&reason))).collect();
        ledger.observe(at(0), &verdicts, &Conditions::default()).unwrap();
        let bytes = |name: &str| fs::metadata(directory.path().join(name)).unwrap().len();
        assert_eq!(bytes("journal-1"), 0);
        assert!(!directory.path().join("journal-0").exists());
        let (book, problems) = reopened(directory.path(), &mut ledger);
        assert_eq!((&book, problems.len()), (&ledger.book, 0));
        // As a crash leaves it that comes before the old journal is removed.
        fs::write(directory.path().join("journal-0"), "old").unwrap();
        let (book, problems) = reopened(directory.path(), &mut ledger);
        assert_eq!((&book, problems.len()), (&ledger.book, 0));
    }

    /// As version 0.1 wrote them, before offers, wishes and boots were written down.
    const OLD_SNAPSHOT: &str = concat!(
        "8b67a322 ",
        r#"{"generation":0,"book":{"records":{"debian-12/c":{"state":"installed","since":"2027-01-15T07:00:00Z","applied":"2027-01-15T07:00:00Z","attempts":1}},"history":[{"update":"debian-12/c","began":"2027-01-15T06:59:00Z","ended":"2027-01-15T07:00:00Z","outcome":"success"}]}}"#,
        "\n"
    );
    const OLD_JOURNAL: &str = concat!(
        "27216e92 ",
        r#"{"began":{"update":"debian-12/a","at":"2027-01-15T08:00:00Z"}}"#,
        "\n",
        "89042ca8 ",
        r#"{"ended":{"update":"debian-12/a","at":"2027-01-15T08:01:00Z","outcome":"script_failed","detail":"said"}}"#,
        "\n",
        "69b24ee2 ",
        r#"{"observed":{"update":"debian-12/b","at":"2027-01-15T08:02:00Z","state":"needed"}}"#,
        "\n",
    );

    #[test]
    fn a_ledger_of_an_earlier_version_is_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("snapshot"), OLD_SNAPSHOT).unwrap();
        fs::write(directory.path().join("journal-0"), OLD_JOURNAL).unwrap();
        let (ledger, problems) = Ledger::open(directory.path()).unwrap();
        assert_eq!(problems, []);
        let states: Vec<_> = ledger.book.entries().into_iter().map(|entry| entry.state).collect();
        assert_eq!(states, [State::Failed, State::Needed, State::Installed]);
        assert_eq!(ledger.book.record(&id("a")).unwrap().failing.as_ref().unwrap().times, 1);
        assert_eq!((ledger.book.wishes(), ledger.book.boots()), (&Default::default(), &Boots::default()));
    }

    #[test]
    fn what_was_offered_wished_shown_and_ordered_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        ledger.observe(at(0), &about(Verdict::Needed), &Conditions::default()).unwrap();
        let (boot, next) = (BootId("one".to_owned()), BootId("two".to_owned()));
        let waits = Waits { waiting: Waiting::Window, until: Some(at(60)), reason: "closed".to_owned() };
        let entries = ledger
            .record(vec![
                Event::Booted { boot: boot.clone(), at: at(0) },
                Event::Offered { update: id("a"), at: at(1) },
                Event::Downloaded { update: id("a"), at: at(2) },
                Event::Waits { update: id("a"), waits: Some(waits) },
                Event::Wished { wish: Wish::Install(at(30)), by: Some(1000), at: at(3) },
                Event::CountdownBegan { purpose: Purpose::Install, at: at(4) },
            ])
            .unwrap();
        assert_eq!(entries.len(), 1);
        let progress = &entries[0].progress;
        assert_eq!((progress.offered, progress.downloaded), (Some(at(1)), Some(at(2))));
        assert_eq!((progress.waiting, progress.until), (Some(Waiting::Window), Some(at(60))));
        assert_eq!(entries[0].detail.as_deref(), Some("closed"));
        ledger.begin(&id("a"), at(6)).unwrap();
        ledger.end(&id("a"), at(6), Outcome::SuccessRebootRequired, None, None).unwrap();
        ledger.record(vec![Event::RebootOrdered { boot, at: at(7) }]).unwrap();
        let (book, problems) = reopened(directory.path(), &mut ledger);
        assert_eq!((&book, problems.len()), (&ledger.book, 0));
        assert_eq!(book.wishes().install.map(|choice| choice.at), Some(at(30)));
        assert_eq!(book.countdown(), Some((Purpose::Install, at(4))));
        assert_eq!((book.boots().installed, book.boots().ordered), (Some(at(6)), Some((at(7), 1))));
        assert_eq!(book.record(&id("a")).unwrap().waits, None, "what is installed waits for nothing");
        ledger.record(vec![Event::Booted { boot: next, at: at(9) }]).unwrap();
        assert_eq!((ledger.book.boots().installed, ledger.book.boots().ordered), (None, None));
        assert_eq!(ledger.book.countdown(), None);
    }

    #[test]
    fn an_update_is_verified_by_the_scan_after_the_reboot_it_needed() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        let verified = |ledger: &Ledger| ledger.book.record(&id("a")).unwrap().verified;
        let pending = Conditions { reboot_pending: true, ..Conditions::default() };
        ledger.observe(at(0), &about(Verdict::Needed), &Conditions::default()).unwrap();
        ledger.begin(&id("a"), at(1)).unwrap();
        ledger.end(&id("a"), at(1), Outcome::SuccessRebootRequired, None, None).unwrap();
        ledger.observe(at(2), &about(Verdict::Installed), &pending).unwrap();
        assert_eq!(verified(&ledger), None);
        let told = ledger.observe(at(3), &about(Verdict::Installed), &Conditions::default()).unwrap();
        assert_eq!((verified(&ledger), told.len()), (Some(at(3)), 1));
        assert_eq!((told[0].state, told[0].progress.verified), (State::Installed, Some(at(3))));
        assert_eq!(ledger.observe(at(4), &about(Verdict::Installed), &Conditions::default()).unwrap(), []);
        ledger.observe(at(5), &about(Verdict::Needed), &Conditions::default()).unwrap();
        assert_eq!(verified(&ledger), None, "needed again is a new round");
    }

    #[test]
    fn what_waited_for_a_boot_is_verified_after_it_although_something_else_asks_for_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        let pending = Conditions { reboot_pending: true, ..Conditions::default() };
        let booted = |boot: &str, minute| Event::Booted { boot: BootId(boot.to_owned()), at: at(minute) };
        ledger.record(vec![booted("one", 0)]).unwrap();
        ledger.observe(at(0), &about(Verdict::Needed), &pending).unwrap();
        ledger.begin(&id("a"), at(1)).unwrap();
        ledger.end(&id("a"), at(1), Outcome::SuccessRebootRequired, None, None).unwrap();
        assert_eq!(ledger.observe(at(2), &about(Verdict::Installed), &pending).unwrap(), []);
        ledger.record(vec![booted("two", 3)]).unwrap();
        let told = ledger.observe(at(3), &about(Verdict::Installed), &pending).unwrap();
        assert_eq!((told[0].state, told[0].progress.verified), (State::Installed, Some(at(3))));
    }

    #[test]
    fn what_is_still_needed_after_the_reboot_it_asked_for_has_failed_once_more_each_time_until_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        let pending = Conditions { reboot_pending: true, ..Conditions::default() };
        let booted = |minute| Event::Booted { boot: BootId(format!("boot {minute}")), at: at(minute) };
        ledger.record(vec![booted(0)]).unwrap();
        ledger.observe(at(0), &about(Verdict::Needed), &Conditions::default()).unwrap();
        for round in 1..=3 {
            let minute = i64::from(round) * 10;
            ledger.begin(&id("a"), at(minute)).unwrap();
            ledger.end(&id("a"), at(minute), Outcome::SuccessRebootRequired, None, None).unwrap();
            // Until the reboot that may be as it must be.
            assert_eq!(ledger.observe(at(minute), &about(Verdict::Needed), &pending).unwrap(), []);
            ledger.record(vec![booted(minute + 1)]).unwrap();
            if round == 2 {
                // The first scan after the boot may find nothing out.
                let unknown = about(Verdict::Unknown { reason: "WMI does not answer".to_owned() });
                ledger.observe(at(minute + 1), &unknown, &Conditions::default()).unwrap();
                assert_eq!(ledger.book.record(&id("a")).unwrap().state, State::Unknown);
            }
            let told = ledger.observe(at(minute + 2), &about(Verdict::Needed), &pending).unwrap();
            assert_eq!(told[0].state, State::Failed);
            let why = "reported success, and is still needed, after the reboot too";
            assert_eq!(told[0].detail.as_deref(), Some(why));
            let failing = ledger.book.record(&id("a")).unwrap().failing.clone().unwrap();
            let expected = (Outcome::ReportedSuccessStillNeeded, round, at(minute + 2));
            assert_eq!((failing.outcome, failing.times, failing.ended), expected);
            assert_eq!(ledger.observe(at(minute + 3), &about(Verdict::Needed), &pending).unwrap(), []);
        }
        let before = ledger.book.record(&id("a")).cloned();
        drop(ledger);
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        assert_eq!(ledger.book.record(&id("a")).cloned(), before);
        ledger.observe(at(90), &about(Verdict::Installed), &Conditions::default()).unwrap();
        assert_eq!(ledger.book.record(&id("a")).unwrap().failing, None);
    }

    #[test]
    fn what_an_update_waits_for_is_told_when_it_changes_and_not_when_only_what_is_left_of_a_window_does() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        ledger.observe(at(0), &about(Verdict::Needed), &Conditions::default()).unwrap();
        let mut told = |waiting: Option<Waiting>, reason: &str, offered: bool| {
            let waits = waiting.map(|waiting| Waits { waiting, until: None, reason: reason.to_owned() });
            let waits = waits.map(|waits| (id("a"), waits)).into_iter().collect();
            let offered = if offered { [id("a")].into() } else { BTreeSet::new() };
            let events = ledger.book.compare_plan(at(1), &offered, &BTreeSet::new(), &waits);
            ledger.record(events).unwrap().len()
        };
        assert_eq!(told(Some(Waiting::Approval), "nobody", false), 1);
        assert_eq!(told(Some(Waiting::Approval), "nobody", false), 0);
        assert_eq!(told(Some(Waiting::Ring), "not open", false), 1);
        assert_eq!(told(Some(Waiting::Ring), "not open: the rollout was halted", false), 1);
        assert_eq!(told(Some(Waiting::Window), "55 min left", true), 1);
        assert_eq!(told(Some(Waiting::Window), "53 min left", true), 0);
        assert_eq!(told(None, "", true), 1);
    }

    #[test]
    fn what_was_offered_in_the_future_by_a_clock_that_was_wrong_is_offered_now() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        ledger.observe(at(0), &about(Verdict::Needed), &Conditions::default()).unwrap();
        let here = BTreeSet::from([id("a")]);
        for (minute, expected) in [(90, 90), (100, 90), (10, 10), (20, 10)] {
            let events = ledger.book.compare_plan(at(minute), &here, &here, &BTreeMap::new());
            ledger.record(events).unwrap();
            let record = ledger.book.record(&id("a")).unwrap();
            let times = (record.offered, record.downloaded);
            assert_eq!(times, (Some(at(expected)), Some(at(expected))), "at minute {minute}");
        }
    }

    #[test]
    fn two_processes_cannot_have_it_open() {
        let directory = tempfile::tempdir().unwrap();
        let _ledger = Ledger::open(directory.path()).unwrap();
        assert!(matches!(Ledger::open(directory.path()), Err(JournalError::InUse { .. })));
    }

    #[test]
    fn a_snapshot_of_all_states_names_every_update_once() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        let verdicts =
            [(id("a"), Verdict::Needed), (id("b"), Verdict::Installed), (id("c"), Verdict::NotApplicable)];
        let told = ledger.observe(at(0), &verdicts.into(), &Conditions::default()).unwrap();
        assert_eq!(told, ledger.book().entries());
        assert_eq!(ledger.book().counts(), [(State::Needed, 1), (State::Installed, 1)].into());
        let told = ledger.observe(at(1), &BTreeMap::new(), &Conditions::default()).unwrap();
        assert!(told.iter().all(|entry| entry.state == State::NotApplicable) && told.len() == 2);
        assert_eq!(ledger.book().entries(), []);
    }
}
