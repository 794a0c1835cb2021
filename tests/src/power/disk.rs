//! What a program did to the files below one folder, and what of it a disk may hold after the power was cut.
//!
//! A write stays in memory until its file is synced: of what was not, any page, or any sector, may be on the disk
//! in any state that it passed through since, and the file may be longer than what was written of it. A change of
//! a folder, a name that comes, goes or is moved, is held to one of two [`Law`]s.

mod live;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use self::live::Live;
use super::trace::Call;
use crate::simulation::random::Random;

const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;

/// When names are on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// As ext4 and XFS have it: all changes of names are in one journal, in their order, and whatever is synced
    /// takes all before it along.
    Journal,
    /// What POSIX promises: a folder's changes are there, in their order, when that folder was synced.
    Folders,
}

/// What is taken out of a recording, to see that its lack is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The contents of files are never synced.
    FilesNotSynced,
    /// Folders are never synced.
    FoldersNotSynced,
    /// A file is synced only after it was given its name.
    RenamedBeforeSynced,
}

/// A file or a folder, whatever its name.
type Inode = usize;

/// The folder that is watched.
const ROOT: Inode = 0;

#[derive(Clone, Debug)]
enum What {
    /// A folder has a name for this now, or none any more.
    Name {
        folder: Inode,
        name: String,
        is: Option<Inode>,
    },
    /// As two of the former at once.
    Rename {
        from: (Inode, String),
        to: (Inode, String),
        inode: Inode,
    },
    Write {
        inode: Inode,
        offset: usize,
        bytes: Vec<u8>,
    },
    Length {
        inode: Inode,
        bytes: usize,
    },
    Sync {
        inode: Inode,
    },
    SyncAll,
    /// The program told somebody that one more thing is done.
    Told,
}

#[derive(Clone, Debug)]
struct Op {
    begin: usize,
    end: usize,
    what: What,
}

/// All that happened, beginning with an empty folder or with what a cut left.
#[derive(Clone, Debug)]
pub struct Recording {
    ops: Vec<Op>,
    folders: BTreeSet<Inode>,
    /// Where what happened begins: before it is what was there.
    began: usize,
}

/// What a disk may hold after a cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// By path below the folder: the content, `None` of a folder.
    pub entries: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// How often the program had told that something is done.
    pub told: usize,
}

impl Recording {
    /// Of the calls of one process; each write to the file `told` says that something is done.
    ///
    /// # Panics
    ///
    /// When a file below `root` is changed by a call that is not understood here.
    pub(super) fn of(calls: &[Call], root: &Path, told: &Path) -> Self {
        Self::onto(&Image::default(), calls, root, told)
    }

    /// The same of a folder in which `there` was, all of it on the disk.
    pub(super) fn onto(there: &Image, calls: &[Call], root: &Path, told: &Path) -> Self {
        let mut live = Live::new(root, told);
        let began = live.begin(there);
        let mut calls: Vec<_> = calls.iter().filter(|call| call.result >= 0).collect();
        // The number is free for another thread's file before the line says that it was closed.
        calls.sort_by_key(|call| if call.name == "close" { call.begin } else { call.end });
        for call in calls {
            live.take(call);
        }
        let (ops, folders) = live.end();
        Self { ops, folders, began }
    }

    /// Number of things that happened.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len() - self.began
    }

    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often the program told that something is done.
    #[must_use]
    pub fn told(&self) -> usize {
        self.ops.iter().filter(|op| matches!(op.what, What::Told)).count()
    }

    /// The same program with a mistake.
    #[must_use]
    pub fn with(mut self, sabotage: Sabotage) -> Self {
        let folders = &self.folders;
        match sabotage {
            Sabotage::FilesNotSynced => {
                self.ops.retain(|op| !matches!(op.what, What::Sync { inode } if !folders.contains(&inode)));
            }
            Sabotage::FoldersNotSynced => {
                self.ops.retain(|op| !matches!(op.what, What::Sync { inode } if folders.contains(&inode)));
            }
            Sabotage::RenamedBeforeSynced => {
                for at in 0..self.ops.len() {
                    let What::Rename { inode: renamed, .. } = self.ops[at].what else { continue };
                    let synced = self.ops[..at]
                        .iter()
                        .rposition(|op| matches!(op.what, What::Sync { inode } if inode == renamed));
                    if let Some(synced) = synced {
                        let (sync, rename) = (self.ops[synced].what.clone(), self.ops[at].what.clone());
                        (self.ops[synced].what, self.ops[at].what) = (rename, sync);
                    }
                }
            }
        }
        self
    }

    /// What the disk may hold when the power is cut at a moment that `random` takes.
    #[must_use]
    pub fn image(&self, law: Law, random: &mut Random) -> Image {
        let op = &self.ops[self.began + random.index(self.len())];
        let at = if random.percent(50) { op.begin } else { op.end + 1 };
        self.image_at(at, law, random)
    }

    /// What the folder holds when nothing is cut.
    #[must_use]
    pub(super) fn end(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut synced = self.clone();
        let end = self.ops.iter().map(|op| op.end).max().unwrap_or(0) + 1;
        synced.ops.push(Op { begin: end, end, what: What::SyncAll });
        synced.image_at(end + 1, Law::Folders, &mut Random::new(0)).entries
    }

    fn image_at(&self, at: usize, law: Law, random: &mut Random) -> Image {
        let begun: Vec<_> = self.ops.iter().filter(|op| op.begin < at).collect();
        // When the last sync began that has ended: of one thing, of everything, of anything.
        let mut synced: HashMap<Inode, usize> = HashMap::new();
        let (mut all, mut any) = (0, 0);
        for op in begun.iter().filter(|op| op.end < at) {
            match op.what {
                What::Sync { inode } => _ = synced.insert(inode, op.begin),
                What::SyncAll => all = op.begin,
                _ => continue,
            }
            any = op.begin;
        }
        let synced = |inode| synced.get(&inode).copied().unwrap_or(0).max(all);
        let names = match law {
            Law::Journal => {
                let moves: Vec<_> =
                    begun.iter().copied().filter(|op| op.folders().next().is_some()).collect();
                let durable = moves.iter().take_while(|op| op.end < any).count();
                let kept = durable + random.index(moves.len() - durable + 1);
                names(&moves[..kept], |_, _| true)
            }
            Law::Folders => {
                let moves: Vec<_> =
                    begun.iter().copied().filter(|op| op.folders().next().is_some()).collect();
                let kept = kept_by_folder(&moves, &synced, random);
                names(&moves, |place, folder| place < kept.get(&folder).copied().unwrap_or(0))
            }
        };
        let style = random.below(4);
        let mut entries = BTreeMap::new();
        let mut left = vec![(PathBuf::new(), ROOT)];
        while let Some((path, folder)) = left.pop() {
            for (name, inode) in names.get(&folder).into_iter().flatten() {
                let path = path.join(name);
                if self.folders.contains(inode) {
                    entries.insert(path.clone(), None);
                    left.push((path, *inode));
                } else {
                    entries.insert(path, Some(content(&begun, *inode, synced(*inode), style, random)));
                }
            }
        }
        let told = begun.iter().filter(|op| matches!(op.what, What::Told)).count();
        Image { entries, told }
    }
}

impl Op {
    /// The folders of which it changes names, that which gains one first.
    fn folders(&self) -> impl Iterator<Item = Inode> + use<> {
        let (first, second) = match &self.what {
            What::Name { folder, .. } => (Some(*folder), None),
            What::Rename { from, to, .. } => (Some(to.0), (from.0 != to.0).then_some(from.0)),
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// By folder, up to which place among `moves` its changes are on the disk.
fn kept_by_folder(
    moves: &[&Op],
    synced: &dyn Fn(Inode) -> usize,
    random: &mut Random,
) -> HashMap<Inode, usize> {
    let mut places: BTreeMap<Inode, Vec<usize>> = BTreeMap::new();
    for (place, op) in moves.iter().enumerate() {
        op.folders().for_each(|folder| places.entry(folder).or_default().push(place));
    }
    let mut kept: HashMap<Inode, usize> = HashMap::new();
    for (folder, places) in &places {
        let durable = places.iter().take_while(|place| moves[**place].end < synced(*folder)).count();
        let count = durable + random.index(places.len() - durable + 1);
        kept.insert(*folder, count.checked_sub(1).map_or(0, |last| places[last] + 1));
    }
    // What has left one folder has arrived in the other: no file system loses a file that is moved.
    loop {
        let mut lost = None;
        for (place, op) in moves.iter().enumerate() {
            if let What::Rename { from, to, .. } = &op.what
                && place < kept[&from.0]
                && place >= kept[&to.0]
            {
                lost = Some((to.0, place + 1));
                break;
            }
        }
        match lost {
            Some((folder, upto)) => kept.insert(folder, upto),
            None => return kept,
        };
    }
}

/// The names of all folders after those `moves` of which `holds` is told the place and the folder.
fn names(moves: &[&Op], holds: impl Fn(usize, Inode) -> bool) -> HashMap<Inode, BTreeMap<String, Inode>> {
    let mut names: HashMap<Inode, BTreeMap<String, Inode>> = HashMap::new();
    for (place, op) in moves.iter().enumerate() {
        match &op.what {
            What::Name { folder, name, is } if holds(place, *folder) => {
                let names = names.entry(*folder).or_default();
                match is {
                    Some(inode) => names.insert(name.clone(), *inode),
                    None => names.remove(name),
                };
            }
            What::Rename { from, to, inode } => {
                if holds(place, from.0) {
                    names.entry(from.0).or_default().remove(&from.1);
                }
                if holds(place, to.0) {
                    names.entry(to.0).or_default().insert(to.1.clone(), *inode);
                }
            }
            _ => {}
        }
    }
    names
}

/// A file of which everything that ended before the line `synced` is on the disk, and of the rest anything.
fn content(begun: &[&Op], inode: Inode, synced: usize, style: u64, random: &mut Random) -> Vec<u8> {
    let mut changes: Vec<_> = begun
        .iter()
        .filter(|op| match op.what {
            What::Write { inode: of, .. } | What::Length { inode: of, .. } => of == inode,
            _ => false,
        })
        .collect();
    changes.sort_by_key(|op| op.end);
    let durable = changes.iter().take_while(|op| op.end < synced).count();
    let count = changes.len();
    let apply = |content: &mut Vec<u8>, op: &Op| match &op.what {
        What::Write { offset, bytes, .. } => {
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(bytes);
        }
        What::Length { bytes, .. } => content.resize(*bytes, 0),
        _ => {}
    };
    let mut content = Vec::new();
    for op in &changes[..durable] {
        apply(&mut content, op);
    }
    let unit = match style {
        // Nothing, or everything.
        0 => return content,
        1 => {
            changes[durable..].iter().for_each(|op| apply(&mut content, op));
            return content;
        }
        2 => PAGE_BYTES,
        _ => SECTOR_BYTES,
    };
    // The length in one state, each unit in one that it had before, after or then: what is missing is zeros.
    let lengths: Vec<usize> = changes[durable..]
        .iter()
        .scan(content.len(), |length, op| {
            match &op.what {
                What::Write { offset, bytes, .. } => *length = (*length).max(offset + bytes.len()),
                What::Length { bytes, .. } => *length = *bytes,
                _ => {}
            }
            Some(*length)
        })
        .collect();
    let sized = random.index(count - durable + 1);
    let length = sized.checked_sub(1).map_or(content.len(), |last| lengths[last]);
    // What was cut off does not come back where the file grows again.
    let cut = changes[durable..durable + sized].iter().rposition(|op| matches!(op.what, What::Length { .. }));
    let least = cut.map_or(0, |place| place + 1);
    let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, op) in changes[durable..].iter().enumerate() {
        if let What::Write { offset, bytes, .. } = &op.what {
            for unit in offset / unit..(offset + bytes.len()).div_ceil(unit) {
                touched.entry(unit).or_default().push(place);
            }
        }
    }
    let cut_to = changes[durable..durable + least].iter().filter_map(|op| match op.what {
        What::Length { bytes, .. } => Some(bytes),
        _ => None,
    });
    if let Some(shortest) = cut_to.min() {
        content.truncate(shortest);
    }
    content.resize(length, 0);
    for (place, writes) in touched {
        let upto = random.index(writes.len() + 1);
        let (from, to) = (place * unit, ((place + 1) * unit).min(length));
        for write in writes[..upto].iter().filter(|write| **write >= least) {
            let What::Write { offset, bytes, .. } = &changes[durable + write].what else { continue };
            let (begin, end) = (from.max(*offset), to.min(offset + bytes.len()));
            if begin < end {
                content[begin..end].copy_from_slice(&bytes[begin - offset..end - offset]);
            }
        }
    }
    content
}

impl Image {
    /// What is below `folder` now.
    ///
    /// # Panics
    ///
    /// When the file system fails.
    pub(super) fn read(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let (mut entries, mut left) = (BTreeMap::new(), vec![folder.to_owned()]);
        while let Some(next) = left.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                let content = (!path.is_dir()).then(|| fs::read(&path).unwrap());
                if content.is_none() {
                    left.push(path.clone());
                }
                entries.insert(path.strip_prefix(folder).unwrap().to_owned(), content);
            }
        }
        entries
    }

    /// Puts it into `folder`, which is there and empty.
    ///
    /// # Panics
    ///
    /// When the file system fails.
    pub fn write(&self, folder: &Path) {
        for (path, content) in &self.entries {
            let path = folder.join(path);
            match content {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => fs::create_dir(path).unwrap(),
            }
        }
    }
}
