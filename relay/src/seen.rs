//! Which endpoints called lately, for `tierctl relay list`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

/// Endpoints that are remembered; a relay serves at most some thousand.
const ENDPOINTS_MAX: usize = 100_000;
/// How long ago still counts.
const LATELY: SignedDuration = SignedDuration::from_hours(24);

/// When each endpoint called last.
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashMap<String, Timestamp>>);

impl Seen {
    /// Notes a call.
    pub fn note(&self, id: &str, now: Timestamp) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = seen.get_mut(id) {
            *at = now;
        } else if seen.len() < ENDPOINTS_MAX {
            seen.insert(id.to_owned(), now);
        }
    }

    /// Whether it called lately.
    pub fn knows(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// How many called in the last 24 hours; the others are forgotten.
    pub fn lately(&self, now: Timestamp) -> usize {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, at| now.duration_since(*at) < LATELY);
        seen.len()
    }
}
