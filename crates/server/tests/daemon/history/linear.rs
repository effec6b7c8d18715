//! Whether the operations of a key are linearizable: whether there is an order of them, each at some moment between its beginning and its
//! end, in which every answer is right.
//!
//! The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of what was tried ("Testing for
//! Linearizability", 2017): a set of operations that were done, together with the state that they came to, is looked at once. Sets are told apart by a hash of 128
//! bits. A write of unknown outcome may take effect at any time after it began, or never; a get without an answer says nothing.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use fastrand::Rng;

use super::{
    fresh::around,
    record::{Id, Op, Operation, Outcome, Version},
};

/// A key's state: what was written last.
type State = Option<Id>;

/// What an operation does to a state; `None`: its answer would have been another.
fn step(state: State, operation: &Operation, id_of: impl Fn(Version) -> Option<Id>) -> Option<State> {
    let is_met = match operation.op {
        Op::PutIf(version, _) => state.is_some() && state == id_of(version),
        Op::PutIfAbsent(_) => state.is_none(),
        Op::Get | Op::Put(_) | Op::Delete => true,
    };
    match (operation.op, operation.outcome) {
        (Op::Get, Outcome::Found(id, _)) => (state == Some(id)).then_some(state),
        (Op::Get, Outcome::Nothing) => state.is_none().then_some(state),
        (_, Outcome::Refused) => (!is_met).then_some(state),
        (op, Outcome::Done(_) | Outcome::Unknown) if is_met => op.writes(),
        _ => None,
    }
}

/// One end of an operation's time.
#[derive(Clone, Copy)]
enum Event {
    Begins(usize),
    /// It has to be done by now.
    Ends(usize),
}

/// Before the first event and after the last.
const EDGE: usize = 0;

/// The events in their order, as a list from which those of operations that are done are taken out, and into which they can be put back.
struct Events {
    events: Vec<Event>,
    next: Vec<usize>,
    before: Vec<usize>,
    /// Where an operation begins, and where it ends, if it does.
    places: Vec<(usize, Option<usize>)>,
    /// How many that end are not done.
    left: usize,
}

impl Events {
    fn of(operations: &[&Operation]) -> Self {
        let mut moments: Vec<(Duration, bool, Event)> = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            moments.push((operation.began, false, Event::Begins(index)));
            if operation.outcome != Outcome::Unknown {
                moments.push((operation.ended, true, Event::Ends(index)));
            }
        }
        // What ends at the moment at which another begins may have overlapped it.
        moments.sort_by_key(|(moment, ends, _)| (*moment, *ends));
        let len = moments.len() + 1;
        let (mut places, mut left) = (vec![(EDGE, None); operations.len()], 0);
        // The first is the edge, at which there is nothing.
        let mut events = vec![Event::Begins(0)];
        for (_, _, event) in moments {
            match event {
                Event::Begins(index) => places[index].0 = events.len(),
                Event::Ends(index) => {
                    places[index].1 = Some(events.len());
                    left += 1;
                }
            }
            events.push(event);
        }
        let (next, before) =
            ((1..=len).map(|at| at % len).collect(), (0..len).map(|at| (at + len - 1) % len).collect());
        Self { events, next, before, places, left }
    }

    /// An operation is done.
    fn take_out(&mut self, index: usize) {
        let (begins, ends) = self.places[index];
        self.left -= usize::from(ends.is_some());
        for at in [Some(begins), ends].into_iter().flatten() {
            let (before, next) = (self.before[at], self.next[at]);
            (self.next[before], self.before[next]) = (next, before);
        }
    }

    /// The operation that was taken out last is not done after all.
    fn put_back(&mut self, index: usize) {
        let (begins, ends) = self.places[index];
        self.left += usize::from(ends.is_some());
        for at in [ends, Some(begins)].into_iter().flatten() {
            let (before, next) = (self.before[at], self.next[at]);
            (self.next[before], self.before[next]) = (at, at);
        }
    }
}

/// Whether there is such an order; else tells how far one came.
pub(crate) fn check(operations: &[Operation]) -> Result<(), String> {
    let says_something = |operation: &&Operation| match operation.outcome {
        Outcome::NotDone => false,
        Outcome::Unknown => operation.op != Op::Get,
        _ => true,
    };
    let operations: Vec<&Operation> = operations.iter().filter(says_something).collect();
    let ids = ids_by_version(&operations);
    let mut events = Events::of(&operations);
    let mut chance = Rng::with_seed(operations.len() as u64);
    let names: Vec<u128> = operations.iter().map(|_| chance.u128(..)).collect();
    let (mut done, mut state) = (0, None);
    let mut tried = HashSet::from([(done, state)]);
    // What was done, in its order, with the state before.
    let mut order: Vec<(usize, State)> = Vec::new();
    // The longest order so far, and what had to come next and could not.
    let mut furthest = (0, 0);
    let mut at = events.next[EDGE];
    // While some are left, their ends come before the edge.
    while events.left > 0 {
        match events.events[at] {
            Event::Begins(index) => {
                let next = step(state, operations[index], |version| ids.get(&version).copied());
                match next.filter(|next| tried.insert((done ^ names[index], *next))) {
                    Some(next) => {
                        order.push((index, state));
                        (done, state) = (done ^ names[index], next);
                        events.take_out(index);
                        at = events.next[EDGE];
                    }
                    None => at = events.next[at],
                }
            }
            // It should have been done by now: what was done last was wrong.
            Event::Ends(due) => {
                if order.len() >= furthest.0 {
                    furthest = (order.len(), due);
                }
                let Some((index, before)) = order.pop() else { return Err(stuck(&operations, furthest)) };
                (done, state) = (done ^ names[index], before);
                events.put_back(index);
                at = events.next[events.places[index].0];
            }
        }
    }
    Ok(())
}

/// What was written under which version, as far as it was told.
fn ids_by_version(operations: &[&Operation]) -> HashMap<Version, Id> {
    let told = operations.iter().filter_map(|operation| match (operation.op.writes(), operation.outcome) {
        (Some(Some(id)), Outcome::Done(Some(version))) | (_, Outcome::Found(id, version)) => Some((version, id)),
        _ => None,
    });
    told.collect()
}

fn stuck(operations: &[&Operation], (count, due): (usize, usize)) -> String {
    let shown: Vec<Operation> = operations.iter().map(|operation| (*operation).clone()).collect();
    let around = around(&shown, due);
    let len = operations.len();
    format!("there is no order in which each answer is right; {count} of {len} have one, and not this:\n{around}")
}

#[cfg(test)]
mod tests {
    use super::{
        super::record::by_hand::{deleted, got, got_nothing, op, put},
        *,
    };

    fn put_if(began: u64, ended: u64, version: Version, id: Id, outcome: Outcome) -> Operation {
        op(began, ended, Op::PutIf(version, id), outcome)
    }

    fn judged(operations: &[Operation]) -> bool {
        let mut operations = operations.to_vec();
        operations.sort_by_key(|operation| operation.began);
        check(&operations).is_ok()
    }

    const UNKNOWN: Outcome = Outcome::Unknown;

    #[test]
    fn histories_that_are_right() {
        let done = |id: Id| Outcome::Done(Some(id.into()));
        let right: &[&[Operation]] = &[
            &[],
            &[got_nothing(0, 1), put(2, 3, 1), got(4, 5, 1), deleted(6, 7), got_nothing(8, 9)],
            // Reads during a write see either, the later one not the older after the newer.
            &[put(0, 1, 1), put(2, 9, 2), got(3, 4, 1), got(5, 6, 2), got(7, 8, 2)],
            // Writes that overlap, in either order.
            &[put(0, 5, 1), put(0, 5, 2), got(6, 7, 1)],
            &[put(0, 5, 1), put(0, 5, 2), got(6, 7, 2)],
            // One that nobody knows of is never done, at once, or much later.
            &[put(0, 1, 1), op(2, 3, Op::Put(2), UNKNOWN), got(4, 5, 1)],
            &[put(0, 1, 1), op(2, 3, Op::Put(2), UNKNOWN), got(4, 5, 2)],
            &[put(0, 1, 1), op(2, 3, Op::Put(2), UNKNOWN), got(4, 5, 1), put(6, 7, 3), got(8, 9, 2)],
            &[put(0, 1, 1), op(2, 3, Op::Delete, UNKNOWN), got(4, 5, 1), got_nothing(6, 7)],
            // Conditions.
            &[put(0, 1, 1), put_if(2, 3, 1, 2, done(2)), put_if(4, 5, 1, 3, Outcome::Refused), got(6, 7, 2)],
            &[put(0, 1, 1), put_if(2, 5, 1, 2, done(2)), put_if(2, 5, 1, 3, Outcome::Refused), got(6, 7, 2)],
            &[put(0, 1, 1), put_if(2, 3, 1, 2, UNKNOWN), put(4, 5, 3), got(6, 7, 3)],
            &[op(0, 1, Op::PutIfAbsent(1), done(1)), op(2, 3, Op::PutIfAbsent(2), Outcome::Refused), got(4, 5, 1)],
            // What was not done says nothing.
            &[put(0, 1, 1), op(2, 3, Op::Put(2), Outcome::NotDone), op(2, 3, Op::Get, UNKNOWN), got(4, 5, 1)],
        ];
        for (number, operations) in right.iter().enumerate() {
            assert!(judged(operations), "{number}");
        }
    }

    #[test]
    fn histories_that_are_wrong() {
        let done = |id: Id| Outcome::Done(Some(id.into()));
        let wrong: &[&[Operation]] = &[
            &[put(0, 1, 1), put(2, 3, 2), got(4, 5, 1)],
            &[put(0, 1, 1), got_nothing(2, 3)],
            &[put(0, 1, 1), deleted(2, 3), got(4, 5, 1)],
            // The older after the newer, though the write is not acknowledged.
            &[put(0, 1, 1), put(2, 9, 2), got(3, 4, 2), got(5, 6, 1)],
            // Two readers that see two writes in different orders.
            &[put(0, 20, 1), put(0, 20, 2), got(2, 3, 1), got(4, 5, 2), got(6, 7, 1)],
            // One that nobody knows of is done once.
            &[put(0, 1, 1), op(2, 3, Op::Put(2), UNKNOWN), got(4, 5, 2), got(6, 7, 1)],
            &[put(0, 1, 1), op(2, 3, Op::Put(2), UNKNOWN), got(4, 5, 2), put(6, 7, 3), got(8, 9, 2)],
            &[op(2, 3, Op::Put(2), UNKNOWN), got(0, 1, 2)],
            // Conditions that admit two, or the wrong one, or none that should be.
            &[put(0, 1, 1), put_if(2, 5, 1, 2, done(2)), put_if(2, 5, 1, 3, done(3))],
            &[put(0, 1, 1), put(2, 3, 2), put_if(4, 5, 1, 3, done(3))],
            &[put(0, 1, 1), put_if(2, 3, 1, 2, Outcome::Refused)],
            &[op(0, 1, Op::PutIfAbsent(1), done(1)), op(0, 2, Op::PutIfAbsent(2), done(2))],
            &[put(0, 1, 1), put_if(2, 3, 1, 2, UNKNOWN), put(4, 5, 3), got(6, 7, 3), got(8, 9, 2)],
        ];
        for (number, operations) in wrong.iter().enumerate() {
            assert!(!judged(operations), "{number}");
        }
    }

    /// Histories made from a register that is one, each operation done at a moment of its time; then the same with one answer changed.
    #[test]
    fn what_a_register_answers_is_right_and_one_old_answer_among_many_is_found() {
        let mut chance = Rng::with_seed(7);
        for _ in 0..20 {
            let mut operations = Vec::new();
            let mut state = None;
            for moment in 1..200_u64 {
                // Done at its moment, with some time before and after in which others are done.
                let (began, ended) =
                    (moment * 100 - chance.u64(..400).min(moment * 100), moment * 100 + chance.u64(..400));
                operations.push(match chance.u8(..100) {
                    0..10 => {
                        state = None;
                        deleted(began, ended)
                    }
                    10..40 => {
                        state = Some(moment);
                        put(began, ended, moment)
                    }
                    // Few, as each doubles what has to be looked at. Some of them are done.
                    40 => {
                        let is_done = chance.bool();
                        state = if is_done { Some(moment) } else { state };
                        op(began, ended, Op::Put(moment), UNKNOWN)
                    }
                    _ => state.map_or_else(|| got_nothing(began, ended), |id| got(began, ended, id)),
                });
            }
            operations.sort_by_key(|operation| operation.began);
            check(&operations).unwrap();
            // A value that was read, and then overwritten, long ago.
            let first = operations.iter().find_map(|it| match it.outcome {
                Outcome::Done(Some(version)) => Some((version as Id, version)),
                _ => None,
            });
            let (id, version) = first.unwrap();
            let last = operations.iter_mut().rev().find(|it| it.op == Op::Get).unwrap();
            last.outcome = Outcome::Found(id, version);
            assert!(check(&operations).is_err());
        }
    }
}
