//! Files that a document names by SHA-1 alone, where the administrator allows them.
//!
//! A blob is known by its SHA-256 everywhere in Tierway. So such a file is fetched once when it is first named, checked
//! by its length and its SHA-1, and its SHA-256 is remembered: from then on it is a file like any other. Whoever can
//! make two files with one SHA-1 can choose which of them that is; that is what is allowed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Bound,
};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use serde::{Deserialize, Serialize};
use tierway_common::trust::digest::{Digest, Hasher};

use super::{packs::Packs, with_url};
use crate::sources::{
    fetch::{Answer, Body as _, Fetch, FetchError, Patience},
    windows::{
        model::{Guid, Kind},
        rules::Tally,
        update,
    },
};

/// What to do with a file that a document names by SHA-1 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sha1 {
    /// It is not fetched.
    #[default]
    Refuse,
    /// It is fetched once to learn its SHA-256.
    Accept,
}

/// Files that are learned in one sync; the others follow in the next ones.
pub(super) const LEARNED_AT_ONCE_MAX: usize = 50;

/// Bytes of them: as much as the longest of them has. The first is fetched in any case.
const LEARNED_BYTES_AT_ONCE_MAX: u64 = FILE_BYTES_MAX;

/// Files that are remembered: each costs a hundred bytes.
const LEARNED_MAX: usize = 100_000;

/// Longest such file.
const FILE_BYTES_MAX: u64 = 8 << 30;

/// SHA-1 in hex → SHA-256.
pub(super) type Learned = BTreeMap<String, Digest>;

/// A file that is not known by its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) sha1: String,
    pub(super) bytes: u64,
    pub(super) url: String,
}

/// Why a file was not learned.
#[derive(Debug, thiserror::Error)]
pub(super) enum LearnError {
    #[error("could not fetch it")]
    Fetch(#[from] FetchError),
    #[error("`{url}` is not there")]
    Absent { url: String },
    #[error("`{url}` has {found} bytes, not {expected}")]
    Length { url: String, expected: u64, found: u64 },
    #[error("`{url}` has another SHA-1")]
    Other { url: String },
}

/// Files of updates that are neither withdrawn nor replaced, without a SHA-256, and not learned, by their SHA-1.
pub(super) fn unknown(
    packs: &Packs,
    server: &str,
    learned: &Learned,
) -> io::Result<BTreeMap<String, Unknown>> {
    let mut files: BTreeMap<Guid, Vec<Unknown>> = BTreeMap::new();
    let mut replaced: BTreeSet<Guid> = BTreeSet::new();
    packs.current(&mut |document| {
        // Those that cannot be read are told of when the catalogue is made.
        let Ok(mut revision) = update::read([document.xml.as_bytes()], &mut Tally::default()) else {
            return Ok(());
        };
        if revision.expired || revision.kind != Kind::Software {
            return Ok(());
        }
        with_url(&mut revision, &document.urls, server);
        replaced.extend(revision.supersedes);
        let found = revision.install.into_iter().flat_map(|install| install.files).filter_map(|file| {
            let sha1 = file.sha1.filter(|sha1| file.sha256.is_none() && !learned.contains_key(sha1))?;
            (file.bytes <= FILE_BYTES_MAX).then_some(Unknown { sha1, bytes: file.bytes, url: file.url? })
        });
        files.entry(revision.identity.id).or_default().extend(found);
        Ok(())
    })?;
    let current = files.into_iter().filter(|(id, _)| !replaced.contains(id)).flat_map(|(_, files)| files);
    Ok(current.map(|file| (file.sha1.clone(), file)).collect())
}

/// Which of them to fetch now: those that come `after` the last one of before, and then from the beginning, so that
/// some that cannot be had keep nothing else from being learned. `count` are remembered.
pub(super) fn next(unknown: &BTreeMap<String, Unknown>, after: &str, count: usize) -> Vec<Unknown> {
    let later = unknown.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
    let all = later
        .chain(unknown.range::<str, _>((Bound::Unbounded, Bound::Included(after))))
        .map(|(_, file)| file);
    let room = LEARNED_MAX.saturating_sub(count).min(LEARNED_AT_ONCE_MAX);
    let mut bytes = 0_u64;
    let fits = |file: &&Unknown| {
        let is_first = bytes == 0;
        bytes = bytes.saturating_add(file.bytes);
        is_first || bytes <= LEARNED_BYTES_AT_ONCE_MAX
    };
    all.take(room).take_while(fits).cloned().collect()
}

/// Fetches a file to its end; gives its SHA-256 when length and SHA-1 are right.
pub(super) async fn learn<F: Fetch>(fetch: &F, file: &Unknown) -> Result<Digest, LearnError> {
    let Unknown { sha1, bytes, url } = file;
    let mut patience = Patience::default();
    let answer = patience.wait(url, fetch.get(url, None, 0)).await?;
    let Answer::Found { offset: 0, mut body, .. } = answer else {
        return Err(LearnError::Absent { url: url.clone() });
    };
    let length = |found| LearnError::Length { url: url.clone(), expected: *bytes, found };
    let (mut old, mut new, mut count) = (Context::new(&SHA1_FOR_LEGACY_USE_ONLY), Hasher::new(), 0_u64);
    while let Some(chunk) = patience.wait(url, body.chunk()).await? {
        patience.came(chunk.len());
        count += chunk.len() as u64;
        if count > *bytes {
            return Err(length(count));
        }
        old.update(&chunk);
        new.update(&chunk);
    }
    if count < *bytes {
        return Err(length(count));
    }
    if hex::encode(old.finish()) != *sha1 {
        return Err(LearnError::Other { url: url.clone() });
    }
    Ok(new.finish())
}
