//! A computer as the simulation has it: what is installed, who is there, how long things take, whether it is up. It
//! knows nothing of Tierway, and is what promises are measured by.

use std::time::Duration;

use jiff::{
    SignedDuration, Timestamp, ToSpan,
    civil::{Date, Time},
    tz::TimeZone,
};
use tierway_common::{facts::Facts, id::UpdateId};
use tierway_endpoint::{
    consent::Purpose,
    people::{Inhibitor, People, Seat, Session},
    signs::{BootId, Sign, SignKind},
};

use super::{random::Random, story};

/// How strong it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Two processors, 2 GiB.
    Slow,
    /// Four processors, 8 GiB.
    Usual,
    /// Sixteen processors, 32 GiB.
    Fast,
}

impl Class {
    /// As reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Slow => "c1m1",
            Self::Usual => "c2m3",
            Self::Fast => "c4m5",
        }
    }

    /// So many times what the usual one takes.
    fn factor(self) -> f64 {
        match self {
            Self::Slow => 2.0,
            Self::Usual => 1.0,
            Self::Fast => 0.6,
        }
    }
}

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nobody is there but an administrator now and then; changes in windows only.
    Server,
    /// Somebody works at it on working days.
    Desk,
    /// The same, and he is asked.
    Asked,
}

/// Models of hardware; drivers fail on one of them.
pub const MODELS: u64 = 20;

/// What an installer does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Its work.
    Work,
    /// Exits 0 and changes nothing.
    Nothing,
    /// Exits 1 on the computers of one model.
    FailsOn(u64),
}

/// An update as the world knows it.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Of the update that brings version 2.0.
    pub update: UpdateId,
    /// What its installer does.
    pub does: Does,
    /// It takes effect at the next boot.
    pub reboots: bool,
    /// What its installation usually takes.
    pub takes: Duration,
}

/// A warning on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Of what.
    pub purpose: Purpose,
    /// On the screen without a break since.
    pub since: Timestamp,
    /// Somebody said that he had read it.
    pub acknowledged: bool,
}

/// One computer.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its place in the fleet: what chance decides about it follows from it.
    pub number: u64,
    /// How strong it is.
    pub class: Class,
    /// What it is for.
    pub role: Role,
    /// Its model of hardware.
    pub model: u64,
    /// Where it stands.
    pub zone: TimeZone,
    /// What can be read of it.
    pub facts: Facts,
    /// How often it was booted.
    pub boots: u64,
    /// Off until then.
    pub down_until: Option<Timestamp>,
    /// Packages that wait for a boot.
    pub pending: Vec<UpdateId>,
    /// The warning on its screen.
    pub screen: Option<Warning>,
    seed: u64,
    first_day: Date,
}

impl Machine {
    /// A computer with these facts; `at` is where it stands and when its story begins.
    #[must_use]
    pub fn new(
        seed: u64,
        number: u64,
        role: Role,
        (zone, start): (TimeZone, Timestamp),
        facts: Facts,
    ) -> Self {
        let mut random = Random::of(seed, &[1, number]);
        let class = match random.below(10) {
            0..=1 => Class::Slow,
            2..=7 => Class::Usual,
            _ => Class::Fast,
        };
        Self {
            number,
            class,
            role,
            model: number % MODELS,
            first_day: zone.to_datetime(start).date(),
            zone,
            facts,
            boots: 0,
            down_until: None,
            pending: Vec::new(),
            screen: None,
            seed,
        }
    }

    /// Whether it runs at `at`.
    #[must_use]
    pub fn is_up(&self, at: Timestamp) -> bool {
        self.down_until.is_none_or(|until| until <= at)
    }

    /// Its present boot.
    #[must_use]
    pub fn boot(&self) -> BootId {
        BootId(format!("{}-{}", self.number, self.boots))
    }

    fn key(package: &Package) -> String {
        format!("package:deb:{}:amd64", package.name)
    }

    /// The version of a package that is there.
    #[must_use]
    pub fn version(&self, package: &Package) -> Option<&str> {
        self.facts.values.get(&Self::key(package)).map(String::as_str)
    }

    /// How long the installer of `package` takes here, a little different at each attempt.
    #[must_use]
    pub fn takes(&self, package: &Package, attempt: u64) -> Duration {
        let name = package.name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
        let mut random = Random::of(self.seed, &[2, self.number, name, attempt]);
        package.takes.mul_f64(self.class.factor() * random.spread()).max(Duration::from_secs(1))
    }

    /// Runs the installer of `package` to its end; its exit code.
    pub fn install(&mut self, package: &Package) -> i32 {
        match package.does {
            Does::FailsOn(model) if model == self.model => 1,
            Does::Nothing => 0,
            Does::Work | Does::FailsOn(_) => {
                self.facts.values.insert(Self::key(package), "2.0".to_owned());
                if package.reboots {
                    self.pending.push(package.update.clone());
                }
                0
            }
        }
    }

    /// Why it must be rebooted.
    #[must_use]
    pub fn signs(&self) -> Vec<Sign> {
        let sign = |update: &UpdateId| Sign {
            kind: SignKind::Asked,
            detail: format!("`{update}` takes effect at the next boot"),
            source: "/run/reboot-required".to_owned(),
        };
        self.pending.iter().map(sign).collect()
    }

    /// Goes down at `at`; returns when it is up again.
    pub fn reboot(&mut self, at: Timestamp) -> Timestamp {
        self.boots += 1;
        let mut random = Random::of(self.seed, &[3, self.number, self.boots]);
        let seconds =
            60 + i64::try_from(random.below(if self.role == Role::Server { 420 } else { 60 })).unwrap_or(0);
        let up = at + SignedDuration::from_secs(seconds);
        (self.down_until, self.screen) = (Some(up), None);
        self.pending.clear();
        up
    }

    /// Puts a warning on the screen, or takes it off; one of the same kind that is there stays there.
    pub fn show(&mut self, purpose: Option<Purpose>, at: Timestamp) {
        self.screen = match (purpose, self.screen) {
            (Some(purpose), Some(shown)) if shown.purpose == purpose => Some(shown),
            (Some(purpose), _) => Some(Warning { purpose, since: at, acknowledged: false }),
            (None, _) => None,
        };
    }

    /// Who is there at `truth`, with times as a clock tells them that is so far ahead.
    #[must_use]
    pub fn people_by_its_clock(&self, truth: Timestamp, ahead: SignedDuration) -> People {
        let mut people = self.people(truth);
        for session in people.sessions.iter_mut().flatten() {
            session.idle_since = session.idle_since.map(|since| since + ahead);
        }
        people
    }

    /// Who is there at `at`: a working day from half past eight to half past five with a break, some forget to log out
    /// at night, on some mornings a program asks not to be disturbed; at servers an administrator on few mornings, and on
    /// none while a forecast is compared.
    #[must_use]
    pub fn people(&self, at: Timestamp) -> People {
        let local = self.zone.to_datetime(at);
        let day = local.date();
        // Counted from the first: in whatever month it is, chance decides the same.
        let number = day.duration_since(self.first_day).as_hours() / 24;
        let mut random = Random::of(self.seed, &[4, self.number, u64::try_from(number).unwrap()]);
        let minutes = i64::from(local.hour()) * 60 + i64::from(local.minute());
        let works = day.weekday().to_monday_zero_offset() < 5;
        let jitter = |random: &mut Random| i64::try_from(random.below(60)).unwrap_or(0);
        let (come, leave) = (8 * 60 + jitter(&mut random), 17 * 60 + jitter(&mut random));
        let (forgets, burns, visits) = (random.percent(10), random.percent(4), random.percent(7));
        let session = |seat, idle_since: Option<Timestamp>| Session {
            id: "3".to_owned(),
            user: "ann".to_owned(),
            uid: 1000,
            seat,
            idle_since,
            locked: idle_since.is_some(),
        };
        let since = |minute: i64| {
            let midnight = day.to_datetime(Time::midnight());
            let then = self.zone.to_ambiguous_timestamp(midnight + minute.minutes()).compatible();
            then.ok()
        };
        let mut people = People::nobody();
        match self.role {
            Role::Server => {
                let visits = visits && !story::COMPARED.contains(&number);
                if works && visits && (10 * 60..11 * 60).contains(&minutes) {
                    people.sessions = Some(vec![session(Seat::Remote, None)]);
                }
            }
            Role::Desk | Role::Asked if works => {
                if (come..leave).contains(&minutes) {
                    let idle = (12 * 60..13 * 60).contains(&minutes).then(|| since(12 * 60)).flatten();
                    people.sessions = Some(vec![session(Seat::Desktop, idle)]);
                    if burns && (10 * 60..11 * 60).contains(&minutes) {
                        let (who, why) = ("brasero".to_owned(), "burning a disc".to_owned());
                        people.inhibitors = vec![Inhibitor { who, why, uid: 1000 }];
                    }
                } else if forgets && minutes >= leave {
                    people.sessions = Some(vec![session(Seat::Desktop, since(leave))]);
                }
            }
            Role::Desk | Role::Asked => {}
        }
        people
    }
}
