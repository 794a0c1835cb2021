//! Who is in which ring of a ring plan: computed by each endpoint and by central alike, moved by nobody.

use std::{collections::BTreeSet, fmt, time::Duration};

use crate::{
    id::{EndpointId, GroupId},
    schedule,
    schema::policy::{Ring, RingMembers, RingPlan},
};

/// Rings of one plan; a rollout with more never ends.
pub const RINGS_MAX: usize = 32;
/// The name of a ring stands in tables.
pub const NAME_BYTES_MAX: usize = 40;
const THOUSAND: u16 = 1000;

/// A ring plan that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingsError {
    /// None, or too many.
    #[error("a ring plan has 1 to 32 rings, found {0}")]
    Count(usize),
    /// A name.
    #[error("`{0}` is no name of a ring: 1 to 40 characters that can be printed")]
    Name(String),
    /// Two of a name.
    #[error("two rings are named `{0}`")]
    Twice(String),
    /// A ring that has nobody, or more than there are.
    #[error("ring `{ring}` must be 1 to 1000 of a thousand, found {found}")]
    Share {
        /// Which.
        ring: String,
        /// What it says.
        found: u16,
    },
    /// More than everybody.
    #[error("the shares up to ring `{ring}` add up to {sum} of a thousand")]
    Shares {
        /// With which they do.
        ring: String,
        /// To what.
        sum: u32,
    },
    /// The rest must come last, and must come.
    #[error("the last ring, and no other, must take the rest; ring `{0}` does not fit")]
    Rest(String),
    /// A limit that is none.
    #[error("ring `{ring}` allows {found} failures of a thousand")]
    Failures {
        /// Which.
        ring: String,
        /// What it says.
        found: u16,
    },
}

/// Says what is wrong with a ring plan.
///
/// # Errors
///
/// [`RingsError`], the first that is found.
pub fn check(plan: &RingPlan) -> Result<(), RingsError> {
    let RingPlan { id: _, rings } = plan;
    if rings.is_empty() || rings.len() > RINGS_MAX {
        return Err(RingsError::Count(rings.len()));
    }
    let (mut names, mut sum) = (BTreeSet::new(), 0);
    for (index, ring) in rings.iter().enumerate() {
        let Ring { name, who, soak: _, successes_at_least: _, failure_permille_max, failures_min: _ } = ring;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(RingsError::Name(name.chars().take(NAME_BYTES_MAX).collect()));
        }
        if !names.insert(name) {
            return Err(RingsError::Twice(name.clone()));
        }
        if (*who == RingMembers::Rest) != (index + 1 == rings.len()) {
            return Err(RingsError::Rest(name.clone()));
        }
        if let RingMembers::Permille(share) = who {
            if !(1..=THOUSAND).contains(share) {
                return Err(RingsError::Share { ring: name.clone(), found: *share });
            }
            sum += u32::from(*share);
            if sum > u32::from(THOUSAND) {
                return Err(RingsError::Shares { ring: name.clone(), sum });
            }
        }
        if *failure_permille_max > THOUSAND {
            return Err(RingsError::Failures { ring: name.clone(), found: *failure_permille_max });
        }
    }
    Ok(())
}

/// Where a computer stands in a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Index of its ring.
    pub ring: usize,
    /// Its place in the plan, 0 to 999.
    pub place: u32,
    /// Why it is in that ring.
    pub because: Because,
}

/// Why a computer is in its ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// It is a member of this group.
    Group(GroupId),
    /// Its place is from the first of these on, and before the second.
    Share(u32, u32),
    /// No ring before takes it.
    Rest,
}

impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place;
        match &self.because {
            Because::Group(group) => write!(f, "member of group `{group}`"),
            Because::Share(from, before) => {
                write!(
                    f,
                    "place {place} of {THOUSAND}, in the share from {from} to {}",
                    before.saturating_sub(1)
                )
            }
            Because::Rest => write!(f, "in no ring before; place {place} of {THOUSAND}"),
        }
    }
}

/// Where `endpoint` stands: in the first ring that names a group of it (`is_member`) or whose share its place falls
/// into, else in the last one. `None` only for a plan without rings.
#[must_use]
pub fn stand(plan: &RingPlan, endpoint: &EndpointId, is_member: impl Fn(&GroupId) -> bool) -> Option<Stand> {
    let place = place(plan, endpoint);
    let mut up_to: u32 = 0;
    let found = plan.rings.iter().enumerate().find_map(|(ring, of_plan)| {
        let because = match &of_plan.who {
            RingMembers::Group(group) => is_member(group).then(|| Because::Group(group.clone())),
            RingMembers::Permille(share) => {
                let from = up_to;
                up_to += u32::from(*share);
                (place < up_to).then_some(Because::Share(from, up_to))
            }
            RingMembers::Rest => Some(Because::Rest),
        };
        Some(Stand { ring, place, because: because? })
    });
    found.or_else(|| Some(Stand { ring: plan.rings.len().checked_sub(1)?, place, because: Because::Rest }))
}

/// Index of the ring that [`stand`] finds.
#[must_use]
pub fn ring_of(
    plan: &RingPlan,
    endpoint: &EndpointId,
    is_member: impl Fn(&GroupId) -> bool,
) -> Option<usize> {
    stand(plan, endpoint, is_member).map(|stand| stand.ring)
}

/// The place of a computer in a plan, 0 to 999: another one in another plan, so that it is not always the
/// same computers that go first.
fn place(plan: &RingPlan, endpoint: &EndpointId) -> u32 {
    let hash = schedule::offset(&format!("{}\n{endpoint}", plan.id), Duration::from_millis(1 << 40));
    u32::try_from((hash.as_millis() * u128::from(THOUSAND)) >> 40).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(json: &str) -> RingPlan {
        serde_json::from_str(json).unwrap()
    }

    fn endpoint(number: u32) -> EndpointId {
        format!("endpoint-{number}").parse().unwrap()
    }

    const THREE: &str = r#"{"id":"safe","rings":[
        {"name":"test","who":{"group":"test"}},
        {"name":"pilot","who":{"permille":50}},
        {"name":"early","who":{"permille":250}},
        {"name":"broad","who":"rest"}]}"#;

    #[test]
    fn shares_of_a_plan_add_up() {
        let plan = plan(THREE);
        assert_eq!(check(&plan), Ok(()));
        let mut counts = [0; 4];
        for number in 0..20_000 {
            let in_test = number % 100 == 0;
            let ring = ring_of(&plan, &endpoint(number), |group| in_test && group.as_str() == "test");
            counts[ring.unwrap()] += 1;
        }
        // Of those who are in no group: 5 %, 25 %, the rest.
        assert_eq!(counts[0], 200);
        assert!((890..1090).contains(&counts[1]), "{counts:?}");
        assert!((4_750..5_150).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn why_a_computer_is_in_its_ring_is_true_of_it() {
        let plan = plan(THREE);
        let mut told = BTreeSet::new();
        for number in 0..1_000 {
            let in_test = number % 100 == 0;
            let found = stand(&plan, &endpoint(number), |group| in_test && group.as_str() == "test").unwrap();
            let (place, text) = (found.place, found.to_string());
            let expected = match found.ring {
                0 => "member of group `test`".to_owned(),
                1 => format!("place {place} of 1000, in the share from 0 to 49"),
                2 => format!("place {place} of 1000, in the share from 50 to 299"),
                _ => format!("in no ring before; place {place} of 1000"),
            };
            assert_eq!(text, expected);
            let of_place = [0..50, 50..300, 300..1_000].iter().position(|places| places.contains(&place));
            assert!(found.ring == 0 || Some(found.ring - 1) == of_place, "{found:?}");
            told.insert(found.ring);
        }
        assert_eq!(told, BTreeSet::from([0, 1, 2, 3]));
    }

    #[test]
    fn another_plan_begins_with_other_computers() {
        let safe = plan(THREE);
        let other = RingPlan { id: "other".parse().unwrap(), ..safe.clone() };
        let early = |plan: &RingPlan, number| ring_of(plan, &endpoint(number), |_| false).unwrap() < 3;
        let both = (0..10_000).filter(|n| early(&safe, *n) && early(&other, *n)).count();
        // 30 % of 30 %.
        assert!((800..1_000).contains(&both), "{both}");
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused_by_name() {
        let rest = r#"{"name":"rest","who":"rest"}"#;
        for (rings, message) in [
            (String::new(), "a ring plan has 1 to 32 rings, found 0"),
            (
                rest.replace("rest\",", "\","),
                "`` is no name of a ring: 1 to 40 characters that can be printed",
            ),
            (format!(r#"{{"name":"rest","who":{{"group":"g"}}}},{rest}"#), "two rings are named `rest`"),
            (
                format!(r#"{{"name":"none","who":{{"permille":0}}}},{rest}"#),
                "ring `none` must be 1 to 1000 of a thousand, found 0",
            ),
            (
                format!(
                    r#"{{"name":"a","who":{{"permille":600}}}},{{"name":"b","who":{{"permille":401}}}},{rest}"#
                ),
                "the shares up to ring `b` add up to 1001 of a thousand",
            ),
            (
                r#"{"name":"a","who":{"permille":600}}"#.to_owned(),
                "the last ring, and no other, must take the rest; ring `a` does not fit",
            ),
            (
                format!(r#"{{"name":"a","who":"rest"}},{rest}"#),
                "the last ring, and no other, must take the rest; ring `a` does not fit",
            ),
            (
                rest.replace('}', r#","failure_permille_max":1001}"#),
                "ring `rest` allows 1001 failures of a thousand",
            ),
        ] {
            let plan = plan(&format!(r#"{{"id":"x","rings":[{rings}]}}"#));
            assert_eq!(check(&plan).unwrap_err().to_string(), message, "{rings}");
        }
    }

    proptest! {
        #[test]
        fn growing_a_share_moves_nobody_back(number in 0_u32.., small in 1_u16..500, more in 0_u16..500) {
            let plan = |share: u16| plan(&format!(
                r#"{{"id":"p","rings":[{{"name":"a","who":{{"permille":{share}}}}},{{"name":"b","who":"rest"}}]}}"#
            ));
            let ring = |share| ring_of(&plan(share), &endpoint(number), |_| false).unwrap();
            prop_assert!(ring(small + more) <= ring(small));
            prop_assert_eq!(ring(1000), 0);
        }
    }
}
