//! [`Handoff`]: entries on their way to who claimed their slots, the hottest first (rule H1).

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::message::{PUSH_ENTRIES_MAX, PUSH_LEN, PushedEntry, SlotCall, SlotReply};
use crate::{
    Group, Moment, Node, Version,
    placement::{SLOT_COUNT, Slot, SlotSet},
    stats::Direction,
    store::Hottest,
};

/// The most bytes of keys and values that one handoff pushes, unless [`Node::limit_handoffs`] says otherwise: what a gigabit link
/// carries in ten seconds. What comes after is asked for as it is needed.
pub(crate) const HANDOFF_LEN_MAX: usize = 1 << 30;

/// How long a push may take: who takes it has only to store it.
const PUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the claimer's confirmation is waited for: it takes milliseconds, but it may get lost.
pub(crate) const CONFIRM_WAIT: Duration = Duration::from_millis(200);

/// How many entries are looked at between two turns of everybody else's.
const LOOKED_AT_MAX: usize = 512;

/// Slots that were released together.
pub(crate) struct Handoff {
    /// Who claimed them.
    pub(crate) to: Arc<str>,
    pub(crate) term: Version,
    pub(crate) slots: SlotSet,
    /// When it begins: once the claimer has confirmed, before which it takes nothing, or as if it had.
    pub(crate) from: Moment,
}

/// What goes to one of those who claimed.
struct Parcel {
    handoff: Handoff,
    entries: Vec<PushedEntry>,
    len: usize,
    /// When the first of the entries was taken from the store.
    since: Moment,
    /// What may still go.
    len_left: usize,
    is_closed: bool,
}

/// Pushes the entries of slots that were released, to all who claimed them in one walk through each store.
pub(crate) async fn push(node: Node, handoffs: Vec<Handoff>) {
    const NONE: usize = usize::MAX;
    let mut parcel_of = vec![NONE; usize::from(SLOT_COUNT)];
    for (index, handoff) in handoffs.iter().enumerate() {
        for slot in handoff.slots.iter() {
            parcel_of[usize::from(slot.number())] = index;
        }
    }
    let len_max = node.handoff_len_max();
    let parcel = |handoff| Parcel {
        handoff,
        entries: Vec::new(),
        len: 0,
        since: Moment::default(),
        len_left: len_max,
        is_closed: len_max == 0,
    };
    let mut parcels: Vec<Parcel> = handoffs.into_iter().map(parcel).collect();
    for group in node.groups() {
        let mut from = Hottest::start();
        let mut more = true;
        while more {
            let mut full = HashSet::new();
            let is_wanted = |slot: Slot| parcel_of[usize::from(slot.number())] != NONE;
            more = group.hottest(&mut from, LOOKED_AT_MAX, is_wanted, |slot, entry| {
                let index = parcel_of[usize::from(slot.number())];
                let parcel = &mut parcels[index];
                if parcel.entries.is_empty() {
                    parcel.since = node.clock().now();
                }
                parcel.len += entry.key.as_bytes().len() + entry.value.as_ref().map_or(0, |value| value.len());
                parcel.entries.push(entry);
                if parcel.len >= PUSH_LEN || parcel.entries.len() >= PUSH_ENTRIES_MAX {
                    full.insert(index);
                }
            });
            for index in full {
                parcels[index].send(&node, &group).await;
            }
            tokio::task::yield_now().await;
        }
        for parcel in &mut parcels {
            parcel.send(&node, &group).await;
        }
    }
}

impl Parcel {
    async fn send(&mut self, node: &Node, group: &Group) {
        let (mut entries, len) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.len));
        // However long it takes to arrive, nothing is kept past its ttl for it.
        let waited = node.clock().now().since(self.since);
        entries.retain_mut(|entry| {
            entry.meta.age += waited;
            let left = entry.meta.ttl_left.map(|left| left.checked_sub(waited + PUSH_TIMEOUT));
            entry.meta.ttl_left = left.flatten();
            left.is_none_or(|left| left.is_some())
        });
        while !entries.is_empty() && !self.is_closed {
            let rest = entries.split_off(entries.len().min(PUSH_ENTRIES_MAX));
            let count = entries.len() as u64;
            let call = SlotCall::Push { term: self.handoff.term, group: group.name().clone(), entries };
            entries = rest;
            match node.say(&self.handoff.to, call, Instant::now() + PUSH_TIMEOUT).await {
                Ok(SlotReply::Pushed { wants_more }) => {
                    group.stats().handoffs.of(Direction::Out).add(count);
                    self.is_closed = !wants_more;
                }
                Ok(_) => self.is_closed = true,
                Err(error) => {
                    tracing::debug!(to = %self.handoff.to, %error, "entries were not handed over");
                    self.is_closed = true;
                }
            }
        }
        self.len_left = self.len_left.saturating_sub(len);
        self.is_closed |= self.len_left == 0;
    }
}
