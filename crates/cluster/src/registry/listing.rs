//! [`Listing`]: makes lists and proofs of what reads of a registry show. A state machine without I/O.
//!
//! # When the registry comes back
//!
//! Entries end when nobody keeps them alive, and while a registry is away nobody can. One that was stopped, paused or
//! emptied for longer than a lease may therefore come back without nodes that never stopped living, and each of those
//! needs a moment to register again. To take such a list as it is would throw out every node but this one, and make this
//! one load everything from the origin: an outage of the registry, which must cost nothing, would cost all there is.
//!
//! So a list that lacks owners of slots, this node or others, is *held back* where the registry is to be doubted, and the
//! last list stands. It is doubted for the time of one lease after
//!
//! - reads had not been answered for half a lease or longer. Nodes renew every third of a lease: what was away for less has
//!   made no entry end;
//! - this node's own entry was found missing, although this node did all to keep it;
//! - its revision went backwards: it lost what it had.
//!
//! Missing nodes have the time of one lease to come back, from when this node's own entry is there: before that the registry
//! may take none, as Consul's agents do for half a minute after they found no leader. Who has not come back by then is off
//! the list. Most often all are back within a second, and then the list is what it was, and no view changes.
//!
//! There is one node whose absence needs no such explanation: this one, if it stood still itself, for half a lease or
//! longer. It was thrown out, and has to know it.
//!
//! What this costs: a node that really crashed during the outage is a member for one lease more; stand-ins answer for it, as
//! they did all the time. A list that is held back proves nothing, neither itself nor the one that stands, so strong
//! groups wait for that long.
//!
//! A node that drains or joins owns nothing and may go at any time.

use std::{sync::Arc, time::Duration};

use larder_core::{Member, Members, Moment, Proof};

/// The share of a lease's time for which a read proves authority (rule A2).
const PROOF_SHARE: f64 = 0.9;

/// The longest that a list is held back, also if this node's own entry doesn't come back.
const HELD_TIME_MAX: Duration = Duration::from_secs(60);

/// What this node knows of reads, and what it made of them.
#[derive(Debug)]
pub(crate) struct Listing {
    name: Arc<str>,
    incarnation: u32,
    lease_ttl: Duration,
    /// The list that stands.
    members: Members,
    /// When the last read that was answered was sent, and what it showed.
    answered: Option<(Moment, Members)>,
    doubted_until: Moment,
    /// Since when owners are missing from what reads show.
    held_since: Option<Moment>,
    /// Since when they are and this node isn't.
    back_since: Option<Moment>,
    /// When this node was last seen to run.
    ran: Moment,
    /// When it was found that this node had stood still, until a read is judged that was sent after that.
    stood_still: Option<Moment>,
}

/// What follows from a read.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The list that stands now.
    pub(crate) members: Members,
    /// `None`: nothing is proved, and what was proved before counts no more.
    pub(crate) proof: Option<Proof>,
    /// Whether this run of the node has an entry.
    pub(crate) am_listed: bool,
    /// Whether the read showed something else than the one before.
    pub(crate) is_change: bool,
}

impl Listing {
    pub(crate) fn new(me: &Member, lease_ttl: Duration, members: Members) -> Self {
        Self {
            name: me.name.clone(),
            incarnation: me.incarnation,
            lease_ttl,
            members,
            answered: None,
            doubted_until: Moment::default(),
            held_since: None,
            back_since: None,
            ran: Moment::NEVER,
            stood_still: None,
        }
    }

    /// This node runs. To be called more often than twice in a lease.
    pub(crate) fn note_running(&mut self, now: Moment) {
        if now.since(self.ran) >= self.lease_ttl / 2 {
            self.stood_still = Some(now);
        }
        self.ran = now;
    }

    /// When the last read that was answered was sent, and what it showed.
    pub(crate) fn answered(&self) -> Option<&(Moment, Members)> {
        self.answered.as_ref()
    }

    /// This node's own entry was found missing.
    pub(crate) fn doubt(&mut self, now: Moment) {
        self.doubted_until = now + self.lease_ttl;
    }

    /// Judges what a read showed that was sent then and answered now. This node has an entry since `entry_since`, as far
    /// as it knows.
    pub(crate) fn judge(&mut self, sent: Moment, now: Moment, read: Members, entry_since: Option<Moment>) -> Verdict {
        let me = read.position(&self.name).map(|place| &read[place]);
        let am_listed = me.is_some_and(|me| me.incarnation == self.incarnation);
        let am_missing = !am_listed && entry_since.is_some_and(|since| since < sent);
        let was_away =
            |(last, shown): &(Moment, Members)| now.since(*last) >= self.lease_ttl / 2 || read.rank() < shown.rank();
        if am_missing || self.answered.as_ref().is_some_and(was_away) {
            self.doubt(now);
        }
        let stood_still = self.stood_still.is_some();
        self.stood_still = self.stood_still.filter(|found| sent < *found);
        let is_change = self.answered.as_ref().is_none_or(|(_, shown)| *shown != read);
        self.answered = Some((sent, read.clone()));
        if self.is_held_back(now, &read, stood_still) {
            return Verdict { members: self.members.clone(), proof: None, am_listed, is_change };
        }
        self.members = read.clone();
        let proof = Proof { members: read, sent, until: sent + self.lease_ttl.mul_f64(PROOF_SHARE) };
        let proof = (am_listed && proof.holds_at(now)).then_some(proof);
        Verdict { members: self.members.clone(), proof, am_listed, is_change }
    }

    fn is_held_back(&mut self, now: Moment, read: &Members, stood_still: bool) -> bool {
        let mut owners = self.members.iter().filter(|member| member.takes_keys());
        let may_be_off = |owner: &Member| stood_still && owner.name == self.name;
        let is_missing = owners.any(|owner| read.position(&owner.name).is_none() && !may_be_off(owner));
        let is_doubted = now < self.doubted_until || self.held_since.is_some();
        if is_missing && is_doubted {
            let since = *self.held_since.get_or_insert(now);
            let is_back = read.position(&self.name).is_some();
            self.back_since = is_back.then(|| self.back_since.unwrap_or(now));
            let had_its_time = self.back_since.is_some_and(|back| now.since(back) >= self.lease_ttl);
            if !had_its_time && now.since(since) < HELD_TIME_MAX.max(self.lease_ttl) {
                return true;
            }
        }
        (self.held_since, self.back_since) = (None, None);
        false
    }
}

#[cfg(test)]
mod tests {
    use larder_core::MemberState;

    use super::*;

    const TTL: Duration = Duration::from_secs(5);
    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn member(name: &str) -> Member {
        Member { incarnation: 1, ..Member::new(name, format!("{name}:1")) }
    }

    fn list(names: &str, rank: u64) -> Members {
        Members::new(names.chars().map(|name| member(&name.to_string()))).unwrap().ranked(rank)
    }

    fn start() -> Moment {
        Moment::from_nanos(0) + Duration::from_secs(3600)
    }

    /// A listing of the node `a` that read this list at [`start`].
    fn after(names: &str) -> Listing {
        let mut listing = Listing::new(&member("a"), TTL, Members::default());
        let verdict = listing.judge(start(), start(), list(names, 10), None);
        assert_eq!(verdict.members, list(names, 10), "the first list stands at once");
        listing
    }

    #[test]
    fn what_a_read_shows_is_the_list_and_proof_of_it() {
        let mut listing = after("abc");
        let sent = start() + MS(1000);
        let verdict = listing.judge(sent, sent + MS(300), list("ab", 11), None);
        assert_eq!((verdict.members.clone(), verdict.members.rank()), (list("ab", 11), 11));
        let proof = verdict.proof.unwrap();
        assert_eq!((proof.members, proof.sent, proof.until), (list("ab", 11), sent, sent + MS(4500)));
        assert!(verdict.am_listed);
    }

    #[test]
    fn an_answer_that_comes_when_its_proof_has_run_out_proves_nothing() {
        let mut listing = after("abc");
        let verdict = listing.judge(start() + MS(1000), start() + MS(5500), list("abc", 10), None);
        assert!(verdict.proof.is_none());
        assert_eq!(verdict.members, list("abc", 10));
    }

    #[test]
    fn nothing_is_proved_to_a_node_that_is_not_on_the_list_itself() {
        let mut listing = after("abc");
        let verdict = listing.judge(start() + MS(1000), start() + MS(1000), list("bc", 11), None);
        assert!(verdict.proof.is_none() && !verdict.am_listed);
        let mut twin = list("abc", 12).to_vec();
        twin[0].incarnation = 2;
        let twin = Members::new(twin).unwrap();
        let verdict = listing.judge(start() + MS(2000), start() + MS(2000), twin, None);
        assert!(verdict.proof.is_none() && !verdict.am_listed, "that is another run of it");
    }

    #[test]
    fn a_list_without_the_others_is_held_back_for_a_lease_after_an_outage() {
        let mut listing = after("abc");
        let back = start() + MS(60_000);
        for (at, shown) in [(0, "a"), (1000, "ab"), (4999, "ab")] {
            let verdict = listing.judge(back + MS(at), back + MS(at), list(shown, 20), None);
            assert_eq!((verdict.members.clone(), verdict.members.rank()), (list("abc", 10), 10), "after {at} ms");
            assert!(verdict.proof.is_none(), "what is held back proves nothing");
        }
        let verdict = listing.judge(back + MS(5000), back + MS(5000), list("ab", 20), None);
        assert_eq!(verdict.members, list("ab", 20), "c had its time");
        assert!(verdict.proof.is_some());
    }

    #[test]
    fn the_others_have_time_from_when_this_node_is_back() {
        let mut listing = after("abc");
        let back = start() + MS(60_000);
        for (at, shown) in [(0, ""), (20_000, "b"), (30_000, "a"), (34_999, "ab")] {
            let verdict = listing.judge(back + MS(at), back + MS(at), list(shown, 20), None);
            assert_eq!(verdict.members, list("abc", 10), "after {at} ms");
        }
        assert_eq!(listing.judge(back + MS(35_000), back + MS(35_000), list("ab", 20), None).members, list("ab", 20));
        let mut listing = after("abc");
        assert_eq!(listing.judge(back, back, list("b", 20), None).members, list("abc", 10));
        let late = back + HELD_TIME_MAX;
        assert_eq!(listing.judge(late, late, list("b", 20), None).members, list("b", 20), "not for ever");
    }

    #[test]
    fn when_all_are_back_the_list_counts_again_at_once() {
        let mut listing = after("abc");
        let back = start() + MS(60_000);
        assert!(listing.judge(back, back, list("a", 20), None).proof.is_none());
        let verdict = listing.judge(back + MS(500), back + MS(500), list("abcd", 21), None);
        assert_eq!(verdict.members, list("abcd", 21));
        assert!(verdict.proof.is_some());
    }

    #[test]
    fn a_registry_that_forgot_this_node_or_went_backwards_is_doubted_too() {
        let mut listing = after("abc");
        listing.doubt(start() + MS(500));
        assert_eq!(listing.judge(start() + MS(1000), start() + MS(1000), list("a", 11), None).members, list("abc", 10));
        let mut listing = after("abc");
        let (entered, sent) = (start() + MS(500), start() + MS(1000));
        assert_eq!(listing.judge(sent, sent, list("b", 11), Some(entered)).members, list("abc", 10));
        let mut listing = after("abc");
        let verdict = listing.judge(sent, sent + MS(100), list("b", 11), Some(sent + MS(50)));
        assert_eq!(verdict.members, list("b", 11), "it was sent before the entry was there");
        let mut listing = after("abc");
        assert_eq!(listing.judge(start() + MS(1000), start() + MS(1000), list("a", 9), None).members, list("abc", 10));
        let mut listing = after("abc");
        assert_eq!(listing.judge(start() + MS(1000), start() + MS(1000), list("a", 11), None).members, list("a", 11));
    }

    #[test]
    fn a_node_that_stood_still_and_is_off_the_list_knows_it_at_once() {
        let running = |listing: &mut Listing, to: Moment| {
            listing.note_running(start());
            listing.note_running(start() + MS(1000));
            listing.note_running(to);
        };
        let back = start() + MS(10_000);
        let mut listing = after("abc");
        running(&mut listing, back);
        assert_eq!(listing.judge(start() + MS(900), back, list("abc", 10), Some(start())).members, list("abc", 10));
        let verdict = listing.judge(back, back, list("bc", 20), Some(start()));
        assert_eq!(verdict.members, list("bc", 20), "what was sent before it stood still doesn't count");
        let mut listing = after("abc");
        running(&mut listing, back);
        assert_eq!(
            listing.judge(back, back, list("c", 20), Some(start())).members,
            list("abc", 10),
            "b is missing too"
        );
        let mut listing = after("abc");
        running(&mut listing, start() + MS(3400));
        assert_eq!(listing.judge(back, back, list("bc", 20), Some(start())).members, list("abc", 10), "it ran");
    }

    #[test]
    fn a_registry_that_comes_and_goes_does_not_keep_a_dead_node_on_the_list() {
        let mut listing = after("abc");
        let mut at = start();
        let taken = (0..10).find(|_| {
            at = at + MS(3000);
            listing.judge(at, at, list("ab", 20), None).members == list("ab", 20)
        });
        assert_eq!(taken, Some(2), "missed after 3 s, and gone 6 s later");
    }

    #[test]
    fn who_owns_nothing_may_go_at_any_time() {
        for leaving in [
            Member { state: MemberState::Draining, ..member("c") },
            Member { state: MemberState::Joining, ..member("c") },
            Member { weight: 0, ..member("c") },
        ] {
            let mut listing = Listing::new(&member("a"), TTL, Members::default());
            let members = Members::new([member("a"), member("b"), leaving]).unwrap();
            listing.judge(start(), start(), members, None);
            let back = start() + MS(60_000);
            assert_eq!(listing.judge(back, back, list("ab", 20), None).members, list("ab", 20));
        }
    }
}
