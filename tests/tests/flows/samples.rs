//! What is shipped beside the programs — sample configurations, units, manual, README — says what the
//! programs do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{
        fs::{chown, symlink},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use serde::de::DeserializeOwned;
use tierway_central::config::File as CentralConfig;
use tierway_common::daemon::{chain::Chain, config};
use tierway_endpoint::config::Config as EndpointConfig;
use tierway_relay::config::Config as RelayConfig;
use tierway_tests::{programs, skip::skip};

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text_of(path: &str) -> String {
    fs::read_to_string(shipped(path)).unwrap()
}

fn load<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sample.toml");
    fs::write(&path, text).unwrap();
    config::load(&path).map_err(|error| Chain(&error).to_string())
}

/// The keys that the program knows after `before`, as it lists them when it meets one it does not know.
fn known_keys<T: DeserializeOwned + std::fmt::Debug>(before: &str) -> BTreeSet<String> {
    let error = load::<T>(&format!("{before}no_such_key = 1\n")).unwrap_err();
    let (_, list) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A sample's line without the marks that comment it out, when it then is a section or a key with a value.
fn setting(line: &str) -> Option<&str> {
    let line = line.trim_start_matches("# ");
    let is_key = |key: &str| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let is_section = line.starts_with('[') && line.ends_with(']');
    (is_section || line.split_once(" = ").is_some_and(|(key, _)| is_key(key))).then_some(line)
}

/// Keys by section, those that are commented out among them.
fn mentioned(sample: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in sample.lines().filter_map(setting) {
        match line.split_once(" = ") {
            None => section = line.trim_matches(['[', ']']).to_owned(),
            Some((key, _)) => drop(found.entry(section.clone()).or_default().insert(key.to_owned())),
        }
    }
    found
}

/// Checks that a sample mentions every key but `sections`, in every section, and no other.
fn check_keys<T: DeserializeOwned + std::fmt::Debug>(file: &str, sections: &[(&str, &str)]) {
    let sample = text_of(&format!("deploy/config/{file}"));
    let mentioned = mentioned(&sample);
    let mut top = known_keys::<T>("");
    for (section, before) in sections {
        assert!(top.remove(*section), "{file}: `{section}` is no section");
        assert_eq!(mentioned.get(*section), Some(&known_keys::<T>(before)), "{file}: [{section}]");
    }
    assert_eq!(mentioned.get(""), Some(&top), "{file}: keys before the first section");
    let all: String = sample.lines().map(|line| format!("{}\n", setting(line).unwrap_or(line))).collect();
    if let Err(error) = load::<T>(&all) {
        panic!("{file} with everything that is commented out in force: {error}\n{all}");
    }
}

/// Every kind of source, ascending.
const KINDS: [&str; 5] = ["debian", "msrc", "offline", "sdp", "wsus"];

/// Keys of central's sources by kind, which chooses them and is none of them.
fn sources(sample: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut kind = None;
    for line in sample.lines().filter_map(setting) {
        match line.split_once(" = ") {
            None => kind = None,
            Some(("kind", name)) => kind = Some(name.trim_matches('"').to_owned()),
            Some((key, _)) => {
                if let Some(kind) = &kind {
                    found.entry(kind.clone()).or_default().insert(key.to_owned());
                }
            }
        }
    }
    found
}

const LOG: (&str, &str) = ("log", "[log]\n");

#[test]
fn a_sample_configuration_mentions_every_key_and_all_its_examples_are_valid() {
    let download = ("download", "[download]\n");
    let sample = text_of("deploy/config/central.toml");
    let sources = sources(&sample);
    assert_eq!(sources.keys().map(String::as_str).collect::<Vec<_>>(), KINDS);
    for (kind, keys) in sources {
        let known = known_keys::<CentralConfig>(&format!("[[source]]\nkind = \"{kind}\"\n"));
        assert_eq!(keys, known, "central.toml: [source] of kind `{kind}`");
    }
    let base = known_keys::<CentralConfig>("[[source]]\nkind = \"debian\"\n[[source.base]]\n");
    for key in base {
        let given =
            sample.lines().any(|line| line.starts_with("base = ") && line.contains(&format!("{key} = ")));
        assert!(given, "central.toml: `base` without `{key}`");
    }
    let mut top = known_keys::<CentralConfig>("");
    for (section, before) in [LOG, download] {
        assert_eq!(
            mentioned(&sample).get(section),
            Some(&known_keys::<CentralConfig>(before)),
            "[{section}]"
        );
        top.remove(section);
    }
    top.remove("source");
    assert_eq!(mentioned(&sample).get(""), Some(&top), "central.toml: keys before the first section");
    let all: String = sample.lines().map(|line| format!("{}\n", setting(line).unwrap_or(line))).collect();
    load::<CentralConfig>(&all).unwrap();

    check_keys::<RelayConfig>("relay.toml", &[LOG, ("upstream", "[upstream]\n")]);
    check_keys::<EndpointConfig>("endpoint.toml", &[LOG, ("upstream", "[[upstream]]\n")]);
}

#[test]
fn a_sample_configuration_says_what_holds_without_it() {
    let mut central: CentralConfig = load(&text_of("deploy/config/central.toml")).unwrap();
    assert_eq!(std::mem::take(&mut central.source).len(), 1);
    assert_eq!(format!("{central:#?}"), format!("{:#?}", CentralConfig::default()));
    let relay: RelayConfig = load(&text_of("deploy/config/relay.toml")).unwrap();
    assert_eq!(format!("{relay:#?}"), format!("{:#?}", RelayConfig::default()));
    let endpoint: EndpointConfig = load(&text_of("deploy/config/endpoint.toml")).unwrap();
    assert_eq!(format!("{endpoint:#?}"), format!("{:#?}", EndpointConfig::default()));
}

/// What `--help` says, by command line.
#[derive(Default)]
struct Helps(BTreeMap<Vec<String>, String>);

impl Helps {
    fn of(&mut self, command: &[String]) -> &str {
        self.0.entry(command.to_vec()).or_insert_with(|| {
            let mut arguments = command[1..].to_vec();
            arguments.push("--help".to_owned());
            let help = programs::run(&command[0], &arguments);
            assert_eq!(help.code, Some(0), "{command:?}: {}", help.errors);
            help.output
        })
    }

    /// The commands below `command`; none where it takes none.
    fn commands(&mut self, command: &[String]) -> BTreeSet<String> {
        let help = self.of(command);
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let listed = listed.take_while(|line| line.starts_with("  "));
        let names =
            listed.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
        names.filter(|name| *name != "help").map(str::to_owned).collect()
    }

    /// Checks a command line as somebody wrote it: every command and option in it exists.
    fn check(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
        let mut command = vec![words.next().ok_or("nothing")?.to_owned()];
        while let Some(word) = words.next() {
            if word.starts_with('#') || word == ">" || word == "|" {
                break;
            }
            if word.starts_with('-') && word != "-" {
                let option = word.split('=').next().unwrap_or(word);
                let help = self.of(&command).to_owned();
                let line = help.lines().find(|line| {
                    line.trim_start().starts_with('-')
                        && line.split([' ', ',']).any(|listed| listed == option)
                });
                let line = line.ok_or(format!("`{}` has no `{option}`", command.join(" ")))?;
                if line.contains('<') && !word.contains('=') {
                    words.next();
                }
                continue;
            }
            let commands = self.commands(&command);
            if commands.contains(word) {
                command.push(word.to_owned());
            } else if !commands.is_empty() {
                return Err(format!("`{}` has no `{word}`", command.join(" ")));
            }
        }
        match self.commands(&command) {
            below if below.is_empty() => Ok(()),
            // The program named as such, as in a sentence.
            _ if command.len() == 1 => Ok(()),
            // One that takes commands and does something without one says so in its usage.
            _ if self.of(&command).contains("[COMMAND]") => Ok(()),
            _ => Err(format!("`{}` does nothing by itself", command.join(" "))),
        }
    }
}

const PROGRAMS: [&str; 4] = ["tierctl", "tierway-central", "tierway-relay", "tierway-endpoint"];

fn is_command(text: &str) -> bool {
    text.split_whitespace().next().is_some_and(|first| PROGRAMS.contains(&first))
}

/// Command lines in the code blocks and code spans of a Markdown text.
fn in_markdown(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let (mut found, mut in_block) = (Vec::new(), false);
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            found.push(line.to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found.retain(|line| is_command(line));
    found
}

#[test]
fn every_command_that_is_written_down_exists() {
    let mut helps = Helps::default();
    let mut lines: Vec<(String, String)> = Vec::new();
    for file in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        lines.extend(in_markdown(&text_of(file)).into_iter().map(|line| (file.to_owned(), line)));
    }
    for name in ["tierway-central", "tierway-relay", "tierway-endpoint"] {
        let file = format!("deploy/man/{name}.8");
        let page = text_of(&file).replace("\\-", "-");
        let quoted = page
            .lines()
            .filter(|line| line.starts_with('.'))
            .flat_map(|line| line.split('"').skip(1).step_by(2));
        lines.extend(quoted.filter(|text| is_command(text)).map(|text| (file.clone(), text.to_owned())));
        lines.extend(
            page.lines()
                .filter(|line| is_command(line) && !line.contains(" - "))
                .map(|line| (file.clone(), line.to_owned())),
        );
        let (_, commands) = page.split_once(".SH COMMANDS\n").unwrap();
        let commands = commands.split(".PP").next().unwrap();
        let described: BTreeSet<String> = commands
            .lines()
            .zip(commands.lines().skip(1))
            .filter(|(before, _)| *before == ".TP")
            .filter_map(|(_, line)| line.split_whitespace().nth(1))
            .map(str::to_owned)
            .collect();
        assert_eq!(described, helps.commands(&[name.to_owned()]), "{file}");
    }
    for unit in ["tierway-central", "tierway-relay", "tierway-endpoint"] {
        let file = format!("deploy/systemd/{unit}.service");
        let started = text_of(&file);
        let started = started.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).unwrap();
        lines.push((file, started.to_owned()));
    }
    for sample in ["central", "relay", "endpoint"] {
        let file = format!("deploy/config/{sample}.toml");
        lines.extend(in_markdown(&text_of(&file)).into_iter().map(|line| (file.clone(), line)));
    }
    let wrong: Vec<String> = lines
        .iter()
        .filter_map(|(file, line)| helps.check(line).err().map(|error| format!("{file}: `{line}`: {error}")))
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    assert!(lines.len() > 25, "only {} command lines were found: {lines:#?}", lines.len());
}

#[test]
fn a_unit_names_what_the_program_it_starts_has_and_systemd_knows_every_line_of_it() {
    let defaults = [
        ("central", CentralConfig::default().data_dir, None),
        ("relay", RelayConfig::default().data_dir, Some("identity/identity.pem")),
        ("endpoint", EndpointConfig::default().data_dir, Some("identity/identity.pem")),
    ];
    for (tier, data_dir, needed) in defaults {
        let unit = text_of(&format!("deploy/systemd/tierway-{tier}.service"));
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
        let state = value("StateDirectory").unwrap();
        assert_eq!(Path::new("/var/lib").join(state), data_dir, "{tier}");
        match needed {
            Some(file) => {
                assert_eq!(value("ConditionPathExists").map(PathBuf::from), Some(data_dir.join(file)))
            }
            None => assert_eq!(value("ConditionDirectoryNotEmpty").map(PathBuf::from), Some(data_dir)),
        }
        let config = format!("--config /etc/tierway/{tier}.toml serve");
        assert!(value("ExecStart").unwrap().ends_with(&config), "{tier}");
    }
    let runtime = text_of("deploy/systemd/tierway-endpoint.service");
    let runtime = runtime.lines().find_map(|line| line.strip_prefix("RuntimeDirectory=")).unwrap();
    assert_eq!(EndpointConfig::default().local_socket.parent().unwrap(), Path::new("/run").join(runtime));

    let units: Vec<_> = ["central", "relay", "endpoint"]
        .map(|tier| shipped(&format!("deploy/systemd/tierway-{tier}.service")))
        .to_vec();
    let arguments: Vec<_> = [PathBuf::from("verify")].into_iter().chain(units).collect();
    match programs::run_if_there("systemd-analyze", &arguments) {
        None => skip("reading the units with systemd's eyes", "there is no systemd-analyze"),
        Some(said) => {
            // That programs and manual are not installed here is no fault of the units.
            let about = |line: &&str| {
                line.contains("tierway-")
                    && !line.contains("is not executable")
                    && !line.contains("Command 'man")
            };
            let faults: Vec<_> = said.errors.lines().filter(about).collect();
            assert_eq!(faults, Vec::<&str>::new());
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test has something running that must go on")]
fn the_quickstart_deletes_no_folder_but_its_own_and_ends_nothing_but_the_tiers() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["theirs", "empty", "made", "alike", "bare", "mixed"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("theirs/precious"), "").unwrap();
    fs::write(at("theirs/tierway-relay.pid"), "1").unwrap();
    for name in ["made", "alike", "mixed"] {
        fs::write(at(name).join(".made-by-tierway-quickstart"), "").unwrap();
    }
    symlink(at("theirs"), at("link")).unwrap();
    symlink(at("made"), at("detour")).unwrap();
    let mut cases = vec![("theirs", 1), ("link", 1), ("detour", 1), ("theirs/precious", 1)];
    // Whoever may write beside it can make a folder that looks like one of ours, but it is his.
    let given = ["alike", "alike/.made-by-tierway-quickstart", "bare", "mixed/.made-by-tierway-quickstart"];
    if given.into_iter().try_for_each(|name| chown(at(name), Some(65_534), Some(65_534))).is_ok() {
        cases.extend([("alike", 1), ("bare", 1), ("mixed", 1)]);
    } else {
        skip("quickstart in a folder of somebody else", "only root can give a folder away");
    }
    cases.extend([("made", 0), ("empty", 0), ("none", 0)]);
    let quickstart = shipped("deploy/quickstart").display().to_string();
    // A process that is none of the tiers, though the folder names it.
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(at("made/sleep.pid"), other.id().to_string()).unwrap();
    for (name, code) in cases {
        let folder = at(name).display().to_string();
        let ended = programs::run_if_there(&quickstart, &["--down", "--dir", &folder]).unwrap();
        assert_eq!((ended.code, at(name).exists()), (Some(code), code == 1), "{name}: {}", ended.errors);
    }
    assert_eq!(fs::read_dir(at("theirs")).unwrap().count(), 2);
    other.kill().unwrap();
    assert_eq!(other.wait().unwrap().signal(), Some(9), "it was ended before");
}
