//! [`SlotTable`]: which member owns which slot.
//!
//! Every slot would like the member that it costs least ([`score`](super::score)), but no member takes more than
//! [`SHARE_PERCENT_MAX`] percent of its fair share: all pairs of a slot and a member are taken in the order of their costs,
//! and a pair comes about if its slot is still free and its member not full. So chance fills no member more than the others,
//! and who joins or leaves moves few slots beyond its own. (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with
//! Bounded Loads", SODA 2018, argue for such a cap; they have full bins passed over in a fixed order instead.)
//!
//! Sorting all pairs would take long and much memory. Deferred acceptance (Gale and Shapley, "College Admissions and the
//! Stability of Marriage", 1962) comes to the same: each slot asks the best member that would have it, and a full member
//! gives up its costliest slot for a cheaper one. Because slots and members judge by one and the same order of the pairs,
//! there is but one stable outcome, whatever the order of asking.

use std::{collections::BinaryHeap, sync::OnceLock};

use super::{
    SLOT_COUNT, Slot,
    score::{Bidder, Cost},
};
use crate::membership::MEMBERS_MAX;

/// The most slots of a member, in percent of its fair share (rounded up to whole slots). Less would move more slots when
/// members come and go, more would load members less evenly.
pub const SHARE_PERCENT_MAX: u64 = 102;

/// In the owner table: nobody.
const NOBODY: u16 = u16::MAX;
const _: () = assert!(MEMBERS_MAX < NOBODY as usize);

/// Which member owns which slot, and who stands in for it.
///
/// A pure function of the members' names and weights: the same on every machine, whatever the order of the list.
///
/// # Examples
///
/// ```
/// use larder_core::placement::{Slot, SlotTable};
///
/// let table = SlotTable::new(&[("big", 2), ("small", 1), ("idle", 0)]);
/// let turned = SlotTable::new(&[("idle", 0), ("small", 1), ("big", 2)]);
/// assert!(Slot::all().all(|slot| table.owner(slot) == turned.owner(slot).map(|place| 2 - place)));
/// assert!(table.slots_of(0).len() > table.slots_of(1).len());
/// assert!(table.slots_of(2).is_empty());
/// ```
#[derive(Debug)]
pub struct SlotTable {
    owners: Box<[u16]>,
    shares: Box<[Share]>,
    /// Who has a weight, by name.
    candidates: Box<[Candidate]>,
}

/// What a member owns.
#[derive(Debug, Default)]
struct Share {
    /// In order.
    slots: Box<[Slot]>,
    /// Who stands in for it, slot by slot; worked out when first asked for.
    stand_ins: OnceLock<Box<[u16]>>,
}

#[derive(Clone, Debug)]
struct Candidate {
    name: Box<str>,
    weight: u32,
    /// Its place in the list of members.
    place: u16,
}

impl SlotTable {
    /// Works the table out for members of these (unique) names and weights. For ten of them it takes two or three
    /// milliseconds, for a hundred 15, for a thousand 150.
    ///
    /// # Panics
    ///
    /// If there are more than [`MEMBERS_MAX`] members.
    #[must_use]
    pub fn new(members: &[(&str, u32)]) -> Self {
        assert!(members.len() <= MEMBERS_MAX, "{} members: {MEMBERS_MAX} is the most", members.len());
        let mut candidates: Vec<Candidate> = (0..)
            .zip(members)
            .filter(|(_, (_, weight))| *weight > 0)
            .map(|(place, (name, weight))| Candidate { name: (*name).into(), weight: *weight, place })
            .collect();
        candidates.sort_by(|a, b| a.name.cmp(&b.name));
        let owners = assign(&candidates);
        let mut slots = vec![Vec::new(); members.len()];
        for (slot, &owner) in Slot::all().zip(&owners) {
            if owner != NOBODY {
                slots[usize::from(owner)].push(slot);
            }
        }
        let share = |slots: Vec<Slot>| Share { slots: slots.into(), stand_ins: OnceLock::new() };
        Self { owners, shares: slots.into_iter().map(share).collect(), candidates: candidates.into() }
    }

    /// A slot's owner, as a place in the list of members; `None` if nobody has any weight. One array look-up.
    #[inline]
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<usize> {
        place(self.owners[usize::from(slot.number())])
    }

    /// Who answers for a slot while its owner can't be reached: the owner in the table of the other members. `None` if no
    /// other has any weight.
    ///
    /// That table is worked out when a slot of this owner is first asked for, which takes as long as [`SlotTable::new`], and
    /// kept.
    #[must_use]
    pub fn stand_in(&self, slot: Slot) -> Option<usize> {
        let owner = self.owner(slot)?;
        let share = &self.shares[owner];
        let stand_ins = share.stand_ins.get_or_init(|| {
            let others: Vec<Candidate> =
                self.candidates.iter().filter(|other| usize::from(other.place) != owner).cloned().collect();
            let owners = assign(&others);
            share.slots.iter().map(|slot| owners[usize::from(slot.number())]).collect()
        });
        let index = share.slots.binary_search(&slot).ok()?;
        place(stand_ins[index])
    }

    /// Whether [`stand_in`](Self::stand_in) has the table for this slot.
    #[must_use]
    pub fn knows_stand_in(&self, slot: Slot) -> bool {
        self.owner(slot).is_none_or(|owner| self.shares[owner].stand_ins.get().is_some())
    }

    /// The slots of the member at this place, in order.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    #[must_use]
    pub fn slots_of(&self, place: usize) -> &[Slot] {
        &self.shares[place].slots
    }
}

#[inline]
fn place(owner: u16) -> Option<usize> {
    (owner != NOBODY).then_some(usize::from(owner))
}

/// A member while slots are assigned.
struct Bin {
    bidder: Bidder,
    slots_max: usize,
    /// Its slots so far, the costliest first.
    slots: BinaryHeap<(Cost, Slot)>,
    /// The costliest, once it is full: then it takes only what is before that.
    limit: Option<(Cost, Slot)>,
}

impl Bin {
    fn would_take(&self, cost: Cost, slot: Slot) -> bool {
        self.limit.is_none_or(|limit| (cost, slot) < limit)
    }

    /// Takes a slot that it would take, and gives up another if it was full.
    fn take(&mut self, cost: Cost, slot: Slot) -> Option<Slot> {
        self.slots.push((cost, slot));
        let given_up = if self.slots.len() > self.slots_max { self.slots.pop() } else { None };
        if self.slots.len() == self.slots_max {
            self.limit = self.slots.peek().copied();
        }
        given_up.map(|(_, slot)| slot)
    }
}

/// The owner of each slot. The candidates are sorted by name, which decides between equal costs.
fn assign(candidates: &[Candidate]) -> Box<[u16]> {
    let mut owners = vec![NOBODY; usize::from(SLOT_COUNT)].into_boxed_slice();
    let mut bins = bins(candidates);
    if bins.is_empty() {
        return owners;
    }
    for slot in Slot::all() {
        let mut free = Some(slot);
        while let Some(slot) = free {
            // Together the members have room for more than all slots, so that one that isn't full is always there.
            let Some((best, cost)) = best(&bins, slot) else { break };
            free = bins[best].take(cost, slot);
        }
    }
    for (bin, candidate) in bins.iter().zip(candidates) {
        for (_, slot) in &bin.slots {
            owners[usize::from(slot.number())] = candidate.place;
        }
    }
    owners
}

fn bins(candidates: &[Candidate]) -> Vec<Bin> {
    let weights = || candidates.iter().map(|candidate| candidate.weight);
    let weight_min = weights().min().unwrap_or(1);
    let weight_sum: u64 = weights().map(u64::from).sum();
    let bin = |candidate: &Candidate| Bin {
        bidder: Bidder::new(&candidate.name, candidate.weight, weight_min),
        slots_max: slots_max(candidate.weight, weight_sum),
        slots: BinaryHeap::new(),
        limit: None,
    };
    candidates.iter().map(bin).collect()
}

/// The most slots of a member. It fits: 14 bits of slots, 7 of percent and 32 of weight make 53, and the sum has 44 of
/// weight and 7 of percent.
fn slots_max(weight: u32, weight_sum: u64) -> usize {
    let slots = (u64::from(SLOT_COUNT) * SHARE_PERCENT_MAX * u64::from(weight)).div_ceil(100 * weight_sum);
    slots.min(u64::from(SLOT_COUNT)) as usize
}

/// The member of least cost among those that would take the slot.
fn best(bins: &[Bin], slot: Slot) -> Option<(usize, Cost)> {
    let mut best = None;
    let mut cost_min = Cost::MAX;
    for (index, bin) in bins.iter().enumerate() {
        let cost = bin.bidder.cost(slot);
        if cost < cost_min && bin.would_take(cost, slot) {
            best = Some((index, cost));
            cost_min = cost;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("node-{number}")).collect()
    }

    fn equal(names: &[String]) -> SlotTable {
        SlotTable::new(&names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>())
    }

    /// How many slots have another owner, the lists of members being the same as far as the shorter one goes.
    fn moved(one: &SlotTable, other: &SlotTable) -> f64 {
        Slot::all().filter(|&slot| one.owner(slot) != other.owner(slot)).count() as f64
    }

    #[test]
    fn shares_are_even_and_few_slots_move_when_a_node_joins_or_leaves() {
        let names = names(101);
        let mut before = equal(&names[..1]);
        // Seen from one side a node joins, from the other it leaves.
        for count in 2..=101_usize {
            let table = equal(&names[..count]);
            let mean = f64::from(SLOT_COUNT) / count as f64;
            let max = (0..count).map(|place| table.slots_of(place).len()).max().unwrap_or(0);
            assert!(max as f64 / mean <= 1.03, "{count} nodes: {max} slots at one of them");
            let moved = moved(&before, &table);
            assert!(moved <= 1.6 * mean, "{count} nodes: {moved} slots moved for the last of them");
            before = table;
        }
    }

    #[test]
    fn who_leaves_from_the_middle_of_the_list_moves_few_slots_too() {
        let names = names(12);
        let all = equal(&names);
        for gone in 0..names.len() {
            let rest: Vec<String> =
                names.iter().enumerate().filter(|(i, _)| *i != gone).map(|(_, n)| n.clone()).collect();
            let table = equal(&rest);
            let place_before = |place: usize| place + usize::from(place >= gone);
            let moved = Slot::all().filter(|&slot| all.owner(slot) != table.owner(slot).map(place_before)).count();
            assert!(moved as f64 <= 1.6 * f64::from(SLOT_COUNT) / 12.0, "{moved} slots moved for {gone}");
        }
    }

    #[test]
    fn the_order_of_the_list_makes_no_difference() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut members: Vec<(String, u32)> = names(9).into_iter().zip([1, 3, 0, 2, 2, 7, 1, 1, 5]).collect();
        let by_name = |members: &[(String, u32)]| -> Vec<Option<String>> {
            let list: Vec<(&str, u32)> = members.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
            let table = SlotTable::new(&list);
            let name = |place: Option<usize>| place.map(|place| members[place].0.clone());
            Slot::all().flat_map(|slot| [name(table.owner(slot)), name(table.stand_in(slot))]).collect()
        };
        let expected = by_name(&members);
        for _ in 0..5 {
            random.shuffle(&mut members);
            assert_eq!(by_name(&members), expected);
        }
    }

    #[test]
    fn between_equal_costs_the_name_decides() {
        // So unlike are these weights that costs are coarse, and two of them are equal.
        let slot = Slot::new(11_378).unwrap();
        let (one, other) = (Bidder::new("n61", u32::MAX, 1), Bidder::new("n94", u32::MAX, 1));
        assert_eq!(one.cost(slot), other.cost(slot));
        let members = [("n61", u32::MAX), ("n94", u32::MAX), ("small", 1)];
        assert_eq!(SlotTable::new(&members).owner(slot), Some(0));
        assert_eq!(SlotTable::new(&[members[2], members[1], members[0]]).owner(slot), Some(2));
    }

    /// Nodes of all versions must agree: a change that fails here splits every running cluster while it is upgraded. The
    /// digests come from another implementation, which sorts all pairs.
    #[test]
    fn the_table_is_the_one_of_every_version() {
        let digest = |members: &[(&str, u32)]| {
            let table = SlotTable::new(members);
            let owners: Vec<u8> =
                Slot::all().flat_map(|slot| (table.owner(slot).unwrap() as u16).to_be_bytes()).collect();
            crc::Crc::<u64>::new(&crc::CRC_64_XZ).checksum(&owners)
        };
        assert_eq!(digest(&[("a", 1), ("b", 1), ("c", 1)]), 0x79b6_de60_c56a_55fc);
        assert_eq!(
            digest(&[("10.0.0.1:5274", 1), ("10.0.0.2:5274", 2), ("10.0.0.3:5274", 100), ("ü", 3)]),
            0x8cd5_a290_59be_abf4
        );
        let names = names(50);
        assert_eq!(digest(&names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>()), 0xb1fb_3906_9cf3_f59d);
    }

    #[test]
    fn a_weight_buys_its_share() {
        let members = [("a", 1), ("b", 2), ("c", 3), ("d", 10), ("e", 84)];
        let table = SlotTable::new(&members);
        for (place, (name, weight)) in members.into_iter().enumerate() {
            let fair = f64::from(SLOT_COUNT) * f64::from(weight) / 100.0;
            let slots = table.slots_of(place).len() as f64;
            assert!(slots <= fair * 1.02 + 1.0 && slots >= fair * 0.85, "{name}: {slots} of {fair}");
        }
    }

    #[test]
    fn weights_count_in_relation_to_each_other() {
        let table = SlotTable::new(&[("a", 1), ("b", 2), ("c", 3)]);
        for factor in [2, 3, 1_000, u32::MAX / 3] {
            let scaled = SlotTable::new(&[("a", factor), ("b", 2 * factor), ("c", 3 * factor)]);
            assert_eq!(moved(&table, &scaled), 0.0, "{factor}");
        }
    }

    #[test]
    fn most_slots_belong_to_the_member_that_they_cost_least() {
        let names = names(10);
        let table = equal(&names);
        let bidders: Vec<Bidder> = names.iter().map(|name| Bidder::new(name, 1, 1)).collect();
        let favourite = |slot| (0..10).min_by_key(|&place: &usize| bidders[place].cost(slot));
        let content = Slot::all().filter(|&slot| table.owner(slot) == favourite(slot)).count();
        assert!(content > 15_700, "{content}");
    }

    #[test]
    fn no_slot_and_member_would_both_rather_have_each_other() {
        let names = names(7);
        let table = equal(&names);
        let bidders: Vec<Bidder> = names.iter().map(|name| Bidder::new(name, 1, 1)).collect();
        let full = slots_max(1, 7);
        for (place, bidder) in bidders.iter().enumerate() {
            let slots = table.slots_of(place);
            assert!(slots.len() <= full);
            let costliest = slots.iter().map(|&slot| bidder.cost(slot)).max().unwrap();
            let would_take = |cost| slots.len() < full || cost < costliest;
            for slot in Slot::all() {
                let cost = bidder.cost(slot);
                let owner_cost = bidders[table.owner(slot).unwrap()].cost(slot);
                assert!(cost >= owner_cost || !would_take(cost), "{slot} and {}", names[place]);
            }
        }
    }

    #[test]
    fn the_stand_in_is_the_owner_in_the_table_without_the_owner() {
        let members = [("a", 1), ("b", 2), ("c", 3), ("d", 1)];
        let table = SlotTable::new(&members);
        for gone in 0..members.len() {
            let mut others = members;
            others[gone].1 = 0;
            let without = SlotTable::new(&others);
            assert!(!table.slots_of(gone).is_empty());
            assert!(!table.knows_stand_in(table.slots_of(gone)[0]), "it is worked out for one owner at a time");
            for &slot in table.slots_of(gone) {
                assert_eq!(table.stand_in(slot), without.owner(slot));
                assert!(table.knows_stand_in(slot));
            }
        }
    }

    #[test]
    fn every_slot_is_listed_with_its_owner_and_nowhere_else() {
        let table = equal(&names(6));
        let listed: usize = (0..6).map(|place| table.slots_of(place).len()).sum();
        assert_eq!(listed, usize::from(SLOT_COUNT));
        for place in 0..6 {
            assert!(table.slots_of(place).is_sorted());
            assert!(table.slots_of(place).iter().all(|&slot| table.owner(slot) == Some(place)));
        }
    }

    #[test]
    fn where_nobody_has_weight_nobody_owns_anything() {
        let slot = Slot::of("users", b"42");
        for members in [&[][..], &[("a", 0)], &[("a", 0), ("b", 0)]] {
            let table = SlotTable::new(members);
            assert_eq!((table.owner(slot), table.stand_in(slot)), (None, None));
        }
        let alone = SlotTable::new(&[("idle", 0), ("alone", 9)]);
        assert!(Slot::all().all(|slot| alone.owner(slot) == Some(1) && alone.stand_in(slot).is_none()));
    }

    #[test]
    fn the_most_slots_of_a_member_are_102_percent_of_its_share_in_whole_slots() {
        assert_eq!(slots_max(1, 3), 5_571);
        assert_eq!(slots_max(1, MEMBERS_MAX as u64), 5);
        assert_eq!(slots_max(u32::MAX, u64::from(u32::MAX)), usize::from(SLOT_COUNT));
        assert_eq!(slots_max(1, MEMBERS_MAX as u64 * u64::from(u32::MAX)), 1);
    }
}
