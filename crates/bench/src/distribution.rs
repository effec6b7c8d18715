//! Which keys are asked for, and how often each.

use std::{fmt, str::FromStr};

use fastrand::Rng;
use thiserror::Error;

use crate::Zipf;

/// How gets are spread over keys. Written `zipf:0.99` or `uniform`.
///
/// ```
/// use larder_bench::Distribution;
///
/// let distribution: Distribution = "zipf:0.99".parse()?;
/// assert_eq!(distribution, Distribution::Zipf { exponent: 0.99 });
/// assert_eq!(distribution.to_string(), "zipf:0.99");
/// # Ok::<(), larder_bench::DistributionError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distribution {
    /// Key `i` is asked for in proportion to `(i + 1)^-exponent`. Web caches see exponents of 0.6 to 1.
    Zipf {
        /// Finite and not negative.
        exponent: f64,
    },
    /// Every key as often as every other.
    Uniform,
}

/// A distribution that is neither `uniform` nor `zipf:` and an exponent.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("`{0}` is no distribution: write `uniform`, or `zipf:0.99` with an exponent of 0 or more")]
pub struct DistributionError(String);

impl FromStr for Distribution {
    type Err = DistributionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "uniform" {
            return Ok(Self::Uniform);
        }
        let exponent = text.strip_prefix("zipf:").and_then(|exponent| exponent.parse().ok());
        match exponent {
            Some(exponent) if f64::is_finite(exponent) && exponent >= 0.0 => Ok(Self::Zipf { exponent }),
            _ => Err(DistributionError(text.to_owned())),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zipf { exponent } => write!(f, "zipf:{exponent}"),
            Self::Uniform => f.write_str("uniform"),
        }
    }
}

/// Indices of keys, 0 up, drawn without end from a distribution. The same seed draws the same indices.
///
/// ```
/// use larder_bench::{Distribution, Keys};
///
/// let draw = || Keys::new(Distribution::Uniform, 100, 1).take(5).collect::<Vec<u64>>();
/// assert_eq!(draw(), draw());
/// assert!(draw().iter().all(|index| *index < 100));
/// ```
#[derive(Clone, Debug)]
pub struct Keys {
    drawn: Drawn,
    rng: Rng,
}

#[derive(Clone, Debug)]
enum Drawn {
    Zipf(Zipf),
    Uniform { count: u64 },
}

impl Keys {
    /// Indices below `count`.
    ///
    /// # Panics
    ///
    /// If `count` is 0, or an exponent is negative or not finite.
    #[must_use]
    pub fn new(distribution: Distribution, count: u64, seed: u64) -> Self {
        assert!(count > 0, "there is no key to draw");
        let drawn = match distribution {
            Distribution::Zipf { exponent } => Drawn::Zipf(Zipf::new(count, exponent)),
            Distribution::Uniform => Drawn::Uniform { count },
        };
        Self { drawn, rng: Rng::with_seed(seed) }
    }

    /// The next index.
    pub fn draw(&mut self) -> u64 {
        match &self.drawn {
            Drawn::Zipf(zipf) => zipf.rank(&mut self.rng) - 1,
            Drawn::Uniform { count } => self.rng.u64(..*count),
        }
    }
}

impl Iterator for Keys {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        Some(self.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_distribution_is_refused_by_name() {
        for text in ["", "zipf", "zipf:", "zipf:-1", "zipf:nan", "zipf:inf", "zipf:1e999", "Uniform", "uniform:1"] {
            let error = text.parse::<Distribution>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is no distribution")), "{error}");
        }
        assert_eq!("zipf:1".parse(), Ok(Distribution::Zipf { exponent: 1.0 }));
        assert_eq!("uniform".parse(), Ok(Distribution::Uniform));
    }

    #[test]
    fn the_first_key_is_the_most_popular_and_every_key_is_drawn() {
        for distribution in [Distribution::Uniform, Distribution::Zipf { exponent: 0.99 }] {
            let mut drawn = [0_u32; 10];
            Keys::new(distribution, 10, 3).take(10_000).for_each(|index| drawn[index as usize] += 1);
            assert!(drawn.iter().all(|times| *times > 0), "{distribution}: {drawn:?}");
            let first = drawn[0] > 3 * drawn[9];
            assert_eq!(first, distribution != Distribution::Uniform, "{distribution}: {drawn:?}");
        }
    }
}
