//! Asking again before something is lost.

use std::io::{BufRead, Read};

use crate::{failure::Failure, screen::Screen};

/// A longer answer is none.
const ANSWER_BYTES_MAX: u64 = 1024;

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ConfirmArgs {
    /// Does not ask to type the name again
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

/// Returns when the person typed `name` again or gave `--yes`; `what` is what will happen, such as
/// "revoke `web-01`".
///
/// # Errors
///
/// [`Failure::Usage`] when nobody can be asked, [`Failure::Plain`] when something else was typed.
pub(crate) fn confirm(
    screen: &mut Screen<'_>,
    args: ConfirmArgs,
    what: &str,
    name: &str,
) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    if !screen.terminals.input {
        return Err(Failure::Usage(format!("will not {what} without `--yes`, as nobody can be asked")));
    }
    write!(screen.err, "This will {what}. Type the name to go on: ")?;
    screen.err.flush()?;
    let mut answer = String::new();
    (&mut *screen.input).take(ANSWER_BYTES_MAX).read_line(&mut answer)?;
    if answer.trim() == name {
        Ok(())
    } else {
        Err(Failure::Plain(format!("did not {what}: the name typed was another one")))
    }
}
