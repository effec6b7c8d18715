//! Whether reads are fresh: none may be older than what was acknowledged before it began.
//!
//! What is older shows in two ways, and each is enough. By time: the value's write was over before another began, and that one was acknowledged
//! before the read began. By version: the value has a smaller one than a write that was acknowledged before the read began; that also judges
//! writes which overlapped, as their versions say in which order the owner did them.
//!
//! Beside that, a read must bring what somebody wrote, and nothing that was answered as not done; a version has one value; and of writes
//! on the condition of one version, one is done.
//!
//! "Not found" is right where a delete may be the last write. Elsewhere it is a value lost, which a group without an origin may do by
//! eviction and with a node that dies ([`Losses::Allowed`]), and in no other way.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::record::{Id, Op, Operation, Outcome, Version};

/// How many operations before and after a wrong one are shown, of those that may have to do with it.
const SHOWN_BEFORE: usize = 25;
const SHOWN_AFTER: usize = 5;

/// Whether a value may be gone that nobody deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Losses {
    Allowed,
    None,
}

/// When reads may be older than elsewhere, and by how much.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowance {
    /// What was acknowledged so shortly before a read it need not know.
    pub(crate) age: Duration,
    /// Reads that began in this time.
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Allowance {
    /// None at any time.
    pub(crate) const NONE: Self = Self { age: Duration::ZERO, from: Duration::ZERO, until: Duration::ZERO };

    /// Before when a write has to have been acknowledged for a read of that moment to know it.
    fn known_at(&self, read: Duration) -> Duration {
        let is_within = self.from <= read && read < self.until;
        read.saturating_sub(if is_within { self.age } else { Duration::ZERO })
    }
}

/// What is wrong with the operations of one key, which are in the order in which they began; the first of each kind.
pub(crate) fn check(operations: &[Operation], losses: Losses, allowance: &Allowance) -> Result<(), String> {
    conditions_admit_one(operations)?;
    let writes = Writes::of(operations)?;
    let mut versions: HashMap<Version, Id> = HashMap::new();
    for (at, read) in operations.iter().enumerate().filter(|(_, operation)| operation.op == Op::Get) {
        let wrong = |what: String| Err(format!("{what}:\n{}", around(operations, at)));
        let known = writes.acknowledged_before(allowance.known_at(read.began));
        match read.outcome {
            Outcome::Found(id, version) => {
                let Some(write) = writes.by_id.get(&id) else {
                    return wrong("a read brings what nobody wrote".into());
                };
                if !write.may_be_done() {
                    return wrong(format!("a read brings what was answered as not done, {write}"));
                }
                if write.began > read.ended {
                    return wrong("a read brings what had not been written yet".into());
                }
                if *versions.entry(version).or_insert(id) != id
                    || matches!(write.outcome, Outcome::Done(Some(told)) if told != version)
                {
                    return wrong(
                        "a version has two values, or a value another version than its writer was told".into(),
                    );
                }
                if let Some(newer) = known.and_then(|known| known.last_begun.filter(|last| last.began > write.over())) {
                    return wrong(format!("a read is older than what was acknowledged before it began, {newer}"));
                }
                if let Some((greatest, newer)) = known.and_then(|known| known.greatest)
                    && version < greatest
                {
                    return wrong(format!("a read has a smaller version than was acknowledged before, {newer}"));
                }
            }
            Outcome::Nothing if losses == Losses::None => {
                // The last write that has to be known is a put, or may be.
                if let Some(put) = known.and_then(|known| known.last_put)
                    && !writes.deletes.iter().any(|delete| may_follow(delete, put, read))
                {
                    return wrong(format!("a value is lost that nobody deleted, {put}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a delete may have come after a put and before a read ended.
fn may_follow(delete: &Operation, put: &Operation, read: &Operation) -> bool {
    delete.over() >= put.began && delete.began <= read.ended
}

/// Of writes that were to be done only on the same version, one may be.
fn conditions_admit_one(operations: &[Operation]) -> Result<(), String> {
    let mut admitted = HashSet::new();
    for (at, operation) in operations.iter().enumerate() {
        if let Op::PutIf(version, _) = operation.op
            && operation.is_done()
            && !admitted.insert(version)
        {
            return Err(format!("two writes were done on one version:\n{}", around(operations, at)));
        }
    }
    Ok(())
}

/// The writes of a key.
struct Writes<'a> {
    by_id: HashMap<Id, &'a Operation>,
    /// Deletes that may have been done.
    deletes: Vec<&'a Operation>,
    /// What was known at the end of each that was acknowledged, in their order.
    known: Vec<(Duration, Known<'a>)>,
}

/// What all writes come to that were acknowledged by some moment.
#[derive(Clone, Copy, Default)]
struct Known<'a> {
    /// The one that began last.
    last_begun: Option<&'a Operation>,
    /// The put that began last.
    last_put: Option<&'a Operation>,
    /// The greatest version.
    greatest: Option<(Version, &'a Operation)>,
}

impl<'a> Writes<'a> {
    fn of(operations: &'a [Operation]) -> Result<Self, String> {
        let mut writes = Self { by_id: HashMap::new(), deletes: Vec::new(), known: Vec::new() };
        let mut versions: HashMap<Version, &Operation> = HashMap::new();
        for write in operations {
            match write.op.writes() {
                Some(Some(id)) => drop(writes.by_id.insert(id, write)),
                Some(None) if write.may_be_done() => writes.deletes.push(write),
                _ => {}
            }
            if let Outcome::Done(Some(version)) = write.outcome
                && let Some(other) = versions.insert(version, write)
            {
                return Err(format!("two writes have one version:\n  {other}\n  {write}"));
            }
        }
        let mut done: Vec<&Operation> = operations.iter().filter(|operation| operation.is_done()).collect();
        done.sort_by_key(|write| write.ended);
        let mut known = Known::default();
        for write in done {
            let later = |last: Option<&'a Operation>| last.filter(|last| last.began > write.began).or(Some(write));
            known.last_begun = later(known.last_begun);
            if write.op != Op::Delete {
                known.last_put = later(known.last_put);
            }
            if let Outcome::Done(Some(version)) = write.outcome
                && known.greatest.is_none_or(|(greatest, _)| greatest < version)
            {
                known.greatest = Some((version, write));
            }
            writes.known.push((write.ended, known));
        }
        Ok(writes)
    }

    fn acknowledged_before(&self, moment: Duration) -> Option<Known<'a>> {
        let count = self.known.partition_point(|(ended, _)| *ended < moment);
        Some(self.known[count.checked_sub(1)?].1)
    }
}

/// An operation, and the writes and some reads around it.
pub(crate) fn around(operations: &[Operation], at: usize) -> String {
    let (from, to) = (at.saturating_sub(SHOWN_BEFORE), (at + SHOWN_AFTER + 1).min(operations.len()));
    let mut writes_before: Vec<String> = operations[..from]
        .iter()
        .rev()
        .filter(|operation| operation.op != Op::Get)
        .take(SHOWN_AFTER)
        .map(|operation| format!("    {operation}\n"))
        .collect();
    writes_before.reverse();
    let lines = operations[from..to].iter().enumerate().map(|(index, operation)| {
        let mark = if from + index == at { "  ▶ " } else { "    " };
        format!("{mark}{operation}\n")
    });
    writes_before.into_iter().chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::record::by_hand::{deleted, got, got_nothing, op, put},
        *,
    };

    fn judged(operations: &[Operation], losses: Losses) -> Result<(), String> {
        let mut operations = operations.to_vec();
        operations.sort_by_key(|operation| operation.began);
        check(&operations, losses, &Allowance::NONE)
    }

    #[track_caller]
    fn is_right(operations: &[Operation]) {
        judged(operations, Losses::None).unwrap();
    }

    #[track_caller]
    fn is_wrong(operations: &[Operation], what: &str) {
        let error = judged(operations, Losses::None).unwrap_err();
        assert!(error.contains(what), "{error}");
    }

    #[test]
    fn a_read_knows_what_was_acknowledged_before_it_began_and_may_know_more() {
        is_right(&[put(0, 1, 1), put(2, 6, 2), got(3, 4, 1), got(3, 4, 2), got(5, 7, 1), got(7, 8, 2)]);
        is_wrong(&[put(0, 1, 1), put(2, 3, 2), got(4, 5, 1)], "older");
    }

    #[test]
    fn of_writes_that_overlap_the_versions_tell_the_order() {
        is_right(&[put(0, 4, 1), put(1, 3, 2), got(5, 6, 2)]);
        is_wrong(&[put(0, 4, 1), put(1, 3, 2), got(5, 6, 1)], "smaller version");
    }

    #[test]
    fn a_write_of_unknown_outcome_may_show_at_any_time() {
        let open = op(2, 3, Op::Put(9), Outcome::Unknown);
        let read = |began| op(began, began + 1, Op::Get, Outcome::Found(9, 9));
        is_right(&[put(0, 1, 1), open.clone(), got(4, 5, 1), read(6)]);
        is_right(&[put(0, 1, 1), open, put(4, 5, 2), read(6)]);
        is_wrong(&[put(0, 1, 1), op(2, 3, Op::Put(9), Outcome::NotDone), read(6)], "not done");
    }

    #[test]
    fn what_nobody_wrote_or_has_written_yet_is_wrong() {
        is_wrong(&[put(0, 1, 1), got(2, 3, 7)], "nobody wrote");
        is_wrong(&[got(0, 1, 1), put(2, 3, 1)], "not been written yet");
        is_wrong(&[put(0, 1, 1), op(2, 3, Op::Get, Outcome::Found(1, 5))], "another version");
        is_wrong(&[put(0, 1, 1), op(2, 3, Op::Put(2), Outcome::Done(Some(1)))], "one version");
    }

    #[test]
    fn not_found_needs_a_delete_that_may_be_the_last_write() {
        is_right(&[got_nothing(0, 1), put(2, 4, 1), got_nothing(3, 5)]);
        is_right(&[put(0, 1, 1), deleted(2, 3), got_nothing(4, 5)]);
        is_right(&[put(0, 2, 1), deleted(1, 3), got_nothing(4, 5)]);
        is_wrong(&[deleted(0, 1), put(2, 3, 1), got_nothing(4, 5)], "lost");
        is_wrong(&[put(0, 1, 1), deleted(2, 3), got(4, 5, 1)], "older");
        judged(&[deleted(0, 1), put(2, 3, 1), got_nothing(4, 5)], Losses::Allowed).unwrap();
    }

    #[test]
    fn one_version_admits_one() {
        let put_if = |began, id| op(began, began + 1, Op::PutIf(1, id), Outcome::Done(Some(id.into())));
        is_wrong(&[put(0, 1, 1), put_if(2, 2), put_if(3, 3)], "on one version");
    }

    #[test]
    fn an_allowance_is_for_its_time_and_its_age() {
        let ms = Duration::from_millis;
        let operations = [put(0, 1, 1), put(2, 100, 2), got(150, 151, 1)];
        let allowed = |age, until| {
            check(&operations, Losses::None, &Allowance { age: ms(age), from: ms(120), until: ms(until) }).is_ok()
        };
        assert!(allowed(60, 200) && !allowed(40, 200) && !allowed(60, 140));
    }
}
