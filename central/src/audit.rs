//! Who changed what: an append-only log whose records each cover the one before.
//!
//! A record is written in the same batch as the change it tells of. Retention may drop the oldest
//! records; [`Ends`] then keeps the digest of the last one dropped, so that the rest stays verifiable.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    id::TenantId,
    store::{Batch, Store, StoreError, table},
    trust::digest::{Digest, Hasher},
};

use crate::store::tables;

/// Records kept; the oldest beyond are dropped by retention. Years of work by people, at about 400 bytes each.
pub const RECORDS_MAX: u64 = 1_000_000;
/// Longest detail in bytes: a decision about thousands of updates still names most of them, and the
/// record fits into one row.
pub const DETAIL_BYTES_MAX: usize = 48 * 1024;
/// Records that retention drops in one batch.
const DROPPED_AT_ONCE: usize = 1_000;

/// What somebody did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// `operator:<name>`, `rule:<name>`, `endpoint:<id>`, `relay:<id>` or `central`.
    pub actor: String,
    /// A verb in the imperative, such as `approve`.
    pub action: &'static str,
    /// To what, such as `group:pilot`.
    pub object: String,
    /// With which values; cut at [`DETAIL_BYTES_MAX`].
    pub detail: String,
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts from 1 without gaps.
    pub sequence: u64,
    /// Digest of the record before; of nothing, 32 zero bytes.
    pub previous: Digest,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub object: String,
    /// With which values.
    pub detail: String,
}

impl Record {
    /// SHA-256 over `tierway audit v1`, sequence, previous digest, time (milliseconds) and the four texts,
    /// each text preceded by its length (u32, big-endian).
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(b"tierway audit v1\0");
        hasher.update(&self.sequence.to_be_bytes());
        hasher.update(self.previous.as_bytes());
        hasher.update(&self.at.as_millisecond().to_be_bytes());
        for text in [&self.actor, &self.action, &self.object, &self.detail] {
            hasher.update(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finish()
    }
}

/// Both ends of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Sequence and digest of the newest record; 0 and zeros for none.
    pub head: (u64, Digest),
    /// Sequence and digest of the newest record that was dropped; 0 and zeros for none.
    pub dropped: (u64, Digest),
}

impl Default for Ends {
    fn default() -> Self {
        let nothing = (0, Digest::from_bytes([0; 32]));
        Self { head: nothing, dropped: nothing }
    }
}

/// Reads where the log ends.
///
/// # Errors
///
/// Those of the store.
pub fn ends(store: &dyn Store, tenant: &TenantId) -> Result<Ends, StoreError> {
    Ok(table::get(store, &tables::AuditEnds { tenant })?.unwrap_or_default())
}

/// Adds a record to `batch` and returns the ends after it. The batch conflicts when another record was
/// appended since `ends` was read.
///
/// # Errors
///
/// When a row cannot be encoded.
pub fn append(
    batch: &mut Batch,
    tenant: &TenantId,
    ends: &Ends,
    entry: Entry,
) -> Result<(u64, Ends), StoreError> {
    let Entry { at, actor, action, object, detail } = entry;
    let sequence = ends.head.0 + 1;
    // To the millisecond, which is what the digest covers and JSON gives back.
    let at = Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at);
    let record = Record {
        sequence,
        previous: ends.head.1,
        at,
        actor,
        action: action.to_owned(),
        object,
        detail: cut(detail, DETAIL_BYTES_MAX),
    };
    let row = tables::Audit { tenant, sequence };
    batch.expect_absent(table::full_key(&row));
    table::put(batch, &row, &record)?;
    let after = Ends { head: (sequence, record.digest()), ..*ends };
    table::put(batch, &tables::AuditEnds { tenant }, &after)?;
    Ok((sequence, after))
}

/// `text`, or as much of its beginning as fits into `bytes` with a note that the rest is missing.
#[must_use]
pub fn cut(mut text: String, bytes: usize) -> String {
    const NOTE: &str = " … (cut)";
    if text.len() > bytes {
        let mut end = bytes.saturating_sub(NOTE.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(NOTE);
    }
    text
}

/// What a walk over the whole log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Records walked.
    pub records: u64,
    /// Digest of the newest.
    pub head: Digest,
    /// The first thing that is wrong, as a sentence.
    pub broken: Option<String>,
}

/// Walks the whole log from its oldest record.
///
/// # Errors
///
/// Those of the store; what is wrong with the log itself is in the answer.
pub fn verify(store: &dyn Store, tenant: &TenantId) -> Result<Verified, StoreError> {
    let ends = ends(store, tenant)?;
    let (mut sequence, mut head, mut records, mut broken) = (ends.dropped.0, ends.dropped.1, 0, None);
    table::for_each::<tables::Audit<'_>, StoreError>(store, &tenant_parts(tenant), |_, record| {
        if record.sequence > ends.head.0 && broken.is_none() {
            // Appended while walking.
            return Ok(());
        }
        records += 1;
        if broken.is_none() && record.sequence != sequence + 1 {
            broken = Some(format!("record {} is missing", sequence + 1));
        }
        if broken.is_none() && record.previous != head {
            broken = Some(format!("record {} does not follow from the one before", record.sequence));
        }
        (sequence, head) = (record.sequence, record.digest());
        Ok(())
    })?;
    if broken.is_none() && (sequence, head) != ends.head {
        broken = Some(match sequence == ends.head.0 {
            true => format!("record {sequence} is not the one that was written"),
            false => format!("records {} to {} are missing", sequence + 1, ends.head.0),
        });
    }
    Ok(Verified { records, head, broken })
}

/// Records newest first, those with a sequence below `before` (0: all), at most `limit`.
///
/// # Errors
///
/// Those of the store.
pub fn list(
    store: &dyn Store,
    tenant: &TenantId,
    before: u64,
    limit: usize,
) -> Result<Vec<Record>, StoreError> {
    let ends = ends(store, tenant)?;
    let newest = if before == 0 { ends.head.0 } else { before.saturating_sub(1).min(ends.head.0) };
    let oldest = newest.saturating_sub(limit as u64).max(ends.dropped.0);
    let after = tables::Audit { tenant, sequence: oldest };
    let rows = table::scan::<tables::Audit<'_>>(
        store,
        &tenant_parts(tenant),
        Some(&table::Table::key(&after)),
        usize::try_from(newest.saturating_sub(oldest)).unwrap_or(limit),
    )?;
    Ok(rows.into_iter().rev().map(|(_, record)| record).collect())
}

/// Drops the oldest records beyond [`RECORDS_MAX`], a batch at a time; returns the new ends when some
/// were dropped.
///
/// # Errors
///
/// Those of the store.
pub fn retain(
    store: &dyn Store,
    tenant: &TenantId,
    ends: &Ends,
    keep: u64,
) -> Result<Option<Ends>, StoreError> {
    let last = ends.head.0.saturating_sub(keep);
    if last <= ends.dropped.0 {
        return Ok(None);
    }
    let after = tables::Audit { tenant, sequence: ends.dropped.0 };
    let rows = table::scan::<tables::Audit<'_>>(
        store,
        &tenant_parts(tenant),
        Some(&table::Table::key(&after)),
        DROPPED_AT_ONCE,
    )?;
    let (mut batch, mut kept) = (Batch::new(), *ends);
    for (_, record) in rows.into_iter().take_while(|(_, record)| record.sequence <= last) {
        table::delete(&mut batch, &tables::Audit { tenant, sequence: record.sequence });
        kept.dropped = (record.sequence, record.digest());
    }
    table::put(&mut batch, &tables::AuditEnds { tenant }, &kept)?;
    store.commit(&batch)?;
    Ok(Some(kept))
}

fn tenant_parts(tenant: &TenantId) -> Vec<u8> {
    table::Key::new().text(tenant.as_str()).done()
}

#[cfg(test)]
mod tests {
    use tierway_common::store::memory::MemoryStore;

    use super::*;

    fn tenant() -> TenantId {
        "default".parse().unwrap()
    }

    fn log(records: u64) -> (MemoryStore, Ends) {
        let (store, mut ends) = (MemoryStore::new(), Ends::default());
        for n in 1..=records {
            let mut batch = Batch::new();
            let entry = Entry {
                at: Timestamp::from_second(1_790_000_000 + i64::try_from(n).unwrap()).unwrap(),
                actor: "operator:admin".to_owned(),
                action: "approve",
                object: "group:pilot".to_owned(),
                detail: format!("debian-12/a_{n}"),
            };
            let (sequence, after) = append(&mut batch, &tenant(), &ends, entry).unwrap();
            assert_eq!(sequence, n);
            store.commit(&batch).unwrap();
            ends = after;
        }
        (store, ends)
    }

    fn rewrite(store: &MemoryStore, sequence: u64, change: impl FnOnce(&mut Record)) {
        let tenant = tenant();
        let row = tables::Audit { tenant: &tenant, sequence };
        let mut record = table::get(store, &row).unwrap().unwrap();
        change(&mut record);
        let mut batch = Batch::new();
        table::put(&mut batch, &row, &record).unwrap();
        store.commit(&batch).unwrap();
    }

    #[test]
    fn an_untouched_log_verifies_to_its_head() {
        for records in [0, 1, 700] {
            let (store, ends) = log(records);
            let verified = verify(&store, &tenant()).unwrap();
            assert_eq!(verified, Verified { records, head: ends.head.1, broken: None });
        }
    }

    #[test]
    fn every_changed_field_of_any_record_breaks_the_chain() {
        let changes: [fn(&mut Record); 5] = [
            |record| record.actor = "operator:eve".to_owned(),
            |record| record.action.push('s'),
            |record| record.object.clear(),
            |record| record.detail = "debian-12/b_1".to_owned(),
            |record| record.at = Timestamp::UNIX_EPOCH,
        ];
        for (sequence, change) in (1..=9).flat_map(|sequence| changes.map(|change| (sequence, change))) {
            let (store, _) = log(9);
            rewrite(&store, sequence, change);
            let broken = verify(&store, &tenant()).unwrap().broken.unwrap();
            let named = if sequence == 9 { 9 } else { sequence + 1 };
            assert!(broken.contains(&format!("record {named} ")), "{sequence}: {broken}");
        }
    }

    #[test]
    fn a_record_taken_out_anywhere_is_missed() {
        for (sequence, expected) in
            [(1, "record 1 is missing"), (5, "record 5 is missing"), (9, "records 9 to 9 are missing")]
        {
            let (store, _) = log(9);
            let mut batch = Batch::new();
            table::delete(&mut batch, &tables::Audit { tenant: &tenant(), sequence });
            store.commit(&batch).unwrap();
            assert_eq!(verify(&store, &tenant()).unwrap().broken.as_deref(), Some(expected));
        }
    }

    #[test]
    fn two_records_after_the_same_head_cannot_both_be_written() {
        let (store, ends) = log(3);
        let entry = |detail: &str| Entry {
            at: Timestamp::UNIX_EPOCH,
            actor: "operator:admin".to_owned(),
            action: "decline",
            object: "group:pilot".to_owned(),
            detail: detail.to_owned(),
        };
        let (mut first, mut second) = (Batch::new(), Batch::new());
        append(&mut first, &tenant(), &ends, entry("a")).unwrap();
        append(&mut second, &tenant(), &ends, entry("b")).unwrap();
        store.commit(&first).unwrap();
        assert!(matches!(store.commit(&second), Err(StoreError::Conflict { .. })));
    }

    #[test]
    fn the_rest_still_verifies_after_the_oldest_were_dropped_and_a_forged_oldest_does_not() {
        let (store, ends) = log(20);
        let kept = retain(&store, &tenant(), &ends, 8).unwrap().unwrap();
        assert_eq!((kept.dropped.0, kept.head.0), (12, 20));
        assert_eq!(verify(&store, &tenant()).unwrap().records, 8);
        assert_eq!(verify(&store, &tenant()).unwrap().broken, None);
        assert_eq!(retain(&store, &tenant(), &kept, 8).unwrap(), None);
        rewrite(&store, 13, |record| record.previous = Digest::of(b"forged"));
        assert!(verify(&store, &tenant()).unwrap().broken.is_some());
    }

    #[test]
    fn the_newest_come_first_and_pages_follow_each_other() {
        let (store, _) = log(7);
        let page = |before| -> Vec<u64> {
            list(&store, &tenant(), before, 3).unwrap().iter().map(|record| record.sequence).collect()
        };
        assert_eq!((page(0), page(5), page(2), page(1)), (vec![7, 6, 5], vec![4, 3, 2], vec![1], vec![]));
    }

    #[test]
    fn a_detail_is_cut_at_a_character() {
        assert_eq!(cut("ä".repeat(20), 30), format!("{}{}", "ä".repeat(10), " … (cut)"));
        assert_eq!(cut("short".to_owned(), 5), "short");
    }
}
