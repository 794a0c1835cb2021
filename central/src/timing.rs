//! How long installations take, measured on the fleet: what time limits come from (E10).
//!
//! Each installation that succeeded counts once, for its update and the class of its machine. What is published is the
//! time that 95 of 100 do not exceed; it is published anew when it changed noticeably, so that a policy catalogue
//! which every endpoint reads does not change with every report. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tierway_common::schema::policy::{Measured, Timing};

use crate::histogram::Histogram;

/// Classes of machines per update; those that come later count for all classes together only.
pub const CLASSES_MAX: usize = 32;
/// Samples of a class after which the older half weighs less.
pub const SAMPLES_MAX: u64 = 10_000;
/// Longest time that counts: no installation takes a week.
pub const SECONDS_MAX: u32 = 7 * 24 * 3600;
/// A class is published from so many samples on: fewer say little about 95 of 100.
pub const SAMPLES_MIN: u64 = 5;
/// A changed time is noticeable when it differs by this many per cent of what is published…
const PERCENT: u64 = 20;
/// …and by so many seconds.
const SECONDS: u64 = 10;
/// Which class holds all.
const ALL: &str = "";

/// An eighth of the value at most lies between a percentile and what is kept of it.
type Sketch = Histogram<3>;

/// What was measured of one update, and what of it is published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimingRecord {
    classes: BTreeMap<String, Sketch>,
    /// As published.
    #[serde(default)]
    pub published: Option<Timing>,
}

impl TimingRecord {
    /// Counts an installation that succeeded on a machine of `class` (empty: unknown).
    pub fn add(&mut self, class: &str, seconds: u32) {
        let known = self.classes.contains_key(class);
        let class = if known || self.classes.len() < CLASSES_MAX { class } else { ALL };
        for name in [Some(ALL), (class != ALL).then_some(class)].into_iter().flatten() {
            let sketch = self.classes.entry(name.to_owned()).or_default();
            sketch.add(seconds.min(SECONDS_MAX));
            if sketch.count() > SAMPLES_MAX {
                sketch.halve();
            }
        }
    }

    /// What is known now, of classes with enough samples.
    #[must_use]
    pub fn measured(&self) -> Timing {
        let enough = self.classes.iter().filter(|(_, sketch)| sketch.count() >= SAMPLES_MIN);
        let classes = enough.filter_map(|(class, sketch)| {
            let samples = u32::try_from(sketch.count()).unwrap_or(u32::MAX);
            Some((class.clone(), Measured { samples, p95_seconds: sketch.percentile(950)? }))
        });
        Timing { classes: classes.collect() }
    }

    /// What is to be published instead of what is: `None` when nothing changed noticeably.
    #[must_use]
    pub fn news(&self) -> Option<Timing> {
        let now = self.measured();
        if now.classes.is_empty() {
            return None;
        }
        let Some(published) = &self.published else { return Some(now) };
        let noticeable = |(class, measured): (&String, &Measured)| match published.classes.get(class) {
            None => true,
            Some(before) => {
                let (before, now) = (u64::from(before.p95_seconds), u64::from(measured.p95_seconds));
                let change = before.abs_diff(now);
                change >= SECONDS && change * 100 >= before * PERCENT
            }
        };
        now.classes.iter().any(noticeable).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: &[(&str, u32, usize)]) -> TimingRecord {
        let mut record = TimingRecord::default();
        for (class, seconds, times) in samples {
            (0..*times).for_each(|_| record.add(class, *seconds));
        }
        record
    }

    fn p95(timing: &Timing, class: &str) -> Option<(u32, u32)> {
        timing.classes.get(class).map(|measured| (measured.samples, measured.p95_seconds))
    }

    #[test]
    fn each_class_has_its_own_time_and_all_have_one_together() {
        let record = of(&[("c2m3", 12, 95), ("c2m3", 100, 5), ("c0m1", 90, 10)]);
        let measured = record.measured();
        assert_eq!(p95(&measured, "c2m3"), Some((100, 12)));
        assert_eq!(p95(&measured, "c0m1"), Some((10, 95)));
        assert_eq!(p95(&measured, ""), Some((110, 95)));
    }

    #[test]
    fn few_samples_are_not_published_and_enough_of_them_are_once() {
        let mut record = of(&[("c2m3", 12, 4)]);
        assert_eq!(record.news(), None);
        record.add("c2m3", 12);
        record.published = record.news();
        assert_eq!(p95(record.published.as_ref().unwrap(), "c2m3"), Some((5, 12)));
        assert_eq!(record.news(), None);
    }

    #[test]
    fn small_changes_are_not_published_and_large_ones_and_new_classes_are() {
        let published = |samples: &[(&str, u32, usize)], more: &[(&str, u32, usize)]| {
            let mut record = of(samples);
            record.published = record.news();
            for (class, seconds, times) in more {
                (0..*times).for_each(|_| record.add(class, *seconds));
            }
            record.news().is_some()
        };
        for (before, after, expected) in [
            (("a", 100, 20), ("a", 100, 500), false),
            // By a tenth; by much, but of nothing; by half.
            (("a", 100, 20), ("a", 112, 500), false),
            (("a", 2, 20), ("a", 8, 500), false),
            (("a", 100, 20), ("a", 150, 500), true),
            (("a", 100, 20), ("a", 50, 500), true),
            (("a", 100, 20), ("b", 100, 5), true),
            (("a", 100, 20), ("b", 100, 4), false),
        ] {
            assert_eq!(published(&[before], &[after]), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_new_weighs_more() {
        let mut record = of(&[("a", 10, 30_000)]);
        let sampled = p95(&record.measured(), "a").unwrap().0;
        assert!(u64::from(sampled) <= SAMPLES_MAX, "{sampled}");
        (0..2_000).for_each(|_| record.add("a", 1_000));
        assert!(p95(&record.measured(), "a").unwrap().1 >= 1_000);
        for number in 0..1_000_u32 {
            record.add(&format!("class-{number}"), number * 1_000);
        }
        assert!(record.classes.len() <= CLASSES_MAX);
        assert!(
            record.classes.values().all(|sketch| sketch.percentile(1_000).unwrap() <= SECONDS_MAX * 9 / 8)
        );
        // Even of every length there is: it fits into a row of the store.
        for seconds in (0..SECONDS_MAX).step_by(997) {
            (0..CLASSES_MAX).for_each(|class| record.add(&format!("class-{class}"), seconds));
        }
        let bytes = serde_json::to_vec(&record).unwrap().len();
        assert!(bytes < 60_000, "{bytes}");
    }
}
