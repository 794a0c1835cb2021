//! Whose reports go up next when more wait than go up at once: neither a lane nor an endpoint waits for ever behind
//! one that always has more.

use std::collections::BTreeMap;

use tierway_common::store::StoreError;
use tierway_proto::upstream::ENVELOPES_MAX;

use super::{Outbox, PREFIX, Waiting, endpoint_end};

/// The lane with which a batch begins, one after the other: transitions of endpoints with five of eight, each other
/// lane with one. What it leaves the lanes fill in their order.
const FIRST: [u8; 8] = *b"ssstsusv";
const LANES: [u8; 4] = *b"stuv";

/// Kept in memory alone: after a restart it begins anew.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// How many batches there were.
    batches: usize,
    /// In each lane, the end of the endpoint that came last when there was no more room: the next begins behind it.
    behind: BTreeMap<u8, Vec<u8>>,
}

impl Turns {
    /// The lanes in the order of the next batch, and where each begins.
    fn next(&mut self) -> Vec<(u8, Option<Vec<u8>>)> {
        let first = FIRST[self.batches % FIRST.len()];
        self.batches = self.batches.wrapping_add(1);
        let others = LANES.into_iter().filter(|lane| *lane != first);
        [first].into_iter().chain(others).map(|lane| (lane, self.behind.get(&lane).cloned())).collect()
    }
}

impl Outbox {
    /// What goes up next; together at most `bytes_max` but at least one, and at most [`ENVELOPES_MAX`]. In it are states
    /// before inventories, what came from endpoints before what came from relays, and of each endpoint the
    /// reports in their order. What finds no room is in one of the next batches, however much comes meanwhile.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn next(&self, bytes_max: usize) -> Result<Vec<Waiting>, StoreError> {
        let mut batch: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        let turns = self.turns().next();
        for (lane, behind) in turns {
            let before = batch.len();
            let mut is_full = false;
            let mut add = |waiting: Waiting| {
                bytes += waiting.envelope.len();
                is_full = !batch.is_empty() && (bytes > bytes_max || batch.len() == ENVELOPES_MAX);
                if !is_full {
                    batch.push(waiting);
                }
                !is_full
            };
            let prefix = [PREFIX, &[lane]].concat();
            let mut goes_on = true;
            self.read(&prefix, behind.clone(), &mut |waiting| {
                goes_on = add(waiting);
                goes_on
            })?;
            if let Some(behind) = behind.filter(|_| goes_on) {
                self.read(&prefix, None, &mut |waiting| waiting.first_key() <= &behind[..] && add(waiting))?;
            }
            if is_full {
                if let Some(last) = batch.get(before..).and_then(<[_]>::last) {
                    self.turns().behind.insert(lane, endpoint_end(last.first_key()));
                }
                break;
            }
        }
        batch.sort_by(|one, other| one.first_key().cmp(other.first_key()));
        Ok(batch)
    }
}
