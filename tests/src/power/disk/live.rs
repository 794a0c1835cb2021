//! The files as the running program sees them, from one call to the next.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use super::{super::trace::Call, Image, Inode, Op, ROOT, What};

/// Lines before the first of the trace: what was there came in the one, and was synced in the other.
const BEGIN_LINES: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum Opened {
    Inode(Inode),
    Told,
}

#[derive(Clone)]
struct Description {
    opened: Opened,
    position: usize,
    append: bool,
}

/// The files as the running program sees them.
pub(super) struct Live<'a> {
    root: &'a Path,
    told: &'a Path,
    names: HashMap<Inode, BTreeMap<String, Inode>>,
    lengths: HashMap<Inode, usize>,
    descriptions: Vec<Description>,
    /// By number, the place among the descriptions: duplicates share one.
    numbers: HashMap<i64, usize>,
    next: Inode,
    ops: Vec<Op>,
}

impl<'a> Live<'a> {
    /// An empty folder `root`; a write to the file `told` says that something is done.
    pub(super) fn new(root: &'a Path, told: &'a Path) -> Self {
        Self {
            root,
            told,
            names: HashMap::from([(ROOT, BTreeMap::new())]),
            lengths: HashMap::new(),
            descriptions: Vec::new(),
            numbers: HashMap::new(),
            next: ROOT + 1,
            ops: Vec::new(),
        }
    }

    /// Has in the folder what is `there`, on the disk; how many operations stand for that.
    pub(super) fn begin(&mut self, there: &Image) -> usize {
        let op = |line, what| Op { begin: line, end: line, what };
        for (path, content) in &there.entries {
            let folder = path
                .parent()
                .into_iter()
                .flatten()
                .fold(ROOT, |folder, name| self.names[&folder][name.to_str().unwrap()]);
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let inode = self.next;
            self.next += 1;
            self.names.get_mut(&folder).unwrap().insert(name.clone(), inode);
            self.ops.push(op(0, What::Name { folder, name, is: Some(inode) }));
            match content {
                None => _ = self.names.insert(inode, BTreeMap::new()),
                Some(bytes) => {
                    self.lengths.insert(inode, bytes.len());
                    let bytes = bytes.clone();
                    self.ops.push(op(0, What::Write { inode, offset: 0, bytes }));
                }
            }
        }
        self.ops.push(op(1, What::SyncAll));
        self.ops.len()
    }

    /// What happened, and which of it were folders.
    pub(super) fn end(self) -> (Vec<Op>, BTreeSet<Inode>) {
        (self.ops, self.names.into_keys().collect())
    }

    /// Takes in one call that succeeded.
    pub(super) fn take(&mut self, call: &Call) {
        match call.name.as_str() {
            "open" | "creat" => self.open(call, None, 0),
            "openat" => self.open(call, Some(0), 1),
            "close" => _ = call.number(0).and_then(|number| self.numbers.remove(&number)),
            "dup" | "dup2" | "dup3" => self.duplicate(call),
            "fcntl" if call.text(1).starts_with("F_DUPFD") => self.duplicate(call),
            "lseek" => {
                let to = usize::try_from(call.result).unwrap();
                self.description(call, |open| open.position = to);
            }
            "read" => {
                let count = usize::try_from(call.result).unwrap();
                self.description(call, |open| open.position += count);
            }
            "write" | "writev" => self.written(call, None),
            "pwrite64" | "pwritev" | "pwritev2" => self.written(call, call.number(3)),
            "ftruncate" => {
                if let Some(Opened::Inode(inode)) = self.opened(call) {
                    self.cut(call, inode, usize::try_from(call.number(1).unwrap()).unwrap());
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(Opened::Inode(inode)) = self.opened(call) {
                    self.push(call, What::Sync { inode });
                }
            }
            // Of any file: the file system is the same.
            "sync" | "syncfs" => self.push(call, What::SyncAll),
            "mkdir" => self.make_folder(call, None, 0),
            "mkdirat" => self.make_folder(call, Some(0), 1),
            "rmdir" | "unlink" => self.remove(call, None, 0),
            "unlinkat" => self.remove(call, Some(0), 1),
            "rename" => self.rename(call, (None, 0), (None, 1)),
            "renameat" | "renameat2" => self.rename(call, (Some(0), 1), (Some(2), 3)),
            // It orders nothing for a disk with a memory of its own, and keeps no length: it is as if it were not there.
            "sync_file_range" | "fcntl" => {}
            "mmap" if !call.text(3).contains("MAP_SHARED") || !call.text(2).contains("PROT_WRITE") => {}
            "mmap" => {
                let mapped = call.number(4).and_then(|number| self.numbers.get(&number));
                assert!(mapped.is_none(), "a watched file is written through memory: {call:?}");
            }
            "io_uring_setup" | "io_submit" => panic!("calls that are not seen: {call:?}"),
            _ => {
                let watched = (0..call.arguments.len()).any(|index| {
                    let text = call.text(index);
                    let path = text.starts_with('"').then(|| call.path(index));
                    let number = call.number(index);
                    path.is_some_and(|path| Path::new(&path).starts_with(self.root))
                        || (index < 3 && number.is_some_and(|number| self.numbers.contains_key(&number)))
                });
                assert!(!watched, "not understood: {call:?}");
            }
        }
    }

    fn push(&mut self, call: &Call, what: What) {
        self.ops.push(Op { begin: call.begin + BEGIN_LINES, end: call.end + BEGIN_LINES, what });
    }

    fn opened(&self, call: &Call) -> Option<Opened> {
        let place = self.numbers.get(&call.number(0)?)?;
        Some(self.descriptions[*place].opened)
    }

    fn description(&mut self, call: &Call, change: impl FnOnce(&mut Description)) {
        if let Some(place) = call.number(0).and_then(|number| self.numbers.get(&number)) {
            change(&mut self.descriptions[*place]);
        }
    }

    /// The folder and the name that a path leads to; `None` of what is not watched.
    fn place(&self, call: &Call, folder: Option<usize>, path: usize) -> Option<(Inode, String)> {
        let path = PathBuf::from(call.path(path));
        let (mut folder, below) = match path.strip_prefix(self.root) {
            Ok(below) => (ROOT, below.to_owned()),
            Err(_) if path.is_absolute() => return None,
            Err(_) => {
                let place = self.numbers.get(&call.number(folder?)?)?;
                let Opened::Inode(inode) = self.descriptions[*place].opened else { return None };
                (inode, path)
            }
        };
        let mut names: Vec<_> = below.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        let last = names.pop()?;
        for name in names {
            folder = self.names[&folder][&name];
        }
        Some((folder, last))
    }

    fn found(&self, (folder, name): &(Inode, String)) -> Option<Inode> {
        self.names.get(folder)?.get(name).copied()
    }

    fn open(&mut self, call: &Call, folder: Option<usize>, path: usize) {
        let flags = if call.name == "creat" { "O_CREAT|O_TRUNC" } else { call.text(path + 1) };
        let named = PathBuf::from(call.path(path));
        let opened = if named == self.told {
            Opened::Told
        } else if named == self.root {
            Opened::Inode(ROOT)
        } else {
            let Some(place) = self.place(call, folder, path) else {
                self.numbers.remove(&call.result);
                return;
            };
            let inode = match self.found(&place) {
                Some(inode) => inode,
                None => self.enter(call, place),
            };
            if flags.contains("O_TRUNC") && self.lengths.get(&inode).is_some_and(|length| *length > 0) {
                self.cut(call, inode, 0);
            }
            Opened::Inode(inode)
        };
        let append = flags.contains("O_APPEND");
        self.numbers.insert(call.result, self.descriptions.len());
        self.descriptions.push(Description { opened, position: 0, append });
    }

    fn duplicate(&mut self, call: &Call) {
        match call.number(0).and_then(|number| self.numbers.get(&number).copied()) {
            Some(place) => self.numbers.insert(call.result, place),
            None => self.numbers.remove(&call.result),
        };
    }

    fn enter(&mut self, call: &Call, (folder, name): (Inode, String)) -> Inode {
        let inode = self.next;
        self.next += 1;
        self.lengths.insert(inode, 0);
        self.names.get_mut(&folder).unwrap().insert(name.clone(), inode);
        self.push(call, What::Name { folder, name, is: Some(inode) });
        inode
    }

    fn make_folder(&mut self, call: &Call, folder: Option<usize>, path: usize) {
        if let Some(place) = self.place(call, folder, path) {
            let inode = self.enter(call, place);
            self.names.insert(inode, BTreeMap::new());
        }
    }

    fn remove(&mut self, call: &Call, folder: Option<usize>, path: usize) {
        if let Some((folder, name)) = self.place(call, folder, path) {
            self.names.get_mut(&folder).unwrap().remove(&name);
            self.push(call, What::Name { folder, name, is: None });
        }
    }

    fn rename(&mut self, call: &Call, from: (Option<usize>, usize), to: (Option<usize>, usize)) {
        let (Some(from), Some(to)) = (self.place(call, from.0, from.1), self.place(call, to.0, to.1)) else {
            return;
        };
        let inode = self.names.get_mut(&from.0).unwrap().remove(&from.1).unwrap();
        self.names.get_mut(&to.0).unwrap().insert(to.1.clone(), inode);
        self.push(call, What::Rename { from, to, inode });
    }

    fn cut(&mut self, call: &Call, inode: Inode, bytes: usize) {
        self.lengths.insert(inode, bytes);
        self.push(call, What::Length { inode, bytes });
    }

    fn written(&mut self, call: &Call, at: Option<i64>) {
        let Some(opened) = self.opened(call) else { return };
        let Opened::Inode(inode) = opened else { return self.push(call, What::Told) };
        let mut bytes = call.bytes(1);
        bytes.truncate(usize::try_from(call.result).unwrap());
        let length = self.lengths.get(&inode).copied().unwrap_or(0);
        let mut offset = at.map_or(0, |at| usize::try_from(at).unwrap());
        if at.is_none() {
            let count = bytes.len();
            self.description(call, |open| {
                offset = if open.append { length } else { open.position };
                open.position = offset + count;
            });
        }
        self.lengths.insert(inode, length.max(offset + bytes.len()));
        self.push(call, What::Write { inode, offset, bytes });
    }
}
