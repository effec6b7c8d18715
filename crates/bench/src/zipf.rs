//! Ranks by Zipf's law, in constant time and memory whatever their number.
//!
//! Rejection-inversion: W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete
//! distributions", ACM Transactions on Modeling and Computer Simulation 6(3), 1996. The histogram of the weights
//! `k^-s` is covered by the continuous density `x^-s`, whose integral can be inverted; a point is drawn under that and
//! rounded to a rank, and the few that lie above the rank's own bar are thrown away and drawn anew.

use fastrand::Rng;

/// Below this the quotients `ln(1 + x) / x` and `(e^x - 1) / x` are taken by their first two terms. What is left out
/// is under a sixth of a unit in the last place of a double.
const SMALL: f64 = 1e-8;

/// Draws ranks 1 to `count`; rank `k` comes with a probability proportional to `k^-exponent`.
///
/// ```
/// use larder_bench::Zipf;
///
/// let zipf = Zipf::new(1_000_000, 0.99);
/// let mut rng = fastrand::Rng::with_seed(1);
/// assert!((1..=1_000_000).contains(&zipf.rank(&mut rng)));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    count: u64,
    exponent: f64,
    /// The integral at the left end of what is drawn from; the first bar is cut so that rank 1 is never rejected.
    integral_first: f64,
    /// The integral at the right end, half a step beyond the last rank.
    integral_last: f64,
    /// A point this close below its rank, or above it, is under the bar without looking.
    squeeze: f64,
}

impl Zipf {
    /// # Panics
    ///
    /// If `count` is 0, or `exponent` is negative or not finite. An exponent of 0 is the uniform distribution.
    #[must_use]
    pub fn new(count: u64, exponent: f64) -> Self {
        assert!(count > 0, "there is no rank to draw");
        assert!(exponent.is_finite() && exponent >= 0.0, "the exponent must be finite and not negative");
        Self {
            count,
            exponent,
            integral_first: integral(1.5, exponent) - 1.0,
            integral_last: integral(count as f64 + 0.5, exponent),
            squeeze: 2.0 - integral_inverse(integral(2.5, exponent) - weight(2.0, exponent), exponent),
        }
    }

    /// The next rank, 1 the most frequent. Takes one draw mostly; 1.02 on average at the worst exponent.
    #[must_use]
    pub fn rank(&self, rng: &mut Rng) -> u64 {
        let Self { count, exponent, integral_first, integral_last, squeeze } = *self;
        loop {
            let area = integral_last + rng.f64() * (integral_first - integral_last);
            let x = integral_inverse(area, exponent);
            // A cast ends at the type's bounds, and the clamp at the ranks'.
            let rank = ((x + 0.5) as u64).clamp(1, count);
            let k = rank as f64;
            if k - x <= squeeze || area >= integral(k + 0.5, exponent) - weight(k, exponent) {
                return rank;
            }
        }
    }
}

fn weight(x: f64, exponent: f64) -> f64 {
    (-exponent * x.ln()).exp()
}

/// The integral of `weight` from 1 to `x`: `(x^(1-s) - 1) / (1-s)`, and `ln x` for an exponent of 1.
fn integral(x: f64, exponent: f64) -> f64 {
    let log = x.ln();
    exp_m1_by((1.0 - exponent) * log) * log
}

fn integral_inverse(area: f64, exponent: f64) -> f64 {
    // Rounding may bring it a little below -1, where the logarithm ends.
    let scaled = (area * (1.0 - exponent)).max(-1.0);
    (ln_1p_by(scaled) * area).exp()
}

fn ln_1p_by(x: f64) -> f64 {
    if x.abs() > SMALL { x.ln_1p() / x } else { 1.0 - x / 2.0 }
}

fn exp_m1_by(x: f64) -> f64 {
    if x.abs() > SMALL { x.exp_m1() / x } else { 1.0 + x / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 400_000;

    /// Pearson's sum over all ranks of (drawn - expected)² / expected.
    fn chi_square(drawn_by: Zipf, count: u64, exponent: f64) -> f64 {
        let mut rng = Rng::with_seed(7);
        let mut drawn = vec![0_u32; count as usize];
        for _ in 0..DRAWS {
            drawn[drawn_by.rank(&mut rng) as usize - 1] += 1;
        }
        let weights: Vec<f64> = (1..=count).map(|k| (k as f64).powf(-exponent)).collect();
        let total: f64 = weights.iter().sum();
        let expected = weights.iter().map(|weight| weight / total * f64::from(DRAWS));
        expected.zip(&drawn).map(|(expected, &drawn)| (f64::from(drawn) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn ranks_come_with_their_exact_probabilities() {
        for exponent in [0.0, 0.5, 0.99, 1.0, 1.2, 2.0] {
            let sum = chi_square(Zipf::new(100, exponent), 100, exponent);
            // With 99 degrees of freedom one sum in a thousand is over 148.2.
            assert!(sum < 148.2, "exponent {exponent}: {sum}");
        }
    }

    #[test]
    fn the_bound_sees_an_exponent_that_is_off_by_a_hundredth() {
        assert!(chi_square(Zipf::new(100, 1.0), 100, 0.99) > 148.2);
    }

    #[test]
    fn few_ranks_are_drawn_as_well_as_many() {
        let mut rng = Rng::with_seed(1);
        assert!((0..1000).all(|_| Zipf::new(1, 0.99).rank(&mut rng) == 1));
        // With 1 degree of freedom one sum in a thousand is over 10.8.
        assert!(chi_square(Zipf::new(2, 0.99), 2, 0.99) < 10.8);
        let huge = Zipf::new(u64::MAX, 0.99);
        assert!((0..1000).map(|_| huge.rank(&mut rng)).any(|rank| rank > u64::from(u32::MAX)));
    }

    #[test]
    #[should_panic(expected = "the exponent must be finite")]
    fn an_exponent_that_is_no_number_is_a_mistake() {
        let _ = Zipf::new(1, f64::NAN);
    }
}
