//! Things measured by turns, so that what else the machine does falls on all of them alike.

use std::fmt;

/// What one of several measurements came to.
///
/// ```
/// let mut turn = 0.0;
/// let spread = larder_bench::interleave(5, &mut [("turns", &mut || { turn += 1.0; turn })]);
/// assert_eq!((spread[0].median, spread[0].least, spread[0].greatest), (3.0, 1.0, 5.0));
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread<'a> {
    /// What was measured.
    pub name: &'a str,
    /// The middle one of its rounds.
    pub median: f64,
    /// The lowest of its rounds.
    pub least: f64,
    /// The highest of its rounds.
    pub greatest: f64,
}

impl fmt::Display for Spread<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, median, least, greatest } = self;
        write!(f, "{name:<24} {median:>12.1}   ({least:.1} to {greatest:.1})")
    }
}

/// Measures each of several things once a round, by turns, and gives back the spread of each in the order given. Take
/// an odd number of rounds.
///
/// # Panics
///
/// If `rounds` is 0, or a measurement is no number.
pub fn interleave<'a>(rounds: usize, measured: &mut [(&'a str, &mut dyn FnMut() -> f64)]) -> Vec<Spread<'a>> {
    assert!(rounds > 0, "there is nothing to measure in no rounds");
    let mut results = vec![Vec::with_capacity(rounds); measured.len()];
    for _ in 0..rounds {
        for ((_, measure), results) in measured.iter_mut().zip(&mut results) {
            let result = measure();
            assert!(!result.is_nan(), "a measurement is no number");
            results.push(result);
        }
    }
    let spread = |((name, _), mut results): (&(&'a str, _), Vec<f64>)| {
        results.sort_by(f64::total_cmp);
        Spread { name, median: results[rounds / 2], least: results[0], greatest: results[rounds - 1] }
    };
    measured.iter().zip(results).map(spread).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn turns_are_taken_and_each_has_its_own_median() {
        let turns = RefCell::new(String::new());
        let mut falling = [9.0, 1.0, 5.0].into_iter();
        let mut a = || {
            turns.borrow_mut().push('a');
            falling.next().unwrap()
        };
        let mut b = || {
            turns.borrow_mut().push('b');
            2.0
        };
        let spreads = interleave(3, &mut [("a", &mut a), ("b", &mut b)]);
        assert_eq!(turns.into_inner(), "ababab");
        assert_eq!(spreads[0], Spread { name: "a", median: 5.0, least: 1.0, greatest: 9.0 });
        assert_eq!(spreads[1].median, 2.0);
    }
}
