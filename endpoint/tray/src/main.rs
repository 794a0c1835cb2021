//! `tierway-tray`: what is due on this computer, as an icon and a window.

// Without a console, which Windows would open beside the window.
#![cfg_attr(windows, windows_subsystem = "windows")]

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use tierway_common::daemon::{chain::Chain, logging};
use tierway_endpoint::config::Config;
use tierway_tray::window::{self, Options};

/// What is due on this computer, for the person who works at it.
#[derive(Parser)]
#[command(name = "tierway-tray", version)]
struct Arguments {
    /// Configuration file of the endpoint; without it the defaults hold.
    #[arg(long, short)]
    config: Option<PathBuf>,
    /// Start with the icon alone, and stay when the window is closed.
    #[arg(long)]
    background: bool,
    /// Address of the session's message bus, instead of the one that the session names.
    #[cfg_attr(unix, arg(long))]
    #[cfg_attr(windows, arg(skip))]
    bus: Option<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tierway-tray: {}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read(arguments.config.as_deref())?;
    logging::init(&config.log)?;
    window::run(Options {
        socket: config.local_socket,
        background: arguments.background,
        bus: arguments.bus,
    })?;
    Ok(())
}
