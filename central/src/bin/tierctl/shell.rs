//! What packages install beside the program: completions and manual pages, both made from the command line.

use std::{fs, path::PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{
    cli::Arguments,
    failure::{Exit, Failure},
    screen::Screen,
};

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory, made when it does not exist
    dir: PathBuf,
}

pub(crate) fn completions(screen: &mut Screen<'_>, args: CompletionsArgs) -> Result<Exit, Failure> {
    // Into memory first: clap_complete panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "tierctl", &mut script);
    screen.out.write_all(&script)?;
    screen.out.flush()?;
    Ok(Exit::Ok)
}

pub(crate) fn man(screen: &mut Screen<'_>, args: &ManArgs) -> Result<Exit, Failure> {
    let what = || format!("write the manual pages to `{}`", args.dir.display());
    fs::create_dir_all(&args.dir).map_err(Failure::local(what()))?;
    clap_mangen::generate_to(Arguments::command(), &args.dir).map_err(Failure::local(what()))?;
    screen.note(&format!("wrote the manual pages to `{}`", args.dir.display()))?;
    Ok(Exit::Ok)
}
