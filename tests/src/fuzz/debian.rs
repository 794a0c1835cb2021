//! Debian's archive: what is read of an index or a release does not depend on how the bytes come, and nothing is verified
//! that nobody signed.

use std::{io::BufReader, sync::LazyLock};

use tierway_central::sources::debian::{
    index::{Index, Packing, Record},
    pool::Pool,
    release::{Expiry, Listed, Release},
    signature::Keyring,
    stanza::Stanzas,
};
use tierway_common::{schema::PoolEntry, trust::digest::Digest};

use super::{Dripping, Target, texts};

/// Indices of packages, packed and not.
pub(super) const INDICES: Target = Target {
    name: "debian-indices",
    run: index,
    seeds: indices,
    words: &[
        "\nPackage: a",
        "\nVersion: 1:1.0-1",
        "\nArchitecture: all",
        "\nFilename: pool/a.deb",
        "\nSize: 1",
        "\nSource: b (2.0)",
        "\nProvides: c (= 1), d",
        "\nDepends: libc6 (>= 2.36) | e:any",
        "\n\n",
        "\n .\n",
        "\r\n",
        "\nSHA256: ",
        "\u{fd}7zXZ",
        ":",
    ],
};

/// Releases, already verified.
pub(super) const RELEASES: Target = Target {
    name: "debian-releases",
    run: release,
    seeds: releases,
    words: &[
        "\nSHA256:",
        "\nDate: Tue, 24 Nov 2026 10:00:00 UTC",
        "\nValid-Until: ",
        "\nAcquire-By-Hash: yes",
        "../",
        "main/binary-amd64/Packages.xz",
        "\nSuite: ",
        "\nNotAutomatic: yes",
        "\nArchitectures: all",
        " 18446744073709551615 ",
        "\r\n",
    ],
};

/// Signed messages and keyrings.
pub(super) const SIGNATURES: Target = Target {
    name: "debian-signatures",
    run: signature,
    seeds: signatures,
    words: &[
        "-----BEGIN PGP SIGNED MESSAGE-----\n",
        "-----BEGIN PGP SIGNATURE-----\n",
        "-----END PGP SIGNATURE-----\n",
        "Hash: SHA256\n",
        "- -----",
        "\n\n",
        "=",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
        "\r\n",
        "Version: 1\n",
    ],
};

/// Most that a small input may unpack to: more is what an archive would sign, and no property of the reader.
const UNPACKED_BYTES_MAX: u64 = 4 << 20;

/// The first byte says how the rest is packed.
fn index(bytes: &[u8]) -> bool {
    let Some((packing, bytes)) = bytes.split_first() else { return false };
    let packing = match packing {
        0 => Packing::Plain,
        1 => Packing::Gzip,
        _ => Packing::Xz,
    };
    let listed = Listed { digest: Digest::of(bytes), bytes: bytes.len() as u64 };
    // A release that says how long the index is, and not as which digest, is none: the digest never fits.
    let plain = match packing {
        Packing::Plain => Some(listed),
        Packing::Gzip | Packing::Xz => Some(Listed { digest: Digest::of(b""), bytes: UNPACKED_BYTES_MAX }),
    };
    let index = Index { path: "main/binary-amd64/Packages".to_owned(), packed: listed, packing, plain };
    let mut pool = Pool::default();
    pool.archive("http://a");
    let mut records = 0_usize;
    let read = index.read(bytes, &mut |record| {
        records += 1;
        assert!(!record.name.is_empty() && !record.architecture.is_empty());
        let compact = record.compact();
        let package = record.to_package("http://a");
        assert_eq!(package.payload.digest, record.digest);
        assert!(compact.len() as u64 <= 4 * UNPACKED_BYTES_MAX);
        pool.add("amd64", &record);
    });
    let whole = packing == Packing::Plain;
    assert!(whole || read.is_err(), "an index that is not the one that was signed is taken");
    if let Ok(documents) = pool.documents() {
        for (key, document) in documents {
            let read = serde_json::from_slice::<PoolEntry>(&document);
            assert!(read.is_ok(), "the pool's document `{key}` cannot be read");
        }
    }
    if whole {
        stanzas(bytes, read.is_ok().then_some(records));
    }
    read.is_ok() || records > 0
}

/// Fields of stanzas, and how the reading ended.
type Fields = (Vec<Vec<(String, String)>>, Option<String>);

fn fields(input: impl std::io::BufRead) -> Fields {
    let mut stanzas = Stanzas::new(input);
    let mut found = Vec::new();
    loop {
        match stanzas.advance() {
            Ok(Some(stanza)) => {
                let owned = stanza.fields().map(|(name, value)| (name.to_owned(), value.to_owned()));
                found.push(owned.collect());
                for (name, value) in stanza.fields() {
                    assert_eq!(stanza.get(&name.to_ascii_uppercase()), Some(value), "`{name}` is not found");
                }
                let record = Record::parse(stanza);
                assert_eq!(record.is_ok(), Record::parse(stanza).is_ok());
            }
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error.to_string())),
        }
    }
}

/// `records` of it were packages, when all were.
fn stanzas(bytes: &[u8], records: Option<usize>) {
    let read = fields(bytes);
    assert_eq!(
        read,
        fields(BufReader::with_capacity(1, Dripping(bytes))),
        "byte by byte, it says something else"
    );
    let (at_once, _) = read;
    if let Some(records) = records {
        assert_eq!(records, at_once.len());
    }
    // Written again it says the same, where a value can be written: none that ends in an empty line.
    let text: String = at_once
        .iter()
        .map(|stanza| {
            stanza.iter().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>() + "\n"
        })
        .collect();
    let (again, ended) = fields(text.as_bytes());
    assert_eq!((again, ended), (at_once, None), "stanzas that were written again say something else");
}

fn release(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(release) = Release::parse(text) else { return false };
    for path in release.files.keys() {
        let parts: Vec<&str> = path.split('/').collect();
        assert!(
            !parts.contains(&"..") && !parts.contains(&"") && !parts.contains(&"."),
            "`{path}` leads elsewhere"
        );
    }
    let now = release.date;
    let fits = |now, accepted, expiry| release.check(&release.suite, accepted, expiry, now).is_ok();
    let accepted = fits(now, Some(now), Expiry::Accept);
    assert!(!fits(now, Some(now), Expiry::Refuse) || accepted, "who accepts what has expired refuses more");
    if let Ok(later) = now.checked_add(jiff::SignedDuration::from_secs(1)) {
        assert!(!fits(now, Some(later), Expiry::Accept), "an older release replaces a newer one");
    }
    for (component, architecture) in [("main", "amd64"), ("main", "all")] {
        if let Some(index) = Index::find(&release, component, architecture) {
            assert!(release.files.contains_key(&index.path), "an index is not in its release");
        }
    }
    true
}

/// A key of nobody, and a text that it signed.
const KEYRING: &[u8] = include_bytes!("debian/keyring.asc");
const MESSAGE: &[u8] = include_bytes!("debian/InRelease");

static OURS: LazyLock<Keyring> = LazyLock::new(|| Keyring::parse("keyring.asc", KEYRING).unwrap());

/// The first byte says whether the rest is a message or a keyring.
fn signature(bytes: &[u8]) -> bool {
    // After it was signed.
    let now = "2026-12-01T00:00:00Z".parse().unwrap();
    match bytes.split_first() {
        Some((b'm', message)) => {
            let Ok(verified) = OURS.verify(message, now) else { return false };
            let signed = OURS.verify(MESSAGE, now).unwrap();
            assert_eq!(verified, signed, "a text is verified that nobody signed");
            true
        }
        Some((_, keyring)) => match Keyring::parse("keyring", keyring) {
            Ok(keyring) => {
                // Whoever's it is, it says of our message what it is: signed by one of its keys, or not.
                if let Ok(verified) = keyring.verify(MESSAGE, now) {
                    assert_eq!(
                        verified,
                        OURS.verify(MESSAGE, now).unwrap(),
                        "another key signed our message"
                    );
                }
                true
            }
            Err(_) => false,
        },
        None => false,
    }
}

fn indices() -> Vec<Vec<u8>> {
    let text = "Package: a\nVersion: 1:1.0-1+b1\nArchitecture: amd64\nSource: b (1:1.0-1)\nProvides: c (= 1), d\nDepends: libc6 (>= 2.36),\n e | f:any\n\
         Filename: pool/main/b/b/a_1.0_amd64.deb\nSize: 100\nSHA256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n\
         Description: one\n two\n .\n three\n\nPackage: g\nVersion: 2\nArchitecture: all\nFilename: g.deb\nSize: 1\n\
         SHA256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n";
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    std::io::Write::write_all(&mut xz, text.as_bytes()).unwrap();
    vec![
        [b"\0".as_slice(), text.as_bytes()].concat(),
        b"\0\n\n# no field\nA: b\n".to_vec(),
        // A value that begins on the next line.
        b"\0Package: a\nVersion: 1\nArchitecture: all\nFilename: a\nSize: 1\nDescription: \n two\n\
          SHA256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n"
            .to_vec(),
        [b"\x02".as_slice(), &xz.finish().unwrap()].concat(),
    ]
}

fn releases() -> Vec<Vec<u8>> {
    texts(&[
        "Origin: Debian\nSuite: stable-security\nCodename: bookworm-security\nDate: Tue, 24 Nov 2026 10:00:00 UTC\n\
         Valid-Until: Tue, 01 Dec 2026 10:00:00 UTC\nAcquire-By-Hash: yes\nArchitectures: all amd64\nComponents: main\nSHA256:\n \
         9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 100 main/binary-amd64/Packages.xz\n \
         9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 900 main/binary-amd64/Packages\n",
        "Suite: a\nDate: Sat, 1 Feb 2020 00:00:00 +0100\nSHA256:\n",
    ])
}

fn signatures() -> Vec<Vec<u8>> {
    vec![[b"m", MESSAGE].concat(), [b"k", KEYRING].concat()]
}
