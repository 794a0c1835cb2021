//! Configuration files: what is taken keeps to what the daemons rely on, and is taken alike each time.

use std::time::Duration;

use tierway_central::config::{Config, File};

use super::{Target, texts};

pub(super) const CONFIGURATION: Target = Target {
    name: "configuration",
    run,
    seeds,
    words: &[
        "\n[[source]]\n",
        "\nkind = \"debian\"",
        "\nkind = \"wsus\"",
        "\nkind = \"sdp\"",
        "\nkind = \"msrc\"",
        "\nname = \"a\"",
        "\ncatalogue = \"a-pool\"",
        "\n[download]\n",
        "\nconcurrency = 64",
        "\nzone = \"Europe/Berlin\"",
        "= \"1m\"",
        "= \"1ns\"",
        "= \"300years\"",
        "= 18446744073709551615",
        "= -1",
        "= true",
        "\nlisten = \"[::]:7443\"",
        "\nupstream = ",
        "'''",
        "\\u0000",
        "[log]",
    ],
};

/// The first byte says whose the rest is.
fn run(bytes: &[u8]) -> bool {
    let Some((whose, text)) = bytes.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    match whose {
        b'c' => central(text),
        b'r' => {
            let read =
                || toml::from_str::<tierway_relay::config::Config>(text).map(|config| format!("{config:?}"));
            same(&read)
        }
        _ => {
            let read = || {
                toml::from_str::<tierway_endpoint::config::Config>(text).map(|config| format!("{config:?}"))
            };
            same(&read)
        }
    }
}

fn same(read: &dyn Fn() -> Result<String, toml::de::Error>) -> bool {
    let (one, other) = (read(), read());
    assert_eq!(one.as_ref().ok(), other.as_ref().ok(), "the same file says two things");
    one.is_ok()
}

fn central(text: &str) -> bool {
    let Ok(file) = toml::from_str::<File>(text) else { return false };
    let Ok(config) = Config::new(file, "host") else { return false };
    assert!(
        config.source_interval >= Duration::from_secs(60),
        "archives are asked more often than each minute"
    );
    assert!((1..=64).contains(&config.download_options.concurrency));
    let mut names: Vec<_> = config.sources.iter().map(|source| source.name().clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), config.sources.len(), "two sources have one name");
    let mut catalogues: Vec<_> = Vec::new();
    for source in &config.sources {
        if let Ok(Some((updates, pool))) = source.catalogues() {
            catalogues.extend([updates, pool]);
        }
        let fits = serde_json::to_vec(&source.fits()).unwrap();
        assert_eq!(
            serde_json::from_slice::<tierway_common::rules::expr::Expr>(&fits).unwrap(),
            source.fits()
        );
    }
    let all = catalogues.len();
    catalogues.sort();
    catalogues.dedup();
    assert_eq!(catalogues.len(), all, "two sources write one catalogue");
    true
}

fn seeds() -> Vec<Vec<u8>> {
    let samples = [
        ('c', include_str!("../../../deploy/config/central.toml")),
        ('r', include_str!("../../../deploy/config/relay.toml")),
        ('e', include_str!("../../../deploy/config/endpoint.toml")),
    ];
    let without_comments = |text: &str| {
        text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect::<Vec<_>>().join("\n")
    };
    let mut seeds: Vec<Vec<u8>> = samples
        .iter()
        .map(|(whose, text)| format!("{whose}{}", without_comments(text)).into_bytes())
        .collect();
    seeds.extend(texts(&[
        "c[[source]]\nkind = \"sdp\"\nname = \"a\"\ncatalogue = \"a\"\nurl = \"https://a/b.cab\"\n[[source]]\nkind = \"msrc\"\nname = \"m\"\n",
        "rlisten = \"[::]:7444\"\nsync_interval = \"30m\"\n[log]\nformat = \"json\"\n",
    ]));
    seeds
}
