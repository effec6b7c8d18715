//! What steps of the claims of many slots come to.

use super::message::ClaimAnswer;
use crate::placement::SlotSet;

/// What answers came to.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// Slots that the node acts for from now on.
    pub(crate) acts: SlotSet,
    /// Those of them that who answered had acted for itself.
    pub(crate) heard: SlotSet,
    /// Those of them of which it loaded something meanwhile, which is not to be kept (rule C4).
    pub(crate) forgets: SlotSet,
    /// Claims were turned down, to be repeated a little later.
    pub(crate) is_turned_down: bool,
}

/// What came of slots that another acted for as well.
#[derive(Debug)]
pub(crate) struct Recalled {
    /// Slots that are claimed from there.
    pub(crate) recalled: SlotSet,
    /// There are no others that this node is still claiming from somebody else, to be recalled once it acts for them.
    pub(crate) is_all: bool,
}

/// What was released, and to whom: the answers to a claim.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) answers: Vec<(SlotSet, ClaimAnswer)>,
    /// Slots that the node answered for until then.
    pub(crate) stops: SlotSet,
    /// Slots of which it holds entries that the claimer may want.
    pub(crate) hands_over: SlotSet,
}
