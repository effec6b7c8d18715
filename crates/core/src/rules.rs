//! [`keeps`]: rules of the protocol that a test can take out, to see that they are needed.
//!
//! Each is asked for where the code follows it. Outside this crate's own unit tests all are kept, and asking costs nothing.

/// A rule of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// At a node that asks the owner, callers join a flight only until its question has left.
    G2,
    /// A load is installed only if nothing has overtaken its flight.
    G6,
    /// While a key is written no load of it begins, and nothing of it is lent or installed.
    P2,
    /// Copies elsewhere are gone before a write is acknowledged.
    P4,
    /// Whose lease is ended also detaches the question that is under way.
    P5,
    /// Who is lent a copy counts from when it asked.
    L1,
    /// Who lost a slot while it wrote has the present owner told before it acknowledges.
    W3,
    /// Who gains a slot first drops what it holds of it.
    W4,
    /// Who is claimed from stops acting.
    C2,
    /// After a start a write waits until what an earlier run may have lent has run out.
    C4,
    /// A write is on two disks before it is acknowledged, and under a later view before others are.
    B1,
    /// Until it is flushed a record is what is answered.
    B3,
    /// Who gains a slot asks all members for its records before it answers.
    B4,
    /// What is flushed is marked on two disks before its key is flushed again.
    B5,
    /// After a start nothing is flushed and nobody answered before all members of the last view were heard.
    B6,
}

/// Whether a rule is kept.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn keeps(_rule: Rule) -> bool {
    true
}

#[cfg(test)]
pub(crate) use out::{keeps, without};

#[cfg(test)]
mod out {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static TAKEN_OUT: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Whether a rule is kept in what this thread runs.
    pub(crate) fn keeps(rule: Rule) -> bool {
        TAKEN_OUT.get() != Some(rule)
    }

    /// Does `work` on this thread without a rule.
    pub(crate) fn without<R>(rule: Option<Rule>, work: impl FnOnce() -> R) -> R {
        struct Restores(Option<Rule>);
        impl Drop for Restores {
            fn drop(&mut self) {
                TAKEN_OUT.set(self.0);
            }
        }
        let _restores = Restores(TAKEN_OUT.replace(rule));
        work()
    }
}
