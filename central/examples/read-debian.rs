//! Reads the real security archive of Debian 12 with its base, and prints what it is made of.
//!
//! `cargo run --release -p tierway-central --example read-debian -- CACHE_DIR [OUTPUT_FILE]`. The second run with the same cache
//! shows what little is asked for when nothing changed. With a file, the updates are written to it, one JSON
//! document a line.

use std::{collections::BTreeMap, error::Error, path::PathBuf, time::Instant};

use tierway_central::sources::{Source, SourceConfig, State};
use tierway_common::{clock::Clock, schema::Update};

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
    let cache = arguments.next().ok_or("usage: read-debian CACHE_DIR [OUTPUT_FILE]")?;
    let output = arguments.next();
    let config: SourceConfig = toml::from_str(CONFIG)?;
    let source = Source::new(config, &cache)?;
    let clock = Clock::system();
    let begun = Instant::now();
    let first = source.sync(&State::New, &BTreeMap::new(), clock.now()).await?;
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
    let again = source.sync(&first.state, &first.catalogue, clock.now()).await?;
    println!("again                 unchanged {} in {:.2?}", again.unchanged, begun.elapsed());
    println!("state                 {} bytes", serde_json::to_vec(&again.state)?.len());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("peak memory           {}", line.trim_start_matches("VmHWM:").trim());
    }
    if let Some(path) = output {
        let mut text = String::new();
        for document in first.catalogue.values() {
            // Read back, so that what is printed is what a reader understands.
            text.push_str(&serde_json::to_string(&serde_json::from_slice::<Update>(document)?)?);
            text.push('\n');
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}
