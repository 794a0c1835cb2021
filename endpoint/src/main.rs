//! `tierway-endpoint`: enrol a computer, patch it, ask it.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use jiff::{Timestamp, tz::TimeZone};
#[cfg(windows)]
use tierway_common::windows::folder::{self, FolderError};
use tierway_common::{
    clock::Clock,
    daemon::{chain::Chain, logging, stop::Stop},
    enrollment::Token,
    host,
    transport::identity::Role,
};
#[cfg(windows)]
use tierway_endpoint::service;
use tierway_endpoint::{
    agent::{self, VERSION},
    config::Config,
    local::{
        self,
        screen::{self, TimeError},
        terminal,
    },
    show,
};
use tierway_proto::{
    invitation::Invitation,
    joining,
    v1::{self, local_wish_request::Wish},
};

/// The endpoint: scans, decides by the published rules, installs what was approved, reports.
#[derive(Parser)]
#[command(name = "tierway-endpoint", version)]
struct Arguments {
    /// Configuration file; without it the defaults hold.
    #[arg(long, short, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Verb {
    /// Give this computer its identity, by a token from `tierctl endpoint token`.
    Enroll {
        /// The token.
        token: String,
        /// Where to enrol, `host:port`, instead of where the token says.
        #[arg(long)]
        server: Option<String>,
        /// HTTP proxy, `host:port`.
        #[arg(long)]
        proxy: Option<String>,
    },
    /// Check and patch this computer until told to stop.
    Serve,
    /// The same as a service of Windows, for the service manager to start.
    #[cfg(windows)]
    #[command(hide = true)]
    Service,
    /// Leave an invitation for the service to enrol by, for an installer.
    #[command(hide = true)]
    Invite {
        /// The token.
        #[arg(long)]
        token: String,
        /// Where to enrol, `host:port`, instead of where the token says.
        #[arg(long, default_value = "")]
        server: String,
    },
    /// Delete identity and state, for an installer; the service must be stopped, or about to end.
    #[command(hide = true)]
    Forget,
    /// Run a whole check now, and wait for its end.
    CheckNow,
    /// What this computer has, lacks, and does next.
    Status,
    /// Why an update applies to this computer or not.
    Why {
        /// Its id, or a part of its name that no other has.
        patch: String,
        /// The whole rule, not only what decides.
        #[arg(long)]
        full: bool,
    },
    /// What is installed when, and why not the rest; by which settings, and where each comes from.
    Plan {
        /// As text or JSON.
        #[arg(long, short, default_value = "text")]
        output: Output,
    },
    /// What was done on this computer, newest first.
    History {
        /// So many lines.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// What is due here, by when and from whom; without a command on a terminal, a screen to choose on.
    User {
        /// Print it and end, also on a terminal.
        #[arg(long)]
        status: bool,
        #[command(subcommand)]
        wish: Option<WishVerb>,
    },
    /// Show notifications on the desktop of this session until it ends.
    #[cfg(unix)]
    Notify {
        /// Address of the session's message bus, instead of the one that the session names.
        #[arg(long)]
        bus: Option<String>,
    },
}

/// What a person may wish; a time is `22:00`, `2026-11-30 22:00`, `+2h` or with a zone `2026-11-30T21:00:00Z`.
#[derive(Subcommand)]
enum WishVerb {
    /// Install what is due now.
    InstallNow,
    /// Install what is due at this time.
    InstallAt {
        /// When.
        time: String,
    },
    /// Put off what is due, as long as the service level lets you.
    Postpone {
        /// Until when, instead of as long as one postponement lasts.
        until: Option<String>,
    },
    /// Reboot now, if a reboot is needed.
    RebootNow,
    /// Reboot at this time, if a reboot is needed.
    RebootAt {
        /// When.
        time: String,
    },
    /// Put off the reboot.
    PostponeReboot {
        /// Until when, instead of as long as one postponement lasts.
        until: Option<String>,
    },
    /// Say that the warning was read: the countdown need not be waited for.
    Acknowledge,
    /// Switch updates by schedule, where the service level lets you.
    Schedule {
        /// `on` or `off`.
        #[arg(value_parser = ["on", "off"])]
        state: String,
    },
}

impl WishVerb {
    fn wish(&self, now: Timestamp) -> Result<Wish, TimeError> {
        let zone = TimeZone::system();
        let at = |time: &String| screen::parse_time(time, now, &zone).map(Timestamp::as_millisecond);
        let until = |time: &Option<String>| time.as_ref().map_or(Ok(0), at);
        Ok(match self {
            Self::InstallNow => Wish::Install(0),
            Self::InstallAt { time } => Wish::Install(at(time)?),
            Self::Postpone { until: time } => Wish::Postpone(until(time)?),
            Self::RebootNow => Wish::Reboot(0),
            Self::RebootAt { time } => Wish::Reboot(at(time)?),
            Self::PostponeReboot { until: time } => Wish::PostponeReboot(until(time)?),
            Self::Acknowledge => Wish::Acknowledge(v1::LocalAcknowledge {}),
            Self::Schedule { state } => Wish::Scheduled(state == "on"),
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The service manager wants this thread, and starts another.
    #[cfg(windows)]
    if let Verb::Service = arguments.verb {
        return match service::run(arguments.config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    // One thread: the agent does one thing at a time and must stay small.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(run(arguments)) {
        Ok(code) => code,
        Err(error) => failed(error.as_ref()),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("tierway-endpoint: {}", Chain(error));
    ExitCode::FAILURE
}

/// Has only administrators get into the data folder, before a secret is put there or a configuration read.
#[cfg(windows)]
async fn secure(data_dir: &Path) -> Result<(), FolderError> {
    folder::secure_and_tell(service::data_folder(data_dir, &Config::default().data_dir)).await
}

/// Each secret is a file of its owner's alone.
#[cfg(not(windows))]
async fn secure(data_dir: &Path) -> std::io::Result<()> {
    tierway_common::files::create_folders(data_dir)
}

async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = Config::read(arguments.config.as_deref())?;
    logging::init(&config.log)?;
    match arguments.verb {
        Verb::Enroll { token, server, proxy } => {
            let token: Token = token.parse()?;
            joining::must_be_for(&token, Role::Endpoint)?;
            secure(&config.data_dir).await?;
            let host = host::name();
            let joined =
                joining::join(&token, server.as_deref(), proxy.as_deref(), &host, VERSION, &config.data_dir)
                    .await?;
            if let Err(error) = joined.must_be(Role::Endpoint) {
                joining::leave(&config.data_dir)?;
                return Err(error.into());
            }
            let holder = joined.identity.own().holder;
            println!(
                "enrolled `{host}` at site {} as endpoint {}, upstream {}",
                holder.site, holder.id, joined.route.server
            );
        }
        Verb::Serve => {
            let stop = Stop::new();
            stop.on_signals()?;
            let running = agent::start(config, Clock::system(), stop).await?;
            // Type=notify units count the service as started from here on.
            #[cfg(unix)]
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            running.ended().await;
        }
        // Answered above.
        #[cfg(windows)]
        Verb::Service => {}
        Verb::Invite { token, server } => {
            secure(&config.data_dir).await?;
            let server = Some(server).filter(|server| !server.is_empty());
            Invitation { token, server }.leave(&config.data_dir)?;
        }
        Verb::Forget => {
            agent::forget(&config.data_dir)?;
            // A configuration may lie there that named another.
            #[cfg(windows)]
            agent::forget(&Config::default().data_dir)?;
        }
        Verb::CheckNow => {
            let mut local = local::connect(&config.local_socket).await?;
            let done = local.check_now(v1::LocalCheckNowRequest {}).await?.into_inner();
            print!("{}", show::check(&done));
            if done.failed > 0 || !done.problems.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Status => {
            let mut local = local::connect(&config.local_socket).await?;
            let status = local.status(v1::LocalStatusRequest {}).await?.into_inner();
            print!("{}", show::status(&status, Clock::system().now()));
        }
        Verb::Why { patch, full } => {
            let mut local = local::connect(&config.local_socket).await?;
            let why = local.why(v1::LocalWhyRequest { patch }).await?.into_inner();
            print!("{}", show::why(&why, full)?);
        }
        Verb::Plan { output } => {
            let mut local = local::connect(&config.local_socket).await?;
            let plan = local.plan(v1::LocalPlanRequest {}).await?.into_inner();
            match output {
                Output::Text => print!("{}", show::plan(&plan, Clock::system().now())),
                Output::Json => println!("{}", serde_json::to_string_pretty(&plan)?),
            }
        }
        Verb::History { limit } => {
            let mut local = local::connect(&config.local_socket).await?;
            let history = local.history(v1::LocalHistoryRequest { limit }).await?.into_inner();
            print!("{}", show::history(&history));
        }
        Verb::User { status, wish } => {
            let (clock, socket) = (Clock::system(), &config.local_socket);
            match wish {
                Some(wish) => {
                    print!("{}", terminal::wish(socket, wish.wish(clock.now())?, clock.now()).await?);
                }
                None if status => {
                    print!("{}", terminal::status(socket, clock.now()).await?);
                }
                None => terminal::run(socket, &clock).await?,
            }
        }
        #[cfg(unix)]
        Verb::Notify { bus } => {
            let stop = Stop::new();
            stop.on_signals()?;
            local::notify::run(&config.local_socket, bus.as_deref(), stop).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
