//! What a load simulation measured: how long things took, what the tiers used, what was counted; as a table and as JSON.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;

/// Times of one kind that are kept in one phase; more are counted and not kept.
const TIMES_MAX: usize = 4_000_000;
/// Findings that are told; more are counted.
const FINDINGS_MAX: usize = 20;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// From the key to the certificate on disk: a handshake, the call, what lies behind it.
    Enrol,
    /// A handshake and the check-in behind it.
    Connect,
    /// A check-in on an open connection.
    CheckIn,
    /// All metadata and tree nodes that are new.
    Sync,
    /// From handing reports to the relay until it acknowledges them.
    Report,
    /// From an approval until an endpoint that listens is told of something.
    Told,
    /// From an approval at central until an endpoint's check finds it on offer.
    ApprovalToOffer,
    /// From the first try until a whole check is done, with all that had to be tried again.
    Cycle,
    /// The call behind `tierctl status`.
    Status,
    /// That behind `tierctl endpoint show`.
    EndpointShow,
    /// That behind `tierctl patch endpoints`.
    PatchEndpoints,
}

impl Kind {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Enrol => "enrolment",
            Self::Connect => "connect and check-in",
            Self::CheckIn => "check-in",
            Self::Sync => "sync",
            Self::Report => "report",
            Self::Told => "approval until told",
            Self::ApprovalToOffer => "approval to offer",
            Self::Cycle => "whole check",
            Self::Status => "call of tierctl status",
            Self::EndpointShow => "call of endpoint show",
            Self::PatchEndpoints => "call of patch endpoints",
        }
    }
}

/// What is gathered while a phase goes on; shared by all who take part.
#[derive(Debug, Default)]
pub struct Figures(Mutex<Gathered>);

/// All of one phase.
#[derive(Debug, Default)]
pub struct Gathered {
    times: BTreeMap<Kind, Vec<u32>>,
    counts: BTreeMap<&'static str, u64>,
    findings: Vec<String>,
    troubles: BTreeMap<String, u64>,
}

impl Figures {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something took so long.
    pub fn took(&self, kind: Kind, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut gathered = self.gathered();
        let times = gathered.times.entry(kind).or_default();
        if times.len() < TIMES_MAX {
            times.push(micros);
        }
        *gathered.counts.entry(kind.name()).or_default() += 1;
    }

    /// So many of something happened.
    pub fn count(&self, what: &'static str, more: u64) {
        *self.gathered().counts.entry(what).or_default() += more;
    }

    /// Something is not as it must be: the run has failed.
    pub fn finding(&self, text: String) {
        let mut gathered = self.gathered();
        *gathered.counts.entry("findings").or_default() += 1;
        if gathered.findings.len() < FINDINGS_MAX {
            gathered.findings.push(text);
        }
    }

    /// Something failed and is tried again: nobody is told, but it is counted by what was said.
    pub fn tried_again(&self, text: String) {
        let mut gathered = self.gathered();
        *gathered.counts.entry("checks tried again").or_default() += 1;
        if gathered.troubles.len() < FINDINGS_MAX || gathered.troubles.contains_key(&text) {
            *gathered.troubles.entry(text).or_default() += 1;
        }
    }

    /// What was gathered since the last time.
    pub fn take(&self) -> Gathered {
        std::mem::take(&mut self.gathered())
    }
}

impl Gathered {
    /// How many of something there were.
    #[must_use]
    pub fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// What was not as it must be; it is taken out.
    pub fn findings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.findings)
    }
}

/// Times of one kind, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Times {
    /// How many.
    pub count: usize,
    /// Half took at most so long.
    pub p50_ms: f64,
    /// 95 of 100.
    pub p95_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// The longest.
    pub most_ms: f64,
    /// Of each thousandth, ascending; for plots.
    #[serde(skip)]
    pub permille_ms: Vec<f64>,
}

impl Times {
    /// `None` of none.
    fn of(mut micros: Vec<u32>) -> Option<Self> {
        micros.sort_unstable();
        let at = |permille: usize| {
            let place = (micros.len() * permille).div_ceil(1_000).max(1) - 1;
            micros.get(place).map(|micros| f64::from(*micros) / 1_000.0)
        };
        Some(Self {
            count: micros.len(),
            p50_ms: at(500)?,
            p95_ms: at(950)?,
            p99_ms: at(990)?,
            most_ms: at(1_000)?,
            permille_ms: (1..=1_000).filter_map(at).collect(),
        })
    }
}

/// What the processes of a tier used in a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Used {
    /// CPU time of all of them, user and system, seconds.
    pub cpu_seconds: f64,
    /// The most resident memory that any one of them had, files included, MiB.
    pub resident_mib: f64,
}

/// One phase of the run.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// What happened in it.
    pub name: String,
    /// How long it took, seconds.
    pub seconds: f64,
    /// Processes of this machine that wanted a processor while it went on, as the kernel averages them over a minute.
    pub load: f64,
    /// By tier: `central`, `relays`, `endpoints`.
    pub used: BTreeMap<&'static str, Used>,
    /// By kind.
    pub times: BTreeMap<&'static str, Times>,
    /// What was counted.
    pub counts: BTreeMap<&'static str, u64>,
    /// Other figures of this phase, by what they are.
    pub more: BTreeMap<&'static str, f64>,
    /// Why checks were tried again, and how often.
    pub troubles: BTreeMap<String, u64>,
    /// What was not as it must be.
    pub findings: Vec<String>,
}

impl Phase {
    /// From what was gathered.
    #[must_use]
    pub fn new(
        name: &str,
        time: Duration,
        load: f64,
        used: BTreeMap<&'static str, Used>,
        gathered: Gathered,
    ) -> Self {
        let Gathered { times, counts, findings, troubles } = gathered;
        let times = times.into_iter().filter_map(|(kind, times)| Some((kind.name(), Times::of(times)?)));
        Self {
            name: name.to_owned(),
            seconds: time.as_secs_f64(),
            load,
            used,
            times: times.collect(),
            counts,
            more: BTreeMap::new(),
            troubles,
            findings,
        }
    }
}

/// What a whole run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Of which seed.
    pub seed: u64,
    /// How many endpoints.
    pub endpoints: u64,
    /// How many relays.
    pub relays: u64,
    /// Updates that concern an endpoint.
    pub states: u64,
    /// In their order.
    pub phases: Vec<Phase>,
}

impl Outcome {
    /// Whether nothing was lost, doubled or otherwise not as it must be.
    #[must_use]
    pub fn held(&self) -> bool {
        self.phases.iter().all(|phase| phase.findings.is_empty())
    }

    /// The phase of this name.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, endpoints, relays, states, phases } = self;
        writeln!(f, "{endpoints} endpoints of {states} states, {relays} relays, seed {seed}")?;
        for phase in phases {
            writeln!(f, "\n{} ({:.1} s, load {:.1})", phase.name, phase.seconds, phase.load)?;
            for (tier, used) in &phase.used {
                let Used { cpu_seconds, resident_mib } = used;
                writeln!(
                    f,
                    "  {tier:<26}{cpu_seconds:>10.2} s CPU {resident_mib:>9.1} MiB resident at most"
                )?;
            }
            if !phase.times.is_empty() {
                let [a, b, c, d, e] = ["count", "p50 ms", "p95 ms", "p99 ms", "most ms"];
                writeln!(f, "  {:<26}{a:>10}{b:>11}{c:>11}{d:>11}{e:>11}", "")?;
            }
            for (kind, times) in &phase.times {
                let Times { count, p50_ms, p95_ms, p99_ms, most_ms, .. } = times;
                writeln!(
                    f,
                    "  {kind:<26}{count:>10}{p50_ms:>11.2}{p95_ms:>11.2}{p99_ms:>11.2}{most_ms:>11.2}"
                )?;
            }
            for (what, count) in phase.counts.iter().filter(|(what, _)| !phase.times.contains_key(*what)) {
                writeln!(f, "  {what:<40}{count:>16}")?;
            }
            for (what, figure) in &phase.more {
                writeln!(f, "  {what:<40}{figure:>16.2}")?;
            }
            for (trouble, count) in &phase.troubles {
                writeln!(f, "  tried again {count} times: {trouble}")?;
            }
            for finding in &phase.findings {
                writeln!(f, "  NOT AS IT MUST BE: {finding}")?;
            }
        }
        let verdict = if self.held() { "nothing was lost, nothing doubled" } else { "FAILED" };
        write!(f, "\n{verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_smallest_time_that_so_many_did_not_exceed() {
        let times = Times::of((1..=200).rev().map(|ms| ms * 1_000).collect()).unwrap();
        assert_eq!((times.p50_ms, times.p95_ms, times.p99_ms, times.most_ms), (100.0, 190.0, 198.0, 200.0));
        assert_eq!(Times::of(vec![7_000]).unwrap().p50_ms, 7.0);
        assert_eq!(Times::of(Vec::new()), None);
    }

    #[test]
    fn one_finding_fails_the_run_and_is_shown() {
        let figures = Figures::default();
        figures.finding("`e1` lost report 3".to_owned());
        let phase = Phase::new("end", Duration::from_secs(1), 0.0, BTreeMap::new(), figures.take());
        let outcome = Outcome { seed: 1, endpoints: 1, relays: 1, states: 1, phases: vec![phase] };
        assert!(!outcome.held());
        let shown = outcome.to_string();
        assert!(
            shown.contains("NOT AS IT MUST BE: `e1` lost report 3") && shown.ends_with("FAILED"),
            "{shown}"
        );
        assert_eq!(figures.take().findings, Vec::<String>::new());
    }
}
