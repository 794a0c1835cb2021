//! Leases: permissions to be down at once with others of a change window.
//!
//! An endpoint whose window limits how many may be down at once asks before it installs or reboots, and gives
//! the lease back when it is through. What it asks is signed with its own key, so whoever carries it can
//! neither ask in its name nor give its lease back; what central grants is signed with the key of the
//! published [`crate::schema::policy::LeaseKey`] and names the request it answers, so a grant fits that
//! request alone and is worth nothing to anybody else or a second time.
//!
//! ```text
//! ask    JSON of AskBody, then 64 bytes: Ed25519 by the endpoint over "tierway lease ask v1\0" and the JSON
//! grant  JSON of GrantBody, then 64 bytes: Ed25519 by central over "tierway lease grant v1\0" and the JSON
//! ```
//!
//! A lease ends by itself. The endpoint counts its length from the moment in which it asked, by its own clock and by
//! the time that it has been awake since, whichever is over first; central from the moment in which it granted, by its own
//! clock: so the endpoint is always through first, however their clocks differ, and also when its own is set back.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    id::{EndpointId, TenantId, WindowId},
    trust::{
        digest::Digest,
        keys::{PublicKey, SIGNATURE_BYTES, SigningKey},
    },
};

const ASK_CONTEXT: &[u8] = b"tierway lease ask v1\0";
const GRANT_CONTEXT: &[u8] = b"tierway lease grant v1\0";

/// Largest ask or grant, for who receives them: three ids of the greatest length, two numbers, a signature.
pub const LEASE_BYTES_MAX: usize = 2 * 1024;
/// Longest lease: a service pack on a slow machine, and its reboot. Who needs longer asks again in time.
pub const LEASE_LENGTH_MAX: Duration = Duration::from_secs(6 * 3600);

/// Why an ask or a grant is none, or not the one that is needed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Not the bytes of one.
    #[error("the {what} is malformed: {reason}")]
    Malformed {
        /// Ask or grant.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Altered, or made by somebody else.
    #[error("the {what} is not signed by {by}")]
    Signature {
        /// Ask or grant.
        what: &'static str,
        /// Whose signature is missing.
        by: String,
    },
    /// A grant for another endpoint, window or request.
    #[error("the grant answers another request")]
    Other,
    /// Too late to be of use.
    #[error("the lease ended at {until}")]
    Expired {
        /// When.
        until: Timestamp,
    },
    /// It could not be written.
    #[error("could not write the {what}")]
    Write {
        /// Ask or grant.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// What an endpoint wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// To be down for at most so many seconds from now on: a new lease, or more time for the one it has.
    Acquire {
        /// At least 1; more than [`LEASE_LENGTH_MAX`] counts as that.
        seconds: u32,
    },
    /// To give its lease back before it ends.
    Release,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AskBody {
    tenant: TenantId,
    endpoint: EndpointId,
    window: WindowId,
    want: Want,
    at: Timestamp,
}

/// A request about the lease of one endpoint for one window, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    body: AskBody,
    bytes: Bytes,
}

impl Ask {
    /// A new one, signed with the endpoint's key. `now` must be later than in every earlier ask of this endpoint
    /// for this window: central takes an earlier one for a repetition.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Write`].
    pub fn new(
        key: &SigningKey,
        tenant: &TenantId,
        endpoint: &EndpointId,
        window: &WindowId,
        want: Want,
        now: Timestamp,
    ) -> Result<Self, LeaseError> {
        let body = AskBody {
            tenant: tenant.clone(),
            endpoint: endpoint.clone(),
            window: window.clone(),
            want,
            at: now,
        };
        let bytes = seal("ask", ASK_CONTEXT, key, &body)?;
        Ok(Self { body, bytes })
    }

    /// Takes one apart; whom it names is claimed, not proved, before [`Ask::verify`].
    ///
    /// # Errors
    ///
    /// [`LeaseError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, LeaseError> {
        let (body, _) = open("ask", bytes)?;
        Ok(Self { body, bytes: Bytes::copy_from_slice(bytes) })
    }

    /// Succeeds when it is signed with `key`, that of the endpoint which it names.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Signature`].
    pub fn verify(&self, key: &PublicKey) -> Result<(), LeaseError> {
        check("ask", ASK_CONTEXT, &self.bytes, key, || format!("`{}`", self.body.endpoint))
    }

    /// Whose tenant's.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.body.tenant
    }

    /// Who asks.
    #[must_use]
    pub fn endpoint(&self) -> &EndpointId {
        &self.body.endpoint
    }

    /// For which window.
    #[must_use]
    pub fn window(&self) -> &WindowId {
        &self.body.window
    }

    /// What for.
    #[must_use]
    pub fn want(&self) -> Want {
        self.body.want
    }

    /// When, by the endpoint's clock.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.body.at
    }

    /// The exact bytes, signature included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Of the exact bytes: what a grant names.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct GrantBody {
    endpoint: EndpointId,
    window: WindowId,
    ask: Digest,
    seconds: u32,
    until: Timestamp,
}

/// A lease that an endpoint holds. It is the endpoint's own to keep, so that it knows of it after a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// For which window.
    pub window: WindowId,
    /// Since when, by the endpoint's clock: when it asked.
    pub from: Timestamp,
    /// It may be down before this moment, by the endpoint's clock.
    pub until: Timestamp,
}

impl Lease {
    /// When it ends by a clock that says `now` and may have been set meanwhile, on a machine that has been `awake` for so
    /// long since it asked; `None` when it has ended, or was asked for later than now.
    #[must_use]
    pub fn until(&self, now: Timestamp, awake: Duration) -> Option<Timestamp> {
        let length = self.until.duration_since(self.from);
        let left = length.checked_sub(SignedDuration::try_from(awake).ok()?)?;
        let until = self.until.min(now.checked_add(left).ok()?);
        (self.from <= now && now < until).then_some(until)
    }
}

/// Central's answer to an ask that it grants: the bytes to send. `until` is by central's clock and for people.
///
/// # Errors
///
/// [`LeaseError::Write`].
pub fn grant(key: &SigningKey, ask: &Ask, seconds: u32, until: Timestamp) -> Result<Bytes, LeaseError> {
    let body = GrantBody {
        endpoint: ask.body.endpoint.clone(),
        window: ask.body.window.clone(),
        ask: ask.digest(),
        seconds,
        until,
    };
    seal("grant", GRANT_CONTEXT, key, &body)
}

/// The lease that `bytes` grant in answer to `ask`; `key` is the published lease key, `now` by the clock that
/// gave [`Ask::at`].
///
/// # Errors
///
/// [`LeaseError`]: malformed, not signed by central, for another endpoint or another request (one that was
/// answered before included), or at its end already.
pub fn verify_grant(bytes: &[u8], ask: &Ask, key: &PublicKey, now: Timestamp) -> Result<Lease, LeaseError> {
    let (body, _): (GrantBody, _) = open("grant", bytes)?;
    check("grant", GRANT_CONTEXT, bytes, key, || "central's lease key".to_owned())?;
    let GrantBody { endpoint, window, ask: answers, seconds, until: _ } = body;
    let Want::Acquire { seconds: asked } = ask.body.want else { return Err(LeaseError::Other) };
    if endpoint != ask.body.endpoint
        || window != ask.body.window
        || answers != ask.digest()
        || seconds > asked
    {
        return Err(LeaseError::Other);
    }
    let length = SignedDuration::from_secs(seconds.into());
    let until = ask.body.at.checked_add(length).unwrap_or(Timestamp::MAX);
    if until <= now {
        return Err(LeaseError::Expired { until });
    }
    Ok(Lease { window, from: ask.body.at, until })
}

fn seal(
    what: &'static str,
    context: &[u8],
    key: &SigningKey,
    body: &impl Serialize,
) -> Result<Bytes, LeaseError> {
    let mut bytes = serde_json::to_vec(body).map_err(|source| LeaseError::Write { what, source })?;
    let signature = key.sign(&[context, &bytes].concat());
    bytes.extend_from_slice(&signature);
    Ok(bytes.into())
}

fn split<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), LeaseError> {
    let malformed = |reason: &str| LeaseError::Malformed { what, reason: reason.to_owned() };
    if bytes.len() > LEASE_BYTES_MAX {
        return Err(malformed("it is too long"));
    }
    let at = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or_else(|| malformed("it is cut off"))?;
    Ok(bytes.split_at(at))
}

fn open<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<(T, &'a [u8]), LeaseError> {
    let (json, signature) = split(what, bytes)?;
    let body = serde_json::from_slice(json)
        .map_err(|error| LeaseError::Malformed { what, reason: error.to_string() })?;
    Ok((body, signature))
}

fn check(
    what: &'static str,
    context: &[u8],
    bytes: &[u8],
    key: &PublicKey,
    by: impl FnOnce() -> String,
) -> Result<(), LeaseError> {
    let (json, signature) = split(what, bytes)?;
    key.verify(&[context, json].concat(), signature).map_err(|_| LeaseError::Signature { what, by: by() })
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use ring::rand::SystemRandom;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::generate(&SystemRandom::new()).unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-24T20:00:00Z".parse().unwrap()
    }

    fn ask(key: &SigningKey, endpoint: &str, window: &str, want: Want, at: Timestamp) -> Ask {
        let tenant = "default".parse().unwrap();
        Ask::new(key, &tenant, &endpoint.parse().unwrap(), &window.parse().unwrap(), want, at).unwrap()
    }

    const HOUR: Want = Want::Acquire { seconds: 3_600 };

    #[test]
    fn what_an_endpoint_asks_is_what_central_reads_and_only_if_it_asked_itself() {
        let (own, other) = (key(), key());
        let asked = ask(&own, "e1", "sunday", HOUR, now());
        let read = Ask::parse(asked.bytes()).unwrap();
        assert_eq!(read, asked);
        assert_eq!((read.endpoint().as_str(), read.window().as_str(), read.want()), ("e1", "sunday", HOUR));
        read.verify(&own.public()).unwrap();
        assert_eq!(read.verify(&other.public()).unwrap_err().to_string(), "the ask is not signed by `e1`");
    }

    #[test]
    fn an_altered_bit_anywhere_is_refused() {
        let (own, central) = (key(), key());
        let asked = ask(&own, "e1", "sunday", HOUR, now());
        let granted = grant(&central, &asked, 3_600, now()).unwrap();
        for bit in 0..asked.bytes().len() * 8 {
            let mut bytes = asked.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let verified = Ask::parse(&bytes).and_then(|ask| ask.verify(&own.public()));
            assert!(verified.is_err(), "bit {bit} of the ask");
        }
        for bit in 0..granted.len() * 8 {
            let mut bytes = granted.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let verified = verify_grant(&bytes, &asked, &central.public(), now());
            assert!(verified.is_err(), "bit {bit} of the grant");
        }
    }

    #[test]
    fn a_grant_is_worth_nothing_to_others_for_other_windows_or_a_second_time() {
        let (own, central) = (key(), key());
        let asked = ask(&own, "e1", "sunday", HOUR, now());
        let granted = grant(&central, &asked, 3_600, now() + 1.hours()).unwrap();
        verify_grant(&granted, &asked, &central.public(), now()).unwrap();
        for (endpoint, window, want, at) in [
            ("e2", "sunday", HOUR, now()),
            ("e1", "monday", HOUR, now()),
            ("e1", "sunday", HOUR, now() + 1.seconds()),
            ("e1", "sunday", Want::Acquire { seconds: 3_599 }, now()),
            ("e1", "sunday", Want::Release, now()),
        ] {
            let another = ask(&own, endpoint, window, want, at);
            let refused = verify_grant(&granted, &another, &central.public(), now()).unwrap_err();
            assert!(matches!(refused, LeaseError::Other), "{endpoint} {window} {want:?} {at}: {refused}");
        }
    }

    #[test]
    fn a_grant_that_central_did_not_sign_is_refused() {
        let (own, central) = (key(), key());
        let asked = ask(&own, "e1", "sunday", HOUR, now());
        // By the endpoint itself, or by a relay with a key of its own.
        for forger in [own, key()] {
            let forged = grant(&forger, &asked, 3_600, now() + 1.hours()).unwrap();
            let refused = verify_grant(&forged, &asked, &central.public(), now()).unwrap_err();
            assert!(matches!(refused, LeaseError::Signature { .. }), "{refused}");
        }
        // A signed ask is no grant, whatever it is taken for.
        assert!(verify_grant(asked.bytes(), &asked, &central.public(), now()).is_err());
    }

    #[test]
    fn a_grant_for_longer_than_was_asked_for_is_refused() {
        let (own, central) = (key(), key());
        let asked = ask(&own, "e1", "sunday", HOUR, now());
        let granted = grant(&central, &asked, 3_601, now()).unwrap();
        assert!(matches!(verify_grant(&granted, &asked, &central.public(), now()), Err(LeaseError::Other)));
    }

    #[test]
    fn a_lease_counts_from_the_moment_it_was_asked_for_by_the_endpoints_clock() {
        let (own, central) = (key(), key());
        let asked = ask(&own, "e1", "sunday", HOUR, now());
        // Central's clock is a day ahead: that does not make the lease longer.
        let granted = grant(&central, &asked, 3_600, now() + 25.hours()).unwrap();
        let lease = verify_grant(&granted, &asked, &central.public(), now() + 59.minutes()).unwrap();
        assert_eq!((lease.from, lease.until), (now(), now() + 1.hours()));
        let late = verify_grant(&granted, &asked, &central.public(), now() + 1.hours()).unwrap_err();
        assert!(matches!(late, LeaseError::Expired { until } if until == now() + 1.hours()), "{late}");
        let until = |at: i64, awake: u64| lease.until(now() + at.minutes(), Duration::from_secs(awake * 60));
        for at in 0..60 {
            assert_eq!(until(at, at.unsigned_abs()), Some(lease.until));
        }
        assert_eq!(until(60, 60), None);
        // It slept.
        assert_eq!((until(59, 1), until(60, 1)), (Some(lease.until), None));
    }

    #[test]
    fn a_lease_is_no_longer_for_a_clock_that_is_set_back() {
        let lease = Lease { window: "night".parse().unwrap(), from: now(), until: now() + 1.hours() };
        let until = |at: i64, awake: u64| lease.until(now() + at.minutes(), Duration::from_secs(awake * 60));
        // After 50 minutes it is set back by 40: ten are left, and none after them.
        assert_eq!(until(10, 50), Some(now() + 20.minutes()));
        assert_eq!(until(19, 59), Some(now() + 20.minutes()));
        assert_eq!((until(20, 60), until(20, 90)), (None, None));
        assert_eq!(until(-1, 1), None, "before it was asked for");
    }

    #[test]
    fn what_is_cut_off_too_long_or_no_json_is_refused() {
        let asked = ask(&key(), "e1", "sunday", HOUR, now());
        for length in 0..asked.bytes().len() {
            assert!(Ask::parse(&asked.bytes()[..length]).is_err(), "{length}");
        }
        let long = [&b"{"[..], &vec![b' '; LEASE_BYTES_MAX], asked.bytes()].concat();
        let refused = Ask::parse(&long).unwrap_err();
        assert_eq!(refused.to_string(), "the ask is malformed: it is too long");
    }
}
