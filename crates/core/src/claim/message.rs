//! What nodes say to each other beside gets and writes: about slots, copies and marks.

use std::{sync::Arc, time::Duration};

use crate::{
    Key, Value, Version,
    behind::{RecordsCall, RecordsReply},
    lock::{CarriedLocks, LockCall, LockReply},
    peer::PeerMeta,
    placement::SlotSet,
    store::{Mark, TAG_COUNT},
    version::Reading,
};

/// The most entries of one [`SlotCall::Push`].
pub const PUSH_ENTRIES_MAX: usize = 512;

/// When a push takes nothing more, in bytes of keys and values: what a gigabit link carries in 2 ms.
pub const PUSH_LEN: usize = 256 * 1024;

/// The longest value that is pushed, in bytes. Who took over the slot asks for longer ones when it needs them.
pub const PUSH_VALUE_LEN_MAX: usize = 64 * 1024;

/// The most marks of one [`SlotCall::Marks`]: all that a group has.
pub const MARKS_MAX: usize = TAG_COUNT as usize + 1;

/// The most keys that an answer to a claim names as being written, of all groups: more than the origins of most nodes take at once.
pub const GUARDS_MAX: usize = 4_096;

/// The most answers to writes with an idempotency key that go with slots, the latest first.
pub const REMEMBERED_MAX: usize = 4_096;

/// The most bytes of keys and names that go with an answer to a claim. What comes after is left out.
pub const CARRIED_LEN_MAX: usize = 256 * 1024;

/// What a node says to another about slots, copies or marks.
#[derive(Clone, Debug)]
pub struct SlotRequest {
    /// The name of who says it.
    pub from: Arc<str>,
    /// Tells this run of it from its earlier ones.
    pub incarnation: u32,
    /// What it says.
    pub call: SlotCall,
}

/// What is said about slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotCall {
    /// Claims slots from who is asked (rule C1).
    Claim(SlotsClaim),
    /// What was told when these slots were released under this term is stored (rule C2).
    Confirm {
        /// The claim's.
        term: Version,
        /// All or some that were released under it.
        slots: SlotSet,
    },
    /// Asks which slots the other acted for, and since when the asker has been a member without a break (rules W5 and A1).
    Recall {
        /// The asker acted for slots that the other owns by the asker's view, and nobody has claimed them from it: it is to be asked in
        /// turn.
        has_yours: bool,
    },
    /// Hands over entries of slots that were released under this term (rule H1).
    Push {
        /// The claim's.
        term: Version,
        /// Of which group they are.
        group: Arc<str>,
        /// At most [`PUSH_ENTRIES_MAX`], the hottest first.
        entries: Vec<PushedEntry>,
    },
    /// Ends a lease: the copy of this key goes, and one that is on its way is not kept (rule P5).
    Revoke {
        /// Of which group it is.
        group: Arc<str>,
        /// The key.
        key: Key,
    },
    /// Asks for the reading of the clock.
    Clock,
    /// Raises marks of a group (rule T1).
    Raise {
        /// The group's name.
        group: Arc<str>,
        /// At most [`MARKS_MAX`].
        marks: Vec<Mark>,
        /// How high.
        to: Reading,
    },
    /// Asks about a lock of its owner.
    Lock(LockCall),
    /// Tells all marks of a group, and asks for the other's (rule T2).
    Marks {
        /// The group's name.
        group: Arc<str>,
        /// At most [`MARKS_MAX`]; those that were never raised are left out.
        marks: Vec<(Mark, Reading)>,
    },
    /// Something about records of writes.
    Records(RecordsCall),
    /// Asks of which slots that the other acts for who asks has copies of all records (rule S1).
    Copies {
        /// The digest of the asker's view: the other answers under the same.
        view: u64,
        /// Of these slots it has dropped copies, or may have: what the other knew of them does not hold any more.
        dropped: SlotSet,
    },
}

/// A claim of slots that are asked for in the same words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotsClaim {
    /// Under which the claimer will act.
    pub term: Version,
    /// The term under which it acted for them last, since it started; zero: none.
    pub acted: Version,
    /// Who sent the claimer here, and what that one has given up.
    pub gave_up: Option<(Arc<str>, GivenUp)>,
    /// Only those are claimed that the other does not own by its own view (rule C5).
    pub is_polite: bool,
    /// Which.
    pub slots: SlotSet,
}

/// What a node that does not act for a slot has to say for itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GivenUp {
    /// Of what it claims, or claimed before it started anew, it will act under nothing until this term.
    pub until: Version,
    /// The term that it acted under last, since it started; zero: none.
    pub acted: Version,
}

/// What a node says to a claim.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ClaimAnswer {
    /// It does not act for the slots any more.
    Released {
        /// It did, since it started.
        had: bool,
    },
    /// It knows a later term, or has its reasons.
    Refused {
        /// The greatest term that it knows.
        known: Version,
    },
    /// It does not act for the slots, and gives up what claim it has to them: ask there.
    Elsewhere {
        /// A node's name.
        at: Arc<str>,
        /// What it gives up.
        given_up: GivenUp,
    },
}

/// An entry on its way to the new owner of its slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushedEntry {
    /// Its key.
    pub key: Key,
    /// Its value; `None`: the origin has none.
    pub value: Option<Value>,
    /// What is known of it.
    pub meta: PeerMeta,
}

/// What a node answers to what is said about slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotReply {
    /// To a claim: what it says of which slots, and what goes with those that it releases.
    Claimed(Vec<(SlotSet, ClaimAnswer)>, Carried),
    /// To a confirmation.
    Confirmed,
    /// To a recall.
    Recalled {
        /// For how long the asker has been a member of the other's view, without a break; `None`: it was sent away. No time is
        /// too long for one that never was a member: lists that somebody writes may differ.
        member_for: Option<Duration>,
        /// Slots that the other acts for or acted for, and nobody has claimed from it.
        slots: SlotSet,
    },
    /// To a push.
    Pushed {
        /// Whether it takes more of this handoff.
        wants_more: bool,
    },
    /// To a revocation.
    Revoked,
    /// To a question for the clock.
    Clock {
        /// The latest reading that it gave or heard of.
        reading: Reading,
    },
    /// To marks that are to be raised.
    Raised {
        /// How high the highest of them was before: as high or higher, and the raise counts for nothing.
        known: Reading,
    },
    /// To what was asked about a lock.
    Lock(LockReply),
    /// To marks that were told.
    Marks {
        /// Its own, at most [`MARKS_MAX`].
        marks: Vec<(Mark, Reading)>,
    },
    /// To what was said about records.
    Records(RecordsReply),
    /// To a question for copies.
    Copies {
        /// The slots of which the asker has them all.
        slots: SlotSet,
    },
}

/// What goes with slots that are released beside their entries (rule C2).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Carried {
    /// Slots that the releaser could prove to have, for groups with strong consistency (rule C6).
    pub vouched: SlotSet,
    /// Slots of which others may hold copies.
    pub leased: SlotSet,
    /// For how long yet, at most.
    pub leases_left: Duration,
    /// Keys that are being written to their origin, by group: at most [`GUARDS_MAX`]. Others end by their writers' word alone.
    pub guards: Vec<(Arc<str>, Key)>,
    /// Answers to writes with an idempotency key, at most [`REMEMBERED_MAX`].
    pub remembered: Vec<Remembered>,
    /// Locks. `None`: the releaser knows of none such.
    pub locks: Option<CarriedLocks>,
}

/// What came of a write with an idempotency key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// Of which group the key is.
    pub group: Arc<str>,
    /// The key that was written.
    pub key: Key,
    /// The writer's.
    pub idempotency_key: Arc<str>,
    /// The write's version; `None`: its condition was not met.
    pub came_to: Option<Version>,
    /// How long ago that was.
    pub age: Duration,
}
