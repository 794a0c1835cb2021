//! The vendors' real metadata for Windows, where they are: a folder `shared/data` beside the checkout.
//!
//! Nothing of them is in the repository. What must come out is: how much of each predicate is understood, and, for
//! single documents and made-up computers, the verdict that a person worked out from the document by hand.

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fmt::Write as _,
        fs,
        path::{Path, PathBuf},
    };

    use jiff::Timestamp;
    use serde::Deserialize;
    use tierway_central::sources::windows::{
        lower::{Revisions, lower},
        offline::{Graph, Index},
        rules::Tally,
        sdp, update,
    };
    use tierway_common::{
        facts::{Domain, Facts},
        rules::{Verdict, verdict},
        schema::{Install, Update},
    };
    use tierway_tests::skip::skip;

    /// The folder, when it is there.
    fn data(what: &str) -> Option<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
        if !folder.is_dir() {
            skip(what, "there are no vendors' metadata in `../shared/data`");
            return None;
        }
        Some(folder)
    }

    /// Files below a folder, in order.
    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                found.push(path);
            }
        }
        found.sort();
        found
    }

    /// What one encoding gave.
    #[derive(Default)]
    struct Read {
        files: usize,
        revisions: Revisions,
        tally: Tally,
        /// Wanted by name: file name without the folder.
        names: BTreeMap<String, String>,
    }

    impl Read {
        fn add(&mut self, name: &Path, revision: tierway_central::sources::windows::model::Revision) {
            let name = name.file_name().unwrap().to_string_lossy().into_owned();
            self.names.insert(name, revision.identity.id.to_string());
            self.revisions.add(revision);
        }
    }

    fn server(data: &Path) -> Read {
        let mut read = Read::default();
        for path in files(&data.join("wsus-update-xml/full")) {
            read.files += 1;
            let bytes = fs::read(&path).unwrap();
            let revision = update::read([bytes.as_slice()], &mut read.tally)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            read.add(&path, revision);
        }
        read
    }

    /// Pieces belong together by what their file names begin with; one without a name of its own stands alone.
    fn client(data: &Path) -> Read {
        let mut read = Read::default();
        let mut updates: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for path in files(&data.join("wsus-update-xml/fragments")) {
            read.files += 1;
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            updates.entry(name.split('.').next().unwrap().to_owned()).or_default().push(path);
        }
        for (number, pieces) in updates.values().enumerate() {
            let bytes: Vec<_> = pieces.iter().map(|path| fs::read(path).unwrap()).collect();
            let mut elements = Vec::new();
            for piece in &bytes {
                elements.extend(tierway_central::sources::windows::xml::fragments(piece).unwrap());
            }
            let identity = tierway_central::sources::windows::model::Identity {
                id: format!("00000000-0000-0000-0000-{number:012}").parse().unwrap(),
                revision: 0,
            };
            let revision = update::of_elements(&elements, Some(identity), &mut read.tally)
                .unwrap_or_else(|error| panic!("{pieces:?}: {error}"));
            read.add(&pieces[0], revision);
        }
        read
    }

    fn offline(data: &Path) -> Read {
        let mut read = Read::default();
        let folder = data.join("wsusscn2/extracted");
        let graph = Graph::read(fs::File::open(folder.join("package.xml")).unwrap()).unwrap();
        let index = Index::read(&fs::read(folder.join("index.xml")).unwrap()).unwrap();
        read.files += 2;
        let mut pieces: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
        for path in files(&folder).into_iter().filter(|path| path.parent() != Some(&folder)) {
            read.files += 1;
            let id: u32 = path.file_stem().unwrap().to_string_lossy().parse().unwrap();
            let cabinet = path.strip_prefix(&folder).unwrap().iter().next().unwrap().to_string_lossy();
            assert_eq!(index.cabinet(id), Some(format!("{cabinet}.cab").as_str()), "{}", path.display());
            pieces.entry(id).or_default().push(path);
        }
        for (id, paths) in &pieces {
            let bytes: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
            let slices: Vec<_> = bytes.iter().map(Vec::as_slice).collect();
            match graph.revision(*id, &slices, &mut read.tally) {
                Ok(revision) => read.add(&paths[0], revision),
                // Two pieces lie there without the core that would name them; they are read all the same.
                Err(error) => {
                    assert!(!graph.updates.contains_key(id), "{paths:?}: {error}");
                    assert_eq!(error.to_string(), "it has no `UpdateIdentity`");
                    let identity = tierway_central::sources::windows::model::Identity {
                        id: format!("00000000-0000-0000-0000-{id:012}").parse().unwrap(),
                        revision: 0,
                    };
                    let elements = tierway_central::sources::windows::xml::fragments(slices[0]).unwrap();
                    let revision = update::of_elements(&elements, Some(identity), &mut read.tally).unwrap();
                    read.add(&paths[0], revision);
                }
            }
        }
        read
    }

    fn vendors(data: &Path) -> Read {
        let mut read = Read::default();
        for path in files(&data.join("sdp")) {
            if path.extension().is_none_or(|extension| extension != "sdp") {
                continue;
            }
            read.files += 1;
            let mut packages = Vec::new();
            sdp::each(fs::File::open(&path).unwrap(), &mut read.tally, &mut |package| packages.push(package))
                .unwrap();
            assert_eq!(packages.len(), 1, "{}", path.display());
            for package in packages {
                let package = package.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                read.add(&path, package.update);
                package.parts.into_iter().for_each(|part| read.revisions.add(part));
            }
        }
        read
    }

    fn updates(read: &Read) -> BTreeMap<String, Update> {
        let lowered = lower(&"windows".parse().unwrap(), &read.revisions, &|_| Timestamp::UNIX_EPOCH);
        assert!(lowered.left_out.is_empty(), "{:?}", lowered.left_out);
        lowered.updates.into_values().map(|update| (update.id.name().to_owned(), update)).collect()
    }

    /// Handler → how many documents.
    fn handlers<'a>(updates: impl Iterator<Item = &'a Update>) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for update in updates {
            let name = match &update.install {
                Install::Windows(install) => install.handler.name().to_owned(),
                Install::Bundle { .. } => "bundle".to_owned(),
                Install::Deb { .. } => "deb".to_owned(),
            };
            *found.entry(name).or_default() += 1;
        }
        found
    }

    #[test]
    fn every_file_is_read_and_so_much_of_it_is_understood() {
        let Some(data) = data("the reading of the vendors' metadata") else { return };
        let mut text = String::new();
        for (name, read) in [
            ("server documents", server(&data)),
            ("client fragments", client(&data)),
            ("offline catalogue", offline(&data)),
            ("vendor packages", vendors(&data)),
        ] {
            let documents = updates(&read);
            writeln!(
                text,
                "{name}: {} files, {} updates, {} documents",
                read.files,
                read.revisions.len(),
                documents.len()
            )
            .unwrap();
            for (handler, count) in handlers(documents.values()) {
                writeln!(text, "  handler {handler:28} {count:6}").unwrap();
            }
            let Tally { lowered, unknown, reasons } = &read.tally;
            let mut names: Vec<_> = lowered.keys().chain(unknown.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let count = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
                writeln!(text, "  {name:36} {:6} lowered {:4} unknown", count(lowered), count(unknown))
                    .unwrap();
            }
            for (reason, count) in reasons {
                writeln!(text, "  unknown {count} times: {reason}").unwrap();
            }
        }
        println!("{text}");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/windows_metadata/understood.txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    /// A made-up computer, and what is to come out for one document.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        /// File name of the document, or of its first piece.
        file: String,
        /// What the document says, in words, and so why the verdicts are what they are.
        because: String,
        computers: Vec<Computer>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Computer {
        /// `windows-<version> <architecture>`: what is in all facts.
        system: String,
        /// Further facts.
        #[serde(default)]
        facts: BTreeMap<String, String>,
        /// Facts of all that begin so, for what a document asks dozens of times.
        #[serde(default)]
        every: BTreeMap<String, String>,
        /// `not applicable`, `needed`, `installed`, or `unknown: ` and words of the reason.
        verdict: String,
    }

    fn facts(computer: &Computer, update: &Update) -> Facts {
        let (version, architecture) = computer.system.split_once(' ').unwrap();
        let complete = || Domain::Complete { source: "the computer".to_owned() };
        let mut facts = Facts {
            domains: ["os", "package:cbs", "package:msi", "attribute"]
                .map(|name| (name.to_owned(), complete()))
                .into(),
            values: [
                ("os:family", "windows"),
                ("os:version", version),
                ("os:service-pack", "0.0"),
                ("os:architecture", architecture),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        };
        let mut asked = std::collections::BTreeSet::new();
        for rule in [&update.applicable, &update.installed] {
            tierway_common::rules::evaluate::asks(rule, &mut asked);
        }
        for key in asked {
            let every = computer.every.iter().filter(|(begin, _)| key.starts_with(*begin));
            // The longest beginning counts.
            if let Some((_, value)) = every.max_by_key(|(begin, _)| begin.len()) {
                facts.values.insert(key, value.clone());
            }
        }
        facts.values.extend(computer.facts.clone());
        facts
    }

    #[test]
    fn the_verdict_is_the_one_that_was_worked_out_by_hand() {
        let Some(data) = data("verdicts on the vendors' metadata") else { return };
        let mut documents = BTreeMap::new();
        for read in [server(&data), client(&data), offline(&data), vendors(&data)] {
            let updates = updates(&read);
            for (file, id) in read.names {
                if let Some(update) = updates.get(&id) {
                    documents.insert(file, update.clone());
                }
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/windows_metadata/verdicts.json");
        let cases: Vec<Case> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let mut wrong = Vec::new();
        let mut checked = 0;
        for case in &cases {
            let update = documents.get(&case.file).unwrap_or_else(|| panic!("no document `{}`", case.file));
            assert!(case.computers.len() >= 3, "{}", case.file);
            for (place, computer) in case.computers.iter().enumerate() {
                checked += 1;
                let found = match verdict(update, &facts(computer, update)) {
                    Verdict::NotApplicable => "not applicable".to_owned(),
                    Verdict::Needed => "needed".to_owned(),
                    Verdict::Installed => "installed".to_owned(),
                    Verdict::Unknown { reason } => format!("unknown: {reason}"),
                };
                let holds = match computer.verdict.strip_prefix("unknown: ") {
                    Some(words) => found.starts_with("unknown: ") && found.contains(words),
                    None => found == computer.verdict,
                };
                if !holds {
                    let Case { file, because, .. } = case;
                    let wanted = &computer.verdict;
                    wrong.push(format!("{file} #{place}: {found} instead of {wanted} ({because})"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(cases.len() >= 20, "{} documents are checked", cases.len());
        println!("{} documents, {checked} verdicts", cases.len());
    }
}
