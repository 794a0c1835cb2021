//! Leases at central: who of a window may be down now.
//!
//! Of a window that limits how many may be down at once at most so many leases are held at any time. What
//! was decided is in the store before it is answered, so a restart forgets nobody who is down; a lease that is
//! not given back ends by itself. An ask that comes again, because the answer got lost, is answered as before;
//! one that is older than the newest, or than [`ASK_AGE_MAX`], is refused, so that nobody on the way can bring
//! back what an endpoint has given up.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    id::{EndpointId, TenantId, WindowId},
    lease::{Ask, LEASE_LENGTH_MAX, LeaseError, Want, grant},
    schema::policy::{LeaseKey, ServiceLevel, Window},
    service::Settings,
    store::StoreError,
    transport::identity::{Holder, Role},
    tree::TreeError,
    trust::keys::SigningKey,
};

use crate::{
    model::{Model, Write},
    publish::Publisher,
    state::{Change, State},
    store::tables::LeaseRecord,
};

/// An ask must be made within so long of central's time, before or after: longer than any way takes, and than
/// a clock that is looked after goes wrong.
pub const ASK_AGE_MAX: SignedDuration = SignedDuration::from_mins(15);
/// Leases that are remembered: each takes about 500 bytes of memory.
pub const LEASES_MAX: usize = 200_000;
/// Least and greatest time after which somebody who has to wait shall ask again.
const RETRY_SECONDS: (i64, i64) = (30, 300);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is no ask, or not by whom it says.
    #[error(transparent)]
    Ask(#[from] LeaseError),
    /// Of another tenant.
    #[error("tenant `{0}` is not served here")]
    Tenant(TenantId),
    /// Nobody who is enrolled here, or nobody any more.
    #[error("`{0}` is not enrolled")]
    NotEnrolled(EndpointId),
    /// An endpoint asks for another.
    #[error("`{carrier}` may not ask for `{endpoint}`")]
    Carrier {
        /// Who brought it.
        carrier: String,
        /// In whose name.
        endpoint: EndpointId,
    },
    /// Too old, or from the future.
    #[error("the ask was made at {at}, which is not within 15 minutes of {now}: set the clock")]
    Clock {
        /// The endpoint's time.
        at: Timestamp,
        /// Central's.
        now: Timestamp,
    },
    /// A later one was answered already.
    #[error("a later ask of `{endpoint}` for window `{window}` was answered already")]
    Repeated {
        /// Whose.
        endpoint: EndpointId,
        /// For what.
        window: WindowId,
    },
    /// No time at all was asked for.
    #[error("a lease takes at least a second")]
    Nothing,
    /// The endpoint has nothing to do with that window.
    #[error("window `{window}` is none of `{endpoint}`")]
    NotItsWindow {
        /// Whose.
        endpoint: EndpointId,
        /// Which.
        window: WindowId,
    },
    /// More than are remembered.
    #[error("there may be at most {LEASES_MAX} leases")]
    TooMany,
    /// The published policy.
    #[error("could not read the published policy")]
    Policy(#[from] TreeError),
    /// A published document.
    #[error("the published document `{key}` is damaged")]
    Document {
        /// Which.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The store.
    #[error("could not keep the lease")]
    Store(#[from] StoreError),
}

/// What an endpoint is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The encoded grant.
    Granted(Bytes),
    /// As many are down as may be: ask again after so many seconds.
    Later(u32),
    /// Given back.
    Released,
}

/// Gives leases out.
#[derive(Debug)]
pub struct Leases {
    state: Arc<State>,
    key: SigningKey,
}

impl Leases {
    /// With the key that signs them, which is published when it is a new one.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn open(state: Arc<State>, key: SigningKey) -> Result<Self, StoreError> {
        state.change(|model, change| {
            let published = LeaseKey { key: key.public() };
            if model.lease_key() != Some(&published) {
                change.write(Write::LeaseKey(published));
            }
            Ok::<_, StoreError>(())
        })?;
        Ok(Self { state, key })
    }

    /// Answers an encoded ask that `carrier` brought, by the policy that is published.
    ///
    /// # Errors
    ///
    /// [`AskError`]; then nothing is changed.
    pub fn answer(&self, published: &Publisher, carrier: &Holder, bytes: &[u8]) -> Result<Answer, AskError> {
        let ask = self.verify(carrier, bytes)?;
        let window = self.window(published, &ask)?;
        self.decide(&ask, window.as_ref())
    }

    /// The window that is asked for, if the endpoint's service levels name it.
    fn window(&self, published: &Publisher, ask: &Ask) -> Result<Option<Window>, AskError> {
        let named: Vec<_> = {
            let model = self.state.model();
            let Some(endpoint) = model.endpoint_by_id(ask.endpoint()) else { return Ok(None) };
            let mut groups = model.groups_of(endpoint);
            groups.sort_by_key(|group| Reverse(group.priority));
            groups.iter().filter_map(|group| Some((group.id.clone(), group.level.clone()?))).collect()
        };
        let mut levels = Vec::with_capacity(named.len());
        for (group, level) in named {
            if let Some(level) = document::<ServiceLevel>(published, format!("level/{level}"))? {
                levels.push((group, level));
            }
        }
        let settings = Settings::merge(levels.iter().map(|(group, level)| (group, level)));
        if !settings.windows.contains(ask.window()) {
            return Ok(None);
        }
        document(published, format!("window/{}", ask.window()))
    }

    /// Checks everything about an ask that does not depend on other leases: it is by the endpoint that it names,
    /// brought by that endpoint or by a relay.
    ///
    /// # Errors
    ///
    /// [`AskError`].
    pub fn verify(&self, carrier: &Holder, bytes: &[u8]) -> Result<Ask, AskError> {
        let ask = Ask::parse(bytes)?;
        if ask.tenant() != self.state.tenant() {
            return Err(AskError::Tenant(ask.tenant().clone()));
        }
        let endpoint = ask.endpoint();
        if carrier.role == Role::Endpoint && carrier.id != endpoint.as_str() {
            return Err(AskError::Carrier { carrier: carrier.id.clone(), endpoint: endpoint.clone() });
        }
        let keys = match self.state.model().endpoint_by_id(endpoint) {
            Some(record) if !record.revoked => record.keys.clone(),
            _ => return Err(AskError::NotEnrolled(endpoint.clone())),
        };
        let mut refused = AskError::NotEnrolled(endpoint.clone());
        for key in keys {
            match ask.verify(&key) {
                Ok(()) => return Ok(ask),
                Err(error) => refused = error.into(),
            }
        }
        Err(refused)
    }

    /// Decides about an ask that was verified; `window` is the one it names if the endpoint uses it. What is
    /// answered is on disk.
    ///
    /// # Errors
    ///
    /// [`AskError`]; then nothing is changed.
    pub fn decide(&self, ask: &Ask, window: Option<&Window>) -> Result<Answer, AskError> {
        let (decided, _) = self.state.change(|model, change| decide(model, change, ask, window))?;
        Ok(match decided {
            Decided::Held(record) => Answer::Granted(grant(&self.key, ask, record.seconds, record.until)?),
            Decided::Later(seconds) => Answer::Later(seconds),
            Decided::Released => Answer::Released,
        })
    }

    /// Forgets leases whose asks would be refused for their age.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn retain(&self) -> Result<usize, StoreError> {
        let (gone, _) = self.state.change(|model, change| {
            let all = model.leases().values().flat_map(BTreeMap::values);
            let old = all.filter(|record| {
                let last = record.until.max(record.asked);
                change.now.duration_since(last) > ASK_AGE_MAX * 2
            });
            let gone: Vec<_> = old.map(|old| (old.window.clone(), old.endpoint.clone())).collect();
            let count = gone.len();
            for (window, endpoint) in gone {
                change.write(Write::NoLease(window, endpoint));
            }
            Ok::<_, StoreError>(count)
        })?;
        Ok(gone)
    }
}

/// Leases that are held at `now`, of one window or of all: by window, then endpoint.
pub fn held<'a>(
    model: &'a Model,
    window: Option<&'a WindowId>,
    now: Timestamp,
) -> impl Iterator<Item = &'a LeaseRecord> {
    let of = move |(id, leases)| window.is_none_or(|window| window == id).then_some(leases);
    let all = model.leases().iter().filter_map(of).flat_map(|leases: &'a BTreeMap<_, _>| leases.values());
    all.filter(move |lease| lease.is_held(now))
}

fn document<T: serde::de::DeserializeOwned>(
    published: &Publisher,
    key: String,
) -> Result<Option<T>, AskError> {
    let bytes = published.policy_document(&key)?;
    let read = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    read.map_err(|source| AskError::Document { key, source })
}

enum Decided {
    Held(LeaseRecord),
    Later(u32),
    Released,
}

fn decide(
    model: &Model,
    change: &mut Change,
    ask: &Ask,
    window: Option<&Window>,
) -> Result<Decided, AskError> {
    let now = change.now;
    let of_window = model.leases().get(ask.window());
    let known = of_window.and_then(|leases| leases.get(ask.endpoint()));
    let repeated = || AskError::Repeated { endpoint: ask.endpoint().clone(), window: ask.window().clone() };
    if ask.at().duration_since(now).abs() > ASK_AGE_MAX {
        return Err(AskError::Clock { at: ask.at(), now });
    }
    if let Some(known) = known
        && known.ask == ask.digest()
    {
        return match ask.want() {
            Want::Release => Ok(Decided::Released),
            Want::Acquire { .. } if known.is_held(now) => Ok(Decided::Held(known.clone())),
            Want::Acquire { .. } => Err(repeated()),
        };
    }
    if known.is_some_and(|known| ask.at() <= known.asked) {
        return Err(repeated());
    }
    let held = known.filter(|known| known.is_held(now));
    let record = |seconds, until, released| LeaseRecord {
        window: ask.window().clone(),
        endpoint: ask.endpoint().clone(),
        asked: ask.at(),
        ask: ask.digest(),
        seconds,
        since: held.map_or(now, |held| held.since),
        until,
        released,
    };
    let Want::Acquire { seconds } = ask.want() else {
        // Also without a lease: an earlier ask that is still on its way must not get one any more. Of a window that
        // is none of the endpoint's it would get none.
        if known.is_some() || (window.is_some() && model.leases_count() < LEASES_MAX) {
            change.write(Write::Lease(record(0, now, Some(now))));
        }
        return Ok(Decided::Released);
    };
    let Some(window) = window else {
        return Err(AskError::NotItsWindow {
            endpoint: ask.endpoint().clone(),
            window: ask.window().clone(),
        });
    };
    if seconds == 0 {
        return Err(AskError::Nothing);
    }
    let down = of_window.into_iter().flat_map(|leases| leases.values()).filter(|lease| lease.is_held(now));
    if held.is_none()
        && let Some(max) = window.at_once_max
        && down.clone().count() >= usize::try_from(max).unwrap_or(usize::MAX)
    {
        let first = down.map(|lease| lease.until.duration_since(now).as_secs()).min().unwrap_or(0);
        let wait = first.clamp(RETRY_SECONDS.0, RETRY_SECONDS.1);
        return Ok(Decided::Later(u32::try_from(wait).unwrap_or(u32::MAX)));
    }
    if known.is_none() && model.leases_count() >= LEASES_MAX {
        return Err(AskError::TooMany);
    }
    let seconds = seconds.min(seconds_of(LEASE_LENGTH_MAX));
    let until = now.checked_add(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MAX);
    // The endpoint may still go by an earlier grant that is longer.
    let until = held.map_or(until, |held| held.until.max(until));
    let record = record(seconds, until, None);
    change.write(Write::Lease(record.clone()));
    Ok(Decided::Held(record))
}

fn seconds_of(length: Duration) -> u32 {
    u32::try_from(length.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
