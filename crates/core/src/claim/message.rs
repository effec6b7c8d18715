//! What nodes say to each other about slots: claims and what hangs on them.

use std::{sync::Arc, time::Duration};

use crate::{Key, Value, Version, peer::PeerMeta, placement::SlotSet};

/// The most entries of one [`SlotCall::Push`].
pub const PUSH_ENTRIES_MAX: usize = 512;

/// When a push takes nothing more, in bytes of keys and values: what a gigabit link carries in 2 ms.
pub const PUSH_LEN: usize = 256 * 1024;

/// The longest value that is pushed, in bytes. Who took over the slot asks for longer ones when it needs them.
pub const PUSH_VALUE_LEN_MAX: usize = 64 * 1024;

/// What a node says to another about slots.
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
    Recall,
    /// Hands over entries of slots that were released under this term (rule H1).
    Push {
        /// The claim's.
        term: Version,
        /// Of which group they are.
        group: Arc<str>,
        /// At most [`PUSH_ENTRIES_MAX`], the hottest first.
        entries: Vec<PushedEntry>,
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
    /// To a claim: what it says of which slots.
    Claimed(Vec<(SlotSet, ClaimAnswer)>),
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
}
