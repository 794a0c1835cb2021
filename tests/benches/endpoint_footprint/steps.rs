//! What is done with the endpoint of any system, and what each step takes.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use tierway_tests::bench::{
    process::Seen,
    table::{Table, median},
};

use super::Amount;

/// A check over all updates ends sooner, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two questions whether it has ended.
const LOOK: Duration = Duration::from_millis(50);

/// A computer that has joined, with the program.
pub(crate) trait Computer {
    /// Starts the program; its process is the one that is looked at.
    fn start(&self) -> Child;

    /// What it has logged.
    fn log(&self) -> String;

    /// So many updates are needed, by the check with which a start begins; `None` until it has ended.
    async fn checked(&self) -> Option<usize>;

    /// Has it check now: so many updates are needed.
    async fn check(&self) -> usize;
}

/// One step: what it used, and what is resident after it, KiB.
pub(crate) struct Step {
    cpu: Duration,
    peak: u64,
    resident: u64,
    anonymous: u64,
    proportional: u64,
}

impl Step {
    pub(crate) fn since(before: Duration, seen: Seen) -> Self {
        Self {
            cpu: seen.cpu() - before,
            peak: seen.peak_resident_kib(),
            resident: seen.resident_kib(),
            anonymous: seen.anonymous_kib(),
            proportional: seen.proportional_kib(),
        }
    }
}

/// One kind of step, each time it was taken.
struct Row {
    what: &'static str,
    steps: Vec<Step>,
    /// Of so many things each step consists.
    each: u32,
    /// Whether it counts for the aims.
    counts: bool,
}

impl Row {
    fn of(what: &'static str, step: Step, each: u32) -> Self {
        Self { what, steps: vec![step], each, counts: false }
    }

    /// CPU time of one thing, peak, resident, of it anonymous, and its share.
    fn figures(&self) -> [String; 5] {
        let figure = |of: &dyn Fn(&Step) -> f64| median(&self.steps.iter().map(of).collect::<Vec<_>>());
        [
            format!("{:.1}", figure(&|step| step.cpu.as_secs_f64() * 1e3 / f64::from(self.each))),
            format!("{:.0}", figure(&|step| step.peak as f64)),
            format!("{:.0}", figure(&|step| step.resident as f64)),
            format!("{:.0}", figure(&|step| step.anonymous as f64)),
            format!("{:.0}", figure(&|step| step.proportional as f64)),
        ]
    }
}

/// All steps of a computer.
pub(crate) struct Taken {
    rows: Vec<Row>,
    /// So many updates are needed.
    pub(crate) needed: usize,
    /// What is resident after a check that found one update changed, KiB by mapping.
    pub(crate) filled: Vec<(String, u64)>,
}

impl Taken {
    /// With a title.
    pub(crate) fn table(&self, title: &str) -> Table {
        let columns = ["step", "CPU ms", "peak resident", "resident after", "of it anonymous", "its share"];
        let mut table = Table::new(title, &columns);
        for row in &self.rows {
            let [cpu, peak, resident, anonymous, proportional] = row.figures();
            table.row([row.what.to_owned(), cpu, peak, resident, anonymous, proportional]);
        }
        table
    }

    /// The most that is resident at rest.
    pub(crate) fn idle(&self) -> u64 {
        self.counting().map(|step| step.resident).max().unwrap_or(0)
    }

    /// The most that is resident at all once everything is there.
    pub(crate) fn peak(&self) -> u64 {
        self.counting().map(|step| step.peak).max().unwrap_or(0)
    }

    fn counting(&self) -> impl Iterator<Item = &Step> {
        self.rows.iter().filter(|row| row.counts).flat_map(|row| &row.steps)
    }
}

/// The same steps on both systems, and what a program takes there that does nothing.
pub(crate) fn beside(linux: &Taken, windows: &Taken, empty: Step) -> Table {
    let columns = ["step", "CPU ms", "peak", "at rest", "anonymous", "share"];
    let columns = [&columns[..], &["Wine: CPU ms", "peak", "at rest", "anonymous", "share"]].concat();
    let mut table = Table::new("On Linux and under Wine, memory in KiB", &columns);
    let mut add = |what: &str, [a, b, c, d, e]: [String; 5], [f, g, h, i, j]: [String; 5]| {
        table.row([what.to_owned(), a, b, c, d, e, f, g, h, i, j]);
    };
    for (linux, windows) in linux.rows.iter().zip(&windows.rows) {
        add(linux.what, linux.figures(), windows.figures());
    }
    let empty = Row::of("a program that does nothing", empty, 1);
    add(empty.what, std::array::from_fn(|_| "-".to_owned()), empty.figures());
    table
}

/// The process; killed with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn seen(&self) -> Seen {
        Seen(self.0.id())
    }
}

/// Starts it, and waits until the check has ended with which a start begins.
async fn start(computer: &impl Computer) -> (Running, usize) {
    let mut running = Running(computer.start());
    let patience = Instant::now() + PATIENCE;
    loop {
        if let Some(needed) = computer.checked().await {
            return (running, needed);
        }
        let ended = running.0.try_wait().expect("a child");
        assert!(ended.is_none(), "it ended:\n{}", computer.log());
        assert!(Instant::now() < patience, "no check within {PATIENCE:?}:\n{}", computer.log());
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes all steps; `change` publishes one update anew.
pub(crate) async fn take(computer: &impl Computer, amount: Amount, change: impl FnOnce()) -> Taken {
    let (mut running, needed) = start(computer).await;
    let first = Step::since(Duration::ZERO, running.seen());
    let mut rows = vec![Row::of("first start: fetch, compile, evaluate", first, 1)];

    let mut again = Vec::new();
    for _ in 0..amount.starts {
        drop(running);
        let needed_again;
        (running, needed_again) = start(computer).await;
        assert_eq!(needed_again, needed, "the same as at first");
        again.push(Step::since(Duration::ZERO, running.seen()));
    }
    let what = "start with everything there, evaluate";
    rows.push(Row { what, steps: again, each: 1, counts: true });

    let seen = running.seen();
    seen.forget_peak();
    let before = seen.cpu();
    for _ in 0..amount.checks {
        assert_eq!(computer.check().await, needed, "still the same");
    }
    rows.push(Row::of("check that finds nothing new", Step::since(before, seen), amount.checks));

    change();
    seen.forget_peak();
    let before = seen.cpu();
    computer.check().await;
    let changed = Step::since(before, seen);
    rows.push(Row { counts: true, ..Row::of("check after one update changed", changed, 1) });
    let filled = seen.resident_by_mapping();

    drop(running);
    let (running, _) = start(computer).await;
    let last = Step::since(Duration::ZERO, running.seen());
    rows.push(Row::of("start after one update changed", last, 1));
    Taken { rows, needed, filled }
}
