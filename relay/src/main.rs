//! `tierway-relay`: join a site, then serve it.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tierway_common::{
    clock::Clock,
    daemon::{chain::Chain, logging, stop::Stop},
    enrollment::Token,
    host,
    transport::identity::Role,
};
use tierway_proto::joining;
#[cfg(windows)]
use tierway_relay::installer;
use tierway_relay::{
    config::Config,
    server::{self, VERSION},
};

/// The relay of a site: mirrors what its site needs, forwards what its site says.
#[derive(Parser)]
#[command(name = "tierway-relay", version)]
struct Arguments {
    /// Configuration file; without it the defaults hold.
    #[arg(long, short, global = true)]
    config: Option<PathBuf>,
    /// Where everything is kept, whatever the configuration says.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Give this relay its identity, by a token from `tierctl relay invite`.
    Join {
        /// The token.
        token: String,
        /// Where to join, `host:port`, instead of where the token says.
        #[arg(long)]
        server: Option<String>,
        /// HTTP proxy, `host:port`.
        #[arg(long)]
        proxy: Option<String>,
    },
    /// Serve the site until told to stop.
    Serve {
        /// Where to listen, whatever the configuration says.
        #[arg(long)]
        listen: Option<std::net::SocketAddr>,
    },
    /// The same as a service of Windows, for the service manager to start.
    #[cfg(windows)]
    #[command(hide = true)]
    Service,
    /// Leave an invitation for the service to join by, for an installer.
    #[cfg(windows)]
    #[command(hide = true)]
    Invite {
        /// The token.
        #[arg(long)]
        token: String,
        /// Where to join, `host:port`, instead of where the token says.
        #[arg(long, default_value = "")]
        server: String,
        /// Where to listen, which is kept in the configuration when there is none yet.
        #[arg(long, default_value = "")]
        listen: String,
    },
    /// Delete identity and state, for an installer; the service must be stopped, or about to end.
    #[cfg(windows)]
    #[command(hide = true)]
    Forget,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The service manager wants this thread, and starts another.
    #[cfg(windows)]
    if let Verb::Service = arguments.verb {
        return match tierway_relay::service::run(arguments.config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error.as_ref()),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("tierway-relay: {}", Chain(error));
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::read(arguments.config.as_deref())?;
    if let Some(dir) = arguments.data_dir {
        config.data_dir = dir;
    }
    logging::init(&config.log)?;
    match arguments.verb {
        Verb::Join { token, server, proxy } => {
            let token: Token = token.parse()?;
            joining::must_be_for(&token, Role::Relay)?;
            // Before a secret is put there.
            #[cfg(windows)]
            installer::secure(&config.data_dir).await?;
            let host = host::name();
            let joined =
                joining::join(&token, server.as_deref(), proxy.as_deref(), &host, VERSION, &config.data_dir)
                    .await?;
            if let Err(error) = joined.must_be(Role::Relay) {
                joining::leave(&config.data_dir)?;
                return Err(error.into());
            }
            let holder = joined.identity.own().holder;
            println!("joined site {} as relay {}, upstream {}", holder.site, holder.id, joined.route.server);
        }
        Verb::Serve { listen } => {
            if let Some(listen) = listen {
                config.listen = listen;
            }
            let stop = Stop::new();
            stop.on_signals()?;
            let running = server::start(config, Clock::system(), stop).await?;
            // Type=notify units count the service as started from here on.
            #[cfg(unix)]
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            if let Some(why) = running.ended().await {
                return Err(why.into());
            }
        }
        // Answered above.
        #[cfg(windows)]
        Verb::Service => {}
        #[cfg(windows)]
        Verb::Invite { token, server, listen } => {
            installer::invite(&config.data_dir, token, &server, &listen).await?;
        }
        #[cfg(windows)]
        Verb::Forget => {
            installer::forget(&config.data_dir)?;
            // A configuration may lie there that named another.
            installer::forget(&Config::default().data_dir)?;
        }
    }
    Ok(())
}
