//! The rules of everything that is published for this computer: compiled once for each state of the catalogues, kept on
//! disk, and in memory only while they are asked.
//!
//! The file says from which tree roots and by which program version it was made; made from other roots or by another
//! program, or damaged, it is as good as none, and the rules are compiled anew from the documents. (To make them from
//! those of older roots and what differs takes half the time, and memory for both at once: the most that a
//! check would ever need.)
//!
//! ```text
//! SHA-256 of the head | its length, u32 little-endian | head, JSON | the compiled rules
//! ```

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use tierway_common::{
    blobs::Blobs,
    daemon::chain::Chain,
    files,
    id::UpdateId,
    rules::{
        compile::{CompileError, Compiled, Compiler, DecodeError},
        expr::Expr,
    },
    tree::{self, TreeError},
    trust::digest::Digest,
};
use tracing::warn;

use crate::scan::Asked;

/// Bytes of the head: some 20 for each update that another replaces.
const HEAD_BYTES_MAX: usize = 32 << 20;

/// Root of each catalogue of updates, by name.
pub type Roots = BTreeMap<String, Digest>;

/// Why rules could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A tree that is here.
    #[error("could not read the catalogue `{catalogue}`")]
    Read {
        /// Which.
        catalogue: String,
        /// Why.
        source: TreeError,
    },
    /// Too many or too large.
    #[error("could not compile the rules of the catalogue `{catalogue}`")]
    Compile {
        /// Which.
        catalogue: String,
        /// Why.
        source: CompileError,
    },
}

/// Why kept rules could not be read; they are compiled anew then.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The file.
    #[error("could not read the file")]
    Io(#[from] io::Error),
    /// Not what was written.
    #[error("the head of the file is damaged")]
    Head,
    /// Not what was written, or by another program.
    #[error("could not read the rules in it")]
    Rules(#[from] DecodeError),
}

/// The part of an update that evaluating it needs.
#[derive(Deserialize)]
struct Ruled {
    id: UpdateId,
    applicable: Expr,
    installed: Expr,
    #[serde(default)]
    superseded_by: Vec<UpdateId>,
}

/// Rules of all catalogues of updates that fit.
#[derive(Debug)]
pub struct Rules {
    roots: Roots,
    /// One compiled set.
    pub compiled: Compiled,
    /// Files that rules ask for.
    pub asked: Asked,
    /// Older and newer updates by their numbers in the compiled set, ascending.
    superseded: Vec<(u32, u32)>,
}

#[derive(Deserialize, Serialize)]
struct Head {
    program: String,
    roots: Roots,
    superseded: Vec<(u32, u32)>,
}

impl Rules {
    /// The rules of `roots`: those kept at `path`, or else compiled, and then kept there.
    ///
    /// # Errors
    ///
    /// [`RulesError`]. A kept file that is no use, or cannot be written, is named in the log.
    pub fn at(roots: Roots, trees: &Blobs, path: &Path, program: &str) -> Result<Self, RulesError> {
        match Self::read(path, &roots, program) {
            Ok(Some(rules)) => return Ok(rules),
            Ok(None) => {}
            Err(error) => {
                let (path, error) = (path.display(), Chain(&error));
                warn!(%path, %error, "the kept rules are no use, compiling them anew");
            }
        }
        let rules = Self::compile(roots, trees)?;
        if let Err(error) = rules.write(path, program) {
            warn!(path = %path.display(), %error, "could not keep the compiled rules");
        }
        Ok(rules)
    }

    /// Compiles what is in these trees.
    ///
    /// # Errors
    ///
    /// [`RulesError`]. A document that is no update is left out, and named in the log.
    pub fn compile(roots: Roots, trees: &Blobs) -> Result<Self, RulesError> {
        let mut making = Making::default();
        for (catalogue, root) in &roots {
            let mut failed = None;
            tree::walk_prefix(root, "update/", trees, &mut |key, bytes| {
                if let Some(update) = ruled(catalogue, key, bytes)
                    && let Err(error) = making.add(&update)
                {
                    failed.get_or_insert(error);
                }
            })
            .map_err(|source| RulesError::Read { catalogue: catalogue.clone(), source })?;
            if let Some(source) = failed {
                return Err(RulesError::Compile { catalogue: catalogue.clone(), source });
            }
        }
        Ok(making.finish(roots))
    }

    /// What they were made from.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Newer updates that replace this one.
    pub fn superseded_by<'a>(&'a self, id: &UpdateId) -> impl Iterator<Item = UpdateId> + use<'a> {
        let older = self.compiled.position(id).and_then(|number| u32::try_from(number).ok());
        let pairs = &self.superseded;
        let first = older.map_or(pairs.len(), |older| pairs.partition_point(|pair| pair.0 < older));
        let newer = pairs[first..].iter().take_while(move |pair| Some(pair.0) == older);
        newer.filter_map(|(_, newer)| self.compiled.id(*newer as usize).parse().ok())
    }

    /// Keeps them in the file at `path`; `program` is the version of what writes.
    ///
    /// # Errors
    ///
    /// As the file system gives them; an older file then stays.
    pub fn write(&self, path: &Path, program: &str) -> io::Result<()> {
        let Self { roots, compiled, asked: _, superseded } = self;
        let head = Head { program: program.to_owned(), roots: roots.clone(), superseded: superseded.clone() };
        let head = serde_json::to_vec(&head)?;
        let length = u32::try_from(head.len()).map_err(io::Error::other)?;
        files::replace_with(path, 0o600, |file| {
            file.write_all(Digest::of(&head).as_bytes())?;
            file.write_all(&length.to_le_bytes())?;
            file.write_all(&head)?;
            compiled.write(file)
        })
    }

    /// Reads what [`Rules::write`] kept at `path`; `None` when nothing is there, or something that was made from other
    /// roots or by another version of the program.
    ///
    /// # Errors
    ///
    /// [`KeptError`].
    pub fn read(path: &Path, roots: &Roots, program: &str) -> Result<Option<Self>, KeptError> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let (mut digest, mut length) = ([0; 32], [0; 4]);
        file.read_exact(&mut digest)?;
        file.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > HEAD_BYTES_MAX {
            return Err(KeptError::Head);
        }
        let mut head = vec![0; length];
        file.read_exact(&mut head)?;
        if Digest::of(&head) != Digest::from_bytes(digest) {
            return Err(KeptError::Head);
        }
        let Ok(head) = serde_json::from_slice::<Head>(&head) else { return Ok(None) };
        if head.program != program || head.roots != *roots {
            return Ok(None);
        }
        let compiled = Compiled::read(&mut file)?;
        let asked = asked(&compiled);
        Ok(Some(Self { roots: head.roots, compiled, asked, superseded: head.superseded }))
    }
}

/// Rules that are being made.
#[derive(Default)]
struct Making {
    compiler: Compiler,
    /// Lines `older newer`: one text, not a hundred thousand, so that its memory can be given back.
    superseded: String,
}

impl Making {
    fn add(&mut self, update: &Ruled) -> Result<(), CompileError> {
        self.compiler.add(&update.id, &update.applicable, &update.installed)?;
        for newer in &update.superseded_by {
            // An id has no spaces.
            for part in [update.id.as_str(), " ", newer.as_str(), "\n"] {
                self.superseded.push_str(part);
            }
        }
        Ok(())
    }

    fn finish(self, roots: Roots) -> Rules {
        let compiled = self.compiler.finish();
        let number = |id: &str| u32::try_from(compiled.position(&id.parse().ok()?)?).ok();
        // A newer one that is in no catalogue here has no verdict that could matter.
        let pairs = self.superseded.lines().filter_map(|line| line.split_once(' '));
        let mut superseded: Vec<_> =
            pairs.filter_map(|(older, newer)| Some((number(older)?, number(newer)?))).collect();
        superseded.sort_unstable();
        superseded.dedup();
        let asked = asked(&compiled);
        Rules { roots, compiled, asked, superseded }
    }
}

fn asked(compiled: &Compiled) -> Asked {
    let mut asked = Asked::default();
    asked.add_keys(compiled.asks());
    asked
}

fn ruled(catalogue: &str, key: &str, bytes: &[u8]) -> Option<Ruled> {
    match serde_json::from_slice(bytes) {
        Ok(update) => Some(update),
        Err(error) => {
            warn!(catalogue, key, %error, "left out a document that is no update");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;
    use tierway_common::{blobs::BlobOptions, facts::Facts, rules::Verdict};

    use super::*;

    const PROGRAM: &str = "1.2.3";

    fn trees(dir: &Path) -> Blobs {
        Blobs::open(&dir.join("trees"), BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 }).unwrap()
    }

    fn document(name: &str, revision: u32, superseded_by: &[&str]) -> (String, Option<Bytes>) {
        let document = json!({
            "id": format!("c/{name}"),
            "applicable": {"package": {"manager": "deb", "name": name}},
            "installed": {"all": [
                {"not": {"package": {"manager": "deb", "name": name, "version": {"lt": format!("{revision}.0")}}}},
                {"file": {"path": format!("/etc/{name}")}},
            ]},
            "superseded_by": superseded_by.iter().map(|name| format!("c/{name}")).collect::<Vec<_>>(),
        });
        (format!("update/{name}"), Some(serde_json::to_vec(&document).unwrap().into()))
    }

    fn names() -> Vec<String> {
        (0..300).map(|number| format!("p{number:03}")).collect()
    }

    /// A catalogue of 300 updates, and `changes` to it.
    fn roots(trees: &Blobs, changes: &[(String, Option<Bytes>)]) -> Roots {
        let mut nodes: Vec<Bytes> = Vec::new();
        let documents = names().into_iter().map(|name| {
            let (key, document) = document(&name, 1, if name.ends_with('7') { &["p008"] } else { &[] });
            (key, document.unwrap())
        });
        let mut root = tree::build(documents, &mut nodes).unwrap();
        trees.put_many(&nodes).unwrap();
        nodes.clear();
        if !changes.is_empty() {
            let changes = changes.iter().cloned().collect();
            root = tree::update(&root.digest, &changes, trees, &mut nodes).unwrap();
            trees.put_many(&nodes).unwrap();
        }
        [("c".to_owned(), root.digest)].into()
    }

    fn facts() -> Facts {
        let mut facts = Facts::default();
        let complete = |source: &str| tierway_common::facts::Domain::Complete { source: source.to_owned() };
        facts.domains.insert("package:deb".to_owned(), complete("/var/lib/dpkg/status"));
        facts.domains.insert("file".to_owned(), complete("/"));
        for (number, name) in names().into_iter().enumerate() {
            facts.values.insert(format!("package:deb:{name}:amd64"), format!("{}.5", number % 3));
            facts.values.insert(format!("file:/etc/{name}"), "present".to_owned());
        }
        facts
    }

    /// Everything that can be asked of rules.
    fn answers(rules: &Rules) -> (Roots, Vec<(UpdateId, Verdict)>, Vec<(String, String)>, Asked) {
        let facts = facts();
        let verdicts = rules.compiled.verdicts(&rules.compiled.scan(&facts), &facts).collect();
        let ids =
            (0..rules.compiled.len()).map(|number| rules.compiled.id(number).parse::<UpdateId>().unwrap());
        let superseded =
            ids.flat_map(|id| rules.superseded_by(&id).map(move |newer| (id.to_string(), newer.to_string())));
        (rules.roots.clone(), verdicts, superseded.collect(), rules.asked.clone())
    }

    #[test]
    fn kept_rules_answer_as_those_that_were_compiled() {
        let dir = tempfile::tempdir().unwrap();
        let (trees, path) = (trees(dir.path()), dir.path().join("rules"));
        let roots = roots(&trees, &[document("p001", 1, &["p002", "p000", "not-here"])]);
        assert!(Rules::read(&path, &roots, PROGRAM).unwrap().is_none(), "nothing is there yet");
        let rules = Rules::compile(roots.clone(), &trees).unwrap();
        let (_, verdicts, superseded, _) = answers(&rules);
        assert_eq!((verdicts.len(), superseded.len()), (300, 32));
        let pair = |older: &str, newer: &str| (older.to_owned(), newer.to_owned());
        assert_eq!(superseded[..2], [pair("c/p001", "c/p000"), pair("c/p001", "c/p002")]);
        rules.write(&path, PROGRAM).unwrap();
        let read = Rules::read(&path, &roots, PROGRAM).unwrap().unwrap();
        assert_eq!(answers(&read), answers(&rules));
    }

    #[test]
    fn rules_of_other_roots_or_another_program_version_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let (trees, path) = (trees(dir.path()), dir.path().join("rules"));
        let first = roots(&trees, &[]);
        Rules::compile(first.clone(), &trees).unwrap().write(&path, PROGRAM).unwrap();
        assert!(Rules::read(&path, &first, PROGRAM).unwrap().is_some());
        assert!(Rules::read(&path, &first, "1.2.4").unwrap().is_none());
        let changed = roots(&trees, &[document("p100", 2, &[])]);
        assert!(Rules::read(&path, &changed, PROGRAM).unwrap().is_none());
        let with_another = [("c".to_owned(), first["c"]), ("d".to_owned(), first["c"])].into();
        assert!(Rules::read(&path, &with_another, PROGRAM).unwrap().is_none());
    }

    #[test]
    fn a_file_with_any_byte_changed_or_cut_off_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (trees, path) = (trees(dir.path()), dir.path().join("rules"));
        let few = roots(
            &trees,
            &names().into_iter().skip(4).map(|name| (format!("update/{name}"), None)).collect::<Vec<_>>(),
        );
        Rules::compile(few.clone(), &trees).unwrap().write(&path, PROGRAM).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(Rules::read(&path, &few, PROGRAM).is_err(), "byte {at} changed");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(Rules::read(&path, &few, PROGRAM).is_err(), "cut off at byte {at}");
        }
    }

    #[test]
    fn rules_are_compiled_anew_where_the_kept_ones_are_damaged_or_anothers_and_are_then_kept_again() {
        let dir = tempfile::tempdir().unwrap();
        let (trees, path) = (trees(dir.path()), dir.path().join("rules"));
        let roots = roots(&trees, &[]);
        let wanted = answers(&Rules::compile(roots.clone(), &trees).unwrap());
        let at = || answers(&Rules::at(roots.clone(), &trees, &path, PROGRAM).unwrap());
        assert_eq!(at(), wanted);
        let good = std::fs::read(&path).unwrap();
        let mut damaged = good.clone();
        damaged[good.len() / 2] ^= 1;
        for content in [b"".as_slice(), b"something else", &damaged, &good[..good.len() - 1]] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(at(), wanted);
            assert_eq!(std::fs::read(&path).unwrap(), good);
        }
        Rules::compile(roots.clone(), &trees).unwrap().write(&path, "1.2.4").unwrap();
        assert_eq!(at(), wanted);
        assert_eq!(std::fs::read(&path).unwrap(), good);
        // Kept ones are used: the documents are not looked at.
        trees.remove(&roots["c"]).unwrap();
        assert_eq!(at(), wanted);
        std::fs::remove_file(&path).unwrap();
        assert!(Rules::at(roots.clone(), &trees, &path, PROGRAM).is_err());
    }
}
