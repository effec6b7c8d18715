//! [`Index`]: a shard's entries, found by locator and key. Readers need no lock.
//!
//! It is a directory of tables of some hundreds of entries (extendible hashing: Fagin and others, TODS 1979). A table that
//! is 90% full gets the next larger buckets, and at the largest is divided into two, whose halves of the directory name
//! them from then on; the directory doubles when a table of one slot has to be divided. So the index never holds many
//! empty buckets, and no insert waits for more than one table to be built anew, however large the shard grows.
//!
//! What readers find is kept for them by their seat (`readers.rs`); what was replaced goes to the shard's limbo.
//!
//! It knows nothing of what entries are worth and of when they go.

#![allow(unsafe_code, reason = "the directory names tables by pointers that are swapped while they are read")]

use std::{ops::Range, ptr::NonNull, slice};

use super::{
    entry::{Entry, Held},
    hash::{KeyHasher, Locator},
    readers::Reading,
    sync::{AtomicPtr, Ordering},
    table::{self, At, Bucket, Table},
};

/// Entries a slot of the directory, below which it doesn't double: only keys chosen for their hashes could make it.
const ITEMS_A_SLOT_MIN: usize = 16;

/// Slots of a cache line.
const LINE_LEN: usize = 8;

/// The low bits of a pointer to something that begins with a cache line.
const LOW_BITS: usize = 63;

/// Some slots of the directory. Each names a table: its first bucket, and in the low bits how many more there are. Null is
/// a table without buckets; neighbours may name the same.
#[repr(align(64))]
struct Line(
    #[expect(dead_code, reason = "lines are read as slots, one after the other")] [AtomicPtr<Bucket>; LINE_LEN],
);

const _: () =
    assert!(table::BUCKETS_MAX <= LOW_BITS + 1 && align_of::<Line>() > LOW_BITS && align_of::<Bucket>() > LOW_BITS);

impl Line {
    fn empty() -> Self {
        Self(std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut())))
    }
}

/// The pointer without its low bits, and these.
#[inline]
fn unpack<T>(packed: *mut T) -> (*mut T, usize) {
    (packed.map_addr(|address| address & !LOW_BITS), packed.addr() & LOW_BITS)
}

/// The directory: two to some power of slots.
#[derive(Clone, Copy)]
struct Directory<'a>(&'a [AtomicPtr<Bucket>]);

impl Directory<'_> {
    const fn len(self) -> usize {
        self.0.len()
    }

    /// The number of the locator's slot.
    #[inline]
    const fn number(self, locator: Locator) -> usize {
        ((locator.0 as u64 * self.len() as u64) >> 32) as usize
    }

    /// What the slot of this number names.
    #[inline]
    fn named(self, number: usize) -> *mut Bucket {
        // Sequentially consistent: see `readers.rs`.
        self.0.get(number).map_or(std::ptr::null_mut(), |slot| slot.load(Ordering::SeqCst))
    }

    /// What the locator's slot names.
    #[inline]
    fn named_for(self, locator: Locator) -> *mut Bucket {
        // SAFETY: A locator is less than 2^32.
        unsafe { self.0.get_unchecked(self.number(locator)) }.load(Ordering::SeqCst)
    }

    /// The slots that name the same table as this one: always a power of two of them, and a multiple of that.
    fn sharing(self, number: usize) -> Range<usize> {
        let named = self.named(number);
        let (mut start, mut len) = (number, 1);
        while !named.is_null() && len < self.len() {
            let wider = start & !(2 * len - 1);
            let other = if wider == start { start + len } else { wider };
            if self.named(other) != named {
                break;
            }
            (start, len) = (wider, 2 * len);
        }
        start..start + len
    }

    fn name(self, slots: Range<usize>, packed: *mut Bucket) {
        for slot in &self.0[slots] {
            slot.store(packed, Ordering::Release);
        }
    }
}

/// The table that a slot names; one without buckets for null.
///
/// # Safety
///
/// As long as `'a`, the table isn't freed.
#[inline]
unsafe fn table<'a>(named: *mut Bucket) -> Table<'a> {
    let (first, more) = unpack(named);
    if first.is_null() {
        return Table::new(&[]);
    }
    // SAFETY: `Buckets::into_packed` made it of a slice of this length, and the caller has the rest.
    Table::new(unsafe { slice::from_raw_parts(first, more + 1) })
}

/// Buckets that nobody names any more.
pub(super) struct Buckets(NonNull<[Bucket]>);

// SAFETY: It owns them.
unsafe impl Send for Buckets {}

impl Buckets {
    fn into_packed(buckets: Box<[Bucket]>) -> *mut Bucket {
        let more = buckets.len() - 1;
        Box::into_raw(buckets).cast::<Bucket>().map_addr(|address| address | more)
    }

    /// # Safety
    ///
    /// The caller hands over what [`into_packed`](Self::into_packed) made.
    unsafe fn from_packed(packed: *mut Bucket) -> Option<Self> {
        let (first, more) = unpack(packed);
        Some(Self(NonNull::slice_from_raw_parts(NonNull::new(first)?, more + 1)))
    }

    pub(super) const fn bytes(&self) -> usize {
        self.0.len() * size_of::<Bucket>()
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        // SAFETY: They came out of a box, and are handed over once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// What readers see of the entries of a shard.
pub(super) struct Index {
    /// The directory's first line; in the low bits the logarithm of how many there are.
    directory: AtomicPtr<Line>,
}

/// The index as somebody sees it for whom nothing that he finds there is freed.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a>(&'a Index);

impl Index {
    #[inline]
    fn directory(&self) -> Directory<'_> {
        let (lines, log) = unpack(self.directory.load(Ordering::SeqCst));
        // SAFETY: `Tables` made it of so many lines, and frees it with the shard only.
        Directory(unsafe { slice::from_raw_parts(lines.cast(), LINE_LEN << log) })
    }

    /// Has the processor fetch the bucket. Needs no seat: nothing is read but the directory.
    #[inline]
    pub(super) fn prefetch_bucket(&self, locator: Locator) {
        let (first, more) = unpack(self.directory().named_for(locator));
        super::prefetch::read(first.wrapping_add(table::home(locator, more + 1)));
    }

    /// As a reader sees it that is seated for this index's shard.
    #[inline]
    pub(super) const fn seen_by<'a>(&'a self, _: &'a Reading<'_>) -> Seen<'a> {
        Seen(self)
    }

    /// As the holder of the shard's lock sees it: to take anything out, it has to change the tables.
    pub(super) const fn seen_with<'a>(&'a self, _: &'a Tables) -> Seen<'a> {
        Seen(self)
    }
}

impl<'a> Seen<'a> {
    #[inline]
    fn table(self, locator: Locator) -> Table<'a> {
        // SAFETY: For whom this is, nothing is freed.
        unsafe { table(self.0.directory().named_for(locator)) }
    }

    #[inline]
    pub(super) fn find(self, locator: Locator, key: &[u8]) -> Option<Held<'a>> {
        self.find_by(locator, |entry| entry.has_key(key))
    }

    #[inline]
    pub(super) fn find_by(self, locator: Locator, wanted: impl Fn(&Entry) -> bool) -> Option<Held<'a>> {
        self.find_at(locator, wanted).map(|(_, entry)| entry)
    }

    /// Finds an entry and where in its table it is.
    #[inline]
    pub(super) fn find_at(self, locator: Locator, wanted: impl Fn(&Entry) -> bool) -> Option<(At, Held<'a>)> {
        // SAFETY: For whom this is, nothing is freed.
        unsafe { self.table(locator).find(locator, wanted) }
    }

    /// What is at this place of the locator's table.
    pub(super) fn at(self, locator: Locator, at: At) -> Option<Held<'a>> {
        // SAFETY: For whom this is, nothing is freed.
        unsafe { self.table(locator).at(at) }
    }

    /// Has the processor fetch the entries that the locator's bucket names.
    #[inline]
    pub(super) fn prefetch_entries(self, locator: Locator) {
        self.table(locator).prefetch_entries(locator);
    }

    /// Shows the entries of the next tables: one, and more as long as they come to no more than `touched_max` entries;
    /// returns how many it looked at, and where to go on, unless that was the last table. An entry that is there all along
    /// is shown, and twice if its table is divided meanwhile.
    pub(super) fn walk(
        self,
        from: Cursor,
        touched_max: usize,
        mut show: impl FnMut(Held<'a>),
    ) -> (usize, Option<Cursor>) {
        let directory = self.0.directory();
        let first = directory.number(Locator(from.0));
        let (mut number, mut shown) = (first, 0);
        // To look at slots is work, too, even if there is nothing.
        let touched = |number: usize, shown: usize| shown + (number - first).div_ceil(LINE_LEN);
        while number < directory.len() {
            // Before its slots are counted: they become fewer if it is divided meanwhile, and none must be left out.
            // SAFETY: For whom this is, nothing is freed.
            let table = unsafe { table(directory.named(number)) };
            if number > first && touched(number, shown) + table.places() > touched_max {
                let at = ((number as u64) << 32) / directory.len() as u64;
                return (touched(number, shown), Some(Cursor(at as u32)));
            }
            // SAFETY: As above.
            shown += unsafe { table.entries() }.map(&mut show).count();
            number = directory.sharing(number).end;
        }
        (touched(number, shown), None)
    }
}

/// Where a walk over the index goes on: at the tables of the locators from this one on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Cursor(u32);

/// What changes an index, and owns what it names. It is kept under the shard's lock.
pub(super) struct Tables {
    hasher: KeyHasher,
    /// How many entries each table has, by the first of its slots.
    items: Vec<u32>,
    all_items: usize,
    /// The present directory, behind those that were outgrown: without a seat, readers may still look for a bucket there.
    directories: Vec<Lines>,
}

/// Lines of a directory.
struct Lines(NonNull<[Line]>);

// SAFETY: It owns them.
unsafe impl Send for Lines {}

impl Lines {
    /// Two to this power of empty lines.
    fn new(log: u32) -> Self {
        let lines: Box<[Line]> = std::iter::repeat_with(Line::empty).take(1 << log).collect();
        Self(NonNull::from(Box::leak(lines)))
    }

    const fn directory(&self) -> Directory<'_> {
        // SAFETY: It owns them.
        Directory(unsafe { slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE_LEN) })
    }

    fn packed(&self) -> *mut Line {
        let log = self.0.len().ilog2() as usize;
        self.0.as_ptr().cast::<Line>().map_addr(|address| address | log)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: They came out of a box.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// An index with at least so many slots, and what changes it. The two belong together: each method of the tables takes
/// this index.
pub(super) fn index(slots: usize, hasher: KeyHasher) -> (Index, Tables) {
    let lines = Lines::new((slots / LINE_LEN).max(1).next_power_of_two().ilog2());
    let index = Index { directory: AtomicPtr::new(lines.packed()) };
    let items = vec![0; lines.directory().len()];
    (index, Tables { hasher, items, all_items: 0, directories: vec![lines] })
}

/// What it took to change a table.
#[derive(Default)]
pub(super) struct Rebuilt {
    /// How many entries moved.
    pub(super) moved: usize,
    /// What they moved out of; readers may still be there.
    pub(super) out_of: Option<Buckets>,
}

/// A table, and the slots that name it.
struct Spot<'a> {
    slots: Range<usize>,
    table: Table<'a>,
}

impl Tables {
    pub(super) fn locate(&self, entry: &Entry) -> Locator {
        self.hasher.hash(entry.key()).locator()
    }

    fn spot<'a>(&'a self, index: &'a Index, locator: Locator) -> Spot<'a> {
        let directory = index.directory();
        let slots = directory.sharing(directory.number(locator));
        // SAFETY: What replaces a table has the tables for itself.
        let table = unsafe { table(directory.named(slots.start)) };
        Spot { slots, table }
    }

    /// Adds an entry whose key isn't there; gives it back if there is no room, as too many have much the same hash.
    pub(super) fn insert(&mut self, index: &Index, locator: Locator, entry: Entry) -> Result<Rebuilt, Entry> {
        let Spot { slots, table } = self.spot(index, locator);
        let mut rebuilt = Rebuilt::default();
        if table.is_full(self.items[slots.start] as usize) {
            rebuilt = self.make_room(index, locator);
        }
        let Spot { slots, table } = self.spot(index, locator);
        table.insert(locator, entry)?;
        let first = slots.start;
        self.items[first] += 1;
        self.all_items += 1;
        Ok(rebuilt)
    }

    /// Gives the locator's table larger buckets, or divides it.
    fn make_room(&mut self, index: &Index, locator: Locator) -> Rebuilt {
        let Spot { slots, table } = self.spot(index, locator);
        if let Some(buckets) = table::grown(table.buckets()) {
            return self.rebuild(index, slots, buckets);
        }
        if slots.len() > 1 {
            return self.divide(index, slots);
        }
        if self.all_items < self.items.len() * ITEMS_A_SLOT_MIN {
            return Rebuilt::default();
        }
        self.double(index);
        self.divide(index, slots.start * 2..slots.end * 2)
    }

    /// Moves the entries of a table to new buckets.
    fn rebuild(&mut self, index: &Index, slots: Range<usize>, buckets: usize) -> Rebuilt {
        let directory = index.directory();
        let named = directory.named(slots.start);
        let entries = self.moving(named);
        let moved = entries.len();
        directory.name(slots, filled(entries, buckets));
        // SAFETY: No slot names them any more.
        Rebuilt { moved, out_of: unsafe { Buckets::from_packed(named) } }
    }

    /// Makes two tables of one.
    fn divide(&mut self, index: &Index, slots: Range<usize>) -> Rebuilt {
        let directory = index.directory();
        let named = directory.named(slots.start);
        let middle = slots.start + slots.len() / 2;
        let entries = self.moving(named);
        let moved = entries.len();
        let (upper, lower): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(locator, _)| directory.number(*locator) >= middle);
        for (slots, entries) in [(slots.start..middle, lower), (middle..slots.end, upper)] {
            self.items[slots.start] = entries.len() as u32;
            let buckets = table::fitting(entries.len());
            directory.name(slots, filled(entries, buckets));
        }
        // SAFETY: No slot names them any more.
        Rebuilt { moved, out_of: unsafe { Buckets::from_packed(named) } }
    }

    /// The entries of a table whose buckets are about to be replaced. They now own what the buckets owned.
    fn moving(&self, named: *mut Bucket) -> Vec<(Locator, Entry)> {
        // SAFETY: The caller replaces the buckets and has the tables for itself; buckets that nobody names own no entries.
        let entries = unsafe { table(named).entries() };
        // SAFETY: As above.
        entries.map(|entry| (self.locate(&entry), unsafe { entry.own() })).collect()
    }

    /// Replaces the directory by one of twice as many slots.
    fn double(&mut self, index: &Index) {
        let old = index.directory();
        let lines = Lines::new((old.len() * 2 / LINE_LEN).ilog2());
        for number in 0..old.len() {
            lines.directory().name(number * 2..number * 2 + 2, old.named(number));
        }
        self.items = self.items.iter().flat_map(|&items| [items, 0]).collect();
        index.directory.store(lines.packed(), Ordering::Release);
        self.directories.push(lines);
    }

    /// Puts an entry where another of its key is, and returns that one.
    pub(super) fn swap(&mut self, index: &Index, locator: Locator, at: At, entry: Entry) -> Option<Entry> {
        self.spot(index, locator).table.swap(at, entry)
    }

    /// Takes an entry out. If few are left in its table, that gets smaller buckets, if it may.
    pub(super) fn remove_by(
        &mut self,
        index: &Index,
        locator: Locator,
        may_rebuild: bool,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Option<(Entry, Rebuilt)> {
        let Spot { slots, table } = self.spot(index, locator);
        // SAFETY: Nothing else is taken out meanwhile.
        let (at, _) = unsafe { table.find(locator, wanted) }?;
        let entry = table.remove(locator, at)?;
        let items = self.items[slots.start] as usize - 1;
        let is_sparse = table.is_sparse(items);
        self.items[slots.start] = items as u32;
        self.all_items -= 1;
        let rebuilt = match may_rebuild && is_sparse {
            true => self.rebuild(index, slots, table::fitting(items)),
            false => Rebuilt::default(),
        };
        Some((entry, rebuilt))
    }
}

/// Buckets with these entries, packed.
fn filled(entries: Vec<(Locator, Entry)>, count: usize) -> *mut Bucket {
    let buckets = table::buckets(count);
    for (locator, entry) in entries {
        // They came out of no more places than these are.
        let _ = Table::new(&buckets).insert(locator, entry);
    }
    Buckets::into_packed(buckets)
}

impl Drop for Tables {
    fn drop(&mut self) {
        let Some(directory) = self.directories.last() else { return };
        let directory = directory.directory();
        let mut number = 0;
        while number < directory.len() {
            let slots = directory.sharing(number);
            let named = directory.named(number);
            drop(self.moving(named));
            // SAFETY: Nobody looks at a store that is dropped.
            drop(unsafe { Buckets::from_packed(named) });
            number = slots.end;
        }
    }
}
