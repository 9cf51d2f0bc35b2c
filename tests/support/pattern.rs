//! Bytes that tell where they belong, and a digest that notices a missing, doubled or moved one.

/// Bytes of a word: patterns and digests work in words.
const WORD: usize = 8;

/// Endless pseudo-random bytes: word `n` is a hash of the seed and `n`.
#[derive(Clone, Debug)]
pub struct Pattern {
    seed: u64,
    next: u64,
}

impl Pattern {
    /// The pattern of a seed, from its start.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }

    /// Continues the pattern into a buffer. Only the last buffer of a stream may have a length
    /// that is not a multiple of eight.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(WORD) {
            let word = mix(self.seed ^ mix(self.next)).to_le_bytes();
            self.next += 1;
            for (to, from) in chunk.iter_mut().zip(word) {
                *to = from;
            }
        }
    }
}

/// The finalizer of SplitMix64: every bit of the input moves half of the output's.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A digest over a stream that arrives in pieces of any size. Not for adversaries.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    state: u64,
    carry: [u8; WORD],
    held: usize,
    bytes: u64,
}

impl Digest {
    /// Takes the next piece.
    pub fn update(&mut self, mut piece: &[u8]) {
        self.bytes += length(piece.len());
        if self.held > 0 {
            let take = piece.len().min(WORD - self.held);
            let (head, rest) = piece.split_at(take);
            self.carry[self.held..self.held + take].copy_from_slice(head);
            self.held += take;
            piece = rest;
            if self.held < WORD {
                return;
            }
            self.word(self.carry);
            self.held = 0;
        }
        let (words, rest) = piece.as_chunks::<WORD>();
        for word in words {
            self.word(*word);
        }
        self.carry[..rest.len()].copy_from_slice(rest);
        self.held = rest.len();
    }

    fn word(&mut self, word: [u8; WORD]) {
        let mixed = (self.state ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.state = mixed.rotate_left(29);
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of all bytes taken.
    #[must_use]
    pub fn value(&self) -> u64 {
        let mut end = self.clone();
        let mut last = [0; WORD];
        last[..end.held].copy_from_slice(&end.carry[..end.held]);
        end.word(last);
        end.word(end.bytes.to_le_bytes());
        end.state
    }

    /// The digest of the first `bytes` bytes of a pattern.
    #[must_use]
    pub fn of_pattern(seed: u64, bytes: u64) -> u64 {
        let (mut pattern, mut digest) = (Pattern::new(seed), Self::default());
        let mut buffer = vec![0; 64 * 1024];
        while digest.bytes < bytes {
            let left = usize::try_from(bytes - digest.bytes).unwrap_or(usize::MAX);
            let piece = buffer.len().min(left);
            pattern.fill(&mut buffer[..piece]);
            digest.update(&buffer[..piece]);
        }
        digest.value()
    }
}

/// A length as the number that reports hold. Lossless: `usize` has at most 64 bits.
#[must_use]
pub fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_matter_and_bytes_do() {
        let mut data = vec![0; 1000];
        Pattern::new(7).fill(&mut data);
        let digest = |pieces: usize, data: &[u8]| {
            let mut digest = Digest::default();
            data.chunks(pieces).for_each(|piece| digest.update(piece));
            digest.value()
        };
        let whole = Digest::of_pattern(7, 1000);
        for pieces in [1, 3, 8, 13, 999, 1000] {
            assert_eq!(digest(pieces, &data), whole, "pieces of {pieces}");
        }
        assert_ne!(digest(1000, &data[..999]), whole);
        data.swap(3, 700);
        assert_ne!(digest(1000, &data), whole);
        assert_ne!(Digest::of_pattern(8, 1000), whole);
    }
}
