//! Changes of inputs for the runs without a fuzzer: from a seed, so that what failed fails again.

use super::{INPUT_BYTES_MAX, Target};
use crate::simulation::random::Random;

/// Bytes at which parsers turn.
const TURNING: &[u8] = b"\0\x01\x7f\x80\xff\n\r\t \"'\\{}[]()<>=:;,./-~+_0129aZ";

/// The input `of`, changed in one to four places.
#[must_use]
pub fn mutated(target: &Target, of: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = of.to_vec();
    let more = random.index(4);
    for _ in 0..=random.index(1 + more) {
        let at = random.index(bytes.len() + 1);
        let span_max = random.index(64);
        let span = random.index(1 + span_max);
        let end = (at + span).min(bytes.len());
        match random.index(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.index(8),
            1 if at < bytes.len() => bytes[at] = TURNING[random.index(TURNING.len())],
            2 => bytes.insert(at, TURNING[random.index(TURNING.len())]),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 if !target.words.is_empty() => {
                let word = target.words[random.index(target.words.len())].as_bytes();
                bytes.splice(at..end, word.iter().copied());
            }
            6 if !other.is_empty() => {
                let from = random.index(other.len());
                let to = (from + 1 + random.index(128)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            7 => {
                // A number in two or four bytes, as lengths in files are.
                let number = [0_u32, 1, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0xffff_ffff][random.index(7)];
                let width = [2, 4][random.index(2)];
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number.to_le_bytes()[..width].iter().copied());
            }
            _ => bytes.truncate(bytes.len() - random.index(1 + bytes.len() / 8)),
        }
        bytes.truncate(INPUT_BYTES_MAX);
    }
    bytes
}
