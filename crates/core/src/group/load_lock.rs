//! Load locks: one load of a key in the whole cluster, also while nodes disagree on who owns it.
//!
//! Among nodes that share a view a flight is enough. Where views differ, two nodes may take themselves for a key's owner, and each would
//! load it. With `load_lock` the loader takes the key's lock first, and then looks whether another has loaded the key meanwhile: in its own store,
//! and at who had the lock before, or who else may. The lock is let go once the value is in the store, so that whoever has it next finds it.
//!
//! What another node holds was loaded under another view, and writes that this node acknowledged may be later. So nothing is taken that
//! is older than `hot_lease` was when the flight began: that is how old an answer may be while views differ.
//!
//! A lock service that is away costs loads and no answers, unless the group is strict about it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, timeout};

use super::{Fetched, Group, Inner, Landing, handoff::Handed, load::Role};
use crate::{
    Error, ErrorKind, Key, LockGuard, Moment, Version,
    link::Peer,
    lock::{LOCK_NAME_LEN_MAX, LOCK_WAIT_MAX},
    peer::{AskedAs, PeerAnswer},
    placement::Slot,
    stats::{LoadLockResult, Source},
};

/// How long a load's lock lasts if its node vanishes: the shortest that Consul grants.
const LOAD_LOCK_TTL: Duration = Duration::from_secs(10);

/// How long the lock service may take to answer, beyond what it is to wait: it is asked for every load.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// For how long a lock service that failed is not asked, where loads go on without it: else each would wait for it.
const AWAY_FOR: Duration = Duration::from_secs(1);

/// How long who may have the value is waited for: it has only to look.
const PEEK_WAIT: Duration = Duration::from_millis(50);

/// The same for who had the lock before, and has it most likely: long enough for a link to be made.
const HOLDER_PEEK_WAIT: Duration = Duration::from_millis(500);

/// The most nodes that are asked where it is not known who had the lock before: with more members, some are not.
const PEEKS_MAX: usize = 8;

/// The longest name and address of a node that a lock is told, in bytes.
const NOTE_LEN_MAX: usize = 1_024;

/// Whether loads are made under a lock.
///
/// ```
/// use larder_core::group::LoadLock;
///
/// assert_eq!(LoadLock::default(), LoadLock::Off);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LoadLock {
    /// They are not.
    #[default]
    Off,
    /// They are, and go on without one where the lock service is away.
    On,
    /// They are, and fail where the lock service is away.
    Strict,
}

/// What a group remembers of the lock service.
#[derive(Default)]
pub(super) struct LoadLocks {
    /// It is not asked until then, in nanoseconds of the clock.
    away_until: AtomicU64,
}

/// A lock that a load has.
pub(super) struct Locked(LockGuard);

impl Group {
    /// Takes the lock of a key for its load. `None`: it is to go on without one.
    pub(super) async fn lock_load(&self, key: &Key) -> Result<Option<Locked>, Error> {
        let Inner { load_locks, settings, stats, .. } = &*self.0;
        let (load_lock, hard_timeout) = {
            let config = settings.get();
            (config.load_lock, config.hard_timeout)
        };
        let is_strict = match load_lock {
            LoadLock::Off => return Ok(None),
            LoadLock::On => false,
            LoadLock::Strict => true,
        };
        let is_away = self.now().as_nanos() < load_locks.away_until.load(Ordering::Relaxed);
        let taken = if is_away && !is_strict { Err(None) } else { self.take_lock(key, hard_timeout).await };
        let why = match taken {
            Ok(guard) => {
                stats.load_locks.of(LoadLockResult::Taken).add(1);
                return Ok(Some(Locked(guard)));
            }
            Err(why) => why,
        };
        if let Some(error) = &why
            && error.is_retryable()
            && error.kind() != ErrorKind::TimedOut
        {
            tracing::debug!(group = %self.name(), %error, "no lock for a load");
            load_locks.away_until.store((self.now() + AWAY_FOR).as_nanos(), Ordering::Relaxed);
        }
        if !is_strict {
            stats.load_locks.of(LoadLockResult::Bypassed).add(1);
            return Ok(None);
        }
        stats.load_locks.of(LoadLockResult::Refused).add(1);
        let why = why.map_or_else(|| "there is no lock service".to_owned(), |error| error.message().to_owned());
        let message = format!("the key is loaded under a lock only, and that can't be had: {why}");
        Err(Error::new(ErrorKind::NoAuthority, message).with_retry_after(Duration::from_secs(1)))
    }

    /// Takes the lock, within the time that another's load may take. `Err(None)`: nobody keeps locks here.
    async fn take_lock(&self, key: &Key, hard_timeout: Duration) -> Result<LockGuard, Option<Error>> {
        let Some(locks) = self.0.node.load_locks() else { return Err(None) };
        let acquire = async |wait| {
            let note = self.0.node.note();
            let lock = locks.lock(lock_name(self.name(), key)).ttl(LOAD_LOCK_TTL).wait(wait).note(note);
            let silent = |_| Error::new(ErrorKind::OwnerUnreachable, "the lock service does not answer");
            timeout(wait + ANSWER_TIME_MAX, lock.try_acquire()).await.map_err(silent)?
        };
        // Without a wait at first: a service that can't grant any says so at once.
        if let Some(guard) = acquire(Duration::ZERO).await.map_err(Some)? {
            return Ok(guard);
        }
        let guard = acquire(hard_timeout.min(LOCK_WAIT_MAX)).await.map_err(Some)?;
        guard.ok_or_else(|| Some(Error::timed_out("another node loaded the key")))
    }

    /// Asks who may have loaded a key meanwhile, for what it has that is no older than `hot_lease` was at `since`.
    pub(super) async fn peek_others(&self, key: &Key, slot: Slot, locked: &Locked, since: Moment) -> Option<Handed> {
        // What other nodes hold proves nothing.
        if self.is_strong() {
            return None;
        }
        let (others, wait) = self.others(key, slot, locked.0.note_before()).await;
        let age_max = self.0.settings.get().hot_lease + self.now().since(since);
        let told = self.now();
        let deadline = Instant::now() + wait;
        let mut asked: FuturesUnordered<_> =
            others.iter().map(|peer| peer.get(self.question(key, AskedAs::Another, deadline))).collect();
        while let Some(answer) = asked.next().await {
            if let Ok(PeerAnswer::Found { value, meta: Some(meta), .. }) = answer
                && meta.age <= age_max
            {
                self.0.stats.load_locks.of(LoadLockResult::Found).add(1);
                return Some(Handed { value, meta, told, term: Version::ZERO });
            }
        }
        None
    }

    /// Who may have loaded a key: who had the lock before, or, where that is not known, the first of the other members.
    async fn others(&self, key: &Key, slot: Slot, before: &Bytes) -> (Vec<Arc<Peer>>, Duration) {
        let node = &self.0.node;
        if let Some((name, address)) = parse_note(before) {
            let is_other = name != &**node.name();
            let holder = if is_other { node.reach_at(name, address) } else { None };
            return (holder.into_iter().collect(), HOLDER_PEEK_WAIT);
        }
        let view = node.view();
        let stand_in = view.stand_in(slot, key.as_bytes()).map(|member| member.name.clone());
        let mut others: Vec<Arc<Peer>> = view.peers().filter(|peer| peer.is_admitted()).cloned().collect();
        // Who owns the key in a view without this node stands in for it in this one.
        others.sort_by_key(|peer| Some(&peer.member().name) != stand_in.as_ref());
        others.truncate(PEEKS_MAX);
        (others, PEEK_WAIT)
    }

    /// The end of a flight that found the value at another node that had loaded it.
    pub(super) fn landing_found(&self, key: &Key, slot: Slot, role: Role, found: Handed, attached: bool) -> Landing {
        let Inner { stats, node, unsettled, .. } = &*self.0;
        stats.loads.of(Source::Peer).add(1);
        let keeps = attached && role == Role::Owner && unsettled.is_settled(key, || self.now());
        let stored = keeps && self.install(key, slot, &found);
        let Handed { value, meta, told, .. } = found;
        Landing::Fetched(Fetched {
            value,
            version: Some(meta.version),
            load_start: node.reading_before(meta.age),
            fresh_until: meta.ttl_left.map_or(Moment::NEVER, |left| told + left),
            source: Source::Peer,
            stored,
        })
    }
}

/// What the lock of a key's load is called; one that is too long is cut, and told apart by its checksum. Locks that users take have other
/// names, unless they begin with a zero byte too.
fn lock_name(group: &str, key: &Key) -> Vec<u8> {
    const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_XZ);
    let mut name = [b"\0load\0", group.as_bytes(), b"\0", key.as_bytes()].concat();
    if name.len() > LOCK_NAME_LEN_MAX {
        let checksum = CRC.checksum(&name).to_be_bytes();
        name.truncate(LOCK_NAME_LEN_MAX - checksum.len());
        name.extend(checksum);
    }
    name
}

/// What a lock is told of who takes it for a load: its name, and where other nodes reach it.
pub(crate) fn note(name: &str, address: &str) -> Bytes {
    let note = format!("{name}\n{address}");
    let can_be = !address.is_empty() && !name.contains('\n') && note.len() <= NOTE_LEN_MAX;
    if can_be { note.into() } else { Bytes::new() }
}

fn parse_note(note: &Bytes) -> Option<(&str, &str)> {
    let (name, address) = std::str::from_utf8(note).ok()?.split_once('\n')?;
    (!name.is_empty() && !address.is_empty() && note.len() <= NOTE_LEN_MAX).then_some((name, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_different_keys_have_different_names_that_are_short_enough() {
        let names = [("a", "b"), ("ab", ""), ("a", "c"), ("b", "b")].map(|(group, key)| {
            let key = Key::copy_from(format!("{key}{}", "x".repeat(1_000)).as_bytes()).unwrap();
            lock_name(group, &key)
        });
        for (index, name) in names.iter().enumerate() {
            assert!(name.len() <= LOCK_NAME_LEN_MAX && !names[..index].contains(name));
        }
        let long = |last: u8| Key::copy_from(&[&[b'x'; 1_023][..], &[last]].concat()).unwrap();
        assert_ne!(lock_name("g", &long(1)), lock_name("g", &long(2)));
        assert_eq!(lock_name("g", &long(1)).len(), LOCK_NAME_LEN_MAX);
    }

    #[test]
    fn a_note_says_who_and_where_or_nothing() {
        assert_eq!(parse_note(&note("a", "10.0.0.1:5274")), Some(("a", "10.0.0.1:5274")));
        for nothing in [note("a", ""), note("a\nb", "10.0.0.1:5274"), note("a", &"x".repeat(NOTE_LEN_MAX))] {
            assert!(nothing.is_empty());
        }
        for strange in [&b"\xff\n1"[..], b"", b"a", b"\na", b"a\n"] {
            assert_eq!(parse_note(&Bytes::copy_from_slice(strange)), None);
        }
    }
}
