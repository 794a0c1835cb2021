//! A `Packages` index: decompressed within its signed length, checked against its signed digest, read
//! record by record.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read},
};

use tierway_common::{
    schema::{DebPackage, Payload},
    trust::digest::{Digest, Hasher},
    version::deb::DebVersion,
};

use super::{
    release::{Listed, Release},
    stanza::{Stanza, StanzaError, Stanzas},
};

/// Longest index, unpacked, when the release does not say its length: Debian's main has 50 MB.
const INDEX_BYTES_MAX: u64 = 512 << 20;

/// What the xz decoder may allocate; `xz -9` needs 65 MiB.
const XZ_MEMORY_BYTES_MAX: u64 = 128 << 20;

/// Longest package name; Debian's longest has under 80.
const NAME_BYTES_MAX: usize = 128;

/// The fields that apt's resolver reads when recommended packages are not installed.
const CONTROL_FIELDS: [&str; 14] = [
    "Breaks",
    "Conflicts",
    "Depends",
    "Essential",
    "Important",
    "Installed-Size",
    "Multi-Arch",
    "Pre-Depends",
    "Priority",
    "Protected",
    "Provides",
    "Replaces",
    "Section",
    "Source",
];

/// The fields of a package's stanza that apt's resolver reads, each on one line.
#[must_use]
pub fn control_fields(stanza: &Stanza) -> BTreeMap<String, String> {
    let line = |field: &&str| {
        let value = stanza.get(field).filter(|value| !value.is_empty())?;
        Some(((*field).to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    CONTROL_FIELDS.iter().filter_map(line).collect()
}

/// An index that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It is not deb822.
    #[error("it is not a package index")]
    Stanza(#[from] StanzaError),
    /// A record lacks a field.
    #[error("line {line}: the package `{package}` has no `{field}`")]
    Missing {
        /// Where the stanza begins.
        line: u64,
        /// Its package, if it says so.
        package: String,
        /// What is missing.
        field: &'static str,
    },
    /// A field cannot be read.
    #[error("line {line}: the package `{package}` has a `{field}` that cannot be read: `{text}`")]
    Field {
        /// Where the stanza begins.
        line: u64,
        /// Its package.
        package: String,
        /// Which field.
        field: &'static str,
        /// What it says, cut.
        text: String,
    },
    /// Unpacked, it is not what the release lists.
    #[error("unpacked, it has the digest {found}, not {expected}")]
    Digest {
        /// As signed.
        expected: Digest,
        /// As found.
        found: Digest,
    },
    /// Unpacked, it is shorter than the release says.
    #[error("unpacked, it is cut off: {found} of {expected} bytes")]
    Truncated {
        /// As signed.
        expected: u64,
        /// As found.
        found: u64,
    },
}

/// How an index is packed, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// xz.
    Xz,
    /// gzip.
    Gzip,
    /// Not at all.
    Plain,
}

/// An index to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Path below the suite.
    pub path: String,
    /// As packed.
    pub packed: Listed,
    /// How.
    pub packing: Packing,
    /// As unpacked, when the release says.
    pub plain: Option<Listed>,
}

impl Index {
    /// The best packed index of a component and an architecture; `None` when the release has none.
    #[must_use]
    pub fn find(release: &Release, component: &str, architecture: &str) -> Option<Self> {
        let plain = format!("{component}/binary-{architecture}/Packages");
        [(".xz", Packing::Xz), (".gz", Packing::Gzip), ("", Packing::Plain)].into_iter().find_map(
            |(suffix, packing)| {
                let path = format!("{plain}{suffix}");
                let packed = *release.files.get(&path)?;
                Some(Self { path, packed, packing, plain: release.files.get(&plain).copied() })
            },
        )
    }

    /// Reads the records of the packed bytes, which must already have been checked against
    /// [`Index::packed`], and calls `visit` with each in its order.
    ///
    /// # Errors
    ///
    /// [`IndexError`]; some records may have been visited by then and must be forgotten.
    pub fn read(&self, packed: &[u8], visit: &mut dyn FnMut(Record<'_>)) -> Result<(), IndexError> {
        let reader: Box<dyn Read + '_> = match self.packing {
            Packing::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    XZ_MEMORY_BYTES_MAX,
                    liblzma::stream::CONCATENATED,
                )
                .map_err(|error| StanzaError::Read { line: 0, source: error.into() })?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream))
            }
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Packing::Plain => Box::new(packed),
        };
        let bytes_max = self.plain.map_or(INDEX_BYTES_MAX, |plain| plain.bytes);
        let mut bounded = BufReader::with_capacity(
            64 << 10,
            Bounded { inner: reader, hasher: Hasher::new(), bytes: 0, bytes_max },
        );
        let outcome = read_records(&mut bounded, visit);
        let Bounded { hasher, bytes, .. } = bounded.into_inner();
        outcome?;
        if let Some(plain) = self.plain {
            if bytes != plain.bytes {
                return Err(IndexError::Truncated { expected: plain.bytes, found: bytes });
            }
            let found = hasher.finish();
            if found != plain.digest {
                return Err(IndexError::Digest { expected: plain.digest, found });
            }
        }
        Ok(())
    }
}

fn read_records(input: &mut dyn BufRead, visit: &mut dyn FnMut(Record<'_>)) -> Result<(), IndexError> {
    let mut stanzas = Stanzas::new(input);
    while let Some(stanza) = stanzas.advance()? {
        visit(Record::parse(stanza)?);
    }
    Ok(())
}

/// Reads at most so many bytes and digests them.
struct Bounded<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
    bytes_max: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        if self.bytes > self.bytes_max {
            let limit = self.bytes_max;
            return Err(io::Error::other(format!("it unpacks to more than {limit} bytes")));
        }
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// One binary package of an index, checked; texts borrow from the index.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// `Package`.
    pub name: &'a str,
    /// `Version`.
    pub version: DebVersion,
    /// `Architecture`.
    pub architecture: &'a str,
    /// Source package, from `Source` or the package itself.
    pub source: &'a str,
    /// Version of the source package: binaries that were only rebuilt have another.
    pub source_version: DebVersion,
    /// `Filename`: path below the archive.
    pub path: &'a str,
    /// `Size`.
    pub bytes: u64,
    /// `SHA256`.
    pub digest: Digest,
    stanza: &'a Stanza,
}

impl<'a> Record<'a> {
    /// Checks a stanza.
    ///
    /// # Errors
    ///
    /// [`IndexError::Missing`] and [`IndexError::Field`], naming line, package and field.
    pub fn parse(stanza: &'a Stanza) -> Result<Self, IndexError> {
        let package = stanza.get("Package").unwrap_or_default();
        let field = |field: &'static str| {
            stanza.get(field).filter(|value| !value.is_empty()).ok_or_else(|| IndexError::Missing {
                line: stanza.line(),
                package: package.to_owned(),
                field,
            })
        };
        let wrong = |field: &'static str, text: &str| IndexError::Field {
            line: stanza.line(),
            package: package.chars().take(80).collect(),
            field,
            text: text.chars().take(80).collect(),
        };
        let named = |name: &'static str| {
            let value = field(name)?;
            if is_name(value) { Ok(value) } else { Err(wrong(name, value)) }
        };
        let name = named("Package")?;
        let version_text = field("Version")?;
        let version: DebVersion = version_text.parse().map_err(|_| wrong("Version", version_text))?;
        let (source, source_version) = match stanza.get("Source").map(split_source) {
            None => (name, version.clone()),
            Some((source, _)) if !is_name(source) => return Err(wrong("Source", source)),
            Some((source, None)) => (source, version.clone()),
            Some((source, Some(text))) => (source, text.parse().map_err(|_| wrong("Source", text))?),
        };
        let path = field("Filename")?;
        let path = path.strip_prefix("./").unwrap_or(path);
        if path.starts_with('/')
            || !path.bytes().all(|b| b.is_ascii_graphic())
            || path.split('/').any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(wrong("Filename", path));
        }
        let (size, digest) = (field("Size")?, field("SHA256")?);
        Ok(Self {
            name,
            version,
            architecture: named("Architecture")?,
            source,
            source_version,
            path,
            bytes: size.parse().map_err(|_| wrong("Size", size))?,
            digest: digest.parse().map_err(|_| wrong("SHA256", digest))?,
            stanza,
        })
    }

    /// The document part of this package, to be fetched from the archive at `url`.
    #[must_use]
    pub fn to_package(&self, url: &str) -> DebPackage {
        DebPackage {
            name: self.name.to_owned(),
            version: self.version.as_str().to_owned(),
            architecture: self.architecture.to_owned(),
            payload: Payload {
                digest: self.digest,
                bytes: self.bytes,
                url: format!("{}/{}", url.trim_end_matches('/'), encode_path(self.path)),
            },
            control: control_fields(self.stanza),
        }
    }

    /// The names it provides, without versions and architectures, in their order.
    pub fn provides(&self) -> impl Iterator<Item = &'a str> {
        self.stanza.get("Provides").unwrap_or_default().split(',').filter_map(|entry| {
            let name = entry.trim().split([' ', '(', ':', '\n', '\t']).next()?;
            is_name(name).then_some(name)
        })
    }

    /// The fields that matter, as a stanza of their own: what [`Record::parse`] needs to give the same
    /// again, in a fraction of the memory of a [`DebPackage`].
    #[must_use]
    pub fn compact(&self) -> Box<str> {
        let mut text = String::with_capacity(512);
        for (name, value) in self.stanza.fields() {
            let kept = ["Package", "Version", "Architecture", "Filename", "Size", "SHA256"];
            if kept.iter().chain(&CONTROL_FIELDS).any(|field| field.eq_ignore_ascii_case(name)) {
                text.push_str(name);
                text.push_str(": ");
                text.push_str(value);
                text.push('\n');
            }
        }
        text.into()
    }
}

/// Debian Policy 5.6.7, and a little more: real archives have upper case and `_` in places.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
        && !text.contains("..")
}

/// `name` or `name (version)`.
fn split_source(text: &str) -> (&str, Option<&str>) {
    match text.split_once('(') {
        Some((name, version)) => (name.trim(), Some(version.trim().trim_end_matches(')').trim())),
        None => (text.trim(), None),
    }
}

/// Percent-encodes what cannot stand in the path of a URL (RFC 3986, 3.3).
fn encode_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/+:@!$&'()*,;=".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, String, Vec<String>, DebPackage), IndexError> {
        let mut stanzas = Stanzas::new(text.as_bytes());
        let record = Record::parse(stanzas.advance()?.unwrap())?;
        let provides = record.provides().map(str::to_owned).collect();
        let package = record.to_package("http://archive/debian/");
        Ok((record.source.to_owned(), record.source_version.to_string(), provides, package))
    }

    fn text(more: &str) -> String {
        let digest = Digest::of(b"");
        format!(
            "Package: a\nVersion: 1:2-3+b1\nArchitecture: amd64\nFilename: ./pool/a b_1%3a2.deb\n\
             Size: 7\nSHA256: {digest}\n{more}"
        )
        .replace("a b", "a~b")
    }

    #[test]
    fn a_source_is_the_package_itself_unless_the_field_says_otherwise() {
        for (field, source, version) in [
            ("", "a", "1:2-3+b1"),
            ("Source: b", "b", "1:2-3+b1"),
            ("Source: b (1:2-3)", "b", "1:2-3"),
            ("Source: b  ( 1:2-3 )", "b", "1:2-3"),
        ] {
            let (found, found_version, ..) = parse(&text(field)).unwrap();
            assert_eq!((found.as_str(), found_version.as_str()), (source, version), "{field}");
        }
    }

    #[test]
    fn the_names_a_package_provides_come_without_versions_and_architectures() {
        let (.., provides, _) = parse(&text("Provides: b, c (= 1),\n d:any , e(=2), f [amd64]")).unwrap();
        assert_eq!(provides, ["b", "c", "d", "e", "f"]);
    }

    #[test]
    fn a_package_has_only_what_the_resolver_reads_and_a_url_that_is_one() {
        let (.., package) =
            parse(&text("Depends: b,\n c\nDescription: x\nmulti-arch: same\nBreaks:")).unwrap();
        assert_eq!(package.payload.url, "http://archive/debian/pool/a~b_1%253a2.deb");
        let control: Vec<_> = package.control.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(control, [("Depends", "b, c"), ("Multi-Arch", "same")]);
    }

    #[test]
    fn a_compact_record_gives_the_same_package() {
        let text = text("Source: b (1)\nDepends: b,\n c\nDescription: x\n y\nProvides: p");
        let mut stanzas = Stanzas::new(text.as_bytes());
        let compact = Record::parse(stanzas.advance().unwrap().unwrap()).unwrap().compact();
        assert!(!compact.contains("Description"));
        assert_eq!(parse(&compact).unwrap(), parse(&text).unwrap());
    }

    #[test]
    fn a_record_that_could_mislead_is_refused_by_field() {
        let good = text("");
        for (from, to, field) in [
            ("Package: a", "Package: a/b", "Package"),
            ("Package: a", "Package: ..", "Package"),
            ("Package: a", "Package: a\tb", "Package"),
            ("Version: 1:2-3+b1", "Version: 1 2", "Version"),
            ("Version: 1:2-3+b1", "Version:", "Version"),
            ("Architecture: amd64", "Architecture: a/../b", "Architecture"),
            ("Architecture: amd64\n", "", "Architecture"),
            ("./pool/", "/pool/", "Filename"),
            ("./pool/", "pool/../../", "Filename"),
            ("./pool/", "pool//", "Filename"),
            ("./pool/", "po ol/", "Filename"),
            ("Size: 7", "Size: -7", "Size"),
            ("SHA256: e3", "SHA256: E3", "SHA256"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{to}");
            match parse(&text) {
                Err(IndexError::Missing { field: found, .. } | IndexError::Field { field: found, .. }) => {
                    assert_eq!(found, field, "{to}");
                }
                other => panic!("{to}: {other:?}"),
            }
        }
    }

    #[test]
    fn no_damage_to_a_stanza_makes_the_reader_panic() {
        let good =
            text("Source: b (1)\nDepends: b,\n c\nDescription: \u{e4}\n y\nProvides: p (= 1)").into_bytes();
        for at in 0..good.len() {
            for byte in [b'\n', b' ', b':', 0, 0xc3, b'(', b'/'] {
                let mut damaged = good.clone();
                damaged[at] = byte;
                let mut stanzas = Stanzas::new(&damaged[..]);
                while let Ok(Some(stanza)) = stanzas.advance() {
                    if let Ok(record) = Record::parse(stanza) {
                        let package = record.to_package("http://archive");
                        assert!(!package.payload.url.contains("/../"));
                        assert!(record.provides().count() <= 1);
                    }
                }
            }
        }
    }

    #[test]
    fn the_best_packed_index_is_chosen() {
        let listed = Listed { digest: Digest::of(b""), bytes: 0 };
        let mut release = Release {
            suite: String::new(),
            codename: String::new(),
            date: jiff::Timestamp::UNIX_EPOCH,
            valid_until: None,
            by_hash: true,
            not_automatic: false,
            separate_all: false,
            files: BTreeMap::new(),
        };
        assert_eq!(Index::find(&release, "main", "amd64"), None);
        for (suffix, packing) in [("", Packing::Plain), (".gz", Packing::Gzip), (".xz", Packing::Xz)] {
            release.files.insert(format!("main/binary-amd64/Packages{suffix}"), listed);
            assert_eq!(Index::find(&release, "main", "amd64").unwrap().packing, packing);
        }
    }

    #[test]
    fn every_packing_is_read_and_every_cut_is_noticed() {
        use std::io::Write as _;

        let stanzas: Vec<String> =
            (0..200).map(|n| text("").replace("Package: a", &format!("Package: a{n}"))).collect();
        let plain = stanzas.join("\n").into_bytes();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&plain).unwrap();
        for (packing, packed) in [
            (Packing::Plain, plain.clone()),
            (Packing::Gzip, gzip.finish().unwrap()),
            (Packing::Xz, crate::sources::testing::xz(&plain)),
        ] {
            let listed = |bytes: &[u8]| Listed { digest: Digest::of(bytes), bytes: bytes.len() as u64 };
            let index =
                Index { path: String::new(), packed: listed(&packed), packing, plain: Some(listed(&plain)) };
            let mut names = 0;
            index.read(&packed, &mut |_| names += 1).unwrap();
            assert_eq!(names, 200);
            for cut in [0, 1, packed.len() / 2, packed.len() - 1] {
                assert!(index.read(&packed[..cut], &mut |_| {}).is_err(), "{packing:?} {cut}");
            }
            let other = Index { plain: Some(Listed { digest: Digest::of(b"x"), ..listed(&plain) }), ..index };
            assert!(matches!(other.read(&packed, &mut |_| {}), Err(IndexError::Digest { .. })));
        }
    }
}
