//! [`Flusher`]: which keys are to be flushed next: a state machine without I/O.
//!
//! # A batch that fails as a whole
//!
//! If every change of a batch fails, either the origin is ill or one change makes the whole request fail. To find that one, the
//! batch is taken apart: halves, and halves of those that fail again, each tried by itself, so that it is found after as many more requests
//! as there are halvings, and delays the others no longer than these take. An origin that is down would be asked twice as often by
//! that, so that *while nothing succeeds* only one batch is taken apart at a time and all the others wait and come back whole.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use larder_core::{
    Key, Version,
    behind::{Settled, Settlement},
    placement::Slot,
};
use tokio::time::Instant;

/// The longest that the first retry waits.
pub const RETRY_MIN: Duration = Duration::from_millis(100);

/// The longest that any retry waits: an origin that is back has everything within this time, and one that is down is asked for a
/// key twice in it.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// Keys whose time comes within one of so many parts of the delay go at its end, together: a batch of them costs the origin, and the
/// disks that take down what became of it, as little as one alone.
const DELAY_PARTS: u32 = 8;

/// The longest such part: what is gathered for an hour need not wait for minutes more.
const DELAY_PART_MAX: Duration = Duration::from_millis(100);

/// How long things wait for others that might go together with them, of keys that are gathered for `write_delay`.
pub(super) fn delay_part(write_delay: Duration) -> Duration {
    (write_delay / DELAY_PARTS).min(DELAY_PART_MAX)
}

/// What the origin said to one change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is made.
    Flushed,
    /// The origin has something newer.
    Conflict,
    /// It will never be made, for this reason.
    Refused(Arc<str>),
    /// It is not made, and may be later.
    Unreached,
    /// Nobody knows.
    Unknown,
    /// It was not asked for: the journal has no such record any more.
    Gone,
}

/// Changes to be flushed together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Its number.
    pub id: u64,
    /// Each key once, and the version to flush.
    pub items: Vec<(Key, Version)>,
}

/// The pending changes of a group.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use larder_core::{Key, Version, placement::Slot, version::Reading};
/// use larder_origin::flush::{Flusher, Outcome};
/// use tokio::time::Instant;
///
/// let mut flusher = Flusher::new(Duration::from_secs(1), 100, 7);
/// let (now, key) = (Instant::now(), Key::new("42")?);
/// let version = |bits| Version::new(Reading::from_bits(bits), 1);
/// flusher.recorded(now, &key, Slot::of("users", b"42"), version(1));
/// flusher.recorded(now, &key, Slot::of("users", b"42"), version(2));
/// assert!(flusher.take(now).is_none(), "changes are gathered");
///
/// let later = flusher.wake_at().unwrap();
/// let batch = flusher.take(later).unwrap();
/// assert_eq!(batch.items, [(key.clone(), version(2))]);
/// let settlements = flusher.answered(later, batch.id, vec![Outcome::Flushed]);
/// assert_eq!(settlements[0].version, version(2));
/// flusher.settled(later, [&key]);
/// assert_eq!(flusher.len(), 0);
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Flusher {
    write_delay: Duration,
    batch_len_max: usize,
    random: fastrand::Rng,
    /// When the first change came: the beginning of all parts of the delay.
    began: Option<Instant>,
    keys: HashMap<Key, Pending>,
    /// Keys that may go with any others, by when they are due.
    gathering: BTreeMap<Ticket, Key>,
    /// Keys that go with each other and no others, by when they are due.
    parts: BTreeMap<Ticket, Part>,
    under_way: HashMap<u64, Taken>,
    tickets: u64,
    /// How many batches had any success.
    successes: u64,
    /// The batch that is taken apart while nothing succeeds, and how many parts of it there are.
    family: Option<(u64, usize)>,
    draining_until: Option<Instant>,
    /// That is over.
    has_ended: bool,
}

/// When something is due; the number keeps those of one moment in order.
type Ticket = (Instant, u64);

/// A key with changes that are not settled.
#[derive(Debug)]
struct Pending {
    slot: Slot,
    newest: Version,
    /// When the first change after the one under way came.
    newer_since: Option<Instant>,
    /// Failures in a row.
    attempts: u32,
    /// The count of successes at the first of these.
    failed_at: u64,
    /// Another node is to flush it from now on.
    is_released: bool,
    phase: Phase,
}

#[derive(Debug, PartialEq)]
enum Phase {
    Gathering(Ticket),
    InPart(Ticket),
    Flushing(Version),
    Settling(Version),
}

#[derive(Debug)]
struct Part {
    keys: Vec<Key>,
    origin: Kin,
}

/// What the parts of a batch have in common.
#[derive(Clone, Copy, Debug)]
struct Kin {
    /// The number of the batch that they were.
    family: u64,
    /// The count of successes when that was taken.
    since: u64,
}

#[derive(Debug)]
struct Taken {
    items: Vec<(Key, Version)>,
    kin: Kin,
}

impl Flusher {
    /// A flusher that gathers changes for `write_delay`, or an eighth more so that more go together, and puts up to `batch_len_max` keys in a batch; `seed` decides its jitter.
    #[must_use]
    pub fn new(write_delay: Duration, batch_len_max: usize, seed: u64) -> Self {
        Self {
            write_delay,
            batch_len_max: batch_len_max.max(1),
            random: fastrand::Rng::with_seed(seed),
            began: None,
            keys: HashMap::new(),
            gathering: BTreeMap::new(),
            parts: BTreeMap::new(),
            under_way: HashMap::new(),
            tickets: 0,
            successes: 0,
            family: None,
            draining_until: None,
            has_ended: false,
        }
    }

    /// A change is in the journal.
    pub fn recorded(&mut self, now: Instant, key: &Key, slot: Slot, version: Version) {
        if let Some(pending) = self.keys.get_mut(key) {
            pending.is_released = false;
            if version > pending.newest {
                pending.newest = version;
                if matches!(pending.phase, Phase::Flushing(_) | Phase::Settling(_)) {
                    pending.newer_since.get_or_insert(now);
                }
            }
            return;
        }
        let at = self.gathered_at(now);
        let ticket = self.ticket(at);
        self.gathering.insert(ticket, key.clone());
        let pending = Pending {
            slot,
            newest: version,
            newer_since: None,
            attempts: 0,
            failed_at: 0,
            is_released: false,
            phase: Phase::Gathering(ticket),
        };
        self.keys.insert(key.clone(), pending);
    }

    /// The changes to flush now, if any are due.
    pub fn take(&mut self, now: Instant) -> Option<Batch> {
        if self.draining_until.is_some_and(|until| now >= until) {
            self.has_ended = true;
            return None;
        }
        let id = self.next_number();
        let is_due = |(at, _): &Ticket| *at <= now;
        loop {
            let part = self.parts.keys().next().copied().filter(is_due);
            let gathered = self.gathering.keys().next().copied().filter(is_due);
            let (items, kin) = match (part, gathered) {
                (Some(part), gathered) if gathered.is_none_or(|gathered| part < gathered) => {
                    let Some(Part { keys, origin }) = self.parts.remove(&part) else { continue };
                    let items: Vec<_> =
                        keys.into_iter().filter_map(|key| self.begin(key, &Phase::InPart(part))).collect();
                    // All its keys were released meanwhile.
                    if items.is_empty() {
                        self.part_is_done(origin);
                        continue;
                    }
                    (items, origin)
                }
                (_, Some(_)) => (self.take_gathered(now), Kin { family: id, since: self.successes }),
                _ => return None,
            };
            self.under_way.insert(id, Taken { items: items.clone(), kin });
            return Some(Batch { id, items });
        }
    }

    fn take_gathered(&mut self, now: Instant) -> Vec<(Key, Version)> {
        let mut items = Vec::new();
        while items.len() < self.batch_len_max
            && let Some(first) = self.gathering.first_entry().filter(|first| first.key().0 <= now)
        {
            let (ticket, key) = first.remove_entry();
            items.extend(self.begin(key, &Phase::Gathering(ticket)));
        }
        items
    }

    /// Begins a key's flush, if it still waits where it was found.
    fn begin(&mut self, key: Key, found_in: &Phase) -> Option<(Key, Version)> {
        let pending = self.keys.get_mut(&key).filter(|pending| pending.phase == *found_in)?;
        pending.phase = Phase::Flushing(pending.newest);
        Some((key, pending.newest))
    }

    /// What became of a batch, each change in its place; one that is missing is [`Outcome::Unknown`]. Gives back what is to be
    /// taken down; [`settled`](Self::settled) wants to know when it is.
    pub fn answered(&mut self, now: Instant, batch: u64, outcomes: Vec<Outcome>) -> Vec<Settlement> {
        let Some(Taken { items, kin }) = self.under_way.remove(&batch) else { return Vec::new() };
        let outcomes = outcomes.into_iter().chain(std::iter::repeat(Outcome::Unknown));
        let answered: Vec<((Key, Version), Outcome)> = items.into_iter().zip(outcomes).collect();
        let has_failed = |outcome: &Outcome| !matches!(outcome, Outcome::Flushed | Outcome::Conflict | Outcome::Gone);
        let has_success = answered.iter().any(|(_, outcome)| matches!(outcome, Outcome::Flushed | Outcome::Conflict));
        self.successes += u64::from(has_success);
        if answered.len() > 1 && answered.iter().all(|(_, outcome)| has_failed(outcome)) {
            self.failed_whole(now, answered, kin);
            return Vec::new();
        }
        self.part_is_done(kin);
        let is_alone = answered.len() == 1;
        let mut settlements = Vec::new();
        for ((key, version), outcome) in answered {
            let how = match outcome {
                Outcome::Flushed => Settled::Flushed,
                Outcome::Conflict => Settled::Conflict,
                Outcome::Refused(reason) => Settled::Refused(reason),
                Outcome::Unreached | Outcome::Unknown => {
                    self.failed(now, key, is_alone);
                    continue;
                }
                Outcome::Gone => {
                    self.end(now, &key);
                    continue;
                }
            };
            if let Some(pending) = self.keys.get_mut(&key) {
                pending.phase = Phase::Settling(version);
            }
            settlements.push(Settlement { key, version, how });
        }
        settlements
    }

    /// These keys' settlements are taken down: what came meanwhile may follow.
    pub fn settled<'a>(&mut self, now: Instant, keys: impl IntoIterator<Item = &'a Key>) {
        for key in keys {
            if self.keys.get(key).is_some_and(|pending| matches!(pending.phase, Phase::Settling(_))) {
                self.end(now, key);
            }
        }
    }

    /// A key's flush is over and has nothing more to come.
    fn end(&mut self, now: Instant, key: &Key) {
        let Some(pending) = self.keys.get(key) else { return };
        let Some(since) = pending.newer_since.filter(|_| !pending.is_released) else {
            self.keys.remove(key);
            return;
        };
        let at = self.gathered_at(since).max(now);
        let ticket = self.ticket(at);
        self.gathering.insert(ticket, key.clone());
        if let Some(pending) = self.keys.get_mut(key) {
            pending.newer_since = None;
            pending.attempts = 0;
            pending.phase = Phase::Gathering(ticket);
        }
    }

    /// A key failed where others did not, or by itself.
    fn failed(&mut self, now: Instant, key: Key, is_alone: bool) {
        let Some(attempts) = self.count_failure(&key) else { return };
        let at = now + self.retry_after(attempts);
        let ticket = self.ticket(at);
        let successes = self.successes;
        let Some(pending) = self.keys.get_mut(&key) else { return };
        // The origin takes others, and not this one: others should not have to go with it.
        if is_alone && attempts > 0 && successes > pending.failed_at {
            pending.phase = Phase::InPart(ticket);
            // Alone it can't be taken apart, so that it is of no family.
            let origin = Kin { family: ticket.1, since: successes };
            self.parts.insert(ticket, Part { keys: vec![key], origin });
        } else {
            pending.phase = Phase::Gathering(ticket);
            self.gathering.insert(ticket, key);
        }
    }

    fn failed_whole(&mut self, now: Instant, answered: Vec<((Key, Version), Outcome)>, kin: Kin) {
        let is_origin_well = self.successes > kin.since;
        let is_reached = answered.iter().any(|(_, outcome)| *outcome != Outcome::Unreached);
        let keys: Vec<Key> = answered.into_iter().map(|((key, _), _)| key).collect();
        let mut attempts = 0;
        let keys: Vec<Key> = keys
            .into_iter()
            .filter(|key| {
                let counted = self.count_failure(key);
                attempts = attempts.max(counted.unwrap_or(0));
                counted.is_some()
            })
            .collect();
        let may_part = is_origin_well || self.family.is_none_or(|(family, _)| family == kin.family);
        if !is_reached || !may_part || keys.len() < 2 {
            let at = now + self.retry_after(attempts);
            return self.part(at, keys, kin);
        }
        let at = if is_origin_well { now } else { now + self.retry_after(attempts) };
        let (first, second) = keys.split_at(keys.len().div_ceil(2));
        match &mut self.family {
            Some((family, parts)) if *family == kin.family => *parts += 1,
            None if !is_origin_well => self.family = Some((kin.family, 2)),
            _ => {}
        }
        self.part(at, first.to_vec(), kin);
        self.part(at, second.to_vec(), kin);
    }

    fn part(&mut self, at: Instant, keys: Vec<Key>, origin: Kin) {
        if keys.is_empty() {
            return self.part_is_done(origin);
        }
        let ticket = self.ticket(at);
        for key in &keys {
            if let Some(pending) = self.keys.get_mut(key) {
                pending.phase = Phase::InPart(ticket);
            }
        }
        self.parts.insert(ticket, Part { keys, origin });
    }

    /// A part of a batch does not have to be taken apart any further.
    fn part_is_done(&mut self, kin: Kin) {
        if let Some((family, parts)) = &mut self.family
            && *family == kin.family
        {
            *parts -= 1;
            if *parts == 0 {
                self.family = None;
            }
        }
    }

    /// How often the key had failed before, if it is to be tried again.
    fn count_failure(&mut self, key: &Key) -> Option<u32> {
        let pending = self.keys.get_mut(key)?;
        if pending.is_released {
            self.keys.remove(key);
            return None;
        }
        if pending.attempts == 0 {
            pending.failed_at = self.successes;
        }
        // The next try takes the newest.
        pending.newer_since = None;
        pending.attempts += 1;
        Some(pending.attempts - 1)
    }

    /// Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): anything up to a bound that doubles.
    fn retry_after(&mut self, attempts: u32) -> Duration {
        let bound = RETRY_MIN.saturating_mul(1 << attempts.min(16)).min(RETRY_MAX);
        bound.mul_f64(self.random.f64())
    }

    /// When something becomes due next.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        let part = self.parts.keys().next();
        let gathered = self.gathering.keys().next();
        let (at, _) = part.into_iter().chain(gathered).min()?;
        (!self.has_ended).then_some(*at)
    }

    /// Flushes everything without delay from now on, and begins nothing after `until`.
    pub fn drain(&mut self, now: Instant, until: Instant) {
        self.draining_until = Some(until);
        for (_, key) in std::mem::take(&mut self.gathering) {
            let ticket = self.ticket(now);
            if let Some(pending) = self.keys.get_mut(&key) {
                pending.phase = Phase::Gathering(ticket);
                self.gathering.insert(ticket, key);
            }
        }
        for (_, Part { keys, origin }) in std::mem::take(&mut self.parts) {
            let is_waiting =
                |key: &Key| self.keys.get(key).is_some_and(|pending| matches!(pending.phase, Phase::InPart(_)));
            let keys = keys.into_iter().filter(is_waiting).collect();
            self.part(now, keys, origin);
        }
    }

    /// Another node is to flush this slot from now on: what waits is forgotten, what is under way goes on to its end and no further.
    /// Gives back how many flushes that are.
    pub fn release(&mut self, slot: Slot) -> usize {
        self.release_all(|other| other == slot)
    }

    /// The same, of all slots that `is_released` says.
    pub fn release_all(&mut self, is_released: impl Fn(Slot) -> bool) -> usize {
        let mut under_way = 0;
        let gathering = &mut self.gathering;
        self.keys.retain(|_, pending| {
            if !is_released(pending.slot) {
                return true;
            }
            match pending.phase {
                Phase::Gathering(ticket) => {
                    gathering.remove(&ticket);
                    false
                }
                Phase::InPart(_) => false,
                Phase::Flushing(_) | Phase::Settling(_) => {
                    pending.is_released = true;
                    under_way += 1;
                    true
                }
            }
        });
        under_way
    }

    /// Flushes of this slot that are not at their end.
    #[must_use]
    pub fn under_way(&self, slot: Slot) -> usize {
        self.under_way_of(|other| other == slot)
    }

    /// The same, of all slots that `is_asked` says.
    #[must_use]
    pub fn under_way_of(&self, is_asked: impl Fn(Slot) -> bool) -> usize {
        let is_under_way = |phase: &Phase| matches!(phase, Phase::Flushing(_) | Phase::Settling(_));
        self.keys.values().filter(|pending| is_asked(pending.slot) && is_under_way(&pending.phase)).count()
    }

    /// Keys that have anything to be flushed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is nothing to be flushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// When a change that came at `since` is due.
    fn gathered_at(&mut self, since: Instant) -> Instant {
        if self.draining_until.is_some() {
            return since;
        }
        let began = *self.began.get_or_insert(since);
        let due = since + self.write_delay;
        let part = delay_part(self.write_delay).as_nanos();
        let over = due.saturating_duration_since(began).as_nanos().checked_rem(part).unwrap_or_default();
        // Less than a part.
        if over == 0 { due } else { due + Duration::from_nanos(u64::try_from(part - over).unwrap_or_default()) }
    }

    fn ticket(&mut self, at: Instant) -> Ticket {
        (at, self.next_number())
    }

    fn next_number(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}

#[cfg(test)]
mod tests;
