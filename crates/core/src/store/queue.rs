//! [`Chunks`]: a shard's queues of entries, at four bytes an entry.
//!
//! A queue holds locators, not pointers, in chunks of 124, which are chained (an unrolled linked list). An entry knows
//! its [`Place`], so that it can leave from the middle: its place becomes a hole. Neighbouring chunks with many holes
//! become one; the order stays.

use super::{entry::Entry, hash::Locator, index::Seen};

/// So many that a chunk fills 512 bytes.
const CHUNK_LEN: usize = 124;

/// Neighbours that hold no more than this together become one. What is left free makes up for entries that have to be
/// told their new place.
pub(super) const MERGED_LEN_MAX: usize = CHUNK_LEN * 3 / 4;

/// No chunk.
const NIL: u32 = u32::MAX;

/// A hole: no locator is zero.
const HOLE: u32 = 0;

/// Where an entry stands in the queues of its shard: chunk and index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(u32);

impl Place {
    /// How many bits it takes: enough for 65 million entries a shard.
    pub(super) const BITS: u32 = 26;

    /// No entry's: the index within a chunk is too high.
    const NONE: Self = Self(127);

    const fn new(chunk: u32, at: usize) -> Self {
        Self(chunk << 7 | at as u32)
    }

    /// The place in the lowest bits of an entry's [`place`](Entry::place).
    #[inline]
    pub(super) fn of(entry: &Entry) -> Self {
        Self(entry.place() & ((1 << Self::BITS) - 1))
    }

    /// Tells the entry, leaving the other bits as they are.
    #[inline]
    pub(super) fn tell(self, entry: &Entry) {
        entry.set_place(entry.place() >> Self::BITS << Self::BITS | self.0);
    }

    const fn chunk(self) -> u32 {
        self.0 >> 7
    }

    const fn at(self) -> usize {
        (self.0 & 127) as usize
    }
}

struct Chunk {
    locators: [u32; CHUNK_LEN],
    newer: u32,
    older: u32,
    /// Before it there are only holes.
    first: u8,
    /// Behind it there is nothing yet.
    end: u8,
    held: u8,
    /// How many chunks had been opened before it, in all queues.
    opened: u32,
}

const _: () = assert!(size_of::<Chunk>() == 512);

impl Chunk {
    const EMPTY: Self =
        Self { locators: [HOLE; CHUNK_LEN], newer: NIL, older: NIL, first: 0, end: 0, held: 0, opened: 0 };
}

/// The chunks of all queues of a shard.
#[derive(Default)]
pub(super) struct Chunks {
    // A box each: a growing array of them would double.
    #[expect(clippy::vec_box, reason = "a growing array of chunks would double")]
    chunks: Vec<Box<Chunk>>,
    free: Vec<u32>,
    opened: u32,
}

/// The ends of one queue.
pub(super) struct Queue {
    oldest: u32,
    newest: u32,
}

impl Queue {
    pub(super) const EMPTY: Self = Self { oldest: NIL, newest: NIL };
}

impl Chunks {
    fn chunk(&mut self, id: u32) -> &mut Chunk {
        &mut self.chunks[id as usize]
    }

    /// Puts the entry at the newest end, and tells it.
    pub(super) fn push(&mut self, queue: &mut Queue, locator: Locator, entry: &Entry) {
        if queue.newest == NIL || self.chunk(queue.newest).end as usize == CHUNK_LEN {
            self.open(queue);
        }
        let chunk = self.chunk(queue.newest);
        let at = chunk.end as usize;
        chunk.locators[at] = locator.0;
        chunk.end += 1;
        chunk.held += 1;
        Place::new(queue.newest, at).tell(entry);
    }

    fn open(&mut self, queue: &mut Queue) {
        let id = self.free.pop().unwrap_or_else(|| {
            self.chunks.push(Box::new(Chunk::EMPTY));
            (self.chunks.len() - 1) as u32
        });
        assert!(id < 1 << (Place::BITS - 7), "a shard holds at most 65 million entries");
        let older = queue.newest;
        self.opened = self.opened.wrapping_add(1);
        *self.chunk(id) = Chunk { older, opened: self.opened, ..Chunk::EMPTY };
        match older {
            NIL => queue.oldest = id,
            _ => self.chunk(older).newer = id,
        }
        queue.newest = id;
    }

    fn close(&mut self, queue: &mut Queue, id: u32) {
        let Chunk { newer, older, .. } = *self.chunk(id);
        match newer {
            NIL => queue.newest = older,
            _ => self.chunk(newer).older = older,
        }
        match older {
            NIL => queue.oldest = newer,
            _ => self.chunk(older).newer = newer,
        }
        self.free.push(id);
    }

    /// The oldest entry's locator and place.
    pub(super) fn oldest(&mut self, queue: &Queue) -> Option<(Locator, Place)> {
        if queue.oldest == NIL {
            return None;
        }
        let chunk = self.chunk(queue.oldest);
        while chunk.first < chunk.end {
            let at = chunk.first as usize;
            if chunk.locators[at] != HOLE {
                return Some((Locator(chunk.locators[at]), Place::new(queue.oldest, at)));
            }
            chunk.first += 1;
        }
        None
    }

    /// How many chunks were opened since the entry's, and how many there are.
    pub(super) fn age(&self, entry: &Entry) -> (usize, usize) {
        let opened = self.chunks.get(Place::of(entry).chunk() as usize).map_or(self.opened, |chunk| chunk.opened);
        (self.opened.wrapping_sub(opened) as usize, self.chunks.len() - self.free.len())
    }

    /// Whether the entry at this place is the queue's newest.
    pub(super) fn is_newest(&mut self, queue: &Queue, place: Place) -> bool {
        place.chunk() == queue.newest && place.at() + 1 == self.chunk(queue.newest).end as usize
    }

    /// Makes a hole where the entry is; says how many other entries were told a new place, as neighbouring chunks that
    /// became sparse become one. `seen` is where they are found.
    pub(super) fn leave(&mut self, queue: &mut Queue, entry: &Entry, seen: Seen<'_>) -> usize {
        let place = Place::of(entry);
        // While it has no place, no other entry can be taken for it.
        Place::NONE.tell(entry);
        let id = place.chunk();
        let chunk = self.chunk(id);
        chunk.locators[place.at()] = HOLE;
        chunk.held -= 1;
        if chunk.held == 0 {
            self.close(queue, id);
            return 0;
        }
        let Chunk { newer, older, .. } = *chunk;
        // The newest is still being filled, and the oldest drains anyway.
        if older == NIL || newer == NIL {
            return 0;
        }
        if newer != queue.newest && self.sparse(id, newer) {
            return self.merge(queue, id, newer, seen);
        }
        if self.sparse(older, id) {
            return self.merge(queue, older, id, seen);
        }
        0
    }

    fn sparse(&mut self, one: u32, other: u32) -> bool {
        usize::from(self.chunk(one).held) + usize::from(self.chunk(other).held) <= MERGED_LEN_MAX
    }

    /// Moves what the older chunk holds to the newer one, in front of what that holds.
    fn merge(&mut self, queue: &mut Queue, older: u32, newer: u32, seen: Seen<'_>) -> usize {
        let mut to = CHUNK_LEN;
        for from in [newer, older] {
            for at in (0..CHUNK_LEN).rev() {
                let locator = std::mem::replace(&mut self.chunk(from).locators[at], HOLE);
                if locator == HOLE {
                    continue;
                }
                to -= 1;
                self.chunk(newer).locators[to] = locator;
                let (was, is) = (Place::new(from, at), Place::new(newer, to));
                if let Some(entry) = seen.find_by(Locator(locator), |entry| Place::of(entry) == was) {
                    is.tell(&entry);
                }
            }
        }
        let held = self.chunk(older).held;
        let chunk = self.chunk(newer);
        chunk.held += held;
        chunk.first = to as u8;
        chunk.end = CHUNK_LEN as u8;
        self.close(queue, older);
        CHUNK_LEN - to
    }
}
