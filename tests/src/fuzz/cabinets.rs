//! Cabinets: a member has the same bytes whichever way it is read, and none is longer than it says.

use std::io::Read as _;

use tierway_central::sources::windows::cabinet::{Cabinet, CabinetError, Member, whole};

use super::Target;

pub(super) const CABINETS: Target = Target {
    name: "cabinets",
    run,
    seeds,
    words: &["MSCF", "CK", "\0\0\0\0", "a.xml\0", "\u{1}\0", "\u{3}\u{f}"],
};

/// More of one member is not read here.
const MEMBER_BYTES_MAX: u32 = 1 << 20;

/// Members that are read by themselves as well: each unpacks its folder anew.
const ALONE_MAX: usize = 8;

fn run(bytes: &[u8]) -> bool {
    let Ok(cabinet) = Cabinet::new(bytes) else { return false };
    let mut read: Vec<(Member, Vec<u8>)> = Vec::new();
    let wanted = |member: &Member| member.bytes <= MEMBER_BYTES_MAX;
    let outcome = cabinet.each(&wanted, &mut |member, reader| {
        read.push((member.clone(), whole(member, reader, MEMBER_BYTES_MAX)?));
        Ok::<_, CabinetError>(())
    });
    for (member, bytes) in &read {
        assert_eq!(
            bytes.len(),
            usize::try_from(member.bytes).unwrap(),
            "`{}` is not as long as it says",
            member.name
        );
    }
    for (member, bytes) in read.iter().take(ALONE_MAX) {
        let mut alone = None;
        let only = |other: &Member| other == member;
        let found = cabinet.each(&only, &mut |_, reader| {
            let mut bytes = Vec::new();
            let mut byte = [0];
            while reader.read(&mut byte).is_ok_and(|count| count == 1) {
                bytes.push(byte[0]);
            }
            alone = Some(bytes);
            Ok::<_, CabinetError>(())
        });
        // Two of the same name and place are one member twice, of which the second overlaps the first.
        if found.is_ok() {
            assert_eq!(
                alone.as_ref(),
                Some(bytes),
                "`{}` has other bytes when it is read alone",
                member.name
            );
        }
    }
    if let Some(first) = cabinet.members().first().filter(|first| first.bytes > 0) {
        let limited = cabinet.member(&first.name, first.bytes - 1);
        let same_name = |other: &&Member| other.name.eq_ignore_ascii_case(&first.name);
        assert!(
            limited.is_err() || cabinet.members().iter().filter(same_name).count() > 1,
            "a member is read beyond its limit"
        );
    }
    let mut all = 0_u64;
    let _ = cabinet.each(&|_| true, &mut |_, reader| {
        all += reader.take(u64::from(MEMBER_BYTES_MAX)).read_to_end(&mut Vec::new()).unwrap_or(0) as u64;
        Ok::<_, CabinetError>(())
    });
    outcome.is_ok() && !read.is_empty()
}

/// A cabinet of one folder, packed in such a way, with blocks of so many packed and unpacked bytes.
pub(super) fn cabinet(packing: u16, members: &[(&str, u32)], blocks: &[(&[u8], usize)]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut offset = 0_u32;
    for (name, length) in members {
        entries.extend(length.to_le_bytes());
        entries.extend(offset.to_le_bytes());
        entries.extend([0; 8]);
        entries.extend(name.as_bytes());
        entries.push(0);
        offset += length;
    }
    let first_member = 36 + 8_u32;
    let first_block = first_member + u32::try_from(entries.len()).unwrap();
    let mut out = b"MSCF".to_vec();
    out.extend([0; 12]);
    out.extend(first_member.to_le_bytes());
    out.extend([0, 0, 0, 0, 3, 1]);
    out.extend(1_u16.to_le_bytes());
    out.extend(u16::try_from(members.len()).unwrap().to_le_bytes());
    out.extend([0; 6]);
    out.extend(first_block.to_le_bytes());
    out.extend(u16::try_from(blocks.len()).unwrap().to_le_bytes());
    out.extend(packing.to_le_bytes());
    out.extend(entries);
    for (packed, bytes) in blocks {
        // Without a sum, so that a change of a block is not refused for it.
        out.extend([0; 4]);
        out.extend(u16::try_from(packed.len()).unwrap().to_le_bytes());
        out.extend(u16::try_from(*bytes).unwrap().to_le_bytes());
        out.extend(*packed);
    }
    out
}

fn seeds() -> Vec<Vec<u8>> {
    // MSZIP: a block of deflate that is stored.
    let zipped = |text: &[u8]| {
        let length = u16::try_from(text.len()).unwrap();
        [b"CK\x01".as_slice(), &length.to_le_bytes(), &(!length).to_le_bytes(), text].concat()
    };
    let (one, two) = (zipped(b"<a>1</a>"), zipped(b"<b/>"));
    // LZX: one uncompressed block, no translation of calls.
    let mut lzx = vec![0, 0x30, 8 << 4, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
    lzx.extend(b"<lzx/>..");
    vec![
        cabinet(0, &[("a.xml", 8), ("b", 2)], &[(b"<a>1</a>xy", 10)]),
        cabinet(1, &[("a.xml", 6), ("b.xml", 6)], &[(&one, 8), (&two, 4)]),
        cabinet(15 << 8 | 3, &[("a.xml", 8)], &[(&lzx, 8)]),
    ]
}
