//! Long work, shown while it goes on: bars on a terminal, lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tierway_proto::v1;
use tokio::time::Instant;
use tonic::Streaming;

use crate::{
    failure::Failure,
    output::value::bytes_text,
    screen::{Screen, harmless},
};

/// Where there is no terminal, a step says so at its start, its end, and each time it has done another
/// part of this size.
const PARTS_PER_STEP: u64 = 10;

/// How often work of our own is shown.
const SHOWN_APART: Duration = Duration::from_millis(200);

/// Follows `stream` to its end and returns the last message of each step, in order.
///
/// # Errors
///
/// Whatever central ends the stream with, as "could not `what`".
pub(crate) async fn follow(
    screen: &mut Screen<'_>,
    what: &str,
    mut stream: Streaming<v1::Progress>,
) -> Result<Vec<v1::Progress>, Failure> {
    let mut display = Display::new(screen.terminals.err);
    let mut steps: Vec<v1::Progress> = Vec::new();
    loop {
        let next = stream.message().await;
        let message = match next {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(status) => {
                display.clear();
                return Err(Failure::call(what)(status));
            }
        };
        display.show(screen, &message)?;
        match steps.last_mut() {
            Some(last) if last.step == message.step => *last = message,
            _ => steps.push(message),
        }
    }
    display.clear();
    Ok(steps)
}

/// Shows what `told` says of some work until the work ends.
///
/// # Errors
///
/// Those of the work, and when nothing can be shown.
pub(crate) async fn during<T>(
    screen: &mut Screen<'_>,
    work: impl Future<Output = Result<T, Failure>>,
    told: &dyn Fn() -> v1::Progress,
) -> Result<T, Failure> {
    let mut display = Display::new(screen.terminals.err);
    // Not at once: what is short needs no bar.
    let mut ticks = tokio::time::interval_at(Instant::now() + SHOWN_APART, SHOWN_APART);
    let mut work = std::pin::pin!(work);
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut work => break ended,
            _ = ticks.tick() => display.show(screen, &told())?,
        }
    };
    display.clear();
    ended
}

/// `done` of `total` in the unit of the message; the total is left out when it is not known (0).
pub(crate) fn amount(message: &v1::Progress) -> String {
    let v1::Progress { step: _, done, total, unit } = message;
    let text = |n: u64| if unit == "bytes" { bytes_text(n) } else { crate::output::value::count_text(n) };
    let unit = if unit == "bytes" { "" } else { unit };
    let amount = if *total == 0 { text(*done) } else { format!("{} of {}", text(*done), text(*total)) };
    format!("{amount} {unit}").trim_end().to_owned()
}

enum Display {
    Bar {
        bar: ProgressBar,
        step: String,
    },
    /// The step and the part of it that was last printed.
    Lines {
        last: Option<(String, u64)>,
    },
}

impl Display {
    fn new(terminal: bool) -> Self {
        if terminal {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            Self::Bar { bar, step: String::new() }
        } else {
            Self::Lines { last: None }
        }
    }

    fn show(&mut self, screen: &mut Screen<'_>, message: &v1::Progress) -> Result<(), Failure> {
        match self {
            Self::Bar { bar, step } => {
                if *step != message.step {
                    bar.set_style(style(message));
                    bar.set_message(harmless(&message.step).into_owned());
                    step.clone_from(&message.step);
                }
                if message.total > 0 {
                    bar.set_length(message.total);
                }
                bar.set_position(message.done);
            }
            Self::Lines { last } => {
                let part =
                    message.done.saturating_mul(PARTS_PER_STEP).checked_div(message.total).unwrap_or(0);
                let now = (message.step.clone(), part);
                if last.as_ref() != Some(&now) {
                    let line = format!("{}: {}", message.step, amount(message));
                    writeln!(screen.err, "{}", harmless(&line))?;
                    *last = Some(now);
                }
            }
        }
        Ok(())
    }

    fn clear(&self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}

fn style(message: &v1::Progress) -> ProgressStyle {
    let template = match (message.total > 0, message.unit == "bytes") {
        (true, true) => "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        (true, false) => "{msg} [{wide_bar}] {human_pos}/{human_len} {eta}",
        (false, true) => "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
        (false, false) => "{msg} {spinner} {human_pos}",
    };
    // The templates are constants; one that does not parse only looks plainer.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
