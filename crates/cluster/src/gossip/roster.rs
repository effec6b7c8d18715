//! [`Roster`]: who is in the cluster, judged by what the gossip says and by who goes on saying it. A state machine without
//! I/O: it is told what is known and how much time has passed.
//!
//! Every node counts a heartbeat up several times a second, and the gossip carries the counts. A run of a node whose count has
//! stood still for [`SILENCE_MAX`] is out, and is back once it has counted for [`RETURN_TIME`] again. The limit is fixed,
//! where chitchat's own detector (phi accrual, Hayashibara et al. 2004) makes it a multiple of the mean gap between
//! heartbeats: that mean depends on the number of nodes, and so would the time to detect.
//!
//! Silence is counted in the observer's own waking time: an observer that was stopped, or got no processor, has heard
//! nobody, and must not throw all the others out for it (the local health of Lifeguard, Dadgar et al. 2018).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use larder_core::Member;

use super::{
    GOSSIP_EVERY,
    facts::{Run, Said},
};

/// A run whose heartbeat has stood still for so long is out. Heartbeats reach everybody within four rounds of gossip, also
/// among 100 nodes, so that a pause of two seconds never comes to it, and a crash is known to all within 4.5 s.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(3);

/// How long a run that was out must be heard again before it is back, so that one in trouble doesn't come and go.
pub(super) const RETURN_TIME: Duration = Duration::from_secs(1);

/// The longest gap in what is heard of a run that returns.
const RETURN_GAP_MAX: Duration = Duration::from_secs(1);

/// What of the time between two looks counts at most: if it took longer, it was this node that was away.
const WAKING_TIME_MAX: Duration = GOSSIP_EVERY.saturating_mul(2);

/// A run of a node whose heartbeat still grows so long after it was first heard of is alive: the last heartbeats of one that
/// is dead are old news by then.
const ALIVE_AFTER: Duration = Duration::from_millis(1_500);

/// What the gossip says of a run of a node at one moment.
pub(super) struct Sighting {
    pub(super) run: Run,
    pub(super) heartbeat: u64,
    pub(super) said: Said,
}

/// The runs of nodes that the gossip knows of.
pub(super) struct Roster {
    me: Run,
    /// By name, start and address, so that everybody has them in one order.
    others: BTreeMap<(Arc<str>, u64, std::net::SocketAddr), Other>,
    /// What this node says of itself.
    own: Said,
}

struct Other {
    said: Said,
    heartbeat: u64,
    /// How long it has been known, and had been when its heartbeat last grew.
    known: Duration,
    grew: Option<Duration>,
    standing: Standing,
}

enum Standing {
    /// It has been seen once: it may be an old memory of others.
    Heard,
    Live,
    /// Out, and heard again for some time.
    Out(Duration),
}

/// What stands between a node and its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    /// Nothing.
    Free,
    /// Another node has it, or its former run at another address has: that is to be seen.
    Unclear,
    /// Another live node has it.
    Taken,
}

impl Roster {
    /// A roster that knows of nobody.
    pub(super) fn new(me: Run) -> Self {
        Self { me, others: BTreeMap::new(), own: Said::Nothing }
    }

    /// Takes down what the gossip says, `elapsed` after the last time.
    pub(super) fn look(&mut self, sightings: impl IntoIterator<Item = Sighting>, elapsed: Duration) {
        let waking = elapsed.min(WAKING_TIME_MAX);
        let mut known = std::mem::take(&mut self.others);
        for Sighting { run, heartbeat, said } in sightings {
            if run == self.me {
                self.own = said;
                continue;
            }
            let key = (run.name, run.started_ms, run.gossips_at);
            let other = match known.remove(&key) {
                Some(mut other) => {
                    other.look(heartbeat, said, waking);
                    other
                }
                None => Other { said, heartbeat, known: Duration::ZERO, grew: None, standing: Standing::Heard },
            };
            self.others.insert(key, other);
        }
    }

    /// Who is in the cluster: the live runs that have said what they are. Of several with one name, see [`Self::outranks`].
    pub(super) fn members(&self) -> Vec<Member> {
        let mut best: BTreeMap<&str, (Run, &Member)> = BTreeMap::new();
        let own = match &self.own {
            Said::Member(member) => Some((self.me.clone(), member)),
            _ => None,
        };
        for (run, member) in self.others.iter().filter_map(live_member).chain(own) {
            match best.get_mut(&*member.name) {
                Some(present) if outranks(&run, &present.0) => *present = (run, member),
                Some(_) => {}
                None => {
                    best.insert(&member.name, (run, member));
                }
            }
        }
        best.into_values().map(|(_, member)| member.clone()).collect()
    }

    /// How many other runs are live.
    pub(super) fn live_len(&self) -> usize {
        self.others.iter().filter_map(live_member).count()
    }

    /// Where the other live runs gossip.
    pub(super) fn live_addresses(&self) -> Vec<std::net::SocketAddr> {
        self.others.iter().filter_map(live_member).map(|(run, _)| run.gossips_at).collect()
    }

    /// Whether it has been found out of everybody who was heard of whether they live.
    pub(super) fn is_settled(&self) -> bool {
        !self.others.values().any(|other| matches!((&other.said, &other.standing), (Said::Member(_), Standing::Heard)))
    }

    /// Whether this node may have its name.
    ///
    /// A run that gossips at this node's own address is a former one: two can't be there. Where both have the name, or neither
    /// has yet, because they could not know of each other, who started first may have it.
    pub(super) fn claim(&self) -> Claim {
        let mut claim = Claim::Free;
        let has_name = matches!(self.own, Said::Member(_));
        for ((name, started_ms, gossips_at), other) in &self.others {
            let is_earlier = (*started_ms, *gossips_at) < (self.me.started_ms, self.me.gossips_at);
            let has_it = match other.said {
                Said::Member(_) => is_earlier || !has_name,
                Said::Nothing => is_earlier && !has_name,
                Said::Left => false,
            };
            if *name != self.me.name || *gossips_at == self.me.gossips_at || !has_it || other.is_silent() {
                continue;
            }
            if other.grew.is_some_and(|grew| grew >= ALIVE_AFTER) {
                return Claim::Taken;
            }
            claim = Claim::Unclear;
        }
        claim
    }
}

/// A live run and what it is.
fn live_member<'a>(
    ((name, started_ms, gossips_at), other): (&'a (Arc<str>, u64, std::net::SocketAddr), &'a Other),
) -> Option<(Run, &'a Member)> {
    match (&other.said, &other.standing) {
        (Said::Member(member), Standing::Live) => {
            Some((Run { name: name.clone(), started_ms: *started_ms, gossips_at: *gossips_at }, member))
        }
        _ => None,
    }
}

/// Which of two live runs of one name is the member. Two that gossip at one address can't both be alive: the later one is. Of
/// two nodes with one name, the first stays.
fn outranks(run: &Run, other: &Run) -> bool {
    if run.gossips_at == other.gossips_at {
        return run.started_ms > other.started_ms;
    }
    (run.started_ms, run.gossips_at) < (other.started_ms, other.gossips_at)
}

impl Other {
    fn look(&mut self, heartbeat: u64, said: Said, waking: Duration) {
        self.said = said;
        self.known += waking;
        let grows = heartbeat > self.heartbeat;
        if grows {
            self.heartbeat = heartbeat;
            self.grew = Some(self.known);
        }
        let silent = self.silent();
        self.standing = match self.standing {
            Standing::Heard if self.grew.is_some() => Standing::Live,
            Standing::Heard => Standing::Heard,
            Standing::Live if silent > SILENCE_MAX => Standing::Out(Duration::ZERO),
            Standing::Live => Standing::Live,
            Standing::Out(_) if silent > RETURN_GAP_MAX => Standing::Out(Duration::ZERO),
            Standing::Out(heard) if grows && heard + waking >= RETURN_TIME => Standing::Live,
            Standing::Out(heard) => Standing::Out(heard + waking),
        };
    }

    /// For how long its heartbeat has stood still.
    fn silent(&self) -> Duration {
        self.known - self.grew.unwrap_or_default()
    }

    fn is_silent(&self) -> bool {
        matches!(self.standing, Standing::Out(_)) || self.silent() > SILENCE_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUND: Duration = GOSSIP_EVERY;

    fn run(name: &str, started_ms: u64, port: u16) -> Run {
        Run { name: name.into(), started_ms, gossips_at: ([127, 0, 0, 1], port).into() }
    }

    fn sighting(run: &Run, heartbeat: u64) -> Sighting {
        let address = format!("{}-{}", run.name, run.gossips_at.port());
        Sighting { run: run.clone(), heartbeat, said: Said::Member(Member::new(run.name.clone(), address)) }
    }

    fn roster() -> Roster {
        Roster::new(run("me", 1_000, 1))
    }

    fn addresses(roster: &Roster) -> Vec<Arc<str>> {
        roster.members().into_iter().map(|member| member.address).collect()
    }

    fn has(roster: &Roster, address: &str) -> bool {
        addresses(roster).iter().any(|there| **there == *address)
    }

    /// Some rounds in which each of these runs counts one heartbeat.
    fn beat(roster: &mut Roster, runs: &[&Run], rounds: std::ops::Range<u64>) {
        for round in rounds {
            roster.look(runs.iter().map(|run| sighting(run, round)), ROUND);
        }
    }

    #[test]
    fn who_is_only_remembered_by_others_is_no_member() {
        let mut roster = roster();
        let (dead, live) = (run("dead", 1, 2), run("live", 1, 3));
        for round in 0..40 {
            roster.look([sighting(&dead, 7), sighting(&live, round)], ROUND);
            assert!(!has(&roster, "dead-2"));
            assert_eq!(has(&roster, "live-3"), round > 0, "the second heartbeat shows that it lives");
            assert!(!roster.is_settled());
        }
        beat(&mut roster, &[&live], 40..41);
        assert!(roster.is_settled(), "the others have forgotten the dead one");
    }

    #[test]
    fn silence_of_three_seconds_is_the_end_and_less_is_not() {
        let mut roster = roster();
        let other = run("b", 1, 2);
        beat(&mut roster, &[&other], 0..3);
        let rounds = (SILENCE_MAX.as_millis() / ROUND.as_millis()) as usize;
        for beats in 3..6 {
            for _ in 0..rounds {
                roster.look([sighting(&other, beats - 1)], ROUND);
                assert!(has(&roster, "b-2"));
            }
            roster.look([sighting(&other, beats)], ROUND);
        }
        for _ in 0..=rounds {
            assert!(has(&roster, "b-2"));
            roster.look([sighting(&other, 5)], ROUND);
        }
        assert!(!has(&roster, "b-2"));
    }

    #[test]
    fn who_was_out_is_back_when_it_has_been_heard_for_a_while() {
        let mut roster = roster();
        let other = run("b", 1, 2);
        beat(&mut roster, &[&other], 0..3);
        for _ in 0..14 {
            roster.look([sighting(&other, 2)], ROUND);
        }
        for heartbeat in 3..6 {
            roster.look([sighting(&other, heartbeat)], ROUND);
            assert!(!has(&roster, "b-2"), "one heartbeat is no return");
            for _ in 0..5 {
                roster.look([sighting(&other, heartbeat)], ROUND);
            }
        }
        beat(&mut roster, &[&other], 10..14);
        assert!(has(&roster, "b-2"));
    }

    #[test]
    fn an_observer_that_was_away_throws_nobody_out() {
        let mut roster = roster();
        let other = run("b", 1, 2);
        beat(&mut roster, &[&other], 0..3);
        roster.look([sighting(&other, 2)], Duration::from_secs(3_600));
        assert!(has(&roster, "b-2"));
        // Away again and again, it hears of the other in between.
        for heartbeat in 3..30 {
            roster.look([sighting(&other, heartbeat)], Duration::from_secs(5));
            assert!(has(&roster, "b-2"));
        }
    }

    #[test]
    fn who_says_that_it_leaves_is_gone_however_much_it_counts() {
        let mut roster = roster();
        let other = run("b", 1, 2);
        beat(&mut roster, &[&other], 0..3);
        for heartbeat in 3..20 {
            roster.look([Sighting { said: Said::Left, ..sighting(&other, heartbeat) }], ROUND);
            assert!(!has(&roster, "b-2"));
        }
    }

    #[test]
    fn of_two_runs_at_one_address_the_later_one_is_the_member_at_once() {
        let mut roster = roster();
        let (former, later) = (run("b", 1, 2), run("b", 5, 2));
        beat(&mut roster, &[&former], 0..3);
        let both = |heartbeat| {
            let later = Sighting { said: Said::Member(Member::new("b", "later")), ..sighting(&later, heartbeat) };
            [sighting(&former, 2), later]
        };
        roster.look(both(1), ROUND);
        roster.look(both(2), ROUND);
        assert_eq!(addresses(&roster), [Arc::<str>::from("later")]);
    }

    #[test]
    fn of_two_nodes_with_one_name_the_first_is_the_member_until_it_is_out() {
        let mut roster = roster();
        let (first, second) = (run("b", 1, 2), run("b", 5, 3));
        beat(&mut roster, &[&first, &second], 0..30);
        assert_eq!(addresses(&roster), [Arc::<str>::from("b-2")]);
        beat(&mut roster, &[&second], 30..31);
        assert_eq!(addresses(&roster), [Arc::<str>::from("b-3")]);
    }

    #[test]
    fn a_name_is_free_taken_or_unclear() {
        let me = run("b", 1_000, 1);
        let claim = |others: &[(&Run, Said)], rounds: u64, beats: u64| {
            let mut roster = Roster::new(me.clone());
            for round in 0..rounds {
                let sightings = others.iter().map(|(run, said)| {
                    let heartbeat = round.min(beats);
                    Sighting { run: (*run).clone(), heartbeat, said: said.clone() }
                });
                roster.look(sightings, ROUND);
            }
            roster.claim()
        };
        let said = || Said::Member(Member::new("b", "b:1"));
        let elsewhere = run("b", 2_000, 2);
        assert_eq!(claim(&[], 9, 9), Claim::Free);
        assert_eq!(claim(&[(&elsewhere, said())], 3, 9), Claim::Unclear, "it may be an old memory");
        assert_eq!(claim(&[(&elsewhere, said())], 9, 9), Claim::Taken);
        assert_eq!(claim(&[(&elsewhere, said())], 9, 2), Claim::Unclear, "it may have crashed");
        assert_eq!(claim(&[(&elsewhere, said())], 18, 2), Claim::Free, "it has crashed");
        assert_eq!(claim(&[(&elsewhere, Said::Left)], 9, 9), Claim::Free);
        assert_eq!(claim(&[(&elsewhere, Said::Nothing)], 9, 9), Claim::Free, "it asks, too, and began later");
        assert_eq!(claim(&[(&run("b", 1, 2), Said::Nothing)], 9, 9), Claim::Taken, "it asks, too, and began earlier");
        assert_eq!(claim(&[(&run("b", 1, 1), said())], 9, 9), Claim::Free, "it is this node's former run");
        assert_eq!(claim(&[(&run("c", 1, 2), said())], 9, 9), Claim::Free);
        assert_eq!(
            claim(&[(&me, said()), (&elsewhere, said())], 9, 9),
            Claim::Free,
            "it is this node's, who was first"
        );
        assert_eq!(claim(&[(&me, said()), (&run("b", 1, 2), said())], 9, 9), Claim::Taken);
    }

    proptest! {
        /// Whatever order news comes in and whatever was known before, the same knowledge makes the same list.
        #[test]
        fn equal_knowledge_makes_equal_lists(
            runs in prop::collection::vec((0..4_u8, 0..4_u64, 2..6_u16), 0..12),
            seed: u64,
        ) {
            let runs: Vec<Run> = runs.iter().map(|(name, start, port)| run(&format!("n{name}"), *start, *port)).collect();
            let mut shuffled = runs.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            let list = |runs: &[Run], rounds| {
                let mut roster = roster();
                beat(&mut roster, &runs.iter().collect::<Vec<_>>(), 0..rounds);
                roster.members()
            };
            prop_assert_eq!(list(&runs, 3), list(&shuffled, 9));
        }
    }
}
