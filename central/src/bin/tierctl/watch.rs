//! `--watch`: the same answer again and again, on a cleared screen.

use std::time::Duration;

use crate::{
    failure::{Exit, Failure},
    screen::Screen,
};

/// Clears the terminal and puts the cursor home (ECMA-48 `CUP` and `ED`); what scrolled away stays.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct WatchArgs {
    /// Repeats every so many seconds until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

/// Runs `once`, or, with `--watch`, runs it until it fails. An answer is written when it is complete, so
/// that the screen does not flicker; where the output is no terminal, answers are parted by an empty line.
pub(crate) async fn repeat(
    screen: &mut Screen<'_>,
    args: WatchArgs,
    mut once: impl AsyncFnMut(&mut Screen<'_>) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let Some(seconds) = args.watch else {
        return once(screen).await;
    };
    let mut first = true;
    loop {
        let mut answer = Vec::new();
        once(&mut screen.with_out(&mut answer)).await?;
        if screen.terminals.out {
            screen.out.write_all(CLEAR)?;
        } else if !first {
            screen.out.write_all(b"\n")?;
        }
        screen.out.write_all(&answer)?;
        screen.out.flush()?;
        first = false;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}
