//! Documents of updates as they came, kept on disk: a file for each batch, durable before the next is asked for.
//!
//! The folder may be emptied at any time: then it gets another name for itself, by which it is known that what was
//! said to be here is not. Beside its name stands what it is about, so that a first sync that broke off can go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tierway_common::{
    files,
    trust::digest::{Digest, Hasher},
};

use super::soap::Document;
use crate::sources::windows::model::{Guid, Identity};

/// Packs that are kept before they are put together: one comes with every sync that finds something.
const PACKS_MAX: usize = 200;

/// Bytes of documents in one pack when packs are put together.
const PACK_BYTES_GOAL: u64 = 64 << 20;

/// Longest head of a document: an update of Windows has some hundred files.
const HEAD_BYTES_MAX: u64 = 16 << 20;

/// Longest name and subject: a thousand products and classifications.
const NAME_BYTES_MAX: u64 = 1 << 20;

/// Documents are XML, which this level packs to a tenth.
const COMPRESSION_LEVEL: i32 = 3;

/// Mode of the files: they are public.
const MODE: u32 = 0o644;

/// What comes before a document in a pack.
#[derive(Serialize, Deserialize)]
struct Head {
    id: String,
    revision: u32,
    urls: BTreeMap<String, String>,
    bytes: u64,
}

/// The documents of one source.
#[derive(Debug, Default)]
pub(super) struct Packs {
    folder: PathBuf,
    name: String,
    subject: String,
    next: u64,
    count: usize,
    held: BTreeMap<Guid, u32>,
}

fn damaged(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl Packs {
    /// Opens the folder, and makes it with the name `fresh` for `subject` when there is none. A pack that cannot be
    /// read, such as one that somebody damaged, empties the folder. Neither text has a line break.
    pub(super) fn open(folder: &Path, fresh: &str, subject: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut packs = Self { folder: folder.to_owned(), ..Self::default() };
        match files::read_if_there(&packs.name_file(), NAME_BYTES_MAX)? {
            Some(text) => {
                let text = String::from_utf8_lossy(&text);
                let (name, subject) = text.split_once('\n').unwrap_or((&text, ""));
                (packs.name, packs.subject) = (name.to_owned(), subject.to_owned());
            }
            None => packs.clear(fresh, subject)?,
        }
        let mut held = BTreeMap::new();
        let read = packs.each(&|_| false, &mut |identity, _| {
            let revision = held.entry(identity.id).or_insert(identity.revision);
            *revision = identity.revision.max(*revision);
            Ok(())
        });
        match read {
            Ok(()) => packs.held = held,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => packs.clear(fresh, subject)?,
            Err(error) => return Err(error),
        }
        let found = packs.files()?;
        packs.count = found.len();
        packs.next = found.last().map_or(0, |(number, _)| number + 1);
        Ok(packs)
    }

    /// Where they are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the folder is called until it is emptied.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What it is about.
    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    /// Says that it is about something else, which includes what is here.
    pub(super) fn widen(&mut self, subject: &str) -> io::Result<()> {
        let name = self.name.clone();
        self.write_name(&name, subject)
    }

    fn write_name(&mut self, name: &str, subject: &str) -> io::Result<()> {
        files::replace(&self.name_file(), format!("{name}\n{subject}").as_bytes(), MODE)?;
        (self.name, self.subject) = (name.to_owned(), subject.to_owned());
        Ok(())
    }

    /// Whether this revision, or a higher one that replaces it, is here.
    pub(super) fn has(&self, identity: &Identity) -> bool {
        self.held.get(&identity.id).is_some_and(|revision| *revision >= identity.revision)
    }

    /// How many updates are here.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Names everything that is here: another when anything is.
    pub(super) fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        for (id, revision) in &self.held {
            hasher.update(format!("{id} {revision}\n").as_bytes());
        }
        hasher.finish()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, fresh: &str, subject: &str) -> io::Result<()> {
        // First about nothing: what a crash leaves of the rest is then not believed.
        self.write_name(fresh, "")?;
        for (_, path) in self.files()? {
            fs::remove_file(path)?;
        }
        (self.next, self.count) = (0, 0);
        self.held.clear();
        self.write_name(fresh, subject)
    }

    /// Keeps a batch; it is on disk when this returns.
    pub(super) fn append(&mut self, documents: &[Document]) -> io::Result<()> {
        if documents.is_empty() {
            return Ok(());
        }
        let path = self.path(self.next);
        files::replace_with(&path, MODE, |file| {
            let mut packed = zstd::stream::write::Encoder::new(file, COMPRESSION_LEVEL)?;
            documents.iter().try_for_each(|document| write(&mut packed, document))?;
            packed.finish().map(drop)
        })?;
        self.next += 1;
        self.count += 1;
        for document in documents {
            let Identity { id, revision } = &document.identity;
            let held = self.held.entry(id.clone()).or_insert(*revision);
            *held = (*held).max(*revision);
        }
        Ok(())
    }

    /// Gives the highest revision of each update that is here, its text and where its files are.
    pub(super) fn current(&self, take: &mut dyn FnMut(Document) -> io::Result<()>) -> io::Result<()> {
        let mut given = BTreeSet::new();
        let wanted = |identity: &Identity| self.held.get(&identity.id) == Some(&identity.revision);
        self.each(&wanted, &mut |identity, document| match document {
            Some(document) if given.insert(identity) => take(document),
            _ => Ok(()),
        })
    }

    /// Puts many small packs together, without what was replaced.
    pub(super) fn tidy(&mut self) -> io::Result<()> {
        if self.count <= PACKS_MAX {
            return Ok(());
        }
        let old = self.files()?;
        let (mut together, mut bytes) = (Vec::new(), 0);
        let mut batches: Vec<u64> = Vec::new();
        let mut next = self.next;
        {
            let mut flush = |together: &mut Vec<Document>| -> io::Result<()> {
                let path = self.path(next);
                files::replace_with(&path, MODE, |file| {
                    let mut packed = zstd::stream::write::Encoder::new(file, COMPRESSION_LEVEL)?;
                    together.iter().try_for_each(|document| write(&mut packed, document))?;
                    packed.finish().map(drop)
                })?;
                batches.push(next);
                next += 1;
                together.clear();
                Ok(())
            };
            self.current(&mut |document| {
                bytes += document.xml.len() as u64;
                together.push(document);
                if bytes >= PACK_BYTES_GOAL {
                    bytes = 0;
                    flush(&mut together)?;
                }
                Ok(())
            })?;
            if !together.is_empty() {
                flush(&mut together)?;
            }
        }
        // Until here both are there, which is the same.
        for (_, path) in old {
            fs::remove_file(path)?;
        }
        (self.next, self.count) = (next, batches.len());
        Ok(())
    }

    /// Reads every pack; a document is read only when `wanted`.
    fn each(
        &self,
        wanted: &dyn Fn(&Identity) -> bool,
        take: &mut dyn FnMut(Identity, Option<Document>) -> io::Result<()>,
    ) -> io::Result<()> {
        for (_, path) in self.files()? {
            let mut packed = BufReader::new(zstd::stream::read::Decoder::new(File::open(&path)?)?);
            let torn = |error: io::Error| damaged(format!("`{}`: {error}", path.display()));
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = (&mut packed).take(HEAD_BYTES_MAX).read_until(b'\n', &mut line).map_err(torn)?;
                if read == 0 {
                    break;
                }
                let head: Head = serde_json::from_slice(&line).map_err(|error| torn(error.into()))?;
                let id: Guid = head.id.parse().map_err(|error| torn(io::Error::other(error)))?;
                let identity = Identity { id, revision: head.revision };
                let mut text = (&mut packed).take(head.bytes);
                let document = if wanted(&identity) {
                    let mut xml = String::new();
                    text.read_to_string(&mut xml).map_err(torn)?;
                    Some(Document { identity: identity.clone(), urls: head.urls, xml })
                } else {
                    io::copy(&mut text, &mut io::sink()).map_err(torn)?;
                    None
                };
                if text.limit() > 0 {
                    return Err(damaged(format!("`{}` is cut", path.display())));
                }
                take(identity, document)?;
            }
        }
        Ok(())
    }

    fn name_file(&self) -> PathBuf {
        self.folder.join("name")
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:012}.pack"))
    }

    /// Packs by number.
    fn files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".pack")?.parse().ok());
            found.extend(number.map(|number| (number, path)));
        }
        found.sort();
        Ok(found)
    }
}

fn write(packed: &mut impl Write, document: &Document) -> io::Result<()> {
    let Document { identity, urls, xml } = document;
    let head = Head {
        id: identity.id.to_string(),
        revision: identity.revision,
        urls: urls.clone(),
        bytes: xml.len() as u64,
    };
    serde_json::to_writer(&mut *packed, &head)?;
    packed.write_all(b"\n")?;
    packed.write_all(xml.as_bytes())
}
