//! Seeded chance: a small generator and a hash. Everything random in this crate is a throw of these dice, so
//! that the same seed and the same request give the same answer. Not for secrets.

/// A splitmix64 generator: eight bytes of state, a few instructions a throw.
#[derive(Clone, Debug)]
pub struct Dice(u64);

// === impl Dice ===

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// Dice of their own for a named part of the work, so that one part's throws never shift another's.
    pub fn fork(&self, part: u64) -> Self {
        Self(mix(self.0 ^ mix(part)))
    }

    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.throw()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of a product of two u64 fits in one")
    }

    pub fn below_len(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("a number below a usize fits in one")
    }

    /// In `[0, 1)`, with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.throw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Log-normal with this median; `sigma` is the standard deviation of the logarithm.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    /// Standard normal, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// A 64-bit hash of `bytes`, eight at a time. The same on every machine and in every release: answers hang on it.
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = mix(seed ^ bytes.len() as u64);
    for word in words {
        state = fold(state, u64::from_le_bytes(*word));
    }
    let mut last = [0_u8; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(fold(state, u64::from_le_bytes(last)))
}

fn fold(state: u64, word: u64) -> u64 {
    (state ^ word).wrapping_mul(0x9FB2_1C65_1E98_DF25).rotate_left(29)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_numbers() {
        let (mut a, mut b, mut other) = (Dice::new(7), Dice::new(7), Dice::new(8));
        let thrown: Vec<u64> = (0..32).map(|_| a.throw()).collect();
        assert_eq!(thrown, (0..32).map(|_| b.throw()).collect::<Vec<_>>());
        assert_ne!(thrown, (0..32).map(|_| other.throw()).collect::<Vec<_>>());
    }

    #[test]
    fn throws_stay_in_their_range_and_reach_all_of_it() {
        let mut dice = Dice::new(1);
        let mut seen = [false; 6];
        for _ in 0..200 {
            seen[dice.below_len(6)] = true;
            assert!((0.0..1.0).contains(&dice.unit()));
        }
        assert_eq!(seen, [true; 6]);
        assert_eq!(dice.below(0), 0);
    }

    #[test]
    fn the_log_normal_has_its_median() {
        let mut dice = Dice::new(3);
        let below = (0..10_000).filter(|_| dice.log_normal(250.0, 0.5) < 250.0).count();
        assert!((4_800..5_200).contains(&below), "{below} of 10000 below the median");
    }

    #[test]
    fn the_hash_sees_every_byte_the_length_and_the_seed() {
        let text = b"seventeen letters";
        let plain = hash(1, text);
        for at in 0..text.len() {
            let mut changed = *text;
            changed[at] ^= 1;
            assert_ne!(hash(1, &changed), plain, "byte {at}");
        }
        assert_ne!(hash(2, text), plain);
        assert_ne!(hash(1, b"ab"), hash(1, b"ab\0"));
    }
}
