//! How much waits in the outbox, and whether more fits: in memory, exact, moved only by its calls.
//!
//! A report is counted before its rows are written and until they are deleted, so what is on disk is never more
//! than what is counted.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use tierway_common::trust::envelope::ENVELOPE_BYTES_MAX;

/// Of the outbox, one in so many bytes is one endpoint's at most: weeks of its reports in an outbox of 1 GiB, and
/// whoever sends without end holds up nobody else.
const ENDPOINT_SHARE: u64 = 64;
/// Of the outbox, one in so many bytes is for what all relays below carry, whatever names they put on it.
const RELAYS_SHARE: u64 = 2;
const MINUTE_MILLISECONDS: i64 = 60_000;

/// How full the outbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Envelopes.
    pub reports: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest came, to the minute.
    pub oldest: Option<Timestamp>,
}

/// Whose share a report counts to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sender {
    /// The endpoint of this id, which handed it in itself.
    Endpoint(String),
    /// A relay below.
    Relays,
}

/// One report as it counts.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) sender: Sender,
    /// Of its envelope.
    pub(super) bytes: u64,
    /// In which it came, see [`minute`].
    pub(super) minute: i64,
}

/// The minute since 1970 in which this is, given in milliseconds.
pub(super) fn minute(milliseconds: i64) -> i64 {
    milliseconds.div_euclid(MINUTE_MILLISECONDS)
}

/// All of it. Whatever is in its maps has a report in the outbox, so they end where the outbox does.
#[derive(Debug)]
pub(super) struct Count {
    bytes_max: u64,
    reports: u64,
    bytes: u64,
    /// Bytes of each sender.
    senders: HashMap<Sender, u64>,
    /// Reports that came in each minute.
    minutes: BTreeMap<i64, u64>,
}

impl Count {
    /// Of an empty outbox.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, reports: 0, bytes: 0, senders: HashMap::new(), minutes: BTreeMap::new() }
    }

    /// Adds a report if it fits when `freed` bytes of the same sender are gone; whether it does.
    pub(super) fn reserve(&mut self, report: &Counted, freed: u64) -> bool {
        let share = match report.sender {
            Sender::Endpoint(_) => self.bytes_max / ENDPOINT_SHARE,
            Sender::Relays => self.bytes_max / RELAYS_SHARE,
        };
        // Its largest report fits into the share of anybody.
        let share = share.max(ENVELOPE_BYTES_MAX as u64);
        let of_sender = self.senders.get(&report.sender).copied().unwrap_or(0);
        let fits = |bytes: u64, bytes_max: u64| (bytes + report.bytes).saturating_sub(freed) <= bytes_max;
        let fits = fits(self.bytes, self.bytes_max) && fits(of_sender, share);
        if fits {
            self.add(report);
        }
        fits
    }

    /// Adds a report, whether it fits or not.
    pub(super) fn add(&mut self, report: &Counted) {
        self.reports += 1;
        self.bytes += report.bytes;
        *self.senders.entry(report.sender.clone()).or_default() += report.bytes;
        *self.minutes.entry(report.minute).or_default() += 1;
    }

    /// Takes a report out that was added.
    pub(super) fn remove(&mut self, report: &Counted) {
        self.reports = self.reports.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(report.bytes);
        if let Some(bytes) = self.senders.get_mut(&report.sender) {
            *bytes = bytes.saturating_sub(report.bytes);
            if *bytes == 0 {
                self.senders.remove(&report.sender);
            }
        }
        if let Some(reports) = self.minutes.get_mut(&report.minute) {
            *reports = reports.saturating_sub(1);
            if *reports == 0 {
                self.minutes.remove(&report.minute);
            }
        }
    }

    pub(super) fn fill(&self) -> Fill {
        let oldest = self.minutes.keys().next();
        let oldest = oldest.and_then(|minute| minute.checked_mul(MINUTE_MILLISECONDS));
        Fill {
            reports: self.reports,
            bytes: self.bytes,
            oldest: oldest.and_then(|at| Timestamp::from_millisecond(at).ok()),
        }
    }
}
