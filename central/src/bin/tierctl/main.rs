//! `tierctl`: what operators ask and tell central, from anywhere, over gRPC.
//!
//! One grammar, `noun verb`, one file per noun. What a command prints is declared once, as columns or
//! fields, and rendered as a table, JSON or CSV by [`output`]; nothing here decides anything about
//! patches. `main` reads the environment, everything below gets it as arguments.

// How it is called.
mod cli;
mod client;
mod contexts;
mod environment;

// What it answers with.
mod confirm;
mod failure;
mod output;
mod progress;
mod screen;
mod watch;

// The nouns.
mod apply;
mod audit;
mod context;
mod document;
mod endpoint;
mod group;
mod level;
mod operator;
mod package;
mod patch;
mod plan;
mod policy;
mod relay;
mod report;
mod result_code;
mod ring;
mod rollout;
mod shell;
mod simulate;
mod source;
mod standing;
mod status;
mod task;
mod template;
mod trust;
mod why;
mod window;

#[cfg(test)]
mod tests;

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    process::ExitCode,
};

use tierway_common::clock::Clock;

use crate::{
    environment::Environment,
    failure::Exit,
    screen::{Screen, Terminals},
};

fn main() -> ExitCode {
    let environment = Environment::read();
    let terminals = Terminals {
        input: io::stdin().is_terminal(),
        out: io::stdout().is_terminal(),
        err: io::stderr().is_terminal(),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut err = io::stderr();
    let mut input = io::stdin().lock();
    let mut screen =
        Screen::new(&mut out, &mut err, &mut input, terminals, environment.colour, Clock::system());
    // What is asked for comes on a thread of its own while what is there is written.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let exit = match runtime {
        Ok(runtime) => {
            runtime.block_on(cli::run(std::env::args_os(), &mut screen, &environment, async |connection| {
                client::dial(connection, &environment, Clock::system().now(), &mut io::stderr()).await
            }))
        }
        Err(error) => screen.fail(&error.into()),
    };
    match out.flush() {
        // The reader has seen enough, as in `tierctl endpoint list | head`.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Failed.into(),
        _ => exit.into(),
    }
}
