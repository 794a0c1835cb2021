//! The version that a program or library of Windows carries: its version resource.
//!
//! By the PE/COFF specification and the documentation of `VS_VERSIONINFO`. Only headers, the tables of
//! resources and the resource itself are read, whatever the file's size.

use std::io::{self, Read, Seek, SeekFrom};

/// Longest version resource that is read; with many languages they have some 4 KiB.
const RESOURCE_BYTES_MAX: u32 = 256 << 10;
/// Sections looked at; linkers make some ten, the format allows 96.
const SECTIONS_MAX: u16 = 96;
/// Entries of one table of resources looked at.
const ENTRIES_MAX: u16 = 4_096;

/// Kind of the resource, `RT_VERSION`.
const VERSION: u32 = 16;
/// What `VS_FIXEDFILEINFO` begins with.
const FIXED: [u8; 4] = 0xfeef_04bd_u32.to_le_bytes();

/// What a version resource says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Four numbers, the file's own version and not the product's.
    pub version: [u16; 4],
    /// The language, by the number that Windows gives it: of its first translation, or else of the resource.
    pub language: u16,
}

/// The version resource of a file; `None` where it has none or is no program.
///
/// # Errors
///
/// As reading fails; a file that ends too early or is damaged gives `None`.
pub fn read(file: &mut (impl Read + Seek)) -> io::Result<Option<Resource>> {
    match found(file) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        other => other,
    }
}

fn found(file: &mut (impl Read + Seek)) -> io::Result<Option<Resource>> {
    let start = bytes(file, 0, 64)?;
    if !start.starts_with(b"MZ") {
        return Ok(None);
    }
    let header = u64::from(u32_at(&start, 0x3c));
    let coff = bytes(file, header, 24)?;
    if !coff.starts_with(b"PE\0\0") {
        return Ok(None);
    }
    let (sections, optional_bytes) = (u16_at(&coff, 6), u16_at(&coff, 20));
    let optional = bytes(file, header + 24, usize::from(optional_bytes))?;
    // The directories follow what differs between 32 and 64 bits.
    let directories = match optional.get(..2) {
        Some([0x0b, 0x01]) => 96,
        Some([0x0b, 0x02]) => 112,
        _ => return Ok(None),
    };
    let Some(directory) = optional.get(directories + 16..directories + 24) else { return Ok(None) };
    let resources = u32_at(directory, 0);
    if resources == 0 {
        return Ok(None);
    }
    let table = header + 24 + u64::from(optional_bytes);
    let mut places = Vec::new();
    for number in 0..sections.min(SECTIONS_MAX) {
        let section = bytes(file, table + u64::from(number) * 40, 40)?;
        let length = u32_at(&section, 8).max(u32_at(&section, 16));
        places.push((u32_at(&section, 12), length, u32_at(&section, 20)));
    }
    let offset = |address: u32| {
        let within = |(start, length, _): &&(u32, u32, u32)| address >= *start && address - start < *length;
        places.iter().find(within).map(|(start, _, raw)| u64::from(*raw) + u64::from(address - start))
    };
    let Some(base) = offset(resources) else { return Ok(None) };
    let Some((_, names)) = entry(file, base, 0, |id| id == VERSION)? else { return Ok(None) };
    let Some((_, languages)) = entry(file, base, names, |_| true)? else { return Ok(None) };
    let Some((language, leaf)) = entry(file, base, languages, |_| true)? else { return Ok(None) };
    let leaf = bytes(file, base + u64::from(leaf & !BELOW), 16)?;
    let (address, length) = (u32_at(&leaf, 0), u32_at(&leaf, 4));
    let Some(place) = offset(address).filter(|_| length <= RESOURCE_BYTES_MAX) else { return Ok(None) };
    let resource = bytes(file, place, usize::try_from(length).unwrap_or(0))?;
    Ok(parse(&resource, u16::try_from(language & 0xffff).unwrap_or(0)))
}

/// Set in the offset of an entry that is a table itself.
const BELOW: u32 = 0x8000_0000;

/// Id and offset of the first entry of the table at `table` whose id is wanted.
fn entry(
    file: &mut (impl Read + Seek),
    base: u64,
    table: u32,
    wanted: impl Fn(u32) -> bool,
) -> io::Result<Option<(u32, u32)>> {
    let place = base + u64::from(table & !BELOW);
    let head = bytes(file, place, 16)?;
    let count = u16_at(&head, 12).saturating_add(u16_at(&head, 14)).min(ENTRIES_MAX);
    let entries = bytes(file, place + 16, usize::from(count) * 8)?;
    let mut entries = entries.chunks_exact(8).map(|entry| (u32_at(entry, 0), u32_at(entry, 4)));
    Ok(entries.find(|(id, _)| wanted(*id)))
}

fn parse(resource: &[u8], language: u16) -> Option<Resource> {
    let fixed = resource.windows(4).position(|window| window == FIXED)?;
    let fixed = resource.get(fixed..fixed + 16)?;
    let version = [u16_at(fixed, 10), u16_at(fixed, 8), u16_at(fixed, 14), u16_at(fixed, 12)];
    let name: Vec<u8> = "Translation\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let translation = resource.windows(name.len()).position(|window| window == name).and_then(|start| {
        let value = (start + name.len()).next_multiple_of(4);
        resource.get(value..value + 2)
    });
    Some(Resource { version, language: translation.map_or(language, |bytes| u16_at(bytes, 0)) })
}

fn bytes(file: &mut (impl Read + Seek), at: u64, count: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = vec![0; count];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The bytes are there: the caller read so many.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// A program of one section with such a resource, for tests.
#[cfg(test)]
pub(super) fn program(version: [u16; 4], language: u16, translation: Option<u16>) -> Vec<u8> {
    let wide = |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let mut info = vec![0; 6];
    info.extend(wide("VS_VERSION_INFO"));
    info.resize(info.len().next_multiple_of(4), 0);
    info.extend(FIXED);
    info.extend(0x0001_0000_u32.to_le_bytes());
    for part in [version[1], version[0], version[3], version[2]] {
        info.extend(part.to_le_bytes());
    }
    info.resize(info.len() + 36, 0);
    if let Some(translation) = translation {
        info.extend([0; 6]);
        info.extend(wide("Translation"));
        info.resize(info.len().next_multiple_of(4), 0);
        info.extend([translation.to_le_bytes(), 1200_u16.to_le_bytes()].concat());
    }
    // Three tables of one entry each, and the leaf.
    let mut section = Vec::new();
    for (id, offset) in [(VERSION, 24 | BELOW), (1, 48 | BELOW), (u32::from(language), 72)] {
        section.extend([0; 12]);
        section.extend([0, 0, 1, 0]);
        section.extend([id.to_le_bytes(), offset.to_le_bytes()].concat());
    }
    let length = u32::try_from(info.len()).unwrap();
    section.extend([(0x1000_u32 + 88).to_le_bytes(), length.to_le_bytes(), [0; 4], [0; 4]].concat());
    section.extend(info);

    let mut file = b"MZ".to_vec();
    file.resize(0x3c, 0);
    file.extend(64_u32.to_le_bytes());
    file.extend(b"PE\0\0");
    file.extend([0x64, 0x86, 1, 0]);
    file.resize(64 + 20, 0);
    file.extend(240_u16.to_le_bytes());
    file.resize(64 + 24, 0);
    file.extend([0x0b, 0x02]);
    file.resize(64 + 24 + 112 + 16, 0);
    file.extend([0x1000_u32.to_le_bytes(), length.to_le_bytes()].concat());
    file.resize(64 + 24 + 240, 0);
    let bytes = u32::try_from(section.len()).unwrap();
    let start = u32::try_from(file.len() + 40).unwrap();
    file.extend(b".rsrc\0\0\0");
    file.extend([bytes, 0x1000, bytes, start].into_iter().flat_map(u32::to_le_bytes));
    file.resize(usize::try_from(start).unwrap(), 0);
    file.extend(section);
    file
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_version_and_the_language_of_a_program_are_read() {
        let version = [10, 0, 19041, 65535];
        for (translation, language) in [(None, 0x407), (Some(0x409), 0x409)] {
            let file = program(version, 0x407, translation);
            assert_eq!(read(&mut Cursor::new(&file)).unwrap(), Some(Resource { version, language }));
        }
    }

    #[test]
    fn what_is_no_program_or_cut_off_has_no_version() {
        let whole = program([1, 2, 3, 4], 0x409, None);
        for length in [0, 1, 63, 64, 100, 200, whole.len() - 40] {
            assert_eq!(read(&mut Cursor::new(&whole[..length])).unwrap(), None, "{length}");
        }
        assert_eq!(read(&mut Cursor::new(vec![b'x'; 1_000])).unwrap(), None);
        // Every byte of the tables may be wrong: nothing panics, and nothing much is read.
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0xff;
            let _ = read(&mut Cursor::new(&damaged)).unwrap();
        }
    }
}
