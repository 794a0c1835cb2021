//! Cabinets (`MSCF`), as far as vendors' catalogues need: read from memory, member by member, within limits.
//!
//! Stored, MSZIP and LZX; no cabinets that go on in another one. Members of a folder come in the order in which
//! they lie there, so that each folder is unpacked once. Names are only reported, never made into paths.
//!
//! Written to [MS-CAB]; the decoders are `flate2` and `lzxd`. The crate `cab` unpacks a folder anew for each
//! member, and indexes beyond its blocks when a member claims to begin there, which ends the program.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};
use lzxd::{Lzxd, WindowSize};

/// What a block may unpack to.
const BLOCK_BYTES_MAX: usize = 32 * 1024;

/// Longest name of a member.
const NAME_BYTES_MAX: usize = 256;

/// A cabinet that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CabinetError {
    /// It does not begin as one.
    #[error("it is no cabinet")]
    Not,
    /// It ends too early.
    #[error("the cabinet is cut")]
    Cut,
    /// It contradicts itself.
    #[error("the cabinet is damaged: {0}")]
    Damaged(&'static str),
    /// It is packed in a way that is not read here.
    #[error("the cabinet needs {0}, which is not read")]
    Unsupported(&'static str),
}

impl From<CabinetError> for io::Error {
    fn from(error: CabinetError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Whether the bytes begin as a cabinet does.
#[must_use]
pub fn is_cabinet(bytes: &[u8]) -> bool {
    bytes.starts_with(b"MSCF")
}

/// A cabinet in memory.
#[derive(Debug)]
pub struct Cabinet<'a> {
    bytes: &'a [u8],
    folders: Vec<Folder>,
    /// Bytes before the data of each block that belong to somebody else.
    block_reserve: usize,
    members: Vec<Member>,
}

#[derive(Clone, Copy, Debug)]
struct Folder {
    first_block: usize,
    blocks: u16,
    packing: u16,
}

/// A file in a cabinet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// As the cabinet has it; not to be trusted as a path.
    pub name: String,
    /// Length when unpacked.
    pub bytes: u32,
    folder: u16,
    offset: u32,
}

/// Reads numbers and texts from the front.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CabinetError> {
        let end = self.at.checked_add(count).ok_or(CabinetError::Cut)?;
        let found = self.bytes.get(self.at..end).ok_or(CabinetError::Cut)?;
        self.at = end;
        Ok(found)
    }

    fn u8(&mut self) -> Result<u8, CabinetError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, CabinetError> {
        let found = self.take(2)?;
        Ok(u16::from_le_bytes([found[0], found[1]]))
    }

    fn u32(&mut self) -> Result<u32, CabinetError> {
        let found = self.take(4)?;
        Ok(u32::from_le_bytes([found[0], found[1], found[2], found[3]]))
    }

    fn text(&mut self) -> Result<String, CabinetError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let window = &rest[..rest.len().min(NAME_BYTES_MAX)];
        let length =
            window.iter().position(|byte| *byte == 0).ok_or(CabinetError::Damaged("a name has no end"))?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }
}

fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl<'a> Cabinet<'a> {
    /// Reads what is in it, and unpacks nothing yet.
    ///
    /// # Errors
    ///
    /// [`CabinetError`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, CabinetError> {
        const PREVIOUS: u16 = 1;
        const NEXT: u16 = 2;
        const RESERVE: u16 = 4;
        if !is_cabinet(bytes) {
            return Err(CabinetError::Not);
        }
        let mut cursor = Cursor { bytes, at: 16 };
        let first_member = place(cursor.u32()?);
        cursor.take(6)?;
        let (folder_count, member_count, flags) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
        cursor.take(4)?;
        let (mut folder_reserve, mut block_reserve) = (0, 0);
        if flags & RESERVE != 0 {
            let header_reserve = cursor.u16()?;
            (folder_reserve, block_reserve) = (cursor.u8()?, cursor.u8()?);
            cursor.take(usize::from(header_reserve))?;
        }
        if flags & (PREVIOUS | NEXT) != 0 {
            return Err(CabinetError::Unsupported("another cabinet"));
        }
        let mut folders = Vec::new();
        for _ in 0..folder_count {
            let first_block = place(cursor.u32()?);
            let (blocks, packing) = (cursor.u16()?, cursor.u16()?);
            cursor.take(usize::from(folder_reserve))?;
            folders.push(Folder { first_block, blocks, packing });
        }
        let mut cursor = Cursor { bytes, at: first_member };
        let mut members = Vec::new();
        for _ in 0..member_count {
            let (length, offset, folder) = (cursor.u32()?, cursor.u32()?, cursor.u16()?);
            cursor.take(6)?;
            let name = cursor.text()?;
            if usize::from(folder) >= folders.len() {
                return Err(CabinetError::Unsupported("another cabinet"));
            }
            members.push(Member { name, bytes: length, folder, offset });
        }
        members.sort_by_key(|member| (member.folder, member.offset));
        Ok(Self { bytes, folders, block_reserve: usize::from(block_reserve), members })
    }

    /// What is in it, folder by folder, in the order in which it lies there.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Gives the members for which `wanted` is true, one after the other, each to be read to any length. Bytes of
    /// a damaged cabinet come as errors of the reader.
    ///
    /// # Errors
    ///
    /// [`CabinetError`] as `E`, and what `take` returns.
    pub fn each<E: From<CabinetError>>(
        &self,
        wanted: &dyn Fn(&Member) -> bool,
        take: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut open: Option<(u16, Unpacked<'_>)> = None;
        for member in self.members.iter().filter(|member| wanted(member)) {
            let folder = &self.folders[usize::from(member.folder)];
            let unpacked = match &mut open {
                Some((number, unpacked)) if *number == member.folder => unpacked,
                _ => {
                    let unpacked = Unpacked::new(self, folder)?;
                    &mut open.insert((member.folder, unpacked)).1
                }
            };
            unpacked.skip_to(u64::from(member.offset))?;
            let mut reader = unpacked.take(u64::from(member.bytes));
            take(member, &mut reader)?;
        }
        Ok(())
    }

    /// The whole of one member, found by its name without regard to case; at most `bytes_max` of it.
    ///
    /// # Errors
    ///
    /// [`CabinetError`], also when there is none of that name or it is longer.
    pub fn member(&self, name: &str, bytes_max: u32) -> Result<Vec<u8>, CabinetError> {
        let mut found = Err(CabinetError::Damaged("a member is missing"));
        self.each(&|member| member.name.eq_ignore_ascii_case(name), &mut |member, reader| {
            found = Ok(whole(member, reader, bytes_max)?);
            Ok::<_, CabinetError>(())
        })?;
        found
    }
}

/// All of a member that [`Cabinet::each`] gives, when that is at most `bytes_max`.
///
/// # Errors
///
/// [`CabinetError`], also when it is longer.
pub fn whole(member: &Member, reader: &mut dyn Read, bytes_max: u32) -> Result<Vec<u8>, CabinetError> {
    if member.bytes > bytes_max {
        return Err(CabinetError::Damaged("a member is too long"));
    }
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(count) if count == place(member.bytes) => Ok(bytes),
        Ok(_) => Err(CabinetError::Cut),
        Err(error) => Err(inner(&error)),
    }
}

/// The cabinet's error in an error of its reader.
fn inner(error: &io::Error) -> CabinetError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<CabinetError>());
    inner.cloned().unwrap_or(CabinetError::Damaged("it cannot be unpacked"))
}

enum Decoder {
    Stored,
    /// The last 32 KiB of what came before, which a block may repeat from.
    Mszip(Vec<u8>),
    Lzx(Box<Lzxd>),
}

/// The bytes of a folder, unpacked block by block.
struct Unpacked<'a> {
    bytes: &'a [u8],
    next_block: usize,
    blocks_left: u16,
    block_reserve: usize,
    decoder: Decoder,
    block: Vec<u8>,
    /// How much of the block was read.
    read: usize,
    /// Place of the first byte of the block in the folder.
    start: u64,
}

impl<'a> Unpacked<'a> {
    fn new(cabinet: &Cabinet<'a>, folder: &Folder) -> Result<Self, CabinetError> {
        let decoder = match folder.packing & 0x0f {
            0 => Decoder::Stored,
            1 => Decoder::Mszip(Vec::new()),
            3 => {
                let window = match folder.packing >> 8 & 0x1f {
                    15 => WindowSize::KB32,
                    16 => WindowSize::KB64,
                    17 => WindowSize::KB128,
                    18 => WindowSize::KB256,
                    19 => WindowSize::KB512,
                    20 => WindowSize::MB1,
                    21 => WindowSize::MB2,
                    _ => return Err(CabinetError::Damaged("the window of LZX is none")),
                };
                Decoder::Lzx(Box::new(Lzxd::new(window)))
            }
            2 => return Err(CabinetError::Unsupported("Quantum")),
            _ => return Err(CabinetError::Damaged("it is packed in an unknown way")),
        };
        Ok(Self {
            bytes: cabinet.bytes,
            next_block: folder.first_block,
            blocks_left: folder.blocks,
            block_reserve: cabinet.block_reserve,
            decoder,
            block: Vec::new(),
            read: 0,
            start: 0,
        })
    }

    fn skip_to(&mut self, offset: u64) -> Result<(), CabinetError> {
        if offset < self.start + self.read as u64 {
            return Err(CabinetError::Damaged("members overlap"));
        }
        while self.start + (self.block.len() as u64) < offset {
            if !self.unpack()? {
                return Err(CabinetError::Cut);
            }
        }
        self.read = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(())
    }

    /// Unpacks the next block; false when there is none.
    fn unpack(&mut self) -> Result<bool, CabinetError> {
        if self.blocks_left == 0 {
            return Ok(false);
        }
        self.blocks_left -= 1;
        let mut cursor = Cursor { bytes: self.bytes, at: self.next_block };
        let sum = cursor.u32()?;
        let lengths = cursor.take(4)?;
        let packed_bytes = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
        let bytes = usize::from(u16::from_le_bytes([lengths[2], lengths[3]]));
        let data = cursor.take(self.block_reserve + packed_bytes)?;
        self.next_block = cursor.at;
        if sum != 0 && checksum(lengths, checksum(data, 0)) != sum {
            return Err(CabinetError::Damaged("the sum of a block is another"));
        }
        if bytes > BLOCK_BYTES_MAX {
            return Err(CabinetError::Damaged("a block is too long"));
        }
        let packed = &data[self.block_reserve..];
        self.start += self.block.len() as u64;
        self.read = 0;
        self.block = match &mut self.decoder {
            Decoder::Stored => packed.to_vec(),
            Decoder::Mszip(before) => {
                let block = inflate(packed, before, bytes)?;
                before.extend_from_slice(&block);
                before.drain(..before.len().saturating_sub(BLOCK_BYTES_MAX));
                block
            }
            Decoder::Lzx(decoder) => decoder
                .decompress_next(packed, bytes)
                .map_err(|_| CabinetError::Damaged("a block of LZX cannot be unpacked"))?
                .to_vec(),
        };
        if self.block.len() != bytes {
            return Err(CabinetError::Damaged("a block has another length"));
        }
        Ok(true)
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read >= self.block.len() {
            if !self.unpack()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.block.len() - self.read);
        buffer[..count].copy_from_slice(&self.block[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

/// The sum of [MS-CAB] 3.1: words of 32 bits, and what is left over with its first byte on top.
fn checksum(bytes: &[u8], seed: u32) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum = words.iter().fold(seed, |sum, word| sum ^ u32::from_le_bytes(*word));
    sum ^ rest.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte))
}

/// One block of MSZIP, which may repeat from what came `before`: that is given to the decoder as a block that is
/// stored, and what it gives back of it is dropped.
fn inflate(packed: &[u8], before: &[u8], bytes: usize) -> Result<Vec<u8>, CabinetError> {
    let damaged = CabinetError::Damaged("a block of MSZIP cannot be unpacked");
    let packed = packed.strip_prefix(b"CK").ok_or(damaged.clone())?;
    let mut decoder = Decompress::new(false);
    let mut out = Vec::with_capacity(before.len() + bytes);
    if let Ok(length @ 1..) = u16::try_from(before.len()) {
        let mut stored = vec![0];
        stored.extend(length.to_le_bytes());
        stored.extend((!length).to_le_bytes());
        stored.extend_from_slice(before);
        decoder.decompress_vec(&stored, &mut out, FlushDecompress::None).map_err(|_| damaged.clone())?;
    }
    if out.len() != before.len() {
        return Err(damaged);
    }
    match decoder.decompress_vec(packed, &mut out, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => Ok(out.split_off(before.len())),
        _ => Err(damaged),
    }
}

#[cfg(test)]
pub(crate) mod tests;
