//! Second copies: where they are, how they get there, and what this node keeps for others (rules B1 and B5).
//!
//! A record goes to the owner's disk and to the other's at the same time: a write waits for one sync, and twice as many share each. If the
//! owner's own disk turns out to have no room, the copy is taken back; where that can't be, whether it was written is in doubt.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt,
    future::{join, join_all},
    stream,
};
use smallvec::SmallVec;
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    Appended, Custody, Holder, Mark, Record, RecordId,
    complete::kept_for,
    message::{AboutRecords, After, PIECE_LEN, RECORDS_LEN, RECORDS_MAX, RecordsCall, RecordsReply, SentRecord},
    pieces::{copies_of, message_of, sent},
};
use crate::{
    Change, Error, ErrorKind, Group, Node, View,
    claim::{Phase, SlotCall, SlotReply},
    peer::PeerError,
    placement::{Slot, SlotSet},
    rules::{Rule, keeps},
};

/// How long a member may take to take records down: its disk takes milliseconds.
const COPY_WAIT: Duration = Duration::from_secs(1);

/// The same for each piece of a long value.
const PIECE_WAIT: Duration = Duration::from_secs(1);

/// How many members are asked to keep a copy.
const COPY_TRIES_MAX: usize = 3;

/// Messages with marks that are on their way to one member at once.
const MARKS_AT_ONCE: usize = 8;

/// How long flushes that are under way may take to end beyond the time that the origin has: what came of them has to be taken down.
const RELEASE_GRACE: Duration = Duration::from_secs(1);

/// The same where the group is not open.
const RELEASE_WAIT: Duration = Duration::from_secs(10);

/// Where a record is that was taken down here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TakenDown {
    /// On as many disks as it has to be.
    Safe,
    /// A second copy may be somewhere.
    Unknown,
}

/// What became of the second copy of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Copied {
    /// It is on the disk of this one.
    Kept(Arc<str>),
    /// There is no other member.
    Alone,
    /// It is nowhere.
    Nowhere,
    /// It may be somewhere.
    Unknown,
}

/// What became of second copies under a view.
struct Copies {
    came_to: Copied,
    /// Besides, there may be one with a member that did not answer.
    are_more: bool,
    /// The view's number.
    view: u64,
}

impl Copies {
    fn none(came_to: Copied) -> Self {
        Self { came_to, are_more: false, view: 0 }
    }
}

impl Node {
    /// Who may keep copies of a slot's records: the stand-in first.
    fn candidates(&self, custody: &Custody, view: &View, slot: Slot) -> Vec<Arc<str>> {
        let members = view.members();
        let first = view.stand_in(slot, &[]).and_then(|member| members.position(&member.name)).unwrap_or(0);
        let rotated = (0..members.len()).map(|place| &members[(first + place) % members.len()]);
        let mut others: Vec<_> = rotated.filter(|member| member.name != *self.name()).collect();
        let is_away = |name: &str| custody.is_shunned(name) || view.peer(name).is_none_or(|peer| !peer.is_admitted());
        others.sort_by_key(|member| (is_away(&member.name), !member.takes_keys()));
        others.into_iter().map(|member| member.name.clone()).collect()
    }

    /// Takes a record of a slot that this node acts for down, here and at another member (rule B1).
    ///
    /// # Errors
    ///
    /// [`Error`] if nothing was, or, of the kind [`Indeterminate`](ErrorKind::Indeterminate), if that is not known.
    pub(crate) async fn take_down(&self, record: &Record, deadline: Instant) -> Result<TakenDown, Error> {
        let Some(custody) = self.custody() else { return Err(nobody_keeps()) };
        let slot = record.id.place.slot;
        let taken_down = self.take_down_twice(custody, record, deadline).await;
        // Before it is acknowledged, and once it is here: what is brought to a member meanwhile may be without it.
        match &taken_down {
            Ok((TakenDown::Safe, Some(name))) => custody.complete.kept(slot, name),
            Ok((TakenDown::Safe, None)) => {}
            Ok((TakenDown::Unknown, _)) | Err(_) => custody.complete.is_unknown(slot),
        }
        taken_down.map(|(taken_down, _)| taken_down)
    }

    /// Gives back who has the second copy, too.
    async fn take_down_twice(
        &self,
        custody: &Custody,
        record: &Record,
        deadline: Instant,
    ) -> Result<(TakenDown, Option<Arc<str>>), Error> {
        let mut here = custody.records.append(vec![record.clone()]);
        // What is refused without its being tried costs nobody a copy.
        let at_once = (&mut here).now_or_never().transpose()?;
        let copy = async {
            if keeps(Rule::B1) {
                self.copy_record(custody, record, deadline).await
            } else {
                Copies::none(Copied::Alone)
            }
        };
        let (here, mut copies) = match at_once {
            Some(_) => (Ok(()), copy.await),
            None => join(here.map_ok(drop), copy).await,
        };
        if let Err(error) = here {
            return Err(self.take_copies_back(record, copies, error).await);
        }
        // Who has left may not be asked by those who look for records; and what was brought to others under a new view was what was here by
        // then.
        while matches!(copies.came_to, Copied::Kept(_)) && copies.view != self.peek_view().number() {
            let again = if Instant::now() < deadline {
                self.copy_record(custody, record, deadline).await
            } else {
                Copies::none(Copied::Unknown)
            };
            let is_safe = matches!(again.came_to, Copied::Kept(_) | Copied::Alone);
            copies = if is_safe { again } else { Copies::none(Copied::Unknown) };
        }
        match copies.came_to {
            Copied::Kept(name) => Ok((TakenDown::Safe, Some(name))),
            Copied::Alone => Ok((TakenDown::Safe, None)),
            Copied::Unknown => Ok((TakenDown::Unknown, None)),
            Copied::Nowhere => {
                custody.records.discard(vec![record.id.clone()]).await.map_err(|_| unknown_copy())?;
                let message = "no other member can be reached to keep a second copy of the write: nothing was written";
                Err(Error::new(ErrorKind::OwnerUnreachable, message))
            }
        }
    }

    /// This node could not take a record down, of which there may be copies. Gives back what the writer is told.
    async fn take_copies_back(&self, record: &Record, copies: Copies, error: Error) -> Error {
        match copies.came_to {
            // Whether it is here is not known either.
            _ if error.kind() == ErrorKind::Indeterminate => error,
            Copied::Alone | Copied::Nowhere => error,
            Copied::Kept(name) if !copies.are_more => {
                let about = AboutRecords::TakeBack { id: record.id.clone() };
                let until = Instant::now() + COPY_WAIT;
                let gone = self.say_of_records(&name, &record.id.place.group, about, until).await;
                if gone.is_ok() { error } else { unknown_copy() }
            }
            Copied::Kept(_) | Copied::Unknown => unknown_copy(),
        }
    }

    /// Has another member keep a copy of a record.
    async fn copy_record(&self, custody: &Custody, record: &Record, deadline: Instant) -> Copies {
        let (slot, view) = (record.id.place.slot, self.view());
        let mut copies = Copies { came_to: Copied::Nowhere, are_more: false, view: view.number() };
        if view.peers().next().is_none() {
            copies.came_to = Copied::Alone;
            return copies;
        }
        for name in self.candidates(custody, &view, slot).into_iter().take(COPY_TRIES_MAX) {
            match self.keep_at(&name, &record.id.place.group, vec![record.clone()], Vec::new(), deadline).await {
                Ok(()) => {
                    custody.holds(slot, &name);
                    copies.came_to = Copied::Kept(name);
                    break;
                }
                Err(error) => {
                    tracing::debug!(to = %name, %error, "a member does not keep a copy of a write");
                    custody.shun(&name);
                    if may_have(&error) {
                        custody.holds(slot, &name);
                        (copies.came_to, copies.are_more) = (Copied::Unknown, true);
                    }
                }
            }
        }
        copies
    }

    /// Has a member keep copies.
    async fn keep_at(
        &self,
        name: &Arc<str>,
        group: &Arc<str>,
        records: Vec<Record>,
        marks: Vec<Mark>,
        deadline: Instant,
    ) -> Result<(), PeerError> {
        let mut ready = Vec::with_capacity(records.len());
        for record in records {
            let id = record.id.clone();
            let (record, bytes) = sent(record);
            let pieces: Vec<bytes::Bytes> = match &bytes {
                Some(bytes) => bytes.chunks(PIECE_LEN).map(|piece| bytes.slice_ref(piece)).collect(),
                None => Vec::new(),
            };
            let mut at = 0;
            for bytes in pieces {
                let about = AboutRecords::Piece { id: id.clone(), at, bytes };
                let said = self.say_of_records(name, group, about, deadline.min(Instant::now() + PIECE_WAIT)).await;
                // Without its record it is nothing yet.
                said.map_err(|error| PeerError::not_sent(error.to_string()))?;
                at += PIECE_LEN as u64;
            }
            ready.push(record);
        }
        let about = AboutRecords::Keep { records: ready, marks };
        self.say_of_records(name, group, about, deadline.min(Instant::now() + COPY_WAIT)).await.map(drop)
    }

    pub(super) async fn say_of_records(
        &self,
        to: &str,
        group: &Arc<str>,
        about: AboutRecords,
        deadline: Instant,
    ) -> Result<RecordsReply, PeerError> {
        let call = SlotCall::Records(RecordsCall { group: group.clone(), about });
        match self.say(to, call, deadline).await? {
            SlotReply::Records(reply) => Ok(reply),
            _ => Err(PeerError::broke_off("it answered something else than it was told")),
        }
    }

    /// Takes marks down where the copies are, so that those need not be kept any more: on one disk beside this node's (rule B5).
    pub(crate) async fn copy_marks(&self, group: &Arc<str>, marks: &[Mark]) -> Result<(), Error> {
        let Some(custody) = self.custody() else { return Ok(()) };
        let view = self.view();
        if view.peers().next().is_none() {
            return Ok(());
        }
        let mut of_holder: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        for (number, mark) in marks.iter().enumerate() {
            for name in self.mark_holders(custody, &view, mark.place.slot) {
                of_holder.entry(name).or_default().push(number);
            }
        }
        let told = of_holder.into_iter().map(|(name, numbers)| {
            let theirs: Vec<Mark> = numbers.iter().map(|number| marks[*number].clone()).collect();
            let (node, group) = (self.clone(), group.clone());
            async move {
                let is_kept = node.marks_at(&name, &group, &theirs).await.is_ok();
                (name, numbers, is_kept)
            }
        });
        let mut kept_by: Vec<SmallVec<[Arc<str>; 2]>> = vec![SmallVec::new(); marks.len()];
        for (name, numbers, is_kept) in join_all(told).await {
            if !is_kept {
                custody.shun(&name);
                continue;
            }
            numbers.into_iter().for_each(|number| kept_by[number].push(name.clone()));
        }
        custody.complete.marked(marks.iter().zip(&kept_by).map(|(mark, kept_by)| (mark.place.slot, &kept_by[..])));
        let is_unsafe = |(mark, kept_by): (&Mark, SmallVec<_>)| kept_by.is_empty().then(|| mark.clone());
        let unsafe_marks: Vec<Mark> = marks.iter().zip(kept_by).filter_map(is_unsafe).collect();
        let Some(first) = unsafe_marks.first() else { return Ok(()) };
        for name in self.candidates(custody, &view, first.place.slot).into_iter().take(COPY_TRIES_MAX) {
            match self.marks_at(&name, group, &unsafe_marks).await {
                Ok(()) => return Ok(()),
                Err(_) => custody.shun(&name),
            }
        }
        Err(nobody_keeps())
    }

    /// Who is to take the marks of a slot: all that have copies of its records, and answer.
    fn mark_holders(&self, custody: &Custody, view: &View, slot: Slot) -> Vec<Arc<str>> {
        let about_to = custody.complete.at(slot);
        let holders: BTreeSet<Arc<str>> = custody.holders(slot).into_iter().chain(about_to).collect();
        let holders = holders.into_iter().filter(|name| view.peer(name).is_some());
        let (away, there): (Vec<_>, Vec<_>) = holders.partition(|name| custody.is_shunned(name));
        match (there.is_empty(), away.is_empty()) {
            (false, _) => there,
            (true, false) => away,
            (true, true) => self.candidates(custody, view, slot).into_iter().take(1).collect(),
        }
    }

    async fn marks_at(&self, name: &Arc<str>, group: &Arc<str>, marks: &[Mark]) -> Result<(), PeerError> {
        let messages: Vec<Vec<Mark>> = marks.chunks(RECORDS_MAX).map(<[Mark]>::to_vec).collect();
        let told = messages.into_iter().map(|marks| {
            let (node, name, group) = (self.clone(), name.clone(), group.clone());
            async move { node.keep_at(&name, &group, Vec::new(), marks, Instant::now() + COPY_WAIT).await }
        });
        // Several at once, so that they share commits there.
        stream::iter(told).buffer_unordered(MARKS_AT_ONCE).try_collect().await
    }

    /// Sees to it that everything that this node is to flush, and every mark, has a second copy under a view.
    pub(super) async fn restore_copies(&self, custody: &Custody, view: &Arc<View>) -> Result<(), Error> {
        let held: Vec<Slot> = self.tenure().held_terms().into_iter().map(|(slot, _)| slot).collect();
        if view.peers().next().is_none() || held.is_empty() {
            return Ok(());
        }
        let known = view.clone();
        let worked_out = spawn_blocking(move || {
            let stand_in = |slot: Slot| known.stand_in(slot, &[]).map(|member| member.name.clone());
            held.into_iter().map(|slot| (slot, stand_in(slot))).collect::<Vec<_>>()
        });
        let Ok(stand_ins) = worked_out.await else { return Err(nobody_keeps()) };
        let mut of_stand_in: HashMap<Option<Arc<str>>, SlotSet> = HashMap::new();
        for (slot, stand_in) in stand_ins {
            if !custody.is_copied(slot, stand_in.as_deref(), view) {
                of_stand_in.entry(stand_in).or_default().insert(slot);
            }
        }
        for slots in of_stand_in.into_values() {
            let Some(first) = slots.iter().next() else { continue };
            let mut is_done = false;
            for name in self.candidates(custody, view, first).into_iter().take(COPY_TRIES_MAX) {
                match self.copy_slots(custody, &name, &slots).await {
                    Ok(()) => {
                        custody.copied(&slots, &name, view);
                        is_done = true;
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(to = %name, %error, "copies of writes can't be brought to a member");
                        custody.shun(&name);
                    }
                }
            }
            if !is_done {
                return Err(nobody_keeps());
            }
        }
        Ok(())
    }

    /// Brings all that this node is to flush of these slots, and every mark, to a member.
    pub(super) async fn copy_slots(&self, custody: &Custody, name: &Arc<str>, slots: &SlotSet) -> Result<(), Error> {
        custody.complete.begins(slots, name);
        self.bring_slots(custody, name, slots).await?;
        custody.complete.ended(slots, name);
        Ok(())
    }

    async fn bring_slots(&self, custody: &Custody, name: &Arc<str>, slots: &SlotSet) -> Result<(), Error> {
        let (slots, records) = (Arc::new(slots.clone()), &custody.records);
        let unkept = |error: PeerError| Error::new(ErrorKind::OwnerUnreachable, error.to_string());
        for group in self.groups_behind() {
            let group = group.name();
            let mut after = None;
            loop {
                let page = records.records(group.clone(), slots.clone(), after, RECORDS_LEN).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.id.clone());
                let mut mine = page.into_iter().filter(|record| record.holder == Holder::Owner).peekable();
                while mine.peek().is_some() {
                    let deadline = Instant::now() + 2 * COPY_WAIT;
                    self.keep_at(name, group, copies_of(&mut mine), Vec::new(), deadline).await.map_err(unkept)?;
                }
            }
            let mut after = None;
            loop {
                let page = records.marks(group.clone(), slots.clone(), after).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.place.clone());
                self.marks_at(name, group, &page).await.map_err(unkept)?;
            }
        }
        Ok(())
    }

    pub(super) fn groups_behind(&self) -> impl Iterator<Item = Group> + use<> {
        self.groups().into_iter().filter(Group::writes_behind)
    }

    /// Nothing of these slots is flushed any more (rule C2). What is under way comes to its end before their records are told of.
    pub(crate) fn stop_flushing(&self, slots: &SlotSet) {
        if let Some(custody) = self.custody().filter(|_| !slots.is_empty()) {
            let (records, slots) = (custody.records.clone(), Arc::new(slots.clone()));
            tokio::spawn(async move { records.release(slots, Instant::now()).await });
        }
    }

    /// Whether this node acts for any of these slots: nobody else's word counts for them then.
    fn acts_for_any(&self, mut slots: impl Iterator<Item = Slot>) -> bool {
        slots.any(|slot| self.phase(slot, &[]) == Phase::Acts)
    }

    /// Does what another node says about records.
    pub(crate) async fn about_records(&self, from: &Arc<str>, call: RecordsCall) -> Result<RecordsReply, Error> {
        let Some(custody) = self.custody() else {
            return Err(Error::new(
                ErrorKind::Invalid,
                "this node has no journal: give it one, as all nodes of the group have",
            ));
        };
        let RecordsCall { group, about } = call;
        match about {
            AboutRecords::Keep { records, marks } => self.keep_for(custody, from, records, marks).await,
            AboutRecords::Piece { id, at, bytes } => {
                custody.partial.add(from, id, at, &bytes, self.clock().now())?;
                Ok(RecordsReply::Done)
            }
            AboutRecords::Tell { slots, after } => self.tell_records(custody, group, slots, after).await,
            AboutRecords::TellPiece { id, at } => {
                let record = custody.records.record(id).await?;
                let value = match record.map(|record| record.change) {
                    Some(Change::Put(value)) => value.into_bytes(),
                    _ => bytes::Bytes::new(),
                };
                let start = usize::try_from(at).unwrap_or(usize::MAX).min(value.len());
                Ok(RecordsReply::Piece(value.slice(start..value.len().min(start + PIECE_LEN))))
            }
            AboutRecords::TakeBack { id } => self.take_back(custody, from, id).await,
            AboutRecords::Forget { slots } => {
                self.forget_records(custody, from, group, slots).await?;
                custody.changed.send_replace(());
                Ok(RecordsReply::Done)
            }
        }
    }

    async fn keep_for(
        &self,
        custody: &Custody,
        from: &Arc<str>,
        records: Vec<SentRecord>,
        marks: Vec<Mark>,
    ) -> Result<RecordsReply, Error> {
        if self.acts_for_any(records.iter().map(|sent| sent.record.id.place.slot)) {
            return Err(acts_itself());
        }
        let whole =
            |sent| custody.partial.whole(from, sent).map(|record| record.held_as(Holder::CopyFor(from.clone())));
        let records = records.into_iter().map(whole).collect::<Result<Vec<_>, Error>>()?;
        let slots: Vec<Slot> = records.iter().map(|record| record.id.place.slot).collect();
        let appended = async {
            let appended = if records.is_empty() { Vec::new() } else { custody.records.append(records).await? };
            let buried = slots.into_iter().zip(appended).filter(|(_, came_to)| *came_to == Appended::Buried);
            custody.said.drops(buried.map(|(slot, _)| (slot, from.clone())));
            Ok(())
        };
        let settled = async { if marks.is_empty() { Ok(()) } else { custody.records.settle(marks).await } };
        let (appended, settled) = tokio::join!(appended, settled);
        appended.and(settled)?;
        Ok(RecordsReply::Done)
    }

    /// Drops a copy that this node keeps for another.
    async fn take_back(&self, custody: &Custody, owner: &Arc<str>, id: RecordId) -> Result<RecordsReply, Error> {
        if self.acts_for_any(std::iter::once(id.place.slot)) {
            return Err(acts_itself());
        }
        let kept = custody.records.record(id.clone()).await?;
        if kept.is_some_and(|record| record.holder == Holder::CopyFor(owner.clone())) {
            custody.records.discard(vec![id]).await?;
        }
        Ok(RecordsReply::Done)
    }

    /// Tells what this node has of slots that it has let go of. It flushes nothing of them any more (rules C2 and B4).
    async fn tell_records(
        &self,
        custody: &Custody,
        group: Arc<str>,
        slots: SlotSet,
        after: After,
    ) -> Result<RecordsReply, Error> {
        if self.acts_for_any(slots.iter()) {
            return Err(acts_itself());
        }
        let slots = Arc::new(slots);
        if after == After::Nothing {
            let wait = self.group(&group).map_or(RELEASE_WAIT, |group| group.config().hard_timeout + RELEASE_GRACE);
            custody.records.release(slots.clone(), Instant::now() + wait).await;
        }
        let unheard = custody.unheard_of(&slots);
        let after_mark = match after {
            After::Mark(place) => Some(place),
            After::Nothing | After::Record(_) => {
                let after = if let After::Record(id) = after { Some(id) } else { None };
                let page = custody.records.records(group.clone(), slots.clone(), after, RECORDS_LEN).await?;
                if !page.is_empty() {
                    let records = message_of(&mut page.into_iter().map(|record| sent(record).0).peekable());
                    return Ok(RecordsReply::Told { records, marks: Vec::new(), unheard });
                }
                None
            }
        };
        let mut marks = custody.records.marks(group, slots, after_mark).await?;
        marks.truncate(RECORDS_MAX);
        Ok(RecordsReply::Told { records: Vec::new(), marks, unheard })
    }

    /// Drops what this node has of slots, but for second copies for `owner`, which has all of it.
    async fn forget_records(
        &self,
        custody: &Custody,
        owner: &Arc<str>,
        group: Arc<str>,
        slots: SlotSet,
    ) -> Result<(), Error> {
        if self.acts_for_any(slots.iter()) {
            return Err(acts_itself());
        }
        let (slots, kept) = (Arc::new(slots), Holder::CopyFor(owner.clone()));
        let mut after: Option<RecordId> = None;
        loop {
            let page = custody.records.records(group.clone(), slots.clone(), after, RECORDS_LEN).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            let (mut ids, mut copies) = (Vec::new(), Vec::new());
            for Record { id, holder, .. } in page.into_iter().filter(|record| record.holder != kept) {
                copies.extend(kept_for(&holder).map(|owner| (id.place.slot, owner)));
                ids.push(id);
            }
            if !ids.is_empty() {
                custody.said.drops(copies);
                custody.records.discard(ids).await?;
            }
        }
    }
}

/// Whether what was said may have been done though it was answered like this.
fn may_have(error: &PeerError) -> bool {
    match error {
        PeerError::Unreachable { sent, .. } => *sent,
        PeerError::TimedOut => true,
        PeerError::Answered(error) => error.kind() == ErrorKind::Indeterminate,
    }
}

pub(crate) fn unknown_copy() -> Error {
    let message = "whether a second copy of the write is kept is not known: read the key to see whether it was done";
    Error::new(ErrorKind::Indeterminate, message)
}

fn nobody_keeps() -> Error {
    let message = "no other member can be reached that keeps second copies of writes: start one again";
    Error::new(ErrorKind::OwnerUnreachable, message).with_retry_after(Duration::from_secs(1))
}

fn acts_itself() -> Error {
    Error::new(ErrorKind::OwnerUnreachable, "the node that was told acts for the slot itself: claim it first")
}
