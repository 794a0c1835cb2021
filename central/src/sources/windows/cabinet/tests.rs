use std::io::Write;

use flate2::{Compression, write::DeflateEncoder};

use super::*;

/// How a made cabinet is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Stored,
    Mszip,
}

/// A cabinet of one folder with these members.
pub(crate) fn cabinet(packing: Packing, members: &[(&str, &[u8])]) -> Vec<u8> {
    let all: Vec<u8> = members.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    let blocks: Vec<(Vec<u8>, usize)> = all
        .chunks(BLOCK_BYTES_MAX)
        .map(|block| match packing {
            Packing::Stored => (block.to_vec(), block.len()),
            Packing::Mszip => {
                let mut packed = DeflateEncoder::new(b"CK".to_vec(), Compression::default());
                packed.write_all(block).unwrap();
                (packed.finish().unwrap(), block.len())
            }
        })
        .collect();
    let mut entries = Vec::new();
    let mut offset = 0_u32;
    for (name, bytes) in members {
        let length = u32::try_from(bytes.len()).unwrap();
        entries.extend(length.to_le_bytes());
        entries.extend(offset.to_le_bytes());
        entries.extend([0; 8]);
        entries.extend(name.as_bytes());
        entries.push(0);
        offset += length;
    }
    let (first_member, first_block) = (36 + 8, 36 + 8 + entries.len());
    let mut out = b"MSCF".to_vec();
    out.extend([0; 12]);
    out.extend(u32::try_from(first_member).unwrap().to_le_bytes());
    out.extend([0, 0, 0, 0, 3, 1]);
    out.extend(1_u16.to_le_bytes());
    out.extend(u16::try_from(members.len()).unwrap().to_le_bytes());
    out.extend([0; 6]);
    out.extend(u32::try_from(first_block).unwrap().to_le_bytes());
    out.extend(u16::try_from(blocks.len()).unwrap().to_le_bytes());
    out.extend(u16::from(packing == Packing::Mszip).to_le_bytes());
    out.extend(entries);
    for (packed, bytes) in blocks {
        let mut lengths = u16::try_from(packed.len()).unwrap().to_le_bytes().to_vec();
        lengths.extend(u16::try_from(bytes).unwrap().to_le_bytes());
        out.extend(checksum(&lengths, checksum(&packed, 0)).to_le_bytes());
        out.extend(lengths);
        out.extend(packed);
    }
    out
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|place| b"<abc/> "[place * place % 7]).collect()
}

#[test]
fn members_come_out_as_they_went_in_however_they_are_packed() {
    let (long, short) = (text(100_000), text(10));
    for packing in [Packing::Stored, Packing::Mszip] {
        let bytes = cabinet(packing, &[("a.xml", &long), ("b/c.sdp", &short), ("empty", b"")]);
        let read = Cabinet::new(&bytes).unwrap();
        let names: Vec<_> = read.members().iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["a.xml", "b/c.sdp", "empty"], "{packing:?}");
        assert_eq!(read.member("A.XML", 100_000).unwrap(), long, "{packing:?}");
        assert_eq!(read.member("b/c.sdp", 10).unwrap(), short, "{packing:?}");
        assert_eq!(read.member("empty", 0).unwrap(), b"", "{packing:?}");
        let too_long = read.member("a.xml", 99_999).unwrap_err();
        assert_eq!(too_long, CabinetError::Damaged("a member is too long"));
        assert!(read.member("none", 1).is_err());
    }
}

/// One member, `hello`, packed by another program into a block of LZX that is stored as it is.
fn lzx() -> Vec<u8> {
    let mut packed = vec![0x00, 0x30, 0x30, 0x00];
    for repeated in [1_u32; 3] {
        packed.extend(repeated.to_le_bytes());
    }
    packed.extend(b"abc\0");
    let mut out = cabinet(Packing::Stored, &[("hello", b"abc")]);
    // The folder's packing, and the block in the place of the stored one.
    out[42..44].copy_from_slice(&(3_u16 | 15 << 8).to_le_bytes());
    let block = out.len() - 3 - 8;
    out.truncate(block);
    out.extend([0; 4]);
    out.extend(u16::try_from(packed.len()).unwrap().to_le_bytes());
    out.extend(3_u16.to_le_bytes());
    out.extend(packed);
    out
}

#[test]
fn a_block_of_lzx_is_unpacked() {
    assert_eq!(Cabinet::new(&lzx()).unwrap().member("hello", 3).unwrap(), b"abc");
}

#[test]
fn a_damaged_cabinet_is_an_error_and_never_the_end_of_the_program() {
    let long = text(70_000);
    for whole in [cabinet(Packing::Mszip, &[("a", &long), ("b", b"x")]), lzx()] {
        let read = |bytes: &[u8]| -> Result<(), CabinetError> {
            let cabinet = Cabinet::new(bytes)?;
            for member in cabinet.members() {
                cabinet.member(&member.name, 1 << 20)?;
            }
            Ok(())
        };
        read(&whole).unwrap();
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "cut to {length}");
        }
        let mut seed = 1_u64;
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            changed[place] ^= u8::try_from(seed >> 56).unwrap() | 1;
            // Some changes, of a date for one, change nothing that is read.
            let _ = read(&changed);
        }
    }
    let mut changed = cabinet(Packing::Stored, &[("a", &long)]);
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let error = Cabinet::new(&changed).unwrap().member("a", 1 << 20).unwrap_err();
    assert_eq!(error, CabinetError::Damaged("the sum of a block is another"));
}

#[test]
fn a_member_beyond_the_blocks_is_an_error() {
    let mut changed = cabinet(Packing::Stored, &[("a", b"abc")]);
    // The offset of the member in its folder.
    changed[48..52].copy_from_slice(&1_000_000_u32.to_le_bytes());
    let error = Cabinet::new(&changed).unwrap().member("a", 1 << 20).unwrap_err();
    assert_eq!(error, CabinetError::Cut);
}
