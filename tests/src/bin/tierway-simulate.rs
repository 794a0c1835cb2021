//! `tierway-simulate`: a large fleet under load, on this machine, against the real programs beside it. `tierctl simulate`
//! starts it.

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use tierway_common::daemon::{chain::Chain, stop::Stop};
use tierway_tests::scale::{self, Options, Scenario, failure::Failure};

/// Runs a fleet of simulated endpoints against real relays and a real central on this machine, and prints what it took.
///
/// The endpoints enrol, check in, evaluate and report as real ones do; central and the relays are the programs
/// beside this one. Exits with 1 when anything that was acknowledged is lost or doubled in the end.
#[derive(Debug, Parser)]
#[command(name = "tierway-simulate", version)]
struct Arguments {
    /// How many endpoints; each that is not on the road needs a connection: see `ulimit -n`
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    endpoints: u64,
    /// How many relays, each of a site of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=500))]
    relays: u64,
    /// How many updates concern each endpoint
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(4..=4_000))]
    states: u64,
    /// Of a hundred endpoints so many run Windows
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=100))]
    windows: u64,
    /// Of a hundred endpoints so many are on the road: connected only while they check. A fleet of more endpoints than
    /// this process may have open files needs some
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=100))]
    roaming: u64,
    /// What happens, in this order, separated by commas; all by default
    #[arg(long = "scenario", value_delimiter = ',')]
    scenarios: Vec<Named>,
    /// Decides all that chance does
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draws inventories from this list instead of made up names: dpkg's status file, or a `Packages` index
    #[arg(long)]
    packages: Option<PathBuf>,
    /// Where tierway-central and tierway-relay are; beside this program by default
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Where everything is kept, on the disk that is to be measured: a folder that is new or empty. Without it a
    /// temporary one
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Over how many seconds endpoints spread that are told of something
    #[arg(long, default_value_t = 30)]
    spread: u64,
    /// Within how many seconds all computers are switched on
    #[arg(long, default_value_t = 60)]
    power_on: u64,
    /// How many seconds the checks of a day take
    #[arg(long, default_value_t = 60)]
    day: u64,
    /// Bytes are counted of one endpoint in so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    counted: u64,
    /// How often each question is asked of central
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    queries: u32,
    /// Writes all figures to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes a plot for each phase into this folder
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// A scenario on the command line.
#[derive(Clone, Copy, Debug)]
struct Named(Scenario);

impl ValueEnum for Named {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Named; 8] = {
            let [a, b, c, d, e, f, g, h] = Scenario::ALL;
            [Named(a), Named(b), Named(c), Named(d), Named(e), Named(f), Named(g), Named(h)]
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tierway-simulate: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let what = |what: &str| scale::failure::failed::<std::io::Error>(what.to_owned());
    let beside = std::env::current_exe().map_err(what("find this program"))?;
    let beside = beside.parent().map(PathBuf::from).unwrap_or_default();
    let temporary = tempfile::tempdir().map_err(what("make a folder"))?;
    let dir = match &arguments.dir {
        Some(dir) => {
            fs::create_dir_all(dir).map_err(what("make the folder"))?;
            if fs::read_dir(dir).map_err(what("read the folder"))?.next().is_some() {
                return Err(Failure::plain(format!("`{}` is not empty", dir.display())));
            }
            dir.canonicalize().map_err(what("find the folder"))?
        }
        None => temporary.path().to_owned(),
    };
    // A real endpoint has a disk of its own: theirs must not be what is measured.
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let memory = memory.map_err(what("make a folder for the endpoints"))?;
    let scenarios = match &arguments.scenarios[..] {
        [] => Scenario::ALL.to_vec(),
        some => some.iter().map(|named| named.0).collect(),
    };
    let options = Options {
        seed: arguments.seed,
        endpoints: arguments.endpoints,
        relays: arguments.relays,
        states: usize::try_from(arguments.states).unwrap_or(usize::MAX),
        windows_percent: arguments.windows,
        roaming_percent: arguments.roaming,
        scenarios,
        packages: arguments.packages.clone(),
        programs: arguments.programs.clone().unwrap_or(beside),
        dir,
        endpoints_dir: memory.path().to_owned(),
        spread: Duration::from_secs(arguments.spread),
        power_on: Duration::from_secs(arguments.power_on),
        day: Duration::from_secs(arguments.day),
        counted_one_in: arguments.counted,
        queries: arguments.queries,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(what("start"))?.block_on(async {
        let stop = Stop::new();
        stop.on_signals().map_err(what("listen to signals"))?;
        tokio::select! {
            outcome = scale::run(options) => outcome,
            // What it started ends with it.
            () = stop.wait() => Err(Failure::plain("it was interrupted")),
        }
    })?;
    writeln!(std::io::stdout(), "{outcome}").map_err(what("print the figures"))?;
    if let Some(path) = &arguments.json {
        let json = serde_json::to_vec_pretty(&outcome)
            .map_err(|error| scale::failure::failed("write the figures")(error))?;
        fs::write(path, json).map_err(what("write the figures"))?;
    }
    if let Some(folder) = &arguments.plots {
        fs::create_dir_all(folder).map_err(what("make the folder of the plots"))?;
        for (number, phase) in outcome.phases.iter().enumerate().filter(|(_, phase)| !phase.times.is_empty())
        {
            let name = format!("{number:02}-{}.svg", phase.name.replace(' ', "-"));
            let (endpoints, relays) = (outcome.endpoints, outcome.relays);
            let about = format!("{endpoints} endpoints, {relays} relays, load {:.1}", phase.load);
            let drawn = scale::plot::curves(phase, &about);
            fs::write(folder.join(name), drawn).map_err(what("write a plot"))?;
        }
    }
    Ok(outcome.held())
}
