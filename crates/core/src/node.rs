//! [`Node`]: what the groups of one node share: its name, its view of the cluster, its clocks and its chance.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use futures_util::{StreamExt, stream};
use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Clock, Error, ErrorKind, Loader, Locks, Member, Members, Membership, Moment, PeerService, Standing, Store,
    Transport, Version,
    authority::Authority,
    behind::Custody,
    claim::{Attendance, Contact, Phase, Tenure},
    group::{Group, GroupConfig, Writes},
    link::Peer,
    lock::Keeper,
    membership::LOOK_TIME_MAX,
    placement::Slot,
    rules::{Rule, keeps},
    serving::Serving,
    stats::{Counter, Protocol},
    version::Reading,
    view::{Place, Ring, View},
};

mod acquaintance;
mod locks;
mod records;

/// The most groups of one node.
pub const GROUPS_MAX: usize = 1024;

/// How long members may take to say who they are. One that is there takes milliseconds.
const MEETING_TIME_MAX: Duration = Duration::from_millis(250);

/// How soon after that those who have not said it are asked again.
const MEETING_PAUSE: Duration = Duration::from_millis(100);

/// How many members are asked at once who they are, each over a connection of its own.
const GREETINGS_MAX: usize = 32;

/// How soon after a look at the membership the next one is made: views that nobody has can be told by the thousand.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// How long copies may be kept elsewhere where no group says.
const HOT_LEASE: Duration = Duration::from_secs(1);

/// What a node is made of.
pub struct NodeConfig {
    /// Its name among the members.
    pub name: Arc<str>,
    /// Where clients reach its HTTP API, `host:port`, as other nodes are told; empty if it has none.
    pub http: Arc<str>,
    /// How keys are placed; the same on every node.
    pub ring: Ring,
    /// Tells this run of the node from its earlier ones and from all other nodes (rule V1).
    pub incarnation: u32,
    /// The start of everything that chance decides here.
    pub seed: u64,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// How other members are reached.
    pub transport: Arc<dyn Transport>,
}

/// A member of the cluster. Cheap to clone. Owns everything that its groups share: two of them in one process have nothing in
/// common. Programs start one through the crate `larder`, which adds the machine's clocks and the tasks that a node needs.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// # use std::sync::Arc;
/// use larder_core::{Group, GroupConfig, Member, Members, Node, NodeConfig, Ring};
/// # use larder_core::testing::{clock::TokioClock, fake_peer::FakeNetwork};
///
/// # fn main() -> Result<(), larder_core::Error> {
/// # let (clock, transport) = (Arc::new(TokioClock::new()), Arc::new(FakeNetwork::default()));
/// let (name, http) = ("a".into(), "10.0.0.1:5273".into());
/// let config = NodeConfig { name, http, ring: Ring::Slots, incarnation: 1, seed: 42, clock, transport };
/// let node = Node::new(config, Members::new([Member::new("a", "10.0.0.1:5274")])?)?;
/// let group: Group = node.open_group("plain", GroupConfig::default(), None)?;
/// assert_eq!(node.place("plain", b"k").owner.as_deref(), Some("a"));
/// # Ok(()) } main().unwrap(); }
/// ```
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    config: NodeConfig,
    standing: Arc<Standing>,
    view: ArcSwap<View>,
    /// Which slots it acts for.
    tenure: Tenure,
    /// The links to members that are none any more, and when they left: they may be claimed from.
    departed: Mutex<Vec<(Moment, Arc<Peer>)>>,
    /// The locks that it keeps.
    keeper: Keeper,
    /// What loads take their locks by.
    load_locks: OnceLock<Locks>,
    /// Links to nodes that are no members, by their addresses.
    strangers: Mutex<HashMap<Arc<str>, Arc<Peer>>>,
    /// When it last heard of another member.
    contact: Arc<Contact>,
    /// What it can prove.
    authority: Authority,
    /// Held while it asks whether its view stands.
    waking: Arc<tokio::sync::Mutex<()>>,
    /// Since when there are the members that there are, and which were sent away.
    attendance: Mutex<Attendance>,
    /// Members that came or began to serve, to be asked for what they acted for (rule W5).
    came: Mutex<Vec<Arc<str>>>,
    /// Members that are still to be asked: that did not answer, or were there before this node.
    unrecalled: Mutex<BTreeSet<Arc<str>>>,
    /// How many members have left, or started anew.
    departures: Counter,
    /// When this run of it began, if there were others then: what an earlier run lent them may be out. [`Moment::NEVER`]: there were none.
    began: Moment,
    /// What it knows of records of writes, if it keeps any.
    custody: OnceLock<Custody>,
    /// Who took this node's marks and is no member of its view yet, and when (rule T1).
    mark_takers: Mutex<HashMap<Arc<str>, Moment>>,
    /// Held while a view is put in the place of another.
    changing: Mutex<()>,
    view_changes: Counter,
    groups: RwLock<BTreeMap<Arc<str>, Group>>,
    /// When members were last asked who they are. Held while they are.
    last_meeting: tokio::sync::Mutex<Option<Instant>>,
    chance: Mutex<fastrand::Rng>,
}

/// Where a key belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyPlace {
    /// Its slot.
    pub slot: Slot,
    /// The name of its owner.
    pub owner: Option<Arc<str>>,
    /// The name of who answers while the owner can't be reached.
    pub stand_in: Option<Arc<str>>,
}

impl Node {
    /// A node whose first view has these members.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if a member's address can't be one.
    pub fn new(config: NodeConfig, members: Members) -> Result<Self, Error> {
        let mut chance = fastrand::Rng::with_seed(config.seed);
        let standing = Standing::new(config.name.clone(), config.incarnation, config.clock.clone());
        let standing = Arc::new(standing.with_http(config.http.clone()));
        config.transport.introduce(standing.clone());
        let contact = Arc::new(Contact::new());
        let view = View::new(members, &config.name, config.ring, 0, |member| {
            let client = config.transport.link(member)?;
            Ok(Arc::new(Peer::new(member.clone(), client, config.clock.clone(), contact.clone(), chance.u64(..))))
        })?;
        standing.set_view(view.digest(), view.members());
        let tenure = Tenure::new(&config.name);
        let now = config.clock.now();
        let mine = tenure.lose_all_but(|slot| view.is_mine(slot, &[]), now, Duration::ZERO);
        // After a start it may have been away, and its stand-in in its place (rule C1).
        let stand_in = |slot| view.stand_in(slot, &[]).map(|member| member.name.clone());
        let previous = |slot| if config.carries_claims() { stand_in(slot) } else { None };
        tenure.gain(&mine, previous, standing.next_version(), now, true);
        contact.has_others(config.carries_claims() && view.peers().next().is_some(), now);
        let mut attendance = Attendance::default();
        // Those that were there before it may have acted for anything, as one did to which all others were joining.
        let mut unrecalled: BTreeSet<Arc<str>> = attendance.take(view.members(), now).into_iter().collect();
        unrecalled.remove(&config.name);
        let keeper = Keeper::default();
        keeper.set_tag(attendance.rank(&config.name));
        let began = if view.peers().next().is_some() { now } else { Moment::NEVER };
        Ok(Self(Arc::new(Inner {
            departures: Counter::default(),
            began,
            mark_takers: Mutex::default(),
            custody: OnceLock::new(),
            standing,
            tenure,
            departed: Mutex::default(),
            keeper,
            load_locks: OnceLock::new(),
            strangers: Mutex::default(),
            authority: Authority::default(),
            contact,
            waking: Arc::default(),
            attendance: Mutex::new(attendance),
            came: Mutex::default(),
            unrecalled: Mutex::new(unrecalled),
            view: ArcSwap::from_pointee(view),
            changing: Mutex::default(),
            view_changes: Counter::default(),
            groups: RwLock::default(),
            last_meeting: tokio::sync::Mutex::default(),
            chance: Mutex::new(chance),
            config,
        })))
    }

    /// Its name among the members.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0.config.name
    }

    /// What it tells other nodes of itself.
    #[must_use]
    pub fn standing(&self) -> &Arc<Standing> {
        &self.0.standing
    }

    /// Its clocks.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.0.config.clock
    }

    /// The view as it is now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.0.view.load_full()
    }

    #[inline]
    pub(crate) fn peek_view(&self) -> Guard<Arc<View>> {
        self.0.view.load()
    }

    /// Which slots it acts for.
    #[inline]
    pub(crate) fn tenure(&self) -> &Tenure {
        &self.0.tenure
    }

    /// Whether slots are claimed before they are acted for.
    pub(crate) fn carries_claims(&self) -> bool {
        self.0.config.carries_claims()
    }

    /// Whether it answers for a key.
    #[inline]
    pub(crate) fn phase(&self, slot: Slot, key: &[u8]) -> Phase {
        match self.0.config.ring {
            Ring::Slots => self.0.tenure.phase(slot),
            Ring::Groupcache if self.peek_view().is_mine(slot, key) => Phase::Acts,
            Ring::Groupcache => Phase::Away,
        }
    }

    /// Whether it acts for a key and is sure of that: what it does as the key's owner counts (rule A1).
    pub(crate) fn acts_now(&self, slot: Slot, key: &[u8]) -> bool {
        self.phase(slot, key) == Phase::Acts && self.contact().is_sure(|| self.clock().now())
    }

    /// Whether it acts for a slot, and has all that there is of it.
    #[inline]
    pub(crate) fn is_settled_at(&self, slot: Slot) -> bool {
        self.0.config.ring == Ring::Groupcache || self.0.tenure.is_settled_at(slot)
    }

    /// Waits until it is known whether it answers for a slot.
    pub(crate) async fn known(&self, slot: Slot) {
        self.awaken().await;
        if self.0.config.ring == Ring::Slots {
            self.0.tenure.known(slot, self.clock()).await;
        }
    }

    /// Waits until it acts for a key, or another node does. Whether it does.
    pub(crate) async fn acts(&self, slot: Slot, key: &[u8]) -> bool {
        self.awaken().await;
        match self.0.config.ring {
            Ring::Slots => self.0.tenure.acts(slot).await,
            Ring::Groupcache => self.phase(slot, key) == Phase::Acts,
        }
    }

    /// Who is to be asked for a key: its owner, or who has the slot of what is this node's own.
    pub(crate) fn owner_place(&self, slot: Slot, key: &[u8]) -> Place {
        let view = self.peek_view();
        let place = view.owner_place(slot, key);
        match (&place, self.phase(slot, key)) {
            (Place::Mine, Phase::Away) => {
                let other = self.0.tenure.elsewhere(slot);
                other.and_then(|other| view.peer(&other).cloned()).map_or(Place::Mine, Place::At)
            }
            (_, Phase::Lingers) => Place::Mine,
            _ => place,
        }
    }

    /// The same, but for who goes on answering though its view says that another is the owner.
    pub(crate) fn owner_place_by_view(&self, slot: Slot, key: &[u8]) -> Place {
        match self.phase(slot, key) {
            Phase::Lingers => self.peek_view().owner_place(slot, key),
            _ => self.owner_place(slot, key),
        }
    }

    /// The link to a member, or to one that was until the view changed last.
    pub(crate) fn reach(&self, name: &str) -> Option<Arc<Peer>> {
        let departed = || {
            let departed = self.0.departed.lock();
            departed.iter().rev().find(|(_, peer)| *peer.member().name == *name).map(|(_, peer)| peer.clone())
        };
        self.peek_view().peer(name).cloned().or_else(departed)
    }

    /// The longest time for which any of its groups lets copies be kept elsewhere.
    pub(crate) fn hot_lease(&self) -> Duration {
        self.0.groups.read().values().map(|group| group.config().hot_lease).max().unwrap_or(HOT_LEASE)
    }

    /// How often the view has changed.
    #[must_use]
    pub fn view_changes(&self) -> u64 {
        self.0.view_changes.sum()
    }

    /// The next version.
    pub(crate) fn next_version(&self) -> Version {
        self.0.standing.next_version()
    }

    /// The clock reading that belongs to a load that began `age` ago.
    pub(crate) fn reading_before(&self, age: Duration) -> Reading {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Reading::from_bits(self.clock().wall_ms().saturating_sub(age_ms) << 16)
    }

    pub(crate) fn chance<R>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> R) -> R {
        draw(&mut self.0.chance.lock())
    }

    /// Where a key of a group belongs.
    #[must_use]
    pub fn place(&self, group: &str, key: &[u8]) -> KeyPlace {
        let slot = Slot::of(group, key);
        let view = self.peek_view();
        let name = |member: Option<&Member>| member.map(|member| member.name.clone());
        KeyPlace { slot, owner: name(view.owner(slot, key)), stand_in: name(view.stand_in(slot, key)) }
    }

    /// Opens a group. Without a loader it holds what is put into it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the name is not `[a-z0-9][a-z0-9_-]{0,63}` or taken, or a setting is impossible, or there
    /// are [`GROUPS_MAX`] groups.
    pub fn open_group(&self, name: &str, config: GroupConfig, loader: Option<Arc<dyn Loader>>) -> Result<Group, Error> {
        self.open_group_over(name, config, loader, Writes::None)
    }

    /// Opens a group whose puts and deletes are written to `store` before they are acknowledged.
    ///
    /// # Errors
    ///
    /// As for [`open_group`](Self::open_group).
    pub fn open_group_through(
        &self,
        name: &str,
        config: GroupConfig,
        loader: Arc<dyn Loader>,
        store: Arc<dyn Store>,
    ) -> Result<Group, Error> {
        self.open_group_over(name, config, Some(loader), Writes::Through(store))
    }

    fn open_group_over(
        &self,
        name: &str,
        config: GroupConfig,
        loader: Option<Arc<dyn Loader>>,
        writes: Writes,
    ) -> Result<Group, Error> {
        check_group_name(name)?;
        config.check()?;
        let name: Arc<str> = Arc::from(name);
        let mut groups = self.0.groups.write();
        if groups.contains_key(&name) {
            return Err(Error::new(ErrorKind::Invalid, format!("group {name:?} is open already")));
        }
        if groups.len() >= GROUPS_MAX {
            return Err(Error::new(ErrorKind::Invalid, format!("{GROUPS_MAX} groups are open: that is the most")));
        }
        self.0.contact.lease(config.hot_lease);
        let group = Group::new(self.clone(), name.clone(), config, loader, writes);
        groups.insert(name, group.clone());
        Ok(group)
    }

    /// Lets go of its groups, which hold it: for tests that make thousands of nodes.
    #[cfg(test)]
    pub(crate) fn close(&self) {
        self.0.groups.write().clear();
    }

    /// The group of this name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownGroup`].
    pub fn group(&self, name: &str) -> Result<Group, Error> {
        let unknown =
            || Error::new(ErrorKind::UnknownGroup, format!("there is no group {name:?}: open or configure it"));
        self.0.groups.read().get(name).cloned().ok_or_else(unknown)
    }

    /// All groups, by name.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        self.0.groups.read().values().cloned().collect()
    }

    /// Puts a view of these members in the place of the present one, unless they are the same. Works out its owner table
    /// first: some milliseconds, more for hundreds of members, so that it should not run where requests are served.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if a member's address can't be one; the present view stays.
    pub fn change_view(&self, members: Members) -> Result<(), Error> {
        let _changing = self.0.changing.lock();
        let old = self.view();
        if old.members() == &members {
            return Ok(());
        }
        let Inner { config, .. } = &*self.0;
        let new = View::new(members, &config.name, config.ring, old.number() + 1, |member| {
            if let Some(peer) = old.peers().find(|peer| peer.is_at(member)) {
                return Ok(peer.clone());
            }
            let client = config.transport.link(member)?;
            let seed = self.chance(|chance| chance.u64(..));
            Ok(Arc::new(Peer::new(member.clone(), client, config.clock.clone(), self.0.contact.clone(), seed)))
        })?;
        tracing::info!(members = new.members().len(), digest = format_args!("{:016x}", new.digest()), "view changed");
        let new = Arc::new(new);
        let tenure = &self.0.tenure;
        self.see_off(&old, &new, self.clock().now());
        // From here on no hit counts of a slot that is another's, or comes from one.
        // Who comes after may not have heard yet; but one that was sent away has nothing to say.
        let is_member = new.members().position(self.name()).is_some();
        let lingers = if self.carries_claims() && is_member { self.hot_lease() } else { Duration::ZERO };
        self.prove_lost(|slot| !new.is_mine(slot, &[]));
        let gained = tenure.lose_all_but(|slot| new.is_mine(slot, &[]), self.clock().now(), lingers);
        // Who boards a flight after this sees the new view; who boarded before is found by the groups below.
        self.0.view.store(new.clone());
        self.0.standing.set_view(new.digest(), new.members());
        self.0.view_changes.add(1);
        self.send_lock_waiters_away(|slot| !new.is_mine(slot, &[]));
        self.forget_locks(|slot| gained.contains(slot));
        for group in self.groups() {
            group.change_view(&old, &new);
            if keeps(Rule::W4) {
                group.drop_slots(&gained);
            }
            if !self.carries_claims() {
                group.drop_foreign(&new);
            }
        }
        let owner = |slot| old.owner(slot, &[]).map(|member| member.name.clone());
        let previous = |slot| if self.carries_claims() { owner(slot) } else { None };
        tenure.gain(&gained, previous, self.next_version(), self.clock().now(), false);
        self.meet(&new);
        Ok(())
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.0.authority
    }

    pub(crate) fn contact(&self) -> &Contact {
        &self.0.contact
    }

    pub(crate) fn waking(&self) -> &Arc<tokio::sync::Mutex<()>> {
        &self.0.waking
    }

    /// Has those members say who they are of whom it is not known where their HTTP API is, so that
    /// [`Standing::http_of`] tells it. Takes a quarter of a second at most, and nothing once all are known.
    pub async fn meet_members(&self) {
        let strangers = || {
            let view = self.view();
            let members = view.members().iter().filter(|member| member.name != *self.name());
            let strangers = members.filter(|member| self.0.standing.http_of(member).is_empty());
            strangers.cloned().collect::<Vec<Member>>()
        };
        if strangers().is_empty() {
            return;
        }
        let mut last = self.0.last_meeting.lock().await;
        if last.is_some_and(|last| last.elapsed() < MEETING_PAUSE) {
            return;
        }
        let transport = &self.0.config.transport;
        let greetings =
            stream::iter(strangers()).for_each_concurrent(GREETINGS_MAX, async |member| transport.greet(&member).await);
        // Who takes longer is asked the next time that somebody wants to know.
        let _in_time = timeout(MEETING_TIME_MAX, greetings).await;
        *last = Some(Instant::now());
    }

    /// This node as the server side of a transport sees it.
    #[must_use]
    pub fn service(&self, over: Protocol) -> Arc<dyn PeerService> {
        Arc::new(Serving { node: self.clone(), over })
    }

    /// Follows a membership for as long as it lasts, and looks at it when another node is heard to have a view that this
    /// one doesn't know (rule W1). A list that can't be used is logged and passed over.
    pub async fn follow(self, membership: Arc<dyn Membership>) {
        let proofs = membership.authority();
        let proving = async {
            match proofs {
                Some(proofs) => self.clone().follow_authority(proofs).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = proving => {}
            () = self.clone().follow_members(membership) => {}
        }
    }

    async fn follow_members(self, membership: Arc<dyn Membership>) {
        let (mut members, views) = (membership.members(), self.0.standing.heard_views());
        let mut wanted = Vec::new();
        loop {
            let list = members.borrow_and_update().clone();
            let node = self.clone();
            let changed = tokio::task::spawn_blocking(move || node.change_view(list)).await;
            if let Ok(Err(error)) = changed {
                tracing::error!(%error, "the new member list is not used");
            }
            if !wanted.is_empty() {
                views.done(&wanted);
                sleep(LOOK_PAUSE).await;
            }
            wanted = tokio::select! {
                changed = members.changed() => match changed {
                    Ok(()) => Vec::new(),
                    Err(_) => return,
                },
                wanted = views.wanted() => {
                    // A look that takes too long is as good as one that found nothing.
                    let _in_time = timeout(LOOK_TIME_MAX, membership.look()).await;
                    wanted
                }
            };
        }
    }
}

impl NodeConfig {
    fn carries_claims(&self) -> bool {
        self.ring == Ring::Slots && self.transport.carries_claims()
    }
}

/// Says whether `name` could be a group's: `[a-z0-9][a-z0-9_-]{0,63}`.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] if it could not.
pub fn check_group_name(name: &str) -> Result<(), Error> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = matches!(name.as_bytes(), [first, rest @ ..]
        if word(*first) && rest.len() < 64 && rest.iter().all(|byte| word(*byte) || matches!(byte, b'_' | b'-')));
    if fits {
        return Ok(());
    }
    let message =
        format!("{name:?} can't name a group: 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or a digit");
    Err(Error::new(ErrorKind::Invalid, message))
}
