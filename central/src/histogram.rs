//! Counts of durations in buckets whose width grows with the value: percentiles in bounded space.
//!
//! A value below `2^(BITS + 1)` has a bucket of its own; above that every power of two has `2^BITS` buckets, so
//! a percentile is at most one part in `2^BITS` above the true one and never below it. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts of values in whole units, such as seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram<const BITS: u32>(BTreeMap<u16, u64>);

impl<const BITS: u32> Histogram<BITS> {
    /// Counts one value.
    pub fn add(&mut self, value: u32) {
        *self.0.entry(bucket::<BITS>(value)).or_default() += 1;
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The value that `permille` of a thousand do not exceed, rounded up to the end of its bucket; `None` when
    /// nothing was counted.
    #[must_use]
    pub fn percentile(&self, permille: u64) -> Option<u32> {
        let wanted = (self.count() * permille).div_ceil(1_000).max(1);
        self.cumulative().find(|(_, so_far)| *so_far >= wanted).map(|(value, _)| value)
    }

    /// Upper ends of the buckets with something in them, ascending, each with how many are not above it.
    pub fn cumulative(&self) -> impl Iterator<Item = (u32, u64)> {
        self.0.iter().scan(0, |so_far, (bucket, count)| {
            *so_far += count;
            Some((upper::<BITS>(*bucket), *so_far))
        })
    }

    /// Forgets about half, so that what comes weighs more than what was; a bucket with something in it keeps some.
    pub fn halve(&mut self) {
        for count in self.0.values_mut() {
            *count = count.div_ceil(2);
        }
    }
}

fn bucket<const BITS: u32>(value: u32) -> u16 {
    let shift = value.checked_ilog2().unwrap_or(0).saturating_sub(BITS);
    // At most 32 powers of two of at most 2^10 buckets.
    u16::try_from((shift << BITS) + (value >> shift)).unwrap_or(u16::MAX)
}

fn upper<const BITS: u32>(bucket: u16) -> u32 {
    let bucket = u64::from(bucket);
    let shift = (bucket >> BITS).saturating_sub(1);
    let mantissa = bucket - (shift << BITS);
    u32::try_from(((mantissa + 1) << shift) - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u32]) -> Histogram<6> {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.add(*value));
        histogram
    }

    #[test]
    fn small_values_have_exact_percentiles() {
        let histogram = of(&(1..=100).collect::<Vec<_>>());
        let percentiles = [500, 900, 950, 990, 1_000].map(|permille| histogram.percentile(permille));
        assert_eq!(percentiles, [Some(50), Some(90), Some(95), Some(99), Some(100)]);
        assert_eq!(of(&[7]).percentile(1), Some(7));
        assert_eq!(of(&[]).percentile(500), None);
    }

    #[test]
    fn halving_keeps_the_shape_and_every_bucket() {
        let mut histogram = of(&[vec![10; 1_000], vec![100; 10], vec![1_000; 1]].concat());
        histogram.halve();
        assert_eq!(histogram.count(), 506);
        assert_eq!((histogram.percentile(500), histogram.percentile(1_000)), (Some(10), Some(1_007)));
    }

    proptest! {
        #[test]
        fn a_percentile_is_never_below_the_true_one_and_at_most_a_64th_above(
            mut values in prop::collection::vec(any::<u32>(), 1..200),
            permille in 1_u64..=1_000,
        ) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = (values.len() as u64 * permille).div_ceil(1_000).max(1);
            let exact = values[usize::try_from(rank).unwrap() - 1];
            let found = histogram.percentile(permille).unwrap();
            prop_assert!(found >= exact);
            prop_assert!(u64::from(found) <= u64::from(exact) + u64::from(exact) / 64 + 1);
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }
    }
}
