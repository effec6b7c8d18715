//! [`Registrant`]: a membership made of a [`Registry`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use larder_core::{Clock, Error, Member, MemberState, Members, Membership, Moment, Proof, membership::LOOK_TIME_MAX};
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Failure, LEASE_TTL_MAX, LEASE_TTL_MIN, Registry,
    keeper::{Keeper, Outcome, Wish},
    listing::{Listing, Verdict},
};
use crate::backoff::Backoff;

/// How often all members are read where nothing hints at a change (rule A2).
const READ_EVERY: Duration = Duration::from_secs(1);

/// The same for short leases: a proof must not run out before the next one comes, also if one read is lost.
const READS_PER_LEASE: u32 = 4;

/// The least time between two reads that hints ask for, so that a burst of changes is a few reads and not one each.
const HINTED_READS_PAUSE: Duration = Duration::from_millis(20);

/// The longest wait before a registry that is away is tried again. Well below a third of the shortest lease, so that
/// entries are renewed in time once it is back.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How long leaving may take: a registry that is well needs milliseconds, and one that is away is not waited for.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(2);

/// A membership in which this node has an entry in a registry that it keeps alive: `Etcd` is one, and `Consul`, where it is told
/// how they are begun. Its tasks end with it; its entry then ends with its lease.
pub struct Registrant<R> {
    shared: Arc<Shared<R>>,
    _tasks: JoinSet<()>,
}

/// What the tasks of a registrant share.
pub(super) struct Shared<R> {
    pub(super) registry: R,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lease_ttl: Duration,
    /// What people call the registry, for the log.
    pub(super) kind: &'static str,
    members: watch::Sender<Members>,
    proof: watch::Sender<Option<Proof>>,
    pub(super) wishes: watch::Sender<Wish>,
    pub(super) outcome: watch::Sender<Outcome>,
    /// Held for the time of a read, so that reads are judged in the order in which they were sent.
    listing: AsyncMutex<Listing>,
    pub(super) entry: Mutex<Entry>,
    /// A read showed that the entry is missing.
    pub(super) entry_missed: Notify,
    /// Counts reads that showed something else than the one before.
    changes: watch::Sender<u64>,
    seed: AtomicU64,
}

/// What this node knows of its own entry.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Entry {
    /// Since when it is there.
    pub(super) since: Option<Moment>,
    /// It was found missing, and reads have not been told yet.
    pub(super) was_lost: bool,
}

impl<R: Registry> Registrant<R> {
    /// Begins to follow the registry. `me` is what this node says of itself; its entry is made when a state is announced.
    /// `seed` is the start of what chance decides.
    pub(crate) fn of(
        registry: R,
        kind: &'static str,
        me: Member,
        lease_ttl: Duration,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Result<Self, Error> {
        let me = Member { state: MemberState::Joining, ..me };
        let alone = Members::new([me.clone()])?;
        let lease_ttl = lease_ttl.clamp(LEASE_TTL_MIN, LEASE_TTL_MAX);
        let shared = Arc::new(Shared {
            registry,
            clock,
            lease_ttl,
            kind,
            members: watch::Sender::new(alone.clone()),
            proof: watch::Sender::new(None),
            wishes: watch::Sender::default(),
            outcome: watch::Sender::default(),
            listing: AsyncMutex::new(Listing::new(&me, lease_ttl, alone)),
            entry: Mutex::default(),
            entry_missed: Notify::new(),
            changes: watch::Sender::default(),
            seed: AtomicU64::new(seed),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Keeper::new(shared.clone(), me).keep());
        tasks.spawn(shared.clone().read_again_and_again());
        tasks.spawn(shared.clone().follow_hints());
        Ok(Self { shared, _tasks: tasks })
    }
}

impl<R: Registry> Membership for Registrant<R> {
    fn members(&self) -> watch::Receiver<Members> {
        self.shared.members.subscribe()
    }

    fn announce(&self, state: MemberState) -> BoxFuture<'_, Result<(), Error>> {
        let number = self.shared.wish(Some(state));
        Box::pin(self.shared.outcome_of(number))
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        let number = self.shared.wish(None);
        self.shared.proof.send_replace(None);
        Box::pin(async move {
            // Who is not off by then is off when the lease ends.
            let _in_time = timeout(LEAVE_TIME_MAX, self.shared.outcome_of(number)).await;
        })
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let asked = self.shared.clock.now();
            // What could not be found out by then is found out by the reads that follow.
            let _in_time = timeout(LOOK_TIME_MAX, self.shared.read_since(asked)).await;
        })
    }

    fn authority(&self) -> Option<watch::Receiver<Option<Proof>>> {
        Some(self.shared.proof.subscribe())
    }
}

impl<R: Registry> Shared<R> {
    /// Has the keeper do it, and tells the wish's number.
    fn wish(&self, state: Option<MemberState>) -> u64 {
        let mut number = 0;
        self.wishes.send_modify(|wish| {
            *wish = Wish { number: wish.number + 1, state };
            number = wish.number;
        });
        number
    }

    /// What came of a wish, or of a later one.
    async fn outcome_of(&self, number: u64) -> Result<(), Error> {
        let mut outcomes = self.outcome.subscribe();
        let outcome = outcomes.wait_for(|outcome| outcome.number >= number).await;
        // The sender is there as long as this is.
        outcome.map_or(Ok(()), |outcome| outcome.result.clone())
    }

    /// Waits for the next try, in each task from another start of chance.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(PAUSE_MAX, self.seed.fetch_add(1, Ordering::Relaxed))
    }

    async fn read_again_and_again(self: Arc<Self>) {
        let mut backoff = self.backoff();
        let mut is_away = false;
        loop {
            let asked = self.clock.now();
            let pause = match self.read_since(asked).await {
                Ok(()) => {
                    if is_away {
                        tracing::info!("{} answers again", self.kind);
                    }
                    is_away = false;
                    backoff.reset();
                    let every = READ_EVERY.min(self.lease_ttl / READS_PER_LEASE);
                    every.saturating_sub(self.clock.now().since(asked))
                }
                Err(failure) => {
                    if !is_away {
                        tracing::warn!("{} can't be read, the last list of members stands: {failure}", self.kind);
                    }
                    is_away = true;
                    backoff.next()
                }
            };
            sleep(pause).await;
        }
    }

    /// Reads when the registry hints at a change.
    async fn follow_hints(self: Arc<Self>) {
        let mut backoff = self.backoff();
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let answered = self.listing.lock().await.answered().map(|(_, shown)| shown.rank());
            let hint = async {
                match answered {
                    Some(rank) => self.registry.changed(rank).await,
                    None => std::future::pending().await,
                }
            };
            let hinted = tokio::select! {
                hinted = hint => hinted,
                // Somebody else found the change: the hint is late, or nobody will ever give it.
                _ = changes.changed() => Ok(()),
            };
            let read = match hinted {
                Ok(()) => self.read_since(self.clock.now()).await,
                failed => failed,
            };
            let pause = match read {
                Ok(()) => {
                    backoff.reset();
                    HINTED_READS_PAUSE
                }
                Err(_) => backoff.next(),
            };
            sleep(pause).await;
        }
    }

    /// Reads all members, unless somebody has in a read that was sent after this moment.
    async fn read_since(&self, moment: Moment) -> Result<(), Failure> {
        let mut listing = self.listing.lock().await;
        if listing.answered().is_some_and(|(sent, _)| *sent > moment) {
            return Ok(());
        }
        let sent = self.clock.now();
        listing.note_running(sent);
        let read = self.registry.read().await;
        let now = self.clock.now();
        listing.note_running(now);
        let read = read?;
        let mut entry = self.entry.lock();
        if std::mem::take(&mut entry.was_lost) {
            listing.doubt(now);
        }
        let Verdict { members, proof, am_listed, is_change } = listing.judge(sent, now, read, entry.since);
        if !am_listed && entry.since.is_some_and(|since| since < sent) {
            entry.since = None;
            self.entry_missed.notify_one();
        }
        drop(entry);
        // The list before its proof (rule A2).
        self.members.send_if_modified(|present| {
            let is_change = *present != members;
            *present = members;
            is_change
        });
        // Asked behind the lock of the proof, so that none comes after a node has said that it leaves.
        self.proof.send_modify(|present| *present = proof.filter(|_| !self.wishes.borrow().is_to_leave()));
        if is_change {
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(())
    }
}
