//! The time limit of one installation: an installer that hangs must not take the change window with it.
//!
//! Pure. The limit is a multiple of what the same update took on the fleet, on machines of this computer's
//! class where there are enough of them, so that slow machines get longer by themselves. What took some time on other
//! machines says nothing of how long a slow one needs: there, and for what nobody has measured yet, the configured limit
//! holds. The fast ones are through first, and an end by force would count as a failure of the update.

use std::{fmt, time::Duration};

use tierway_common::schema::policy::{Measured, Timing};

/// So many times the measured duration: an operator's rule of thumb, twice what it takes.
const FACTOR: u32 = 2;

/// Fewer measurements than this say little about the slowest ones.
const SAMPLES_MIN: u32 = 5;

/// Not shorter: what takes seconds must survive a disk that is busy with something else for a while.
const LEAST: Duration = Duration::from_secs(120);

/// Not longer, whatever was measured: nobody would wait for it, and measurements come from other computers.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// After which an installation is ended, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// After so long.
    pub duration: Duration,
    /// What it should take at most, for plans: the measured duration, or the limit where there is none.
    pub expected: Duration,
    /// Where it comes from.
    pub source: Source,
}

/// Where a limit comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the configuration: nobody has measured it.
    Configured,
    /// From machines of this class.
    Class(String),
    /// From the configuration, or twice what it takes on machines of all classes where that is longer.
    AllClasses,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = humantime::format_duration(self.duration);
        let expected = humantime::format_duration(self.expected);
        match &self.source {
            Source::Configured => write!(f, "{limit}, as configured"),
            Source::Class(class) => write!(f, "{limit}: {expected} on machines of class {class}"),
            Source::AllClasses => write!(f, "{limit}: {expected} on all machines"),
        }
    }
}

/// The limit that goes with a measured duration.
#[must_use]
pub fn multiple(expected: Duration) -> Duration {
    (expected * FACTOR).clamp(LEAST, LONGEST)
}

/// The limit of an update with this `timing` on a computer of `class`.
#[must_use]
pub fn limit(timing: Option<&Timing>, class: &str, configured: Duration) -> Limit {
    let measured = |class: &str| {
        let measured = timing?.classes.get(class)?;
        (measured.samples >= SAMPLES_MIN).then_some(measured)
    };
    let of = |measured: &Measured, source| {
        let expected =
            Duration::from_secs(u64::from(measured.p95_seconds)).clamp(Duration::from_secs(1), LONGEST);
        Limit { duration: multiple(expected), expected, source }
    };
    // The class of a computer that does not know its own is the empty name: that of all classes together.
    if !class.is_empty()
        && let Some(measured) = measured(class)
    {
        return of(measured, Source::Class(class.to_owned()));
    }
    match measured("") {
        Some(measured) => {
            let all = of(measured, Source::AllClasses);
            Limit { duration: all.duration.max(configured), ..all }
        }
        None => Limit { duration: configured, expected: configured, source: Source::Configured },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURED: Duration = Duration::from_secs(2 * 3600);

    fn timing(classes: &[(&str, u32, u32)]) -> Timing {
        let measured = |(class, samples, p95_seconds): &(&str, u32, u32)| {
            ((*class).to_owned(), Measured { samples: *samples, p95_seconds: *p95_seconds })
        };
        Timing { classes: classes.iter().map(measured).collect() }
    }

    #[test]
    fn a_limit_is_twice_what_it_takes_on_such_machines_and_never_shortened_by_what_it_takes_on_others() {
        let all = timing(&[("", 100, 300), ("c0m0", 20, 900), ("c4m5", 4, 100), ("c6m8", 50, 3)]);
        for (timing, class, seconds, text) in [
            (Some(&all), "c0m0", 1800, "30m: 15m on machines of class c0m0"),
            (Some(&all), "c4m5", 7200, "2h: 5m on all machines"),
            (Some(&all), "c9m9", 7200, "2h: 5m on all machines"),
            (Some(&all), "", 7200, "2h: 5m on all machines"),
            (Some(&timing(&[("", 100, 4000)])), "c0m0", 8000, "2h 13m 20s: 1h 6m 40s on all machines"),
            (Some(&all), "c6m8", 120, "2m: 3s on machines of class c6m8"),
            (Some(&timing(&[("", 4, 300)])), "c0m0", 7200, "2h, as configured"),
            (Some(&timing(&[])), "c0m0", 7200, "2h, as configured"),
            (None, "c0m0", 7200, "2h, as configured"),
            (Some(&timing(&[("", 9, u32::MAX)])), "", 43_200, "12h: 12h on all machines"),
        ] {
            let limit = limit(timing, class, CONFIGURED);
            assert_eq!((limit.duration.as_secs(), limit.to_string().as_str()), (seconds, text), "{class}");
        }
    }
}
