//! `tierctl simulate`: starts `tierway-simulate`, which has the tests' fleet in it, with all that it was given.

use std::{ffi::OsString, path::PathBuf, process::Command};

use clap::Args;

use crate::{
    environment::Environment,
    failure::{Exit, Failure},
};

/// The program.
const PROGRAM: &str = "tierway-simulate";

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct SimulateArgs {
    /// What `tierway-simulate` takes: see `tierctl simulate --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs it to its end; its exit code is the answer.
#[expect(clippy::disallowed_methods, reason = "an operator runs it by hand, on his own machine")]
pub(crate) fn run(environment: &Environment, args: SimulateArgs) -> Result<Exit, Failure> {
    let program = find(environment)?;
    let what = || format!("run `{}`", program.display());
    let status = Command::new(&program).args(args.arguments).status().map_err(Failure::local(what()))?;
    match status.code() {
        Some(0) => Ok(Exit::Ok),
        Some(2) => Ok(Exit::Usage),
        Some(_) => Ok(Exit::Failed),
        None => Err(Failure::Plain(format!("`{}` was ended: {status}", program.display()))),
    }
}

fn find(environment: &Environment) -> Result<PathBuf, Failure> {
    let places = environment.programs.iter().map(|folder| folder.join(PROGRAM));
    places.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        let beside = environment.programs.first().map(|folder| format!(" in `{}`", folder.display()));
        let beside = beside.unwrap_or_default();
        Failure::Plain(format!(
            "`{PROGRAM}` is not there, neither beside tierctl{beside} nor on PATH: it is built with the package `tierway-tests`"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_beside_this_one_is_taken_before_that_on_the_path_and_its_absence_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["beside", "path"].map(|name| dir.path().join(name));
        let environment = Environment { programs: folders.to_vec(), ..Environment::default() };
        let error = find(&environment).unwrap_err().to_string();
        assert!(error.starts_with("`tierway-simulate` is not there") && error.contains("beside"), "{error}");
        for folder in folders.iter().rev() {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join(PROGRAM), "").unwrap();
            assert_eq!(find(&environment).unwrap(), folder.join(PROGRAM));
        }
    }
}
