//! Claims: how a slot passes from its previous owner to the next.
//!
//! A node acts for a slot once the one that acted before has stopped (rules C1 to C6). `state.rs` is what one node knows of
//! one slot, `table.rs` that of all slots, `nodes.rs` numbers for those who have them, `outcomes.rs` what a step of them comes to, and
//! `tenure.rs` what all that the node serves asks of it. `drive.rs` sends the claims; `handoff.rs` sends the entries that go with a slot.
//! `awake.rs` finds out whether others acted for slots without this node's knowing.

mod awake;
mod drive;
mod handoff;
mod message;
mod nodes;
mod outcomes;
mod state;
mod table;
mod tenure;

#[cfg(test)]
mod explore;

pub(crate) use awake::{Attendance, Contact};
pub use message::{
    CARRIED_LEN_MAX, Carried, ClaimAnswer, GUARDS_MAX, GivenUp, MARKS_MAX, PUSH_ENTRIES_MAX, PUSH_LEN,
    PUSH_VALUE_LEN_MAX, PushedEntry, REMEMBERED_MAX, Remembered, SlotCall, SlotReply, SlotRequest, SlotsClaim,
};
pub(crate) use table::Phase;
pub(crate) use tenure::Tenure;
