//! Marks: tags and whole groups are invalidated on every node, whatever the number of their entries (rules T1 and T2).
//!
//! Any node may. It first asks every member for its clock, so that the reading that it then takes is later than every load that
//! has begun anywhere: a member whose wall clock is ahead would keep what it has loaded otherwise. Then it raises the marks to that
//! reading at every member. Nodes that come to know each other tell each other all their marks, so that none is missed by one that
//! joined meanwhile, or stood on the other side of a cut.

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::{Group, Inner, TIMEOUT_MAX};
use crate::{
    Error, ErrorKind, Node, View,
    claim::{SlotCall, SlotReply},
    peer::PeerError,
    store::{Mark, TAG_COUNT, Tag},
    version::Reading,
};

/// The most tags of one [`Group::invalidate_tags`].
pub const MARKS_AT_ONCE_MAX: usize = 1_000;

/// How many members are told at once.
const TOLD_AT_ONCE_MAX: usize = 64;

/// How long a member may take to answer before it is asked again.
const TELL_WAIT: Duration = Duration::from_secs(1);

/// How often a member is asked for its marks before it is given up.
const EXCHANGE_TRIES_MAX: usize = 5;

/// The pause before those are asked again that did not answer.
const TELL_PAUSE: Duration = Duration::from_millis(50);

/// Why not every member was told.
enum Untold {
    /// This one did not answer in time.
    Unheard(Arc<str>),
    /// One has a mark as high: a later reading is to be taken.
    Overtaken,
}

impl Group {
    /// Drops every cached value that bears one of these tags, on every node; their origin is left alone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there are more than [`MARKS_AT_ONCE_MAX`], or the nodes speak HTTP with each other;
    /// [`ErrorKind::Indeterminate`] if not every member could be told in time: it may be done on some and not on others.
    pub async fn invalidate_tags<T: AsRef<[u8]>>(&self, tags: &[T], timeout: Duration) -> Result<(), Error> {
        if tags.len() > MARKS_AT_ONCE_MAX {
            let message = format!("{} tags in one request: {MARKS_AT_ONCE_MAX} is the most", tags.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mut marks: Vec<Mark> = tags.iter().map(|tag| Mark::Tag(Tag::of(tag.as_ref()))).collect();
        marks.dedup();
        self.invalidate_marks(&marks, timeout).await
    }

    /// Drops every cached value of the group, on every node; its origin is left alone.
    ///
    /// # Errors
    ///
    /// As for [`invalidate_tags`](Self::invalidate_tags).
    pub async fn invalidate_all(&self, timeout: Duration) -> Result<(), Error> {
        self.invalidate_marks(&[Mark::All], timeout).await
    }

    async fn invalidate_marks(&self, marks: &[Mark], timeout: Duration) -> Result<(), Error> {
        let node = &self.0.node;
        if marks.is_empty() {
            return Ok(());
        }
        if !node.tells_marks() {
            let message = "tags and whole groups can't be invalidated where nodes speak HTTP with each other: \
                           invalidate keys, or set node.transport to \"grpc\"";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let deadline = Instant::now() + timeout.min(TIMEOUT_MAX);
        let unheard = loop {
            match self.raise_everywhere(marks, deadline).await {
                Ok(()) => return Ok(()),
                Err(Untold::Overtaken) if Instant::now() < deadline => {}
                Err(Untold::Overtaken) => break node.name().clone(),
                Err(Untold::Unheard(member)) if Instant::now() + TELL_PAUSE >= deadline => break member,
                // It may be no member any more in a moment.
                Err(Untold::Unheard(_)) => sleep(TELL_PAUSE).await,
            }
        };
        let message = format!("node {unheard:?} could not be told what is invalid: it may have it still, ask again");
        Err(Error::new(ErrorKind::Indeterminate, message))
    }

    /// Raises marks at every member of the present view, this node among them.
    async fn raise_everywhere(&self, marks: &[Mark], deadline: Instant) -> Result<(), Untold> {
        let node = &self.0.node;
        // Who took the marks and is about to join is told with the others, once it can be.
        if let Some(joiner) = node.mark_taker() {
            return Err(Untold::Unheard(joiner));
        }
        let view = node.view();
        self.tell_all(
            &view,
            deadline,
            || SlotCall::Clock,
            |reply| match reply {
                SlotReply::Clock { reading } => node.standing().observe(reading).is_ok(),
                _ => false,
            },
        )
        .await?;
        // Later than all that anybody had begun by now.
        let to = node.next_version().reading();
        if !self.raise(marks, to).is_ok_and(|known| known < to) {
            return Err(Untold::Overtaken);
        }
        let overtaken = AtomicBool::new(false);
        let call = || SlotCall::Raise { group: self.name().clone(), marks: marks.to_vec(), to };
        self.tell_all(&view, deadline, call, |reply| match reply {
            SlotReply::Raised { known } => {
                if known >= to {
                    overtaken.store(true, Ordering::Relaxed);
                }
                true
            }
            _ => false,
        })
        .await?;
        if overtaken.into_inner() {
            return Err(Untold::Overtaken);
        }
        // Who came meanwhile is told by those that it meets.
        Ok(())
    }

    /// Says something to every other member of a view, and has `heard` judge what they reply.
    async fn tell_all(
        &self,
        view: &View,
        deadline: Instant,
        call: impl Fn() -> SlotCall,
        heard: impl Fn(SlotReply) -> bool,
    ) -> Result<(), Untold> {
        let node = &self.0.node;
        let members: Vec<Arc<str>> = view.peers().map(|peer| peer.member().name.clone()).collect();
        let told = stream::iter(members).map(|member| {
            let call = call();
            async move {
                let reply = node.say(&member, call, deadline.min(Instant::now() + TELL_WAIT)).await;
                (member, reply)
            }
        });
        let mut told = told.buffer_unordered(TOLD_AT_ONCE_MAX);
        let mut unheard = None;
        while let Some((member, reply)) = told.next().await {
            let is_heard = match reply {
                Ok(reply) => heard(reply),
                // It has nothing of the group.
                Err(PeerError::Answered(error)) => error.kind() == ErrorKind::UnknownGroup,
                Err(_) => false,
            };
            if !is_heard {
                unheard = Some(member);
            }
        }
        unheard.map_or(Ok(()), |member| Err(Untold::Unheard(member)))
    }

    /// Raises marks at this node; answers with how high the highest of them was before. What is under way is not kept any more: it may
    /// bear the tags.
    pub(crate) fn raise(&self, marks: &[Mark], to: Reading) -> Result<Reading, Error> {
        let Inner { node, store, loads, asks, .. } = &*self.0;
        // What is loaded from here on is later.
        node.standing().observe(to)?;
        let mut known = Reading::default();
        for mark in marks {
            if let Err(present) = store.raise_mark(*mark, to) {
                known = known.max(present);
            }
        }
        loads.detach_all(|_| true);
        asks.detach_all(|_| true);
        self.0.stats.invalidations.add(1);
        Ok(known)
    }

    /// All marks of this node that were ever raised.
    pub(crate) fn marks(&self) -> Vec<(Mark, Reading)> {
        let store = &self.0.store;
        let tags = (0..TAG_COUNT).filter_map(Tag::new).map(Mark::Tag);
        let marks = std::iter::once(Mark::All).chain(tags).map(|mark| (mark, store.mark(mark)));
        marks.filter(|(_, reading)| *reading != Reading::default()).collect()
    }

    /// Takes the marks of another node, and answers with this node's own.
    pub(crate) fn exchange_marks(&self, theirs: Vec<(Mark, Reading)>) -> Result<Vec<(Mark, Reading)>, Error> {
        for (mark, to) in theirs {
            if self.0.store.mark(mark) < to {
                self.raise(&[mark], to)?;
            }
        }
        Ok(self.marks())
    }

    /// Whether it has taken the marks of all members that there were when it was opened (rule T2).
    pub(crate) fn knows_marks(&self) -> bool {
        self.0.knows_marks.load(Ordering::Acquire)
    }

    /// Tells a member all marks, and takes its own. Whether it did.
    async fn exchange_marks_with(&self, member: &str) -> bool {
        let call = SlotCall::Marks { group: self.name().clone(), marks: self.marks() };
        match self.0.node.say(member, call, Instant::now() + TELL_WAIT).await {
            Ok(SlotReply::Marks { marks }) => self.exchange_marks(marks).is_ok(),
            // It has no such group, and no marks of it.
            Err(PeerError::Answered(error)) => error.kind() == ErrorKind::UnknownGroup,
            Ok(_) | Err(_) => false,
        }
    }
}

impl Node {
    /// Exchanges the marks of all groups with members that came, as far as they answer: else they meet again.
    pub(crate) async fn tell_marks_to(&self, members: Vec<Arc<str>>) {
        self.exchange_marks_of(&self.groups(), members).await;
    }

    /// Takes the marks of all members, for the groups that don't know them yet. Who can't be reached for a while has nothing to tell:
    /// when it is, it is met anew.
    pub(crate) async fn learn_marks(self) {
        let groups: Vec<Group> = self.groups().into_iter().filter(|group| !group.knows_marks()).collect();
        let members = self.view().peers().map(|peer| peer.member().name.clone()).collect();
        self.exchange_marks_of(&groups, members).await;
        for group in groups {
            group.0.knows_marks.store(true, Ordering::Release);
        }
        self.tenure().work.notify_one();
    }

    async fn exchange_marks_of(&self, groups: &[Group], members: Vec<Arc<str>>) {
        let pairs = groups.iter().flat_map(|group| members.iter().map(|member| (group.clone(), member.clone())));
        let exchanges = pairs.map(|(group, member)| async move {
            for _ in 0..EXCHANGE_TRIES_MAX {
                if group.exchange_marks_with(&member).await {
                    return;
                }
                sleep(TELL_PAUSE).await;
            }
            tracing::debug!(%member, group = %group.name(), "a member did not tell what is void");
        });
        let exchanges: Vec<_> = exchanges.collect();
        stream::iter(exchanges).buffer_unordered(TOLD_AT_ONCE_MAX).for_each(|()| ready(())).await;
    }
}
