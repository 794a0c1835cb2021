//! Reads the real security archive of Debian 12 with its base, and prints what it is made of.
//!
//! `cargo run -p tierway-central --example read-debian -- CACHE_DIR [DPKG_STATUS]`. With a status file of
//! dpkg, such as `/var/lib/dpkg/status`, it also prints the packages that the rules call needed on that
//! computer, each with the version it should have: what `apt list --upgradable` prints when only the
//! security suite is configured.

use std::{
    collections::BTreeMap,
    error::Error,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    time::Instant,
};

use tierway_central::sources::{
    Before, Source, SourceConfig, State, advisories::Advisories, debian::stanza::Stanzas,
};
use tierway_common::{
    clock::Clock,
    facts::{Domain, Facts},
    rules::{self, evaluate::Verdict},
    schema::Update,
    version::deb::DebVersion,
};

const CONFIG: &str = r#"
kind = "debian"
name = "bookworm"
catalogue = "debian-12"
os_version = "12"
url = "http://deb.debian.org/debian-security"
suite = "bookworm-security"
components = ["main", "contrib", "non-free-firmware"]

[[base]]
url = "http://deb.debian.org/debian"
suite = "bookworm"
components = ["main", "contrib", "non-free-firmware"]

[[base]]
url = "http://deb.debian.org/debian"
suite = "bookworm-updates"
components = ["main", "contrib", "non-free-firmware"]
"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let cache = arguments.next().ok_or("usage: read-debian CACHE_DIR [DPKG_STATUS]")?;
    let status_file = arguments.next();
    let config: SourceConfig = toml::from_str(CONFIG)?;
    let source = Source::new(config, &cache)?;
    let clock = Clock::system();
    let begun = Instant::now();
    let (none, advisories) = (BTreeMap::new(), Advisories::default());
    let before = Before { state: &State::New, catalogue: &none, advisories: &advisories };
    let first = source.sync(before, clock.now()).await?;
    let took = begun.elapsed();
    let bytes = |documents: &BTreeMap<String, bytes::Bytes>| -> usize {
        documents.values().map(bytes::Bytes::len).sum()
    };
    let largest = first.catalogue.iter().max_by_key(|(_, document)| document.len());
    println!("archive of            {}", first.archive_date);
    println!("updates               {}", first.stats.updates);
    println!("security packages     {}", first.stats.packages);
    println!("catalogue documents   {} with {} bytes", first.catalogue.len(), bytes(&first.catalogue));
    if let Some((key, document)) = largest {
        println!("largest document      {key} with {} bytes", document.len());
    }
    println!("pool packages         {}", first.stats.pool);
    println!("pool documents        {} with {} bytes", first.pool.len(), bytes(&first.pool));
    println!("took                  {took:.2?}");
    let begun = Instant::now();
    let before = Before { state: &first.state, catalogue: &first.catalogue, advisories: &advisories };
    let again = source.sync(before, clock.now()).await?;
    println!("again                 unchanged {} in {:.2?}", again.unchanged, begun.elapsed());
    println!("state                 {} bytes", serde_json::to_vec(&again.state)?.len());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("peak memory           {}", line.trim_start_matches("VmHWM:").trim());
    }
    if let Some(path) = status_file {
        let facts = facts(&path)?;
        for document in first.catalogue.values() {
            let update: Update = serde_json::from_slice(document)?;
            if rules::evaluate::verdict(&update, &facts) == Verdict::Needed {
                print_older(&update, &facts)?;
            }
        }
    }
    Ok(())
}

/// Facts of an amd64 computer with Debian 12 and the packages of a status file.
fn facts(path: &Path) -> Result<Facts, Box<dyn Error>> {
    let complete = || Domain::Complete { source: path.display().to_string() };
    let os = [("os:family", "debian"), ("os:version", "12"), ("os:architecture", "amd64")];
    let mut facts = Facts {
        domains: [("os".to_owned(), complete()), ("package:deb".to_owned(), complete())].into(),
        values: os.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    };
    let mut stanzas = Stanzas::new(BufReader::new(File::open(path)?));
    while let Some(stanza) = stanzas.advance()? {
        let field = |name| stanza.get(name).unwrap_or_default();
        if field("Status").ends_with(" installed") {
            let key = format!("package:deb:{}:{}", field("Package"), field("Architecture"));
            facts.values.insert(key, field("Version").to_owned());
        }
    }
    Ok(facts)
}

/// Prints the packages of the update that are installed in an older version.
fn print_older(update: &Update, facts: &Facts) -> Result<(), Box<dyn Error>> {
    let packages = update.install.deb_packages();
    for package in packages {
        for architecture in [package.architecture.as_str(), "all", "amd64"] {
            let key = format!("package:deb:{}:{architecture}", package.name);
            let Some(installed) = facts.values.get(&key) else { continue };
            if installed.parse::<DebVersion>()? < package.version.parse()? {
                println!("needed {} {} {architecture}", package.name, package.version);
            }
            break;
        }
    }
    Ok(())
}
