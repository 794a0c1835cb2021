//! `tierway-central`: set it up, serve, examine it.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use ring::rand::SystemRandom;
use tierway_central::{
    config::{Config, File},
    doctor::{self, Level},
    init,
    layout::Layout,
    roots, server,
};
use tierway_common::{
    clock::Clock,
    daemon::{chain::Chain, config, logging, stop::Stop},
};

/// Central gathers updates, publishes what was approved, and knows every computer.
#[derive(Parser)]
#[command(name = "tierway-central", version)]
struct Arguments {
    /// Configuration file; without it the defaults hold.
    #[arg(long, short, global = true)]
    config: Option<PathBuf>,
    /// Where everything is kept, whatever the configuration says.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
    /// Where other machines find central, `host:port`, whatever the configuration says.
    #[arg(long, global = true)]
    public_address: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make keys, certificates, the first metadata and the first operator.
    Init {
        /// Name of the first operator.
        #[arg(long, default_value = "admin")]
        operator: String,
    },
    /// Serve relays, endpoints and operators until told to stop.
    Serve {
        /// Where to listen, whatever the configuration says.
        #[arg(long)]
        listen: Option<std::net::SocketAddr>,
    },
    /// Look at the installation and say what to do.
    Doctor,
    /// Make the next root of trust, with the keys that were taken away; central may run meanwhile.
    Root {
        #[command(subcommand)]
        verb: RootVerb,
    },
}

#[derive(Subcommand)]
enum RootVerb {
    /// Let it be valid for another year.
    Extend(Offline),
    /// Replace its key by a new one, which is put beside the old one.
    Rotate(Offline),
}

#[derive(clap::Args)]
struct Offline {
    /// The folder `offline` that `init` made, from where it was taken to.
    #[arg(long, value_name = "DIR")]
    offline: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(run(arguments)) {
        Ok(code) => code,
        Err(error) => failed(error.as_ref()),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("tierway-central: {}", Chain(error));
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut file: File = match &arguments.config {
        Some(path) => config::load(path)?,
        None => File::default(),
    };
    if let Some(dir) = arguments.data_dir {
        file.data_dir = dir;
    }
    if arguments.public_address.is_some() {
        file.public_address = arguments.public_address;
    }
    if let Verb::Serve { listen: Some(listen) } = arguments.verb {
        file.listen = listen;
    }
    logging::init(&file.log)?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let config = Config::new(file, &host)?;
    let clock = Clock::system();
    match arguments.verb {
        Verb::Init { operator } => {
            let layout = Layout::new(&config.data_dir);
            init::init(&layout, &config.tenant, &operator, &clock)?;
            print_next_steps(&layout, &config.public_address, &operator);
        }
        Verb::Serve { .. } => {
            let stop = Stop::new();
            stop.on_signals()?;
            let running = server::start(config, clock, stop).await?;
            // Tells systemd, when there is one.
            sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
            if let Some(why) = running.ended().await {
                return Err(why.into());
            }
        }
        Verb::Root { verb } => {
            let (layout, now) = (Layout::new(&config.data_dir), clock.now());
            let made = match &verb {
                RootVerb::Extend(Offline { offline }) => roots::extend(&layout, offline, now)?,
                RootVerb::Rotate(Offline { offline }) => {
                    roots::rotate(&layout, offline, &SystemRandom::new(), now)?
                }
            };
            let roots::Next { version, expires, key } = made;
            println!(
                "The root of trust has version {version} and is valid until {expires}.
A central that runs publishes it within the hour, another when it starts.
The next one needs the key in {}: take the folder away again.",
                key.display()
            );
        }
        Verb::Doctor => {
            let findings = tokio::task::spawn_blocking(move || doctor::examine(&config, &clock)).await?;
            for finding in &findings {
                let level = match finding.level {
                    Level::Good => "good",
                    Level::Warning => "warning",
                    Level::Failure => "failure",
                };
                println!("{level:8} {}", finding.text);
            }
            if findings.iter().any(|finding| finding.level == Level::Failure) {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_next_steps(layout: &Layout, address: &str, operator: &str) {
    let (offline, files) = (layout.offline(), layout.operator());
    let (offline, files) = (offline.display(), files.display());
    println!(
        "Central is set up in {}.

1. Move {offline} to a safe place that is not on any network. The keys in it are needed
   only to replace those that stay here; whoever has them is central.
2. Start it: tierway-central serve
3. Let {operator} in: tierctl context set default --server {address} \\
     --identity {files}/identity.pem --roots {files}/roots.pem",
        layout.dir().display()
    );
}
