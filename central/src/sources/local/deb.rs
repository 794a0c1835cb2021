//! What a Debian package says of itself: its control file.

use std::io::{BufReader, Read};

use tierway_common::{
    rules::expr::{Compare, Expr, Manager, PackageTest},
    schema::{DebPackage, Install},
    version::deb::DebVersion,
};

use super::{File, LocalError, MAGIC_BYTES, Said, payload};
use crate::sources::debian::{
    index::control_fields,
    stanza::{STANZA_BYTES_MAX, Stanza, Stanzas},
};

/// Most bytes of a control archive that are unpacked: those of kernels, with their lists of sums, have some 2 MB.
const CONTROL_BYTES_MAX: u64 = 64 << 20;

/// Bytes of the header of each member of the archive.
const HEADER_BYTES: usize = 60;

/// What the xz decoder may allocate; `xz -9` needs 65 MiB.
const XZ_MEMORY_BYTES_MAX: u64 = 128 << 20;

pub(super) fn read(file: &File, mut content: impl Read) -> Result<Said, LocalError> {
    let damaged = |reason: String| LocalError::Damaged { file: file.name.clone(), reason };
    let io = |error: std::io::Error| damaged(error.to_string());
    content.read_exact(&mut [0; MAGIC_BYTES]).map_err(io)?;
    let mut left = file.bytes.saturating_sub(MAGIC_BYTES as u64);
    while let Some((name, bytes)) = member(&mut content, &mut left).map_err(damaged)? {
        let Some(packing) = name.strip_prefix("control.tar") else {
            let skipped = bytes + (bytes & 1);
            std::io::copy(&mut content.by_ref().take(skipped), &mut std::io::sink()).map_err(io)?;
            left = left.saturating_sub(skipped);
            continue;
        };
        let packed = BufReader::new(content.take(bytes));
        return match packing {
            "" => of_control(file, packed),
            ".gz" => of_control(file, flate2::bufread::GzDecoder::new(packed)),
            ".xz" => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, 0)
                    .map_err(|error| damaged(error.to_string()))?;
                of_control(file, liblzma::bufread::XzDecoder::new_stream(packed, stream))
            }
            ".zst" => of_control(file, zstd::stream::read::Decoder::with_buffer(packed).map_err(io)?),
            other => Err(damaged(format!("its control archive is packed as `{other}`, which is not known"))),
        };
    }
    Err(damaged("it has no control archive".to_owned()))
}

/// Name and length of the archive's next member, whose bytes follow; `None` at the end of the `left` bytes.
///
/// As in deb(5): no long names, no tables, and what is odd is followed by one byte more.
fn member(content: &mut impl Read, left: &mut u64) -> Result<Option<(String, u64)>, String> {
    if *left == 0 {
        return Ok(None);
    }
    let mut header = [0; HEADER_BYTES];
    content.read_exact(&mut header).map_err(|error| error.to_string())?;
    *left = left.saturating_sub(HEADER_BYTES as u64);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let (name, size) = (text(&header[..16]), text(&header[48..58]));
    let name = name.trim_end_matches('/').to_owned();
    let fits = |bytes: &u64| header.ends_with(b"`\n") && *bytes <= *left;
    match size.parse().ok().filter(fits) {
        Some(bytes) => Ok(Some((name, bytes))),
        None => Err("its archive has a member of no length that can be".to_owned()),
    }
}

fn of_control(file: &File, unpacked: impl Read) -> Result<Said, LocalError> {
    let damaged = |reason: String| LocalError::Damaged { file: file.name.clone(), reason };
    let io = |error: std::io::Error| damaged(error.to_string());
    let mut archive = tar::Archive::new(unpacked.take(CONTROL_BYTES_MAX));
    for entry in archive.entries().map_err(io)? {
        let entry = entry.map_err(io)?;
        let is_control =
            entry.path().is_ok_and(|path| path.ends_with("control") && path.components().count() <= 2);
        if is_control {
            let mut stanzas = Stanzas::new(BufReader::new(entry.take(STANZA_BYTES_MAX as u64)));
            let stanza = stanzas.advance().map_err(|error| damaged(error.to_string()))?;
            return of_stanza(file, stanza.ok_or_else(|| damaged("its control file is empty".to_owned()))?);
        }
    }
    Err(damaged("it has no control file".to_owned()))
}

fn of_stanza(file: &File, stanza: &Stanza) -> Result<Said, LocalError> {
    let damaged = |reason: String| LocalError::Damaged { file: file.name.clone(), reason };
    let must = |field: &str| {
        let value = stanza.get(field).filter(|value| !value.is_empty());
        value.map(str::to_owned).ok_or_else(|| damaged(format!("its control file has no `{field}`")))
    };
    let (name, version, architecture) = (must("Package")?, must("Version")?, must("Architecture")?);
    if version.parse::<DebVersion>().is_err() {
        return Err(damaged(format!("`{version}` is no version of a Debian package")));
    }
    let test = |version| {
        Expr::Package(PackageTest {
            manager: Manager::Deb,
            name: name.clone(),
            architecture: Some(architecture.clone()).filter(|name| name != "all"),
            version,
        })
    };
    let summary = stanza.get("Description").and_then(|text| text.lines().next()).unwrap_or_default();
    Ok(Said {
        // With its architecture, as the same version of another is a file of its own.
        name: Some(format!("{name}-{architecture}")),
        product: Some(name.clone()),
        title: (!summary.is_empty()).then(|| format!("{name} {version}: {summary}")),
        references: Vec::new(),
        applicable: vec![test(None)],
        older: Some(test(None)),
        installed: Some(Expr::Not(Box::new(test(Some(Compare::Lt(version.clone())))))),
        install: Install::Deb {
            packages: vec![DebPackage {
                name: name.clone(),
                version: version.clone(),
                architecture: architecture.clone(),
                payload: payload(file),
                control: control_fields(stanza),
            }],
        },
        version: Some(version),
        notes: vec![
            "it is installed only where an older version is: that is how endpoints upgrade".to_owned(),
        ],
    })
}
