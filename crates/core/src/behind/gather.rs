//! Gathering: a node that comes to act for slots gets the records of them from all members that may have any (rules B4 and B6).
//!
//! Each record is on two disks. So all of them are here once every member but one has told what it has; one that does not answer is done
//! without. After a start that is not so: what this node had may have been taken over and flushed by others meanwhile, and everybody has
//! to be heard, unless the list of members is fixed and the journal knows it, so that nobody can have taken over.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};

use super::{
    Custody, Holder, Record, RecordId,
    custody::Told,
    message::{AboutRecords, After, RECORDS_LEN, RecordsReply, SentRecord},
    pieces::with_value,
};
use crate::{
    Error, ErrorKind, Group, Node, Version, View,
    peer::PeerError,
    placement::{Slot, SlotSet},
    rules::{Rule, keeps},
};

/// How long a member may take to answer beyond the time that a flush may take, which it has to let end.
const TELL_GRACE: Duration = Duration::from_secs(3);

/// The pause before a member is asked again; it doubles.
const ASK_PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest such pause.
const ASK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pause after the journal could not be written.
const PAUSE: Duration = Duration::from_secs(1);

/// Slots whose records are being gathered.
pub(super) struct Gathering {
    id: u64,
    slots: Vec<(Slot, Version)>,
    set: SlotSet,
    /// Who is to be asked and was not yet.
    to_ask: BTreeSet<Arc<str>>,
    /// Who has not told all.
    unheard: BTreeSet<Arc<str>>,
    /// Those of them that can't be reached.
    unreached: BTreeSet<Arc<str>>,
    heard: BTreeSet<Arc<str>>,
    /// How many may be done without.
    may_miss: usize,
    is_forced: bool,
}

/// What a node gives up to go on without members that don't answer.
///
/// ```
/// use larder_core::behind::Takeover;
///
/// let takeover = Takeover { slots: 5_461, without: vec!["c".into()] };
/// assert!(takeover.to_string().contains("what only c has"));
/// ```
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Takeover {
    /// How many slots waited.
    pub slots: usize,
    /// For whom.
    pub without: Vec<Arc<str>>,
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.slots == 0 {
            return f.write_str("no slots wait for writes that other members may have: nothing is given up");
        }
        let without = self.without.join(", ");
        let Self { slots, .. } = self;
        write!(
            f,
            "{slots} slots are answered for from now on: acknowledged writes of theirs are given up, what only {without} has"
        )
    }
}

impl Gathering {
    /// Whether all is here, or as much as can be.
    fn is_complete(&self) -> bool {
        let can_miss = self.unheard.len() <= self.may_miss && self.unheard.is_subset(&self.unreached);
        self.is_forced || can_miss
    }
}

impl Custody {
    /// Members that have not told this node what they have of some of these slots.
    pub(super) fn unheard_of(&self, slots: &SlotSet) -> Vec<Arc<str>> {
        let gatherings = self.gatherings.lock();
        let theirs = gatherings.iter().filter(|gathering| gathering.set.iter().any(|slot| slots.contains(slot)));
        let unheard: BTreeSet<_> = theirs.flat_map(|gathering| gathering.unheard.iter().cloned()).collect();
        unheard.into_iter().collect()
    }

    /// Members that have not told what they may have of any slots.
    pub(super) fn missing(&self) -> BTreeSet<Arc<str>> {
        self.gatherings.lock().iter().flat_map(|gathering| gathering.unheard.iter().cloned()).collect()
    }

    fn of<T>(&self, id: u64, of: impl FnOnce(&mut Gathering) -> T) -> Option<T> {
        self.gatherings.lock().iter_mut().find(|gathering| gathering.id == id).map(of)
    }

    /// A member has told all that it has, and whom it has not heard itself.
    fn heard(&self, id: u64, me: &Arc<str>, name: &Arc<str>, unheard: Vec<Arc<str>>) {
        self.of(id, |gathering| {
            gathering.unheard.remove(name);
            gathering.heard.insert(name.clone());
            for other in unheard {
                if other != *me && !gathering.heard.contains(&other) && gathering.unheard.insert(other.clone()) {
                    gathering.to_ask.insert(other);
                }
            }
        });
    }

    fn could_not_reach(&self, id: u64, name: &Arc<str>, is_unreached: bool) {
        self.of(id, |gathering| {
            if is_unreached { gathering.unreached.insert(name.clone()) } else { gathering.unreached.remove(name) }
        });
        self.changed.send_replace(());
    }
}

impl Node {
    /// Begins to gather records of slots that this node has come to act for. Gives back what is to be polled for that.
    pub(super) fn begin_gathering(
        &self,
        custody: &Custody,
        view: &View,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut slots = self.slots_without_records();
        let mut gatherings = custody.gatherings.lock();
        let is_new =
            |pair: &(Slot, Version)| !gatherings.iter().any(|gathering| gathering.slots.binary_search(pair).is_ok());
        slots.retain(is_new);
        if slots.is_empty() {
            return None;
        }
        let set: SlotSet = slots.iter().map(|(slot, _)| *slot).collect();
        let (before, remembered) = (&custody.members_before, custody.records.members());
        let present: BTreeSet<Arc<str>> = view.members().iter().map(|member| member.name.clone()).collect();
        let is_start = !custody.has_started.load(Ordering::Acquire);
        // A journal that knows of none has just been made, perhaps in the place of one that was lost.
        let is_as_before = before.as_ref().is_some_and(|names| names.iter().cloned().eq(present.iter().cloned()));
        let mut unheard: BTreeSet<Arc<str>> = BTreeSet::new();
        let has_all = (custody.is_fixed && is_as_before) || !keeps(Rule::B6);
        if !(is_start && has_all) {
            unheard.extend(present);
            unheard.extend(remembered.iter().flatten().cloned());
        }
        // What an earlier gathering of the slots has not got is still to be had.
        for gathering in gatherings.iter_mut().filter(|gathering| gathering.set.iter().any(|slot| set.contains(slot))) {
            unheard.extend(gathering.unheard.iter().cloned());
            gathering.slots.retain(|(slot, _)| !set.contains(*slot));
            set.iter().for_each(|slot| gathering.set.remove(slot));
        }
        gatherings.retain(|gathering| !gathering.slots.is_empty());
        unheard.remove(self.name());
        let may_miss = if is_start && before.is_some() { 0 } else { 1 };
        let may_miss = if keeps(Rule::B4) { may_miss } else { usize::MAX };
        let id = gatherings.iter().map(|gathering| gathering.id + 1).max().unwrap_or(0);
        let to_ask = unheard.clone();
        let (unreached, heard) = if keeps(Rule::B4) { Default::default() } else { (unheard.clone(), BTreeSet::new()) };
        gatherings.push(Gathering { id, slots, set, to_ask, unheard, unreached, heard, may_miss, is_forced: false });
        drop(gatherings);
        Some(self.clone().gather(id))
    }

    /// Gathers until all is here, then takes it over.
    async fn gather(self, id: u64) {
        let Some(custody) = self.custody() else { return };
        let groups = custody.groups();
        let mut asked = FuturesUnordered::new();
        loop {
            let (mut changed, mut claims) = (custody.changed.subscribe(), self.tenure().changes());
            let Some((to_ask, is_complete)) =
                custody.of(id, |gathering| (std::mem::take(&mut gathering.to_ask), gathering.is_complete()))
            else {
                return;
            };
            if is_complete {
                break;
            }
            if self.gathers(custody, id).is_empty() {
                // What is missing stays known, for who claims the slots now.
                return;
            }
            for name in to_ask {
                let node = self.clone();
                asked.push(async move { (name.clone(), node.collect(id, &name).await) });
            }
            tokio::select! {
                Some((name, unheard)) = asked.next() => custody.heard(id, self.name(), &name, unheard),
                // The senders live as long as the node.
                _ = changed.changed() => {}
                _ = claims.changed() => {}
            }
        }
        drop(asked);
        while let Err(error) = self.take_over(custody, id, groups).await {
            tracing::warn!(%error, "records of writes can't be taken over: trying again");
            sleep(PAUSE).await;
        }
        custody.work.notify_one();
    }

    /// The slots of a gathering that this node still acts for.
    fn gathers(&self, custody: &Custody, id: u64) -> SlotSet {
        custody.of(id, |gathering| self.still_held(&gathering.slots)).unwrap_or_default()
    }

    /// Has a member tell all that it has of slots, as often as it takes. Gives back whom that one has not heard.
    async fn collect(&self, id: u64, from: &Arc<str>) -> Vec<Arc<str>> {
        let Some(custody) = self.custody() else { return Vec::new() };
        let mut pause = ASK_PAUSE_MIN;
        loop {
            // Some may have gone on to others meanwhile, who act for them.
            let slots = self.gathers(custody, id);
            match self.collect_once(custody, from, &slots).await {
                Ok(unheard) => return unheard,
                // It has no journal, and so nothing to tell.
                Err(PeerError::Answered(error)) if error.kind() == ErrorKind::Invalid => return Vec::new(),
                Err(error) => {
                    tracing::debug!(%from, %error, "a member does not tell what records of writes it has");
                    custody.could_not_reach(id, from, !matches!(error, PeerError::Answered(_)));
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(ASK_PAUSE_MAX);
        }
    }

    async fn collect_once(
        &self,
        custody: &Custody,
        from: &Arc<str>,
        slots: &SlotSet,
    ) -> Result<Vec<Arc<str>>, PeerError> {
        let mut all_unheard = Vec::new();
        for group in self.groups_behind() {
            let (name, wait) = (group.name(), group.config().hard_timeout + TELL_GRACE);
            let mut after = After::Nothing;
            loop {
                let about = AboutRecords::Tell { slots: slots.clone(), after: after.clone() };
                let RecordsReply::Told { records, marks, unheard } =
                    self.say_of_records(from, name, about, Instant::now() + wait).await?
                else {
                    return Err(PeerError::broke_off("it answered something else than it was asked"));
                };
                all_unheard.extend(unheard);
                after = match (marks.last(), records.last()) {
                    (Some(mark), _) => After::Mark(mark.place.clone()),
                    (None, Some(sent)) => After::Record(sent.record.id.clone()),
                    (None, None) => break,
                };
                let mut whole = Vec::with_capacity(records.len());
                for sent in records.into_iter().filter(|sent| slots.contains(sent.record.id.place.slot)) {
                    whole.push(self.fetch_value(from, name, sent).await?.held_as(Holder::Owner));
                }
                let kept = async {
                    // In this order: what is settled need not be taken down.
                    if !marks.is_empty() {
                        custody.records.settle(marks).await?;
                    }
                    if !whole.is_empty() {
                        custody.records.append(whole).await?;
                    }
                    Ok(())
                };
                // What can't be kept here has not been told.
                kept.await.map_err(PeerError::Answered)?;
            }
        }
        Ok(all_unheard)
    }

    /// A record with its value, if that has to be asked for.
    async fn fetch_value(&self, from: &str, group: &Arc<str>, sent: SentRecord) -> Result<Record, PeerError> {
        let SentRecord { record, long_len } = sent;
        if long_len == 0 {
            return Ok(record);
        }
        let mut value = bytes::BytesMut::new();
        while (value.len() as u64) < long_len {
            let about = AboutRecords::TellPiece { id: record.id.clone(), at: value.len() as u64 };
            match self.say_of_records(from, group, about, Instant::now() + TELL_GRACE).await? {
                RecordsReply::Piece(piece) if !piece.is_empty() => value.extend_from_slice(&piece),
                _ => return Err(PeerError::broke_off("a value ended before its length")),
            }
        }
        with_value(record, value.freeze(), long_len).map_err(PeerError::Answered)
    }

    /// All that there is of the slots is here: it is this node's from now on.
    async fn take_over(&self, custody: &Custody, id: u64, groups: u64) -> Result<(), Error> {
        let Some((slots, heard)) = custody.of(id, |it| (it.slots.clone(), it.heard.clone())) else { return Ok(()) };
        let held = Arc::new(self.still_held(&slots));
        for group in self.groups_behind() {
            self.take_over_in(custody, &group, &held).await?;
        }
        custody.unsettle(&held);
        custody.records.take_up(held).await?;
        custody.gatherings.lock().retain(|gathering| gathering.id != id);
        if custody.gathered(groups, &slots) {
            custody.has_started.store(true, Ordering::Release);
            custody.to_forget.lock().push(Told { by: heard, slots });
        }
        Ok(())
    }

    async fn take_over_in(&self, custody: &Custody, group: &Group, held: &Arc<SlotSet>) -> Result<(), Error> {
        let mut after: Option<RecordId> = None;
        loop {
            let page = custody.records.records(group.name().clone(), held.clone(), after, RECORDS_LEN).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            for record in &page {
                group.takes_over_record(record);
            }
            let copies = page.into_iter().filter(|record| record.holder != Holder::Owner);
            let copies: Vec<RecordId> = copies.map(|record| record.id).collect();
            if !copies.is_empty() {
                custody.records.hold(copies, Holder::Owner).await?;
            }
        }
    }

    /// Goes on without the members that don't answer for the records of writes that they may have, and says what that gives up
    /// (rules B4 and B6). To be done if they don't come back.
    pub fn take_over_records(&self) -> Takeover {
        let Some(custody) = self.custody() else { return Takeover::default() };
        let mut gatherings = custody.gatherings.lock();
        let (mut slots, mut without) = (0, BTreeSet::new());
        for gathering in gatherings.iter_mut() {
            // Of what went to others meanwhile those are told whom nobody has heard.
            let held = self.still_held(&gathering.slots).len();
            if held > 0 {
                gathering.is_forced = true;
                slots += held;
                without.extend(gathering.unheard.iter().cloned());
            }
        }
        drop(gatherings);
        custody.changed.send_replace(());
        let takeover = Takeover { slots, without: without.into_iter().collect() };
        tracing::warn!("{takeover}");
        takeover
    }
}
