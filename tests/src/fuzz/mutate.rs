//! Changes of inputs for the runs without a fuzzer: from a seed, so that what failed fails again.

use super::{INPUT_BYTES_MAX, Target};

/// Numbers that are the same each time (xorshift64*).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `below`, or 0.
    pub fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number % (below.max(1) as u64)).unwrap_or(0)
    }
}

/// Bytes at which parsers turn.
const TURNING: &[u8] = b"\0\x01\x7f\x80\xff\n\r\t \"'\\{}[]()<>=:;,./-~+_0129aZ";

/// The input `of`, changed in one to four places.
#[must_use]
pub fn mutated(target: &Target, of: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = of.to_vec();
    let more = numbers.below(4);
    for _ in 0..=numbers.below(1 + more) {
        let at = numbers.below(bytes.len() + 1);
        let span_max = numbers.below(64);
        let span = numbers.below(1 + span_max);
        let end = (at + span).min(bytes.len());
        match numbers.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 if at < bytes.len() => bytes[at] = TURNING[numbers.below(TURNING.len())],
            2 => bytes.insert(at, TURNING[numbers.below(TURNING.len())]),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 if !target.words.is_empty() => {
                let word = target.words[numbers.below(target.words.len())].as_bytes();
                bytes.splice(at..end, word.iter().copied());
            }
            6 if !other.is_empty() => {
                let from = numbers.below(other.len());
                let to = (from + 1 + numbers.below(128)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            7 => {
                // A number in two or four bytes, as lengths in files are.
                let number = [0_u32, 1, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0xffff_ffff][numbers.below(7)];
                let width = [2, 4][numbers.below(2)];
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number.to_le_bytes()[..width].iter().copied());
            }
            _ => bytes.truncate(bytes.len() - numbers.below(1 + bytes.len() / 8)),
        }
        bytes.truncate(INPUT_BYTES_MAX);
    }
    bytes
}
