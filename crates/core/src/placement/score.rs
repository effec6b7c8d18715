//! How much a member wants a slot: weighted rendezvous hashing (Thaler and Ravishankar, "A Name-Based Mapping Scheme for
//! Rendezvous", 1996; weights after Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005).
//!
//! Each pair of a member and a slot draws a number `u` between 0 and 1 from a hash; its *cost* is `-log2(u) / weight`, and
//! the slot would like the member of least cost best. With that, a member's chance of a slot is its share of the weights.
//!
//! All of it is integer arithmetic over one published checksum and one published generator: no float whose last bit might
//! depend on a machine's library, and no hash that a new version of a crate might change. Nodes of every version must come
//! to the same table, so that **nothing here may ever change** without a new name for the result.

use crc::{CRC_64_XZ, Crc, Table};

use super::Slot;

/// What a slot costs a member. Less is better.
pub(super) type Cost = u64;

/// Binary digits of a logarithm after the point: the whole part is at most 64, seven bits.
const FRACTION_BITS: u32 = 57;

/// The logarithm is looked up by the first so many digits of its argument and drawn as a straight line in between, which is
/// off by 3 millionths at most, and monotone.
const INDEX_BITS: u32 = 8;

/// `log2(1 + i / 256)`, in units of 2⁻⁵⁷.
static LOG2: [u64; (1 << INDEX_BITS) + 1] = log2_table();

/// A member as the scores see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bidder {
    seed: u64,
    /// The least weight of all members divided by this one's, in units of 2⁻⁶⁴: a product instead of a quotient for each
    /// score, and no difference between weights (1, 2) and (50, 100).
    per_weight: u64,
}

impl Bidder {
    /// `weight_min` is the least weight of all bidders; neither may be 0.
    pub(super) fn new(name: &str, weight: u32, weight_min: u32) -> Self {
        const NAMES: Crc<u64, Table<1>> = Crc::<u64, Table<1>>::new(&CRC_64_XZ);
        // A checksum spreads names well enough to tell them apart, but linearly: names that differ alike have checksums that
        // differ alike. The generator's mixing undoes that.
        let seed = mix(NAMES.checksum(name.as_bytes()));
        let ratio = (u128::from(weight_min) << 64) / u128::from(weight);
        Self { seed, per_weight: u64::try_from(ratio).unwrap_or(u64::MAX) }
    }

    #[inline]
    pub(super) fn cost(self, slot: Slot) -> Cost {
        let product = u128::from(minus_log2(self.draw(slot))) * u128::from(self.per_weight);
        (product >> 64) as u64
    }

    /// SplitMix64's output number `slot` from this bidder's seed.
    #[inline]
    fn draw(self, slot: Slot) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        mix(self.seed.wrapping_add(GAMMA.wrapping_mul(u64::from(slot.number()) + 1)))
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014,
/// with Stafford's constants, variant 13).
#[inline]
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `-log2(draw / 2⁶⁴)`, in units of 2⁻⁵⁷; a draw of 0 counts as 1.
#[inline]
fn minus_log2(draw: u64) -> u64 {
    const REST_BITS: u32 = 63 - INDEX_BITS;
    let draw = draw | 1;
    let zeros = draw.leading_zeros();
    // Shifted to begin with its first 1, the draw is a number from 1 to 2 with 63 digits after the point.
    let digits = (draw << zeros) & (u64::MAX >> 1);
    let (index, rest) = ((digits >> REST_BITS) as usize, digits & ((1 << REST_BITS) - 1));
    let (low, high) = (LOG2[index], LOG2[index + 1]);
    let log2 = low + ((u128::from(high - low) * u128::from(rest)) >> REST_BITS) as u64;
    (u64::from(zeros) << FRACTION_BITS) + (1 << FRACTION_BITS) - log2
}

const fn log2_table() -> [u64; (1 << INDEX_BITS) + 1] {
    let mut table = [0; (1 << INDEX_BITS) + 1];
    let mut i = 0;
    while i < 1 << INDEX_BITS {
        table[i] = log2_digits((1 << 63) + ((i as u64) << (63 - INDEX_BITS)));
        i += 1;
    }
    table[i] = 1 << FRACTION_BITS;
    table
}

/// The logarithm of a number from 1 to 2 with 63 digits after the point, digit by digit: squaring doubles it, and where that
/// passes 2, the next digit is a 1.
const fn log2_digits(number: u64) -> u64 {
    let mut number = number as u128;
    let mut digits = 0;
    let mut place = FRACTION_BITS;
    while place > 0 {
        place -= 1;
        number = (number * number) >> 63;
        if number >= 1 << 64 {
            number >>= 1;
            digits |= 1 << place;
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_to_three_millionths() {
        let mut draw: u64 = 1;
        for step in 0..20_000_u64 {
            draw = mix(draw.wrapping_add(step)) >> (step % 60);
            let expected = 64.0 - ((draw | 1) as f64).log2();
            let got = minus_log2(draw) as f64 / (1_u64 << FRACTION_BITS) as f64;
            assert!((got - expected).abs() < 3e-6, "{draw}: {got} and not {expected}");
        }
    }

    #[test]
    fn a_greater_draw_never_costs_more() {
        let draws = [0, 1, 2, 3, 1 << 20, (1 << 55) - 1, 1 << 55, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX];
        for pair in draws.windows(2) {
            assert!(minus_log2(pair[0]) >= minus_log2(pair[1]), "{pair:?}");
        }
        assert_eq!(minus_log2(1), 64 << FRACTION_BITS);
        assert_eq!(minus_log2(1 << 63), 1 << FRACTION_BITS);
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs of the generator's published implementation from seed 1234567.
        let bidder = Bidder { seed: 1_234_567, per_weight: u64::MAX };
        let draws: Vec<u64> = Slot::all().take(3).map(|slot| bidder.draw(slot)).collect();
        assert_eq!(draws, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn names_are_read_by_crc64_xz() {
        assert_eq!(Bidder::new("123456789", 1, 1).seed, mix(0x995d_c9bb_df19_39fa));
    }
}
