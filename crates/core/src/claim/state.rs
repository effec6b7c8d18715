//! [`SlotState`]: whether this node acts for a slot, and how that passes from node to node: a state machine without I/O.
//!
//! It is told what the view says, what came from other nodes and which waits are over, and says what the node is to answer
//! or ask. The rules that it keeps are C1 to C5 of the protocol; what they are for stands beside each step. It knows neither
//! time nor messages nor what a slot holds: those are the affair of the code around it.

use super::message::GivenUp;
use crate::Version;

/// A node, as the table around these states numbers them.
pub(crate) type NodeId = u32;

/// How many nodes a claim is sent on to before it begins anew with the first: chains are as long as there were views that a
/// claimer did not hear of.
const HOPS_MAX: u8 = 8;

/// A slot, as one node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SlotState {
    /// The greatest term that this node took or released under.
    term: Version,
    /// The term that it acted under last.
    acted: Version,
    role: Role,
    /// What it released and nobody has confirmed (rule C2). It outlives a claim of its own.
    kept: Option<Kept>,
}

/// A release that was not confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Kept {
    to: NodeId,
    term: Version,
    /// The node had acted for the slot.
    had: bool,
}

/// What a node is to a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Role {
    /// Nothing, since it started.
    Idle,
    /// It acts as the owner.
    Acting {
        /// Nobody told it that the one before had stopped: that one is gone, or had forgotten.
        alone: bool,
    },
    /// It acted until its view gave the slot to another, and keeps what it knows for whoever claims it.
    Lost,
    /// It claims the slot.
    Claiming(Claim),
    /// It did not get what it claimed, as its view changed or another claimed the slot.
    GaveUp {
        /// Whom it was claiming from.
        from: NodeId,
        /// Who claimed it then.
        to: Option<NodeId>,
    },
    /// It released the slot.
    Released {
        /// To this node, which may know more by now.
        to: NodeId,
    },
}

/// A claim under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Claim {
    /// The owner before, as far as this node knows (rule C1).
    first: NodeId,
    /// Who is asked now.
    pub(crate) from: NodeId,
    /// Whom else this node knows of that may have the slot.
    other: Option<NodeId>,
    /// Who sent it there.
    gave_up: Option<(NodeId, GivenUp)>,
    hops: u8,
    /// Who is asked took so long that reads begin (rule C4).
    pub(crate) is_late: bool,
    /// Gets the slot only from one that does not own it by its own view (rule C5).
    pub(crate) is_polite: bool,
}

impl Claim {
    /// From nobody yet.
    const NEW: Self = Self { first: 0, from: 0, other: None, gave_up: None, hops: 0, is_late: false, is_polite: false };
}

/// What is asked of the node that is claimed from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Ask {
    pub(crate) term: Version,
    /// The term that the claimer acted under last, since it started.
    pub(crate) acted: Version,
    /// Who sent the claimer here.
    pub(crate) gave_up: Option<(NodeId, GivenUp)>,
    /// Only if this node does not own the slot by its own view.
    pub(crate) is_polite: bool,
}

/// What a node says to a claim.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Answer {
    /// It does not act for the slot any more. `had`: it did, since it started.
    Released { had: bool },
    /// It knows a later term, or has its reasons; this is the greatest term that it knows.
    Refused { known: Version },
    /// It does not act for the slot, and gives up what claim it has to it: ask there.
    Elsewhere { at: NodeId, given_up: GivenUp },
}

/// What an answer came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It answers no claim that is under way.
    Nothing,
    /// The node acts from now on. It is to tell who answered that it has what was told.
    Acts,
    /// It is to ask another node.
    AsksOn,
    /// It is to ask again a little later, and to look whether its view still stands.
    AsksLater,
}

impl SlotState {
    /// A slot that the node knows nothing of.
    pub(crate) const NEW: Self = Self { term: Version::ZERO, acted: Version::ZERO, role: Role::Idle, kept: None };

    pub(crate) fn term(&self) -> Version {
        self.term
    }

    /// The term that this node acted under last.
    pub(crate) fn acted(&self) -> Version {
        self.acted
    }

    pub(crate) fn role(&self) -> &Role {
        &self.role
    }

    /// The node's view names it the owner from now on. `previous`: the owner before, if there was one other than this node;
    /// `term` is fresh. Whether it has to claim: else it acts.
    pub(crate) fn gained(&mut self, previous: Option<NodeId>, term: Version) -> bool {
        match self.role {
            Role::Acting { .. } => return false,
            // The claim goes on.
            Role::Claiming(_) => return true,
            _ => {}
        }
        let known = match self.role {
            Role::Released { to } | Role::GaveUp { to: Some(to), .. } => Some(to),
            Role::GaveUp { from, to: None, .. } => Some(from),
            _ => None,
        };
        match previous.or(known) {
            Some(from) => {
                let other = known.filter(|known| *known != from);
                self.claim(Claim { first: from, from, other, ..Claim::NEW }, term);
                true
            }
            None => {
                self.act(term, true);
                false
            }
        }
    }

    /// `from` may have acted for the slot as well, unknown to this node: it claims it from there (rule W5). Whether it does.
    pub(crate) fn recalled(&mut self, from: NodeId, term: Version) -> bool {
        let acts = matches!(self.role, Role::Acting { .. });
        if acts {
            self.claim(Claim { first: from, from, ..Claim::NEW }, term);
        }
        acts
    }

    /// Whether this node claims the slot from `at`, or knows that it would have to.
    pub(crate) fn is_known_at(&self, at: NodeId) -> bool {
        match self.role {
            Role::Claiming(Claim { first, from, .. }) => first == at || from == at,
            Role::Released { to } | Role::GaveUp { to: Some(to), .. } => to == at,
            _ => false,
        }
    }

    /// The node's view names another owner from now on.
    pub(crate) fn lost(&mut self) {
        self.role = match self.role {
            Role::Acting { .. } => Role::Lost,
            Role::Claiming(claim) => Role::GaveUp { from: claim.from, to: None },
            role => role,
        };
    }

    /// This node's answer to a claim. `is_mine`: its own view names it the owner.
    pub(crate) fn claimed(&mut self, claimer: NodeId, ask: Ask, is_mine: bool) -> Answer {
        let claimers_own = GivenUp { until: ask.term, acted: ask.acted };
        for (node, given_up) in ask.gave_up.into_iter().chain([(claimer, claimers_own)]) {
            // It has had what it was told, though its confirmation did not come.
            self.kept.take_if(|kept| kept.to == node && kept.term <= given_up.acted);
        }
        // Who it was released to has given up every claim until then and will act under none: nobody has the slot.
        let is_void = |release: &Kept| {
            let given_up = |(by, given_up): (NodeId, GivenUp)| by == release.to && release.term <= given_up.until;
            ask.gave_up.is_some_and(given_up) || (claimer == release.to && release.term < ask.term)
        };
        if let Some(release) = self.last_release().filter(is_void)
            && ask.term >= self.term
        {
            return self.release(claimer, ask.term, release.had);
        }
        // Two that asked each other have both given up: nobody has the slot.
        if let Role::GaveUp { from, to: Some(to) } = self.role
            && to == claimer
            && ask.term == self.term
            && ask.gave_up.is_some_and(|(by, given_up)| by == from && ask.term <= given_up.until)
        {
            return self.release(claimer, ask.term, false);
        }
        if let Some(answer) = self.said_before(claimer, ask.term) {
            return answer;
        }
        // A claim that was overtaken on its way must not take the slot from who got it since (rule C3).
        let is_refused = ask.term <= self.term || (ask.is_polite && is_mine && self.is_acting());
        if is_refused {
            return Answer::Refused { known: self.term };
        }
        match self.role {
            // It stops, even if it hasn't heard of the claimer's view (rule C2).
            Role::Acting { .. } | Role::Lost => self.release(claimer, ask.term, true),
            Role::Idle => self.release(claimer, ask.term, false),
            Role::Claiming(Claim { from, .. }) | Role::GaveUp { from, to: None } => {
                self.send_on(claimer, ask.term, from)
            }
            // Who claimed it here has given up as well: it is still to be had where this node wanted it from.
            Role::GaveUp { from, to: Some(to) } if ask.gave_up.is_some_and(|(by, _)| by == to) => {
                self.send_on(claimer, ask.term, from)
            }
            Role::GaveUp { to: Some(to), .. } | Role::Released { to } => self.elsewhere(to, ask.term),
        }
    }

    /// A claim that comes twice gets the same answer again (rule C3).
    fn said_before(&self, claimer: NodeId, term: Version) -> Option<Answer> {
        match self.role {
            _ if term != self.term => None,
            Role::Released { to } if to == claimer => {
                Some(Answer::Released { had: self.kept.is_none_or(|kept| kept.had) })
            }
            Role::GaveUp { from, to: Some(to) } if to == claimer => Some(self.elsewhere(from, term)),
            _ => None,
        }
    }

    /// The claimer has what it was told when the slot was released. Whether that was news.
    pub(crate) fn confirmed(&mut self, claimer: NodeId, term: Version) -> bool {
        self.kept.take_if(|kept| kept.to == claimer && kept.term == term).is_some()
    }

    /// What the node asks of the one that it claims from now.
    pub(crate) fn ask(&self) -> Option<(NodeId, Ask)> {
        let Role::Claiming(Claim { from, gave_up, is_polite, .. }) = self.role else { return None };
        Some((from, Ask { term: self.term, acted: self.acted, gave_up, is_polite }))
    }

    /// `from` answered the claim of `term`. `me` is this node, and `fresh` a term above all that it knows, the answer's included.
    pub(crate) fn answered(
        &mut self,
        me: NodeId,
        from: NodeId,
        term: Version,
        answer: Answer,
        fresh: Version,
    ) -> Outcome {
        let Role::Claiming(claim) = &mut self.role else { return Outcome::Nothing };
        if term != self.term || from != claim.from {
            return Outcome::Nothing;
        }
        match answer {
            Answer::Released { had } => {
                self.act(term, !had);
                Outcome::Acts
            }
            Answer::Refused { .. } => {
                self.term = fresh;
                claim.gave_up = None;
                claim.from = claim.first;
                claim.hops = 0;
                Outcome::AsksLater
            }
            // Whoever was asked knows of nobody else that could have it.
            Answer::Elsewhere { at, .. } if at == me => match claim.other.take() {
                Some(other) => {
                    claim.from = other;
                    claim.gave_up = None;
                    Outcome::AsksOn
                }
                None => {
                    self.act(term, true);
                    Outcome::Acts
                }
            },
            Answer::Elsewhere { at, given_up } if claim.hops < HOPS_MAX => {
                claim.hops += 1;
                claim.from = at;
                claim.gave_up = Some((from, given_up));
                Outcome::AsksOn
            }
            Answer::Elsewhere { .. } => {
                claim.hops = 0;
                claim.gave_up = None;
                claim.from = claim.first;
                Outcome::AsksLater
            }
        }
    }

    /// Who is asked has had its time: reads begin (rule C4). Whether that is news.
    pub(crate) fn is_late(&mut self) -> bool {
        match &mut self.role {
            // Who has it answers for it.
            Role::Claiming(claim) if claim.is_polite => false,
            Role::Claiming(claim) => !std::mem::replace(&mut claim.is_late, true),
            _ => false,
        }
    }

    /// Who is asked is no member any more, and all that it may have granted has run out: nobody will answer. Whether the node acts. One that
    /// was asked politely acts for the slot: it is to be [claimed back](Self::claims_back) first.
    pub(crate) fn given_up(&mut self) -> bool {
        let gives_up = matches!(self.role, Role::Claiming(claim) if !claim.is_polite);
        if gives_up {
            self.act(self.term, true);
        }
        gives_up
    }

    /// The node's view names it the owner, and it released the slot to another or let it claim it: it claims it back (rule C5).
    /// From one that can't be reached at any rate, else only if that one has learnt that it doesn't own it. Whether it does.
    pub(crate) fn claims_back(&mut self, is_unreachable: bool, term: Version) -> bool {
        let to = match self.role {
            Role::Released { to } | Role::GaveUp { to: Some(to), .. } => to,
            Role::Claiming(claim) if claim.is_polite && is_unreachable => claim.from,
            _ => return false,
        };
        self.claim(Claim { first: to, from: to, is_polite: !is_unreachable, ..Claim::NEW }, term);
        true
    }

    /// What it released last. After it was confirmed there is nothing more to tell.
    fn last_release(&self) -> Option<Kept> {
        match self.role {
            Role::Released { to } => self.kept.or(Some(Kept { to, term: self.term, had: false })),
            _ => self.kept,
        }
    }

    fn is_acting(&self) -> bool {
        matches!(self.role, Role::Acting { .. } | Role::Claiming(_))
    }

    fn claim(&mut self, claim: Claim, term: Version) {
        self.term = term;
        self.role = Role::Claiming(claim);
    }

    fn act(&mut self, term: Version, alone: bool) {
        self.term = term;
        self.acted = term;
        self.role = Role::Acting { alone };
        self.kept = None;
    }

    /// Gives up what claim it has, for that of another.
    fn send_on(&mut self, claimer: NodeId, term: Version, from: NodeId) -> Answer {
        self.term = term;
        self.role = Role::GaveUp { from, to: Some(claimer) };
        self.elsewhere(from, term)
    }

    fn elsewhere(&self, at: NodeId, until: Version) -> Answer {
        Answer::Elsewhere { at, given_up: GivenUp { until, acted: self.acted } }
    }

    fn release(&mut self, to: NodeId, term: Version, had: bool) -> Answer {
        self.term = term;
        self.role = Role::Released { to };
        self.kept = Some(Kept { to, term, had });
        Answer::Released { had }
    }

    /// Whether this confirmation would be news.
    #[cfg(test)]
    pub(super) fn waits_for_confirmation(&self, claimer: NodeId, term: Version) -> bool {
        self.kept.is_some_and(|kept| kept.to == claimer && kept.term == term)
    }

    /// As if no term had been seen.
    #[cfg(test)]
    pub(super) fn forget_term(&mut self) {
        self.term = Version::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Reading;

    fn term(number: u64) -> Version {
        Version::new(Reading::from_bits(number), 1)
    }

    /// Each of two has claimed a slot from the other, unknown to a view that gave it to both, when a third comes to own it.
    #[test]
    fn who_is_sent_to_and_fro_by_two_that_have_given_up_has_the_slot() {
        let (a, b, c) = (1, 2, 3);
        let acting = |other, number| {
            let mut state = SlotState::NEW;
            state.gained(None, term(number));
            assert!(state.recalled(other, term(number + 2)));
            state.lost();
            state
        };
        let (mut at_a, mut at_b, mut at_c) = (acting(b, 1), acting(a, 2), SlotState::NEW);
        assert!(at_c.gained(Some(a), term(9)));
        let mut asked = Vec::new();
        while let Some((from, ask)) = at_c.ask() {
            asked.push(from);
            assert!(asked.len() <= 3, "{asked:?}");
            let answer = if from == a { at_a.claimed(c, ask, false) } else { at_b.claimed(c, ask, false) };
            at_c.answered(c, from, ask.term, answer, term(20));
        }
        assert_eq!(asked, [a, b, a]);
        assert!(matches!(at_c.role(), Role::Acting { alone: true }));
    }
}
