//! One shard: a table of entries, chained in the order of their last use.
//!
//! It knows nothing of hashing and of other shards; whoever calls it holds its lock.

use hashbrown::HashTable;

use super::{
    Hit, Meta, StoreStats,
    stats::{Reason, TierStats},
};
use crate::{Moment, Value};

/// What an entry costs beside its key's and value's bytes: its node, the table's share at the usual load, and what the
/// allocator rounds two allocations up by.
const ENTRY_OVERHEAD: usize = size_of::<Option<Node>>() + 16 + 32;

/// No node.
const NIL: u32 = u32::MAX;

struct Node {
    key: Box<[u8]>,
    hash: u64,
    hit: Hit,
    cost: u64,
    newer: u32,
    older: u32,
}

pub(super) struct Shard {
    table: HashTable<u32>,
    nodes: Vec<Option<Node>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    swept_to: usize,
    stats: StoreStats,
}

impl Shard {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            table: HashTable::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            newest: NIL,
            oldest: NIL,
            swept_to: 0,
            stats: StoreStats { capacity_bytes, ..StoreStats::default() },
        }
    }

    pub(super) const fn stats(&self) -> &StoreStats {
        &self.stats
    }

    fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)?.as_ref()
    }

    fn node_mut(&mut self, at: u32) -> Option<&mut Node> {
        self.nodes.get_mut(at as usize)?.as_mut()
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.table.find(hash, |&at| self.node(at).is_some_and(|node| *node.key == *key)).copied()
    }

    /// The entry's place, if it is to be kept beyond `now`; one past that is reclaimed.
    fn find_kept(&mut self, hash: u64, key: &[u8], now: Moment) -> Option<u32> {
        let at = self.find(hash, key)?;
        if self.node(at)?.hit.meta.keep_until > now {
            return Some(at);
        }
        self.take(at, Some(Reason::Expired));
        None
    }

    pub(super) fn get(&mut self, hash: u64, key: &[u8], now: Moment) -> Option<Hit> {
        let at = self.find_kept(hash, key, now)?;
        self.unlink(at);
        self.link_newest(at);
        Some(self.node(at)?.hit.clone())
    }

    pub(super) fn peek(&mut self, hash: u64, key: &[u8], now: Moment) -> Option<Hit> {
        let at = self.find_kept(hash, key, now)?;
        Some(self.node(at)?.hit.clone())
    }

    /// Stores, evicting the longest unused to make room; false if it can't fit.
    pub(super) fn insert(&mut self, hash: u64, key: &[u8], value: Option<Value>, meta: Meta) -> bool {
        self.replace(hash, key);
        let value_bytes = value.as_ref().map_or(0, |value| value.len() + value.overhead());
        let cost = (key.len() + value_bytes + ENTRY_OVERHEAD) as u64;
        if cost > self.stats.capacity_bytes {
            return false;
        }
        let mut touched = 1;
        while self.stats.bytes() + cost > self.stats.capacity_bytes && self.oldest != NIL {
            self.take(self.oldest, Some(Reason::Capacity));
            touched += 1;
        }
        self.stats.touched_max = self.stats.touched_max.max(touched);
        let tier = &mut self.stats[meta.tier];
        tier.bytes += cost;
        tier.items += 1;
        let node = Node { key: key.into(), hash, hit: Hit { value, meta }, cost, newer: NIL, older: NIL };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = Some(node);
                at
            }
            None => {
                self.nodes.push(Some(node));
                (self.nodes.len() - 1) as u32
            }
        };
        let nodes = &self.nodes;
        self.table.insert_unique(hash, at, |&at| nodes[at as usize].as_ref().map_or(0, |node| node.hash));
        self.link_newest(at);
        true
    }

    fn replace(&mut self, hash: u64, key: &[u8]) {
        if let Some(at) = self.find(hash, key) {
            self.take(at, None);
        }
    }

    /// Removes the key's entry if the judge agrees.
    pub(super) fn remove_if(&mut self, hash: u64, key: &[u8], judge: impl FnOnce(&Hit) -> bool) -> Option<Hit> {
        let at = self.find(hash, key)?;
        if !judge(&self.node(at)?.hit) {
            return None;
        }
        self.take(at, Some(Reason::Invalidated))
    }

    /// Looks at up to `touched_max` entries from `from` on and removes those that `gone` names. Returns how many, and
    /// where to go on, if it isn't through.
    pub(super) fn retain(
        &mut self,
        from: usize,
        touched_max: usize,
        reason: Reason,
        gone: impl Fn(&Meta) -> bool,
    ) -> (usize, Option<usize>) {
        let end = self.nodes.len().min(from.saturating_add(touched_max));
        let mut removed = 0;
        for at in from..end {
            if self.nodes[at].as_ref().is_some_and(|node| gone(&node.hit.meta)) {
                self.take(at as u32, Some(reason));
                removed += 1;
            }
        }
        let touched = end.saturating_sub(from) as u64;
        self.stats.touched_max = self.stats.touched_max.max(touched);
        (removed, (end < self.nodes.len()).then_some(end))
    }

    /// One step of the sweep for expired entries. Returns how many it removed, and whether it reached the end, from
    /// where the next step begins anew.
    pub(super) fn sweep(&mut self, now: Moment, touched_max: usize) -> (usize, bool) {
        let (removed, next) = self.retain(self.swept_to, touched_max, Reason::Expired, |meta| meta.keep_until <= now);
        self.swept_to = next.unwrap_or(0);
        (removed, next.is_none())
    }

    fn take(&mut self, at: u32, reason: Option<Reason>) -> Option<Hit> {
        self.unlink(at);
        let node = self.nodes.get_mut(at as usize)?.take()?;
        self.free.push(at);
        if let Ok(found) = self.table.find_entry(node.hash, |&other| other == at) {
            found.remove();
        }
        let tier: &mut TierStats = &mut self.stats[node.hit.meta.tier];
        tier.bytes -= node.cost;
        tier.items -= 1;
        if let Some(reason) = reason {
            tier.evictions.count(reason);
        }
        Some(node.hit)
    }

    fn link_newest(&mut self, at: u32) {
        let second = std::mem::replace(&mut self.newest, at);
        if let Some(node) = self.node_mut(at) {
            node.newer = NIL;
            node.older = second;
        }
        match self.node_mut(second) {
            Some(node) => node.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(&Node { newer, older, .. }) = self.node(at) else { return };
        match self.node_mut(newer) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
        match self.node_mut(older) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
    }
}
