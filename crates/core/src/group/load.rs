//! Loads: what a flight to the origin does, as the key's owner or in its place.

use std::{pin::pin, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use super::{
    Boarded, Fetched, Group, Landing, LoadLock,
    behind::not_covered,
    boarded,
    handoff::{Handed, Peeked},
    origin::Brought,
    proven::no_authority,
    unreachable,
};
use crate::{
    Error, Key, Moment, Value,
    behind::{Covers, Record},
    claim::Phase,
    flight::Leader,
    placement::Slot,
    stats::Source,
    store::{Hit, Inserted, Meta, Tier},
    version::Reading,
    view::Place,
};

/// In which part a node loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The key's owner: keeps the value as long as the group says.
    Owner,
    /// The stand-in of an owner that can't be reached: keeps it for `hot_lease` at most (rule S1).
    StandIn,
    /// Asked for a key that isn't its own, over a transport whose askers can't be told so: keeps nothing.
    Other,
}

/// A flight to the origin that is led here.
pub(super) struct Led {
    pub(super) leader: Leader<Landing>,
    pub(super) key: Key,
    pub(super) slot: Slot,
}

/// What a flight's work brings.
enum Brings {
    /// Its end.
    Landing(Landing),
    /// What the node that had the slot before held.
    Handed(Handed),
    /// What its owner has taken down and the origin does not have yet.
    Recorded(Start, Record),
    /// What another node that may load the key had loaded.
    Found(Handed),
    /// What the origin said.
    Loaded(Start, Result<Brought, Error>),
}

/// When a load began, on both clocks.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) moment: Moment,
    pub(super) reading: Reading,
    /// Until when what it brings may be answered with.
    until: Moment,
}

impl Group {
    /// Joins the load of a key, or leads one.
    pub(super) fn board_load(&self, key: &Key, slot: Slot, role: Role, deadline: Instant) -> Result<Boarded, Error> {
        let (leader, boarded) = boarded(self.0.loads.board(key, deadline))?;
        if let Some(leader) = leader {
            let led = Led { leader, key: key.clone(), slot };
            tokio::spawn(self.clone().load(led, role, None));
        }
        Ok(boarded)
    }

    /// Loads a key anew while `hit` is served, unless that is under way.
    pub(super) fn refresh_behind(&self, key: &[u8], hit: &Hit) {
        let Ok(key) = Key::copy_from(key) else { return };
        let hard = Instant::now() + self.0.settings.get().hard_timeout;
        if let Ok((Some(leader), Boarded { waiter, .. })) = boarded(self.0.loads.board(&key, hard)) {
            let led = Led { leader, key, slot: hit.meta().slot };
            let load = self.clone().load(led, Role::Owner, Some(hit.meta().load_start));
            tokio::spawn(async move {
                // A refresh is an ordinary flight; this is the one who waits for it.
                let _served_from_the_store = tokio::join!(load, waiter.wait());
            });
        }
    }

    /// A flight's work: clearance, the slot's claim, a second look, the node that had the slot before, the load's lock, the origin, the
    /// landing.
    /// `older` is the load start of the value that this load is to renew, if it is to renew one that is still fresh.
    async fn load(self, led: Led, role: Role, older: Option<Reading>) {
        let Led { leader, key, slot } = led;
        let began = self.now();
        // Let go after the landing, so that who has it next finds what landed.
        let mut lock = None;
        let mut covers = None;
        let work = async {
            if role == Role::Owner {
                let latest = leader.deadline().unwrap_or_else(Instant::now);
                if let Err(error) = self.proven(slot, key.as_bytes(), latest).await {
                    return Brings::Landing(self.failed(error));
                }
                self.0.node.known(slot).await;
                // What may be elsewhere is not "not found".
                if !self.has_origin() && self.0.node.phase(slot, key.as_bytes()) == Phase::Reads {
                    self.0.node.acts(slot, key.as_bytes()).await;
                }
                if let Err(error) = self.knows_records(slot, key.as_bytes(), latest).await {
                    return Brings::Landing(self.failed(error));
                }
            } else if self.writes_behind() {
                covers = self.covers(slot, role);
                if covers.is_none() {
                    return Brings::Landing(self.failed(not_covered()));
                }
            }
            let until = covers.as_ref().map_or(Moment::NEVER, |covers| covers.until);
            if let Some(landing) = self.ready(&key, slot, role, older) {
                return Brings::Landing(landing);
            }
            // Before anybody else is asked (rule B3).
            let start = self.start();
            match self.record_of(&key).await {
                // One that was kept for another has been overtaken: whoever had it told the owner of it.
                Ok(Some(record)) if covers.as_ref().is_some_and(|covers| !covers.has(&record)) => {
                    return Brings::Landing(self.failed(not_covered()));
                }
                Ok(Some(record)) => return Brings::Recorded(start, record),
                Ok(None) => {}
                Err(error) => return Brings::Landing(self.failed(error)),
            }
            if role == Role::Owner && older.is_none() {
                match self.peek_before(&key, slot).await {
                    Peeked::Found(handed) => return Brings::Handed(handed),
                    // What may be elsewhere is not "not found".
                    Peeked::Unknown if !self.has_origin() => {
                        let message = "the node that had the key before takes too long to say what it has: try again";
                        return Brings::Landing(self.failed(unreachable(message)));
                    }
                    Peeked::Closed | Peeked::NotHeld | Peeked::Unreached | Peeked::Unknown => {}
                }
            }
            if !self.has_origin() {
                return Brings::Landing(Landing::Fetched(self.nothing_fetched()));
            }
            match self.lock_load(&key).await {
                Ok(None) => {}
                Ok(Some(locked)) => {
                    let locked = lock.insert(locked);
                    // Whoever had it before may have brought the value here, or elsewhere.
                    if let Some(landing) = self.ready(&key, slot, role, older) {
                        return Brings::Landing(landing);
                    }
                    // What another has loaded since may be older than what this node has copies of.
                    if older.is_none()
                        && covers.is_none()
                        && let Some(found) = self.peek_others(&key, slot, locked, began).await
                    {
                        return Brings::Found(found);
                    }
                }
                Err(error) => return Brings::Landing(self.failed(error)),
            }
            let start = Start { until, ..self.start() };
            Brings::Loaded(start, self.ask_origin(&key).await)
        };
        let work = leader.unless_abandoned(work);
        let brought = if role == Role::Owner { work.await } else { self.closing_after_lease(&leader, work).await };
        let stood_still = role == Role::Owner && self.wake().await;
        let proven = |landing, attached: bool| match self.proven_landing(slot, role, covers.as_ref(), landing) {
            Landing::Fetched(_) if stood_still && !attached => Landing::Elsewhere,
            landing => landing,
        };
        match brought {
            None => {}
            Some(Brings::Landing(landing)) => leader.land(|attached| proven(landing, attached)),
            Some(Brings::Handed(handed)) => {
                leader.land(|attached| {
                    let landing = Landing::Fetched(self.landing_handed(&key, slot, handed, attached));
                    proven(landing, attached)
                });
            }
            Some(Brings::Recorded(start, record)) => {
                leader.land(|attached| {
                    let landing = self.landing_record((&key, slot, role), start, record, attached);
                    proven(landing, attached)
                });
            }
            Some(Brings::Found(found)) => {
                leader.land(|attached| {
                    let landing = self.landing_found(&key, slot, role, found, attached);
                    proven(landing, attached)
                });
            }
            Some(Brings::Loaded(start, loaded)) => {
                leader.land(|attached| {
                    let landing = self.landing(&key, slot, role, start, loaded, attached);
                    proven(landing, attached)
                });
            }
        }
    }

    /// Does a flight's work where this node is not the key's owner. What it brings may be as old as its beginning, and this node doesn't hear of
    /// what is written meanwhile: nobody joins it who comes later than `hot_lease` (rule S1).
    async fn closing_after_lease<T>(&self, leader: &Leader<Landing>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        match timeout(self.config().hot_lease, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                leader.seal();
                work.await
            }
        }
    }

    /// What a flight comes to, if this node could prove to the end that it has the key, where the group demands it (rule A2), and, as
    /// a stand-in, had all that was written: whoever joined it did so before (rule S1).
    fn proven_landing(&self, slot: Slot, role: Role, covers: Option<&Covers>, landing: Landing) -> Landing {
        match landing {
            Landing::Fetched(_) if role == Role::Owner && !self.is_proven(slot) => self.failed(no_authority()),
            Landing::Fetched(_) if covers.is_some_and(|covers| !self.0.node.still_covers(covers)) => {
                self.failed(not_covered())
            }
            landing => landing,
        }
    }

    /// What a group without an origin finds where there is nothing.
    fn nothing_fetched(&self) -> Fetched {
        let load_start = self.0.node.next_version().reading();
        let (value, version, fresh_until) = (None, None, Moment::NEVER);
        Fetched { value, version, load_start, fresh_until, source: Source::Origin, stored: false }
    }

    pub(super) async fn ask_origin(&self, key: &Key) -> Result<Brought, Error> {
        let Some(origin) = &self.0.origin else { return Ok(Brought { value: None, ttl: None }) };
        origin
            .load(key.clone(), self.previous(key), &self.config(), self.0.node.clock(), &self.0.stats.origin_load)
            .await
    }

    /// Loads the keys of several flights, in batches as large as the loader takes.
    pub(super) fn load_batch(&self, mut batch: Vec<Led>) {
        let len_max = self.0.origin.as_ref().map_or(1, |origin| origin.batch_len_max().max(1));
        while !batch.is_empty() {
            let rest = batch.split_off(batch.len().min(len_max));
            let mut part = std::mem::replace(&mut batch, rest);
            if part.len() > 1 {
                tokio::spawn(self.clone().load_together(part));
            } else if let Some(led) = part.pop() {
                tokio::spawn(self.clone().load(led, Role::Owner, None));
            }
        }
    }

    /// What [`load`](Self::load) does, for several flights in one request.
    async fn load_together(self, batch: Vec<Led>) {
        let mut ready = Vec::with_capacity(batch.len());
        for led in batch {
            // One that has to wait for clearance, or to look elsewhere first, would hold up all others: it goes on its own.
            let is_locked = self.0.settings.get().load_lock != LoadLock::Off;
            let is_settled = self.0.node.is_settled_at(led.slot)
                && self.is_proven(led.slot)
                && self.has_no_record(&led.key, led.slot)
                && !is_locked;
            if !is_settled || led.leader.cleared().now_or_never().is_none() {
                tokio::spawn(self.clone().load(led, Role::Owner, None));
            } else if let Some(landing) = self.ready(&led.key, led.slot, Role::Owner, None) {
                led.leader.land(|_| landing);
            } else {
                ready.push(led);
            }
        }
        if ready.is_empty() {
            return;
        }
        let start = self.start();
        let keys: Vec<Key> = ready.iter().map(|led| led.key.clone()).collect();
        let work = async {
            match (&self.0.origin, &keys[..]) {
                (_, [key]) => vec![self.ask_origin(key).await],
                (Some(origin), keys) => {
                    origin.load_many(keys, &self.config(), self.0.node.clock(), &self.0.stats.origin_load_many).await
                }
                (None, _) => Vec::new(),
            }
        };
        let loaded = tokio::select! {
            loaded = work => loaded,
            () = all_abandoned(&ready) => return,
        };
        let stood_still = self.wake().await;
        for (led, loaded) in ready.into_iter().zip(loaded) {
            let Led { leader, key, slot } = led;
            leader.land(|attached| {
                let landing = self.landing(&key, slot, Role::Owner, start, loaded, attached);
                if stood_still && !attached {
                    return Landing::Elsewhere;
                }
                self.proven_landing(slot, Role::Owner, None, landing)
            });
        }
    }

    /// This node is about to answer as the owner of what it has loaded (rule A1). If it was not sure that it is, others may have acted in its
    /// place, who joined the load meanwhile have to look for the owner again if so. Whether it was not.
    async fn wake(&self) -> bool {
        let node = &self.0.node;
        let is_sure = node.contact().is_sure(|| self.now());
        if !is_sure {
            node.awaken().await;
        }
        !is_sure
    }

    /// Why there is nothing to load after all, if so.
    ///
    /// The second look in the store: between this caller's first look and its boarding, another flight may have landed. And
    /// the look at the view comes after the boarding, so that a change of owner either shows here or finds this flight in
    /// the table and detaches it.
    fn ready(&self, key: &Key, slot: Slot, role: Role, older: Option<Reading>) -> Option<Landing> {
        let now = self.now();
        let is_its_part = match role {
            Role::Owner => {
                matches!(self.0.node.phase(slot, key.as_bytes()), Phase::Acts | Phase::Reads | Phase::Lingers)
            }
            Role::StandIn | Role::Other => !matches!(self.owner_place(slot, key.as_bytes()), Place::Mine),
        };
        if !is_its_part {
            return Some(Landing::Elsewhere);
        }
        let tier = match role {
            Role::Owner => Tier::Main,
            // What has been written since is in a record.
            Role::StandIn if self.newest_record(key).is_some() => return None,
            Role::StandIn => Tier::StandIn,
            Role::Other => return None,
        };
        let hit = self.0.store.peek(key.as_bytes(), now)?;
        let renewed = older.is_none_or(|older| hit.meta().load_start > older);
        let counts = hit.meta().tier == tier && (role != Role::Owner || self.counts(key.as_bytes(), &hit.meta()));
        (counts && now < hit.meta().fresh_until && renewed).then(|| {
            Landing::Fetched(Fetched {
                version: Some(hit.meta().version),
                load_start: hit.meta().load_start,
                fresh_until: hit.meta().fresh_until,
                value: hit.into_value(),
                source: source(role),
                stored: true,
            })
        })
    }

    fn start(&self) -> Start {
        Start { moment: self.now(), reading: self.0.node.next_version().reading(), until: Moment::NEVER }
    }

    /// What the store holds of the key, for an origin that can say that nothing changed.
    fn previous(&self, key: &Key) -> Option<Value> {
        let hit = self.0.store.peek(key.as_bytes(), self.now())?;
        hit.into_value().filter(|value| value.validator().is_some())
    }

    /// The end of a load: decides what is kept, keeps it, and says what the waiters get. Runs in one step with the end of the
    /// flight: `attached` says that nothing has overtaken the key until then.
    fn landing(
        &self,
        key: &Key,
        slot: Slot,
        role: Role,
        start: Start,
        brought: Result<Brought, Error>,
        attached: bool,
    ) -> Landing {
        let Brought { value, ttl } = match brought {
            Ok(brought) => brought,
            Err(error) => {
                self.count_failure(&error);
                return Landing::Failed(error);
            }
        };
        self.0.stats.loads.of(source(role)).add(1);
        let held = self.0.store.peek(key.as_bytes(), self.now()).filter(|hit| hit.meta().tier == Tier::Main);
        // A load that brings the same bytes keeps the version (rule V3).
        let same = held.filter(|hit| hit.clone().into_value() == value);
        let version = same.map_or_else(|| self.0.node.next_version(), |hit| hit.meta().version);
        let ttl = self.ttl(role, value.is_some(), ttl);
        let fresh_until = ttl.map_or(Moment::NEVER, |ttl| start.moment + ttl).min(start.until);
        let keep = attached
            && role != Role::Other
            && ttl != Some(Duration::ZERO)
            && self.newest_record(key).is_none()
            && self.0.unsettled.is_settled(key, || self.now());
        let stored = keep && {
            let is_shown_stale = value.is_some() && role == Role::Owner;
            let window = if is_shown_stale { self.0.settings.get().stale_window() } else { Duration::ZERO };
            let tier = if role == Role::Owner { Tier::Main } else { Tier::StandIn };
            let keep_until = fresh_until + window;
            let meta = Meta { slot, tier, version, load_start: start.reading, fresh_until, keep_until };
            matches!(self.0.store.insert(key.as_bytes(), value.clone(), meta), Inserted::Stored)
        };
        if attached && role == Role::Owner && !stored {
            // What this load has overtaken must not be served as stale later.
            self.0.store.remove(key.as_bytes());
        }
        Landing::Fetched(Fetched {
            value,
            version: Some(version),
            load_start: start.reading,
            fresh_until,
            source: source(role),
            stored,
        })
    }

    /// How long what was loaded is fresh, from the start of its load; `None`: without an end.
    pub(super) fn ttl(&self, role: Role, found: bool, said: Option<Duration>) -> Option<Duration> {
        let config = self.0.settings.get();
        let jittered = |ttl: Duration| ttl.mul_f64(1.0 - config.ttl_jitter * self.0.node.chance(fastrand::Rng::f64));
        let ttl = match said {
            Some(ttl) => Some(ttl),
            None if !found => Some(config.negative_ttl),
            None => config.ttl.map(jittered),
        };
        match role {
            Role::Owner | Role::Other => ttl,
            Role::StandIn => Some(ttl.map_or(config.hot_lease, |ttl| ttl.min(config.hot_lease))),
        }
    }
}

pub(super) fn source(role: Role) -> Source {
    match role {
        Role::Owner | Role::Other => Source::Origin,
        Role::StandIn => Source::StandIn,
    }
}

async fn all_abandoned(batch: &[Led]) {
    for led in batch {
        led.leader.abandoned().await;
    }
}
