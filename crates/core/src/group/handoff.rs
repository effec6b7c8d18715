//! Handoff: what a group does with entries that change owners (rules H1 and H2).
//!
//! For a while after a slot came here, a miss first looks at the node that had it before, and that node sends what it has.
//! Nothing of it takes the place of what was written here since: a tombstone stays for each key that was.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{Fetched, Group, Inner, unreachable};
use crate::{
    Error, Key, Moment, Value, Version,
    claim::{PUSH_VALUE_LEN_MAX, Phase, PushedEntry},
    peer::{AskedAs, PeerAnswer, PeerError, PeerMeta},
    placement::{Slot, SlotSet},
    stats::{Direction, Source},
    store::{Hottest, Meta, Tier},
    view::View,
};

/// How long a miss waits for the node that had the slot before: it has only to look.
const PEEK_WAIT: Duration = Duration::from_millis(50);

/// The same in a group without an origin, where nobody else has the value: long enough for a link to be made anew.
const ONLY_PEEK_WAIT: Duration = Duration::from_secs(1);

/// The pause before that node is asked again.
const PEEK_PAUSE: Duration = Duration::from_millis(20);

/// The most tombstones of a group. Beyond it, slots in which more is written take nothing more from who had them before. A key
/// of 40 bytes takes about a hundred: 7 MB.
const TOMBSTONES_MAX: usize = 65_536;

/// The keys that were written here since their slots came, for as long as older values may come in; each with the term under which
/// its slot came. When it comes another time, those that were written before have nothing to say any more.
#[derive(Default)]
pub(super) struct Tombstones(Mutex<HashMap<Key, Version>>);

/// What the node that had a slot before says of a key.
pub(super) enum Peeked {
    /// There is nobody to ask, or nothing may be taken.
    Closed,
    Found(Handed),
    NotHeld,
    /// It can't be reached, or is gone.
    Unreached,
    /// It did not answer in time.
    Unknown,
}

/// An entry that comes from who had its slot before.
pub(super) struct Handed {
    pub(super) value: Option<Value>,
    pub(super) meta: PeerMeta,
    /// From when what is left of its ttl counts.
    pub(super) told: Moment,
    /// Under which the slot came.
    pub(super) term: Version,
}

impl Group {
    /// Detaches the loads of all keys of these slots.
    pub(crate) fn detach(&self, slots: &SlotSet) {
        self.0.loads.detach_all(|key| slots.contains(Slot::of(self.name(), key.as_bytes())));
    }

    /// Drops what is held of these slots.
    pub(crate) fn drop_slots(&self, slots: &SlotSet) {
        if !slots.is_empty() {
            self.0.store.drop_slots(|slot| slots.contains(slot));
        }
    }

    /// Drops what is held of keys that are other nodes', where those do not ask for it.
    pub(crate) fn drop_foreign(&self, view: &View) {
        // Entries know their slot and not their hash on groupcache's ring: there, all go.
        self.0.store.drop_slots(|slot| !view.has_slots() || !view.is_mine(slot, &[]));
    }

    /// Shows entries that may be handed over, the hottest first, as [`Store::hottest`](crate::store::Store::hottest) does.
    pub(crate) fn hottest(
        &self,
        from: &mut Hottest,
        looked_at_max: usize,
        is_wanted: impl Fn(Slot) -> bool,
        mut show: impl FnMut(Slot, PushedEntry),
    ) -> bool {
        let now = self.now();
        self.0.store.hottest(from, looked_at_max, now, is_wanted, |key, hit| {
            let Meta { slot, tier, version, load_start, fresh_until, .. } = hit.meta();
            let is_short = hit.bytes().is_none_or(|bytes| bytes.len() <= PUSH_VALUE_LEN_MAX);
            if tier == Tier::Main
                && now < fresh_until
                && is_short
                && let Ok(key) = Key::copy_from(key)
            {
                let ttl_left = (fresh_until != Moment::NEVER).then(|| fresh_until.since(now));
                let meta = PeerMeta { version, age: self.age_of(load_start), ttl_left };
                show(slot, PushedEntry { key, value: hit.into_value(), meta });
            }
        })
    }

    /// Takes entries that `from` pushes under a claim's term. Whether more is welcome.
    pub(crate) fn take_pushed(&self, from: &str, term: Version, entries: Vec<PushedEntry>) -> bool {
        let Inner { node, loads, stats, .. } = &*self.0;
        let told = self.now();
        let mut is_open = entries.is_empty();
        for PushedEntry { key, value, meta } in entries {
            let slot = Slot::of(self.name(), key.as_bytes());
            if !node.tenure().takes(slot, from, term, told) || !self.takes_over(slot) {
                continue;
            }
            is_open = true;
            let handed = Handed { value, meta, told, term };
            let is_stored = loads.unless_guarded(&key, || {
                // It may have been written, or gone on to another, while this came to its turn.
                let takes = node.phase(slot, key.as_bytes()) == Phase::Acts && !self.0.tombstones.has(&key, term);
                takes && self.install(&key, slot, &handed)
            });
            if is_stored == Some(true) {
                stats.handoffs.of(Direction::In).add(1);
            }
        }
        is_open
    }

    /// Whether what the node that had a slot before holds may be the latest: where that has to be proved, it proved to have had it.
    fn takes_over(&self, slot: Slot) -> bool {
        !self.is_strong() || self.0.node.tenure().gained(slot).1.is_some()
    }

    /// What this node holds of a key whose slot was claimed from it under this term.
    pub(super) fn held_before(&self, key: &Key, slot: Slot, term: Version) -> PeerAnswer {
        let now = self.now();
        let held = || {
            let hit = self.0.store.peek(key.as_bytes(), now)?;
            (hit.meta().tier == Tier::Main && now < hit.meta().fresh_until).then_some(hit)
        };
        match self.0.node.tenure().released_under(slot, term).then(held).flatten() {
            None => PeerAnswer::NotHeld,
            Some(hit) => {
                self.0.stats.handoffs.of(Direction::Out).add(1);
                super::Answer::from_store(hit, now).for_peer(self.0.node.clock().wall_ms())
            }
        }
    }

    /// Asks the node that had the slot before. Where nobody else has the value, a broken link is no answer yet.
    pub(super) async fn peek_before(&self, key: &Key, slot: Slot) -> Peeked {
        if self.has_origin() {
            return self.peek_once(key, slot, Instant::now() + PEEK_WAIT).await;
        }
        let until = Instant::now() + ONLY_PEEK_WAIT;
        loop {
            let peeked = self.peek_once(key, slot, until).await;
            if !matches!(peeked, Peeked::Unreached) || Instant::now() + PEEK_PAUSE >= until {
                return peeked;
            }
            sleep(PEEK_PAUSE).await;
        }
    }

    async fn peek_once(&self, key: &Key, slot: Slot, deadline: Instant) -> Peeked {
        let Inner { node, tombstones, .. } = &*self.0;
        let told = self.now();
        let Some((before, term)) = node.tenure().before(slot, told) else { return Peeked::Closed };
        if !self.takes_over(slot) {
            return Peeked::Closed;
        }
        if tombstones.has(key, term) {
            return Peeked::Closed;
        }
        // One that has left has nothing any more.
        let Some(peer) = node.view().peer(&before).cloned() else { return Peeked::Unreached };
        let question = self.question(key, AskedAs::Before(term), deadline);
        match peer.get(question).await {
            Ok(PeerAnswer::Found { value, meta: Some(meta), .. }) => Peeked::Found(Handed { value, meta, told, term }),
            Ok(PeerAnswer::NotHeld) => Peeked::NotHeld,
            Err(PeerError::Unreachable { .. }) => Peeked::Unreached,
            Ok(_) | Err(_) => Peeked::Unknown,
        }
    }

    /// Has the store hold what a get would find, for a write that depends on it (rule P7).
    pub(super) async fn bring(&self, key: &Key, slot: Slot) -> Result<(), Error> {
        if self.0.node.is_settled_at(slot) || self.0.store.peek(key.as_bytes(), self.now()).is_some() {
            return Ok(());
        }
        match self.peek_before(key, slot).await {
            Peeked::Closed | Peeked::NotHeld => Ok(()),
            Peeked::Found(handed) => {
                self.0.loads.hold(key, || !self.0.tombstones.has(key, handed.term) && self.install(key, slot, &handed));
                Ok(())
            }
            Peeked::Unreached | Peeked::Unknown => Err(unreachable(
                "the node that had the key before can't be asked, so that the condition can't be judged: nothing was written",
            )),
        }
    }

    /// The end of a flight that found the value at the node that had the slot before.
    pub(super) fn landing_handed(&self, key: &Key, slot: Slot, handed: Handed, attached: bool) -> Fetched {
        let Inner { stats, .. } = &*self.0;
        stats.loads.of(Source::Handoff).add(1);
        let stored = attached && !self.0.tombstones.has(key, handed.term) && self.install(key, slot, &handed);
        if stored {
            stats.handoffs.of(Direction::In).add(1);
        }
        let Handed { value, meta, told, .. } = handed;
        Fetched {
            value,
            version: Some(meta.version),
            load_start: self.0.node.reading_before(meta.age),
            fresh_until: meta.ttl_left.map_or(Moment::NEVER, |left| told + left),
            source: Source::Handoff,
            stored,
        }
    }

    /// Stores an entry, unless a later one is there. Whoever calls holds the key in the table of loads.
    pub(super) fn install(&self, key: &Key, slot: Slot, handed: &Handed) -> bool {
        let Handed { value, meta: PeerMeta { version, age, ttl_left }, told, .. } = handed;
        let fresh_until = ttl_left.map_or(Moment::NEVER, |left| *told + left);
        let window = if value.is_some() { self.0.settings.get().stale_window() } else { Duration::ZERO };
        let meta = Meta {
            slot,
            tier: Tier::Main,
            version: *version,
            load_start: self.0.node.reading_before(*age),
            fresh_until,
            keep_until: fresh_until + window,
        };
        let stored = self.0.store.insert_newer(key.as_bytes(), value.clone(), meta, self.now());
        matches!(stored, crate::store::Judged::Stored)
    }

    /// The key is written here: whoever had it before has nothing of it any more. Called with the key held in the table of
    /// loads.
    pub(super) fn bury(&self, key: &Key, slot: Slot) {
        let Inner { node, tombstones, .. } = &*self.0;
        if let Some((_, term)) = node.tenure().before(slot, self.now())
            && !tombstones.add(key, term)
        {
            node.tenure().close(slot);
        }
    }

    #[cfg(test)]
    pub(super) fn is_buried(&self, key: &Key) -> bool {
        self.0.tombstones.0.lock().contains_key(key)
    }

    /// No slot takes anything any more from who had it before.
    pub(crate) fn forget_tombstones(&self) {
        self.0.tombstones.0.lock().clear();
    }

    /// The name of who may answer for a slot that is not this node's to answer for.
    pub(super) fn elsewhere(&self, slot: Slot, key: &[u8]) -> Option<Arc<str>> {
        let Inner { node, .. } = &*self.0;
        let owner = || node.view().owner(slot, key).map(|member| member.name.clone());
        node.tenure().elsewhere(slot).or_else(owner).filter(|name| name != node.name())
    }
}

impl Tombstones {
    /// Whether a key was written since its slot came under this term.
    fn has(&self, key: &Key, term: Version) -> bool {
        let keys = self.0.lock();
        !keys.is_empty() && keys.get(key) == Some(&term)
    }

    /// Whether there was room.
    fn add(&self, key: &Key, term: Version) -> bool {
        let mut keys = self.0.lock();
        let fits = keys.len() < TOMBSTONES_MAX || keys.contains_key(key);
        if fits {
            keys.insert(key.clone(), term);
        }
        fits
    }
}
