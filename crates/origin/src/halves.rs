//! [`Halves`]: which changes of a batch to make together next, once all of them together could not be made.
//!
//! One statement for many changes fails for the sake of one of them, and does not say which. It is found by halving: so one
//! change of a hundred costs the others eight requests more, and not a hundred. It knows nothing of what is in the batch.

use std::ops::Range;

/// How many changes are not halved any further, but made one by one: for one among so many the halves would be as many requests.
const HALVED_LEN_MIN: usize = 8;

/// The parts of a batch that are to be made together, the first one last. What is in none of them any more and was not made is to be made
/// by itself.
#[derive(Debug)]
pub(crate) struct Halves(Vec<Range<usize>>);

impl Halves {
    /// A batch of so many changes, of which none was tried.
    pub(crate) fn of(len: usize) -> Self {
        let mut halves = Self(Vec::new());
        halves.push(0..len);
        halves
    }

    /// What to make together next.
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        self.0.pop()
    }

    /// These could not be made together, and none of them is made.
    pub(crate) fn failed(&mut self, part: Range<usize>) {
        if part.len() > HALVED_LEN_MIN {
            let middle = part.start + part.len().div_ceil(2);
            self.push(middle..part.end);
            self.push(part.start..middle);
        }
    }

    fn push(&mut self, part: Range<usize>) {
        if part.len() > 1 {
            self.0.push(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left to be made one by one, and how many requests were made for many, where some changes of a batch can't be made.
    fn made(len: usize, poison: &[usize]) -> (Vec<usize>, usize) {
        let (mut halves, mut requests, mut done) = (Halves::of(len), 0, vec![false; len]);
        while let Some(part) = halves.next() {
            requests += 1;
            match poison.iter().any(|at| part.contains(at)) {
                true => halves.failed(part),
                false => {
                    assert!(!done[part.clone()].contains(&true), "{part:?} is made twice");
                    done[part].fill(true);
                }
            }
        }
        ((0..len).filter(|&at| !done[at]).collect(), requests)
    }

    #[test]
    fn a_batch_without_poison_is_one_request() {
        assert_eq!(made(100, &[]), (vec![], 1));
        assert_eq!(made(2, &[]), (vec![], 1));
        assert_eq!(made(1, &[0]), (vec![0], 0));
        assert_eq!(made(0, &[]), (vec![], 0));
    }

    #[test]
    fn one_that_fails_is_found_in_few_requests_wherever_it_is() {
        for at in 0..100 {
            let (alone, requests) = made(100, &[at]);
            assert!(alone.contains(&at) && alone.len() <= HALVED_LEN_MIN && requests <= 9, "{alone:?} {requests}");
        }
    }

    #[test]
    fn where_all_fail_it_costs_half_as_many_requests_more_at_most() {
        for len in 1..300 {
            let (alone, requests) = made(len, &(0..len).collect::<Vec<_>>());
            assert!(alone.len() == len && requests <= len / 2, "{len}: {requests}");
        }
    }
}
