//! [`View`]: the agreed member list with its owner table. Immutable; a node swaps one for the next in one step (rule W1).

use std::sync::Arc;

use tokio::{sync::Mutex, task::spawn_blocking};

use crate::{
    Error, ErrorKind, Key, Member, MemberState, Members,
    link::Peer,
    placement::{GroupcacheRing, Placement, Slot, SlotTable},
};

/// Which function of the members places the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ring {
    /// Slots, by capped weighted rendezvous hashing.
    #[default]
    Slots,
    /// golang/groupcache's own ring, for clusters with Go nodes. Members are known by their addresses.
    Groupcache,
}

/// Who answers for a key.
pub(crate) enum Place {
    /// This node.
    Mine,
    /// Another one.
    At(Arc<Peer>),
    /// Nobody: no member takes keys.
    Nobody,
}

/// The agreed member list, who owns what, and the links to the others.
pub struct View {
    members: Members,
    me: Option<usize>,
    peers: Box<[Option<Arc<Peer>>]>,
    /// The members that take keys, in the order in which the placement knows them.
    takers: Box<[usize]>,
    placement: Placement,
    digest: u64,
    number: u64,
    /// Held while it is worked out who stands in for a member, so that those who ask meanwhile wait and take no thread.
    standing_in: Mutex<()>,
}

impl View {
    pub(crate) fn new(
        members: Members,
        name: &str,
        ring: Ring,
        number: u64,
        mut link: impl FnMut(&Member) -> Result<Arc<Peer>, Error>,
    ) -> Result<Self, Error> {
        let me = members.position(name);
        let mut peers = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            peers.push(if Some(index) == me { None } else { Some(link(member)?) });
        }
        let takers: Box<[usize]> = (0..members.len()).filter(|index| members[*index].takes_keys()).collect();
        let taking = || takers.iter().map(|index| &members[*index]);
        let placement = match ring {
            Ring::Slots => {
                let named: Vec<(&str, u32)> = taking().map(|member| (&*member.name, member.weight)).collect();
                Placement::Slots(SlotTable::new(&named))
            }
            Ring::Groupcache => {
                let urls: Vec<&str> = taking().map(|member| &*member.address).collect();
                Placement::Groupcache(GroupcacheRing::new(&urls))
            }
        };
        let digest = digest(&members, ring);
        let standing_in = Mutex::default();
        Ok(Self { members, me, peers: peers.into(), takers, placement, digest, number, standing_in })
    }

    /// All members, sorted by name.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The links to the other members.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.iter().flatten()
    }

    /// The link to another member.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<&Arc<Peer>> {
        self.peers[self.members.position(name)?].as_ref()
    }

    /// The same for equal members, on every machine and version.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many views this node had before.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether this node is a serving member, so that it may own keys and answer for them.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.me.is_some_and(|me| self.members[me].state == MemberState::Serving)
    }

    /// Whether this node owns the key.
    #[inline]
    #[must_use]
    pub fn is_mine(&self, slot: Slot, key: &[u8]) -> bool {
        self.me.is_some() && self.taker(self.placement.owner(slot, key)) == self.me
    }

    /// Who owns the key.
    #[must_use]
    pub fn owner(&self, slot: Slot, key: &[u8]) -> Option<&Member> {
        self.taker(self.placement.owner(slot, key)).map(|index| &self.members[index])
    }

    /// Who answers for the key while its owner can't be reached.
    #[must_use]
    pub fn stand_in(&self, slot: Slot, key: &[u8]) -> Option<&Member> {
        self.taker(self.placement.stand_in(slot, key)).map(|index| &self.members[index])
    }

    pub(crate) fn owner_place(&self, slot: Slot, key: &[u8]) -> Place {
        self.place(self.placement.owner(slot, key))
    }

    /// Who answers for the key while its owner can't be reached. What has to be worked out for that, once for each owner, is
    /// worked out where it holds up nobody who is served: with a thousand members it takes as long as the view itself did.
    pub(crate) async fn stand_in_place(self: &Arc<Self>, slot: Slot, key: &Key) -> Place {
        if !self.placement.knows_stand_in(slot) {
            let _working = self.standing_in.lock().await;
            if !self.placement.knows_stand_in(slot) {
                let view = self.clone();
                // If this failed, what follows would fail in the same way, and be heard of there.
                let _worked_out = spawn_blocking(move || view.placement.stand_in(slot, &[])).await;
            }
        }
        self.place(self.placement.stand_in(slot, key.as_bytes()))
    }

    /// Whether keys are placed by slots; golang/groupcache's ring has none.
    #[must_use]
    pub fn has_slots(&self) -> bool {
        matches!(self.placement, Placement::Slots(_))
    }

    /// How many slots the member at this place of [`members`](Self::members) owns.
    #[must_use]
    pub fn slot_count(&self, index: usize) -> usize {
        let Placement::Slots(table) = &self.placement else { return 0 };
        let taker = self.takers.iter().position(|taker| *taker == index);
        taker.map_or(0, |taker| table.slots_of(taker).len())
    }

    /// How many slots this node owns.
    #[must_use]
    pub fn owned_slot_count(&self) -> usize {
        self.me.map_or(0, |me| self.slot_count(me))
    }

    #[inline]
    fn taker(&self, place: Option<usize>) -> Option<usize> {
        place.map(|place| self.takers[place])
    }

    fn place(&self, place: Option<usize>) -> Place {
        match self.taker(place) {
            None => Place::Nobody,
            Some(index) => self.peers[index].clone().map_or(Place::Mine, Place::At),
        }
    }
}

/// CRC-64 of what nodes must agree on about each member, each text with its length before it.
fn digest(members: &Members, ring: Ring) -> u64 {
    const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_XZ);
    let mut digest = CRC.digest();
    digest.update(&[ring as u8]);
    for member in members.iter() {
        for text in [&member.name, &member.address] {
            digest.update(&(text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        }
        digest.update(&member.incarnation.to_le_bytes());
        digest.update(&member.weight.to_le_bytes());
        digest.update(&[member.state as u8]);
    }
    digest.finalize()
}

pub(crate) fn no_taker() -> Error {
    Error::new(ErrorKind::OwnerUnreachable, "no member takes keys: check the member list and the weights")
}
