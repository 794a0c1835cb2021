//! XXH64 with seed 0: tells damage from what was written, at the speed of memory.
//!
//! Source: the xxHash specification, <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>. It
//! does not tell an attacker's bytes; who can write this computer's own files needs no forged rules.

const PRIMES: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

/// Takes bytes piece by piece.
pub(super) struct Checksum {
    lanes: [u64; 4],
    /// What does not fill a stripe yet.
    rest: Vec<u8>,
    bytes: u64,
}

const STRIPE_BYTES: usize = 32;

impl Checksum {
    pub(super) fn new() -> Self {
        let [first, second, ..] = PRIMES;
        let lanes = [first.wrapping_add(second), second, 0, 0_u64.wrapping_sub(first)];
        Self { lanes, rest: Vec::with_capacity(STRIPE_BYTES), bytes: 0 }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if !self.rest.is_empty() {
            let (fill, left) = bytes.split_at(bytes.len().min(STRIPE_BYTES - self.rest.len()));
            self.rest.extend_from_slice(fill);
            bytes = left;
            if self.rest.len() == STRIPE_BYTES {
                let stripe = std::mem::take(&mut self.rest);
                self.stripe(&stripe);
                self.rest = stripe;
                self.rest.clear();
            }
        }
        let stripes = bytes.chunks_exact(STRIPE_BYTES);
        self.rest.extend_from_slice(stripes.remainder());
        stripes.for_each(|stripe| self.stripe(stripe));
    }

    fn stripe(&mut self, stripe: &[u8]) {
        let (words, _) = stripe.as_chunks::<8>();
        for (lane, word) in self.lanes.iter_mut().zip(words) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }

    pub(super) fn finish(&self) -> u64 {
        let [p1, p2, p3, p4, p5] = PRIMES;
        let mut sum = if self.bytes >= STRIPE_BYTES as u64 {
            let [a, b, c, d] = self.lanes;
            let sum = (a.rotate_left(1).wrapping_add(b.rotate_left(7)))
                .wrapping_add(c.rotate_left(12))
                .wrapping_add(d.rotate_left(18));
            self.lanes.iter().fold(sum, |sum, lane| (sum ^ round(0, *lane)).wrapping_mul(p1).wrapping_add(p4))
        } else {
            p5
        };
        sum = sum.wrapping_add(self.bytes);
        let (words, rest) = self.rest.as_chunks::<8>();
        for word in words {
            sum ^= round(0, u64::from_le_bytes(*word));
            sum = sum.rotate_left(27).wrapping_mul(p1).wrapping_add(p4);
        }
        let (halves, rest) = rest.as_chunks::<4>();
        for half in halves {
            sum ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(p1);
            sum = sum.rotate_left(23).wrapping_mul(p2).wrapping_add(p3);
        }
        for byte in rest {
            sum ^= u64::from(*byte).wrapping_mul(p5);
            sum = sum.rotate_left(11).wrapping_mul(p1);
        }
        sum = (sum ^ (sum >> 33)).wrapping_mul(p2);
        sum = (sum ^ (sum >> 29)).wrapping_mul(p3);
        sum ^ (sum >> 32)
    }
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIMES[1])).rotate_left(31).wrapping_mul(PRIMES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_have_their_known_sums_in_whatever_pieces_they_come() {
        let long = "Nobody inspects the spammish repetition";
        for (text, known) in [
            ("", 0xEF46_DB37_51D8_E999),
            ("a", 0xD24E_C4F1_A98C_6E5B),
            ("abc", 0x44BC_2CF5_AD77_0999),
            (long, 0xFBCE_A83C_8A37_8BF1),
        ] {
            for piece in 1..=text.len().max(1) {
                let mut sum = Checksum::new();
                text.as_bytes().chunks(piece).for_each(|piece| sum.update(piece));
                assert_eq!(sum.finish(), known, "{text} by {piece}");
            }
        }
    }
}
