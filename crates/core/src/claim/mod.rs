//! Claims: how a slot passes from its previous owner to the next.

mod message;
pub(crate) mod state;
pub(crate) mod table;

#[cfg(test)]
mod explore;

pub use message::{
    ClaimAnswer, GivenUp, PUSH_ENTRIES_MAX, PUSH_LEN, PUSH_VALUE_LEN_MAX, PushedEntry, SlotCall, SlotReply,
    SlotRequest, SlotsClaim,
};
