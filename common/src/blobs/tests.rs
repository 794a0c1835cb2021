use std::{thread, time::Instant};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const ROOMY: BlobOptions = BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 };

fn open(dir: &TempDir, quota_bytes: u64) -> Blobs {
    Blobs::open(dir.path(), BlobOptions { quota_bytes, free_floor_bytes: 0 }).unwrap()
}

/// Content of a length that no other call gives.
fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(bytes)
    .collect()
}

/// The blobs among these that are here, in their order.
fn present(blobs: &Blobs, digests: &[Digest]) -> Vec<usize> {
    (0..digests.len()).filter(|&n| blobs.contains(&digests[n])).collect()
}

#[test]
fn what_was_put_comes_back_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let small = content(1, 3000);
    let many: Vec<Bytes> = (0..40).map(|n| content(n + 2, 100).into()).collect();
    let (digest, digests) = {
        let blobs = open(&dir, 1 << 20);
        (blobs.put(&small).unwrap(), blobs.put_many(&many).unwrap())
    };
    let blobs = open(&dir, 1 << 20);
    assert_eq!((digest, blobs.get(&digest, 3000).unwrap()), (Digest::of(&small), small.into()));
    for (digest, bytes) in digests.iter().zip(&many) {
        assert_eq!(blobs.get(digest, 100).unwrap(), bytes);
    }
    assert_eq!((blobs.usage().count, blobs.usage().bytes, blobs.usage().partial_bytes), (41, 7000, 0));
    assert!(matches!(blobs.get(&digest, 2999), Err(BlobError::TooLarge { bytes_max: 2999, .. })));
    blobs.remove(&digest).unwrap();
    assert!(matches!(blobs.get(&digest, 3000), Err(BlobError::Absent { .. })));
    assert!(matches!(blobs.reader(&digest), Err(BlobError::Absent { .. })));
    assert_eq!(blobs.usage().bytes, 4000);
}

#[test]
fn only_what_is_here_and_has_its_digest_is_at_hand() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 1 << 20);
    let small = content(1, 3000);
    let digest = blobs.put(&small).unwrap();
    assert_eq!(blobs.at_hand(&digest), None, "nobody has read it");
    blobs.hold(&digest, &content(2, 3000));
    assert_eq!(blobs.at_hand(&digest), None, "those are other bytes");
    blobs.hold(&digest, &small);
    assert_eq!(blobs.at_hand(&digest).unwrap(), small);
    let elsewhere = content(3, 100);
    blobs.hold(&Digest::of(&elsewhere), &elsewhere);
    assert_eq!(blobs.at_hand(&Digest::of(&elsewhere)), None, "it is not kept here");
    blobs.remove(&digest).unwrap();
    assert_eq!(blobs.at_hand(&digest), None);
    let large = content(4, 300_000);
    let digest = blobs.put(&large).unwrap();
    blobs.hold(&digest, &large);
    assert_eq!(blobs.at_hand(&digest), None);
}

#[test]
fn a_second_open_says_that_the_directory_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 100);
    assert!(matches!(Blobs::open(dir.path(), ROOMY), Err(BlobError::Busy { .. })));
    drop(blobs);
    assert!(Blobs::open(dir.path(), ROOMY).is_ok());
}

#[test]
fn an_interrupted_write_goes_on_where_it_ended_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let whole = content(1, 100_000);
    let digest = Digest::of(&whole);
    {
        let blobs = open(&dir, 1 << 20);
        let mut writer = blobs.writer(&digest, Some(100_000)).unwrap();
        writer.write(&whole[..30_000]).unwrap();
        assert!(matches!(blobs.writer(&digest, None), Err(BlobError::Writing { .. })));
        assert_eq!(blobs.usage().partial_bytes, 100_000, "the whole of it is set aside");
        drop(writer);
        assert_eq!(blobs.usage().partial_bytes, 30_000);
        let mut writer = blobs.writer(&digest, None).unwrap();
        assert_eq!(writer.offset(), 30_000);
        writer.write(&whole[30_000..60_000]).unwrap();
        assert!(!blobs.contains(&digest));
    }
    let blobs = open(&dir, 1 << 20);
    assert_eq!(blobs.usage().partial_bytes, 60_000);
    let mut writer = blobs.writer(&digest, Some(100_000)).unwrap();
    assert_eq!(writer.offset(), 60_000);
    assert!(matches!(writer.write(&whole[..40_001]), Err(BlobError::TooLarge { bytes_max: 100_000, .. })));
    writer.write(&whole[60_000..]).unwrap();
    writer.finish().unwrap();
    assert_eq!(blobs.get(&digest, 100_000).unwrap(), whole);
    assert_eq!((blobs.usage().partial_bytes, blobs.usage().bytes), (0, 100_000));
}

#[test]
fn a_partial_that_a_crash_spoiled_ends_in_a_mismatch_and_the_next_attempt_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let whole = content(1, 10_000);
    let digest = Digest::of(&whole);
    {
        let blobs = open(&dir, 1 << 20);
        blobs.writer(&digest, Some(10_000)).unwrap().write(&whole[..6000]).unwrap();
    }
    // A power cut may leave the length and not the bytes.
    let mut spoiled = whole[..4000].to_vec();
    spoiled.resize(6000, 0);
    let partial = disk::partial_path(dir.path(), &digest);
    fs::write(&partial, &spoiled).unwrap();
    let blobs = open(&dir, 1 << 20);
    let mut writer = blobs.writer(&digest, Some(10_000)).unwrap();
    writer.write(&whole[6000..]).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, BlobError::Mismatch { digest: named, .. } if named == digest), "{error:?}");
    assert!(!partial.exists() && !blobs.contains(&digest));
    let mut writer = blobs.writer(&digest, Some(10_000)).unwrap();
    assert_eq!(writer.offset(), 0);
    writer.write(&whole).unwrap();
    writer.finish().unwrap();
    assert!(blobs.contains(&digest));
}

#[test]
fn a_partial_longer_than_the_blob_is_started_over() {
    let dir = tempfile::tempdir().unwrap();
    let whole = content(1, 1000);
    let digest = Digest::of(&whole);
    let blobs = open(&dir, 1 << 20);
    blobs.writer(&digest, None).unwrap().write(&content(2, 2000)).unwrap();
    let mut writer = blobs.writer(&digest, Some(1000)).unwrap();
    assert_eq!(writer.offset(), 0);
    writer.write(&whole).unwrap();
    writer.finish().unwrap();
    assert_eq!(blobs.get(&digest, 1000).unwrap(), whole);
}

#[test]
fn leftovers_of_small_writes_are_removed_at_the_next_open_and_strangers_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir, 100));
    let leftover = dir.path().join("partial/put-7");
    let stranger = dir.path().join("ab/readme");
    fs::write(&leftover, b"half").unwrap();
    fs::write(&stranger, b"hello").unwrap();
    let blobs = open(&dir, 100);
    assert!(!leftover.exists() && stranger.exists());
    assert_eq!(blobs.usage(), Usage { quota: 100, ..Usage::default() });
}

#[test]
fn at_most_so_many_partials_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 1 << 30);
    let digests: Vec<_> = (0..=PARTIALS_MAX as u64).map(|n| Digest::of(&n.to_be_bytes())).collect();
    for digest in &digests {
        blobs.writer(digest, None).unwrap().write(b"x").unwrap();
    }
    assert_eq!(blobs.usage().partial_bytes, PARTIALS_MAX as u64);
    assert!(!disk::partial_path(dir.path(), &digests[0]).exists(), "the oldest went");
    blobs.writer(&digests[5], None).unwrap();
    assert_eq!(blobs.writer(&digests[1], None).unwrap().offset(), 1);
    blobs.writer(&digests[5], None).unwrap().discard();
    assert_eq!(blobs.usage().partial_bytes, PARTIALS_MAX as u64 - 1);
}

#[test]
fn a_blob_that_could_not_be_begun_is_not_taken_for_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 1 << 30);
    let digests: Vec<_> = (0..=PARTIALS_MAX as u64).map(|n| Digest::of(&n.to_be_bytes())).collect();
    for digest in &digests[1..] {
        blobs.writer(digest, None).unwrap().write(b"x").unwrap();
    }
    // The oldest cannot be removed.
    let oldest = disk::partial_path(dir.path(), &digests[1]);
    fs::remove_file(&oldest).unwrap();
    fs::create_dir(&oldest).unwrap();
    assert!(matches!(blobs.writer(&digests[0], None), Err(BlobError::Io { .. })));
    fs::remove_dir(&oldest).unwrap();
    assert_eq!(blobs.writer(&digests[0], None).unwrap().offset(), 0);
}

/// Spoils one byte of a blob's file, with another modification time.
fn spoil(dir: &TempDir, digest: &Digest) -> PathBuf {
    let path = disk::blob_path(dir.path(), digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let past = std::time::SystemTime::UNIX_EPOCH;
    File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
    path
}

type Read = fn(&Blobs, &Digest) -> Option<BlobError>;

/// Ways to read a blob, each with what it fails with.
const READS: [Read; 3] = [
    |blobs, digest| blobs.get(digest, 1000).err(),
    |blobs, digest| blobs.reader(digest).err(),
    |blobs, digest| blobs.path(digest).is_none().then_some(BlobError::Absent { digest: *digest }),
];

#[test]
fn a_corrupt_blob_is_never_given_out_and_is_set_aside() {
    for read in READS {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir, 1 << 20);
        let digest = blobs.put(&content(1, 500)).unwrap();
        assert!(read(&blobs, &digest).is_none());
        blobs.set_cache_bytes(0);
        let path = spoil(&dir, &digest);
        let error = read(&blobs, &digest);
        assert!(matches!(error, Some(BlobError::Absent { digest: named }) if named == digest), "{error:?}");
        assert!(!path.exists() && !blobs.contains(&digest));
        assert!(dir.path().join("corrupt").join(digest.to_string()).exists());
        assert_eq!((blobs.usage().corrupt, blobs.usage().bytes), (1, 0));
        blobs.put(&content(1, 500)).unwrap();
        assert!(read(&blobs, &digest).is_none(), "it can be fetched again");
    }
}

/// Puts a folder in the place of a blob's file: on Linux it opens, and cannot be read.
#[cfg(target_os = "linux")]
fn make_unreadable(dir: &TempDir, digest: &Digest) -> PathBuf {
    let path = disk::blob_path(dir.path(), digest);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), b"x").unwrap();
    path
}

#[cfg(target_os = "linux")]
#[test]
fn a_blob_that_cannot_be_read_is_absent_and_can_be_fetched_again() {
    for read in READS {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir, 1 << 20);
        blobs.set_cache_bytes(0);
        let digest = blobs.put(&content(1, 500)).unwrap();
        let aside = dir.path().join("corrupt").join(digest.to_string());
        // The second time something lies where it is set aside.
        for times in 1..=2 {
            let path = make_unreadable(&dir, &digest);
            let error = read(&blobs, &digest);
            assert!(
                matches!(error, Some(BlobError::Absent { digest: named }) if named == digest),
                "{error:?}"
            );
            assert!(!path.exists() && !blobs.contains(&digest) && aside.is_dir());
            assert_eq!((blobs.usage().corrupt, blobs.usage().bytes), (times, 0));
            blobs.put(&content(1, 500)).unwrap();
            assert!(read(&blobs, &digest).is_none(), "it can be fetched again");
        }
    }
}

#[test]
fn the_file_of_a_blob_that_cannot_be_read_stays_where_it_is_until_it_comes_anew() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 1 << 20);
    let digest = blobs.put(&content(1, 500)).unwrap();
    let (reader, old) = (blobs.reader(&digest).unwrap(), blobs.reader(&digest).unwrap());
    let path = disk::blob_path(dir.path(), &digest);
    File::options().write(true).open(&path).unwrap().set_len(400).unwrap();
    let error = reader.read_at(300, &mut [0; 200]).unwrap_err();
    assert!(matches!(error, BlobError::Io { .. }), "{error:?}");
    assert!(path.exists() && !blobs.contains(&digest));
    blobs.put(&content(1, 500)).unwrap();
    // Who still reads the old one finds no damage in the new one.
    old.read_at(300, &mut [0; 200]).unwrap_err();
    assert_eq!(blobs.get(&digest, 1000).unwrap(), content(1, 500));
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_read_is_tried_again_where_it_could_come_from_nowhere() {
    for read in READS {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir, 1 << 20);
        blobs.set_cache_bytes(0);
        blobs.be_the_source();
        let digest = blobs.put(&content(1, 500)).unwrap();
        let path = make_unreadable(&dir, &digest);
        assert!(read(&blobs, &digest).is_some());
        assert!(blobs.contains(&digest) && path.is_dir() && blobs.usage().corrupt == 0);
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, content(1, 500)).unwrap();
        assert!(read(&blobs, &digest).is_none(), "the disk came to itself");
    }
}

#[test]
fn only_the_last_few_that_were_set_aside_are_kept() {
    let ways = [
        spoil as fn(&TempDir, &Digest) -> PathBuf,
        #[cfg(target_os = "linux")]
        make_unreadable,
    ];
    for harm in ways {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir, 1 << 20);
        for n in 0..CORRUPT_FILES_MAX as u64 + 5 {
            let digest = blobs.put(&content(n, 50)).unwrap();
            harm(&dir, &digest);
            assert!(blobs.get(&digest, 1000).is_err());
        }
        assert_eq!(fs::read_dir(dir.path().join("corrupt")).unwrap().count(), CORRUPT_FILES_MAX);
    }
}

#[test]
fn a_file_that_vanished_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 1 << 20);
    let digest = blobs.put(b"x").unwrap();
    fs::remove_file(disk::blob_path(dir.path(), &digest)).unwrap();
    assert!(matches!(blobs.get(&digest, 10), Err(BlobError::Absent { .. })));
    assert_eq!(blobs.usage().count, 0);
}

#[test]
fn what_was_used_longest_ago_is_evicted_first_and_what_is_pinned_or_read_never() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 6400);
    let digests: Vec<_> = (0..6).map(|n| blobs.put(&content(n, 1000)).unwrap()).collect();
    blobs.pin("tree/a", &BTreeSet::from([digests[0]])).unwrap();
    let reader = blobs.reader(&digests[1]).unwrap();
    blobs.get(&digests[2], 1000).unwrap();
    // Used longest ago: 3, 4, 5, 2 (0 is pinned, 1 is read).
    blobs.put(&content(6, 1000)).unwrap();
    assert_eq!(present(&blobs, &digests), [0, 1, 2, 4, 5]);
    blobs.writer(&Digest::of(&content(7, 2000)), Some(2000)).unwrap();
    assert_eq!(present(&blobs, &digests), [0, 1, 2]);
    drop(reader);
    blobs.writer(&Digest::of(&content(7, 5400)), Some(5400)).unwrap();
    assert_eq!(present(&blobs, &digests), [0]);
    let error = blobs.writer(&Digest::of(&content(7, 5401)), Some(5401)).unwrap_err();
    assert!(matches!(error, BlobError::QuotaExceeded { needed: 5401, quota: 6400, .. }), "{error:?}");
    blobs.pin("tree/a", &BTreeSet::new()).unwrap();
    assert!(blobs.writer(&Digest::of(&content(7, 6400)), Some(6400)).is_ok());
    assert_eq!(present(&blobs, &digests), [0usize; 0]);
}

#[test]
fn of_many_blobs_those_that_are_here_do_not_make_room_for_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 3100);
    let many: Vec<Bytes> = (0..3).map(|n| content(n, 1000).into()).collect();
    blobs.put(&many[0]).unwrap();
    let others: Vec<_> = (10..12).map(|n| blobs.put(&content(n, 1000)).unwrap()).collect();
    let digests = blobs.put_many(&many).unwrap();
    assert_eq!((present(&blobs, &digests), present(&blobs, &others)), (vec![0, 1, 2], vec![]));
}

#[test]
fn what_can_never_fit_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 3000);
    let digests: Vec<_> = (0..3).map(|n| blobs.put(&content(n, 1000)).unwrap()).collect();
    let error = blobs.put(&content(9, 3001)).unwrap_err();
    assert!(matches!(error, BlobError::QuotaExceeded { .. }), "{error:?}");
    assert_eq!(present(&blobs, &digests), [0, 1, 2]);
    assert_eq!(blobs.usage().partial_bytes, 0);
}

#[test]
fn a_blob_of_unknown_length_stays_within_the_quota_too() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 3 << 20);
    let mut writer = blobs.writer(&Digest::of(b"?"), None).unwrap();
    let piece = vec![0; 1 << 20];
    for _ in 0..3 {
        writer.write(&piece).unwrap();
    }
    assert!(matches!(writer.write(b"x"), Err(BlobError::QuotaExceeded { .. })));
}

#[test]
fn idle_partials_give_way_when_the_blobs_are_not_enough() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 1000);
    let idle = Digest::of(b"idle");
    blobs.writer(&idle, None).unwrap().write(&[0; 600]).unwrap_err();
    blobs.writer(&idle, Some(700)).unwrap().write(&[0; 600]).unwrap();
    assert_eq!(blobs.usage().partial_bytes, 600);
    blobs.put(&content(1, 900)).unwrap();
    assert_eq!((blobs.usage().partial_bytes, blobs.usage().bytes), (0, 900));
    assert!(!disk::partial_path(dir.path(), &idle).exists());
}

#[test]
fn the_floor_of_free_space_is_kept_and_the_error_names_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let options = BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 1 << 60 };
    let blobs = Blobs::open(dir.path(), options).unwrap();
    assert!(matches!(blobs.put(b"x"), Err(BlobError::DiskFull { path }) if path == dir.path()));
    let digest = Digest::of(b"x");
    let error = blobs.writer(&digest, Some(1)).unwrap_err();
    let partial = disk::partial_path(dir.path(), &digest);
    assert!(matches!(error, BlobError::DiskFull { path } if path == partial));
    assert!(!partial.exists(), "nothing is left of it");
}

#[test]
fn pins_and_the_order_of_use_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_second(2_000_000_000).unwrap());
    let options = BlobOptions { quota_bytes: 4100, free_floor_bytes: 0 };
    let reopen = || Blobs::open_with_clock(dir.path(), options, clock.clone()).unwrap();
    let digests: Vec<_> = {
        let blobs = reopen();
        let digests: Vec<_> = (0..4).map(|n| blobs.put(&content(n, 1000)).unwrap()).collect();
        for used in [3, 2, 0, 1] {
            clock.advance(SignedDuration::from_hours(2));
            blobs.get(&digests[used], 1000).unwrap();
        }
        blobs.pin("a", &BTreeSet::from([digests[3], Digest::of(b"absent")])).unwrap();
        blobs.pin("b", &BTreeSet::from([digests[3], digests[0]])).unwrap();
        digests
    };
    let blobs = reopen();
    assert_eq!(*blobs.pins("a"), BTreeSet::from([digests[3], Digest::of(b"absent")]));
    blobs.pin("b", &BTreeSet::new()).unwrap();
    assert!(blobs.pins("b").is_empty());
    let mut gone = Vec::new();
    for n in 10..13 {
        blobs.put(&content(n, 1000)).unwrap();
        gone.push((0..4).find(|&n| !blobs.contains(&digests[n]) && !gone.contains(&n)).unwrap());
    }
    assert_eq!(gone, [2, 0, 1], "3 is pinned by the one owner that is left");
    drop(blobs);
    let blobs = reopen();
    assert!(blobs.pins("b").is_empty() && blobs.pins("a").len() == 2);
}

#[test]
fn an_owner_that_cannot_be_a_file_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 100);
    for owner in ["", &"x".repeat(300)] {
        assert!(matches!(blobs.pin(owner, &BTreeSet::new()), Err(BlobError::Pins { .. })));
    }
}

#[test]
fn a_reader_gives_the_bytes_that_are_there_and_an_error_where_there_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let whole = content(1, 700_000);
    let blobs = open(&dir, 1 << 20);
    let digest = blobs.put(&whole).unwrap();
    let reader = blobs.reader(&digest).unwrap();
    assert_eq!(reader.len(), 700_000);
    let mut out = vec![0; 300_000];
    reader.read_at(400_000, &mut out).unwrap();
    assert_eq!(out, whole[400_000..]);
    // What was just written is in memory, where the system can tell.
    let mut hot = vec![0; 300_000];
    if reader.read_hot(400_000, &mut hot) {
        assert_eq!(hot, out);
    }
    assert!(!reader.read_hot(400_001, &mut hot), "a byte more than there is");
    assert!(matches!(reader.read_at(400_001, &mut out), Err(BlobError::Io { .. })));
    assert!(blobs.contains(&digest), "nothing is wrong with it");
    // A file cut short under a reader is an error and not wrong bytes.
    File::options().write(true).open(disk::blob_path(dir.path(), &digest)).unwrap().set_len(10).unwrap();
    assert!(!reader.read_hot(100, &mut hot[..1000]));
    assert!(matches!(reader.read_at(100, &mut out[..1000]), Err(BlobError::Io { .. })));
    assert!(!blobs.contains(&digest), "whoever comes next fetches it again");
}

#[test]
fn hot_blobs_take_no_more_memory_than_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 1 << 20);
    blobs.set_cache_bytes(2500);
    let digests: Vec<_> = (0..4).map(|n| blobs.put(&content(n, 1000)).unwrap()).collect();
    for digest in &digests {
        blobs.get(digest, 1000).unwrap();
    }
    let hot: Vec<_> = digests.iter().map(|digest| blobs.0.cache().get(digest).is_some()).collect();
    assert_eq!(hot, [false, false, true, true]);
}

#[test]
fn many_threads_that_put_read_and_evict_at_once_never_see_wrong_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 40_000);
    thread::scope(|scope| {
        for thread in 0..6u64 {
            let blobs = blobs.clone();
            scope.spawn(move || {
                for round in 0..60u64 {
                    let seed = (thread + round * 7) % 20;
                    let bytes = content(seed, 4000);
                    let digest = Digest::of(&bytes);
                    match (thread + round) % 3 {
                        0 => drop(blobs.put(&bytes).unwrap()),
                        1 => match blobs.writer(&digest, Some(4000)) {
                            Ok(mut writer) => {
                                let from = usize::try_from(writer.offset()).unwrap();
                                writer.write(&bytes[from..]).unwrap();
                                writer.finish().unwrap();
                            }
                            Err(BlobError::Writing { .. }) => {}
                            Err(error) => panic!("{error:?}"),
                        },
                        _ => {
                            blobs.put_many(&[bytes.clone().into()]).unwrap();
                        }
                    }
                    let mut found = vec![0; 4000];
                    match blobs.reader(&digest).and_then(|reader| reader.read_at(0, &mut found)) {
                        Ok(()) => assert_eq!(found, bytes),
                        Err(BlobError::Absent { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                    match blobs.get(&digest, 4000) {
                        Ok(found) => assert_eq!(found, bytes),
                        Err(BlobError::Absent { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
    });
    let usage = blobs.usage();
    assert!(usage.bytes <= 40_000 && usage.partial_bytes == 0 && usage.corrupt == 0, "{usage:?}");
    drop(blobs);
    let again = open(&dir, 40_000).usage();
    assert_eq!((again.bytes, again.count), (usage.bytes, usage.count), "the books are those of the disk");
}

#[test]
fn five_thousand_tree_nodes_are_put_with_few_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir, 1 << 30);
    let nodes: Vec<Bytes> = (0..5000).map(|n| content(n, 1500).into()).collect();
    let start = Instant::now();
    blobs.put_many(&nodes).unwrap();
    let together = start.elapsed();
    let start = Instant::now();
    for n in 0..100 {
        blobs.put(&content(10_000 + n, 1500)).unwrap();
    }
    let one_by_one = start.elapsed() * 50;
    println!("5,000 nodes: {together:?} together, {one_by_one:?} one by one (from 100)");
    assert_eq!(blobs.usage().count, 5100);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_piece_read_is_the_piece_of_the_blob(
        bytes in prop_oneof![0..2000usize, 250_000..270_000usize, 1_200_000..1_400_000usize],
        pieces in proptest::collection::vec((0..1_500_000u64, 0..1_300_000usize), 1..6)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let whole = content(7, bytes);
        let blobs = open(&dir, 1 << 30);
        let digest = blobs.put(&whole).unwrap();
        let reader = blobs.reader(&digest).unwrap();
        for (offset, len) in pieces {
            let start = usize::try_from(offset).unwrap().min(bytes);
            let mut out = vec![0; len.min(bytes - start)];
            reader.read_at(start as u64, &mut out).unwrap();
            prop_assert_eq!(&out, &whole[start..start + out.len()]);
            if reader.read_hot(start as u64, &mut out) {
                prop_assert_eq!(&out, &whole[start..start + out.len()]);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64),
    PutMany(Vec<u64>),
    /// Of a blob, up to so many 256ths of it.
    Write(u64, u8),
    Get(u64),
    Pin(u8, Vec<u64>),
    Remove(u64),
    Spoil(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let seed = || 0..12u64;
    prop_oneof![
        4 => seed().prop_map(Step::Put),
        2 => proptest::collection::vec(seed(), 0..20).prop_map(Step::PutMany),
        4 => (seed(), any::<u8>()).prop_map(|(seed, part)| Step::Write(seed, part)),
        4 => seed().prop_map(Step::Get),
        2 => (0..2u8, proptest::collection::vec(seed(), 0..4)).prop_map(|(owner, seeds)| Step::Pin(owner, seeds)),
        1 => seed().prop_map(Step::Remove),
        1 => seed().prop_map(Step::Spoil),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_quota_the_pins_and_the_bytes_hold(steps in proptest::collection::vec(step(), 1..60)) {
        const QUOTA: u64 = 20_000;
        let of = |seed: u64| content(seed, 500 + usize::try_from(seed).unwrap() * 300);
        let digest_of = |seed: u64| Digest::of(&of(seed));
        let dir = tempfile::tempdir().unwrap();
        let mut blobs = open(&dir, QUOTA);
        blobs.set_cache_bytes(5000);
        let mut pins: [BTreeSet<Digest>; 2] = Default::default();
        // Pinned blobs that were here and that nothing but an eviction could have taken.
        let mut safe: BTreeSet<Digest> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Put(seed) => match blobs.put(&of(seed)) {
                    Ok(digest) => prop_assert_eq!(digest, digest_of(seed)),
                    Err(error) => prop_assert!(matches!(error, BlobError::QuotaExceeded { .. }), "{error:?}"),
                },
                Step::PutMany(seeds) => {
                    let many: Vec<Bytes> = seeds.iter().map(|&seed| of(seed).into()).collect();
                    match blobs.put_many(&many) {
                        Ok(digests) => prop_assert!(digests.iter().all(|digest| blobs.contains(digest))),
                        Err(error) => prop_assert!(matches!(error, BlobError::QuotaExceeded { .. }), "{error:?}"),
                    }
                }
                Step::Write(seed, part) => {
                    let bytes = of(seed);
                    match blobs.writer(&digest_of(seed), Some(bytes.len() as u64)) {
                        Ok(mut writer) => {
                            let from = usize::try_from(writer.offset()).unwrap();
                            let to = from.max(bytes.len() * (usize::from(part) + 1) / 256);
                            writer.write(&bytes[from..to]).unwrap();
                            if to == bytes.len() {
                                writer.finish().unwrap();
                                prop_assert!(blobs.contains(&digest_of(seed)));
                            }
                        }
                        Err(error) => prop_assert!(matches!(error, BlobError::QuotaExceeded { .. }), "{error:?}"),
                    }
                }
                Step::Get(seed) => match blobs.get(&digest_of(seed), 1 << 20) {
                    Ok(bytes) => prop_assert_eq!(bytes, of(seed)),
                    Err(error) => prop_assert!(matches!(error, BlobError::Absent { .. }), "{error:?}"),
                },
                Step::Pin(owner, seeds) => {
                    let digests: BTreeSet<_> = seeds.into_iter().map(digest_of).collect();
                    blobs.pin(&format!("owner/{owner}"), &digests).unwrap();
                    pins[usize::from(owner)] = digests;
                }
                Step::Remove(seed) => {
                    blobs.remove(&digest_of(seed)).unwrap();
                    safe.remove(&digest_of(seed));
                    prop_assert!(!blobs.contains(&digest_of(seed)));
                }
                Step::Spoil(seed) => {
                    let digest = digest_of(seed);
                    if blobs.contains(&digest) {
                        spoil(&dir, &digest);
                        prop_assert!(blobs.reader(&digest).is_err_and(|error| matches!(error, BlobError::Absent { .. })), "spoiled");
                        safe.remove(&digest);
                    }
                }
                Step::Reopen => {
                    drop(blobs);
                    blobs = open(&dir, QUOTA);
                    for (owner, pins) in pins.iter().enumerate() {
                        prop_assert_eq!(&*blobs.pins(&format!("owner/{owner}")), pins);
                    }
                }
            }
            let pinned: BTreeSet<_> = pins.iter().flatten().copied().collect();
            prop_assert!(safe.intersection(&pinned).all(|digest| blobs.contains(digest)), "a pinned blob is gone");
            safe = pinned.into_iter().filter(|digest| blobs.contains(digest)).collect();
            let usage = blobs.usage();
            prop_assert!(usage.bytes + usage.partial_bytes <= QUOTA, "{usage:?}");
            let here: Vec<_> = (0..12).filter(|&seed| blobs.contains(&digest_of(seed))).collect();
            prop_assert_eq!(usage.count, here.len() as u64);
            prop_assert_eq!(usage.bytes, here.iter().map(|&seed| of(seed).len() as u64).sum::<u64>());
        }
        drop(blobs);
        let on_disk = open(&dir, QUOTA);
        let first = on_disk.usage();
        for seed in 0..12 {
            if let Ok(bytes) = on_disk.get(&digest_of(seed), 1 << 20) {
                prop_assert_eq!(bytes, of(seed));
            }
        }
        prop_assert_eq!(on_disk.usage(), first, "everything that is left is whole");
    }
}
