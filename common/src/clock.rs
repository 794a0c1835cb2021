//! The one place that reads the machine's clock; everything else is told the time.

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

/// Tells the time: the system's, or one that a test moves by hand, or that a simulation tells.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Unix milliseconds.
    Manual(Arc<AtomicI64>),
    Told(Teller),
}

#[derive(Clone)]
struct Teller {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    awake: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Teller({})", (self.now)())
    }
}

/// Where the system's time awake is counted from.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until [`Clock::advance`] moves it.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.as_millisecond()))))
    }

    /// A clock that says what `now` says, of a machine that is awake for as long as `awake` says.
    #[must_use]
    pub fn told(
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        awake: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self(Source::Told(Teller { now: Arc::new(now), awake: Arc::new(awake) }))
    }

    /// Now, to the millisecond when manual.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Manual(at) => {
                Timestamp::from_millisecond(at.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH)
            }
            Source::Told(teller) => (teller.now)(),
        }
    }

    /// How long the machine has been awake, from some moment on: nobody sets it and it stands still in sleep. A
    /// manual clock sleeps never, and is awake for as long as it is moved forward.
    #[must_use]
    pub fn awake(&self) -> Duration {
        match &self.0 {
            Source::System => BEGIN.elapsed(),
            Source::Manual(at) => {
                Duration::from_millis(u64::try_from(at.load(Ordering::SeqCst)).unwrap_or(0))
            }
            Source::Told(teller) => (teller.awake)(),
        }
    }

    /// Moves a manual clock, backward for a negative `step`; does nothing to others.
    pub fn advance(&self, step: SignedDuration) {
        if let Source::Manual(at) = &self.0 {
            at.fetch_add(i64::try_from(step.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}
