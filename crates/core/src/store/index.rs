//! [`Index`]: a shard's entries, found by locator and key.
//!
//! A bucket fills one cache line: seven pointers, and a byte of each one's locator, so that a look-up that finds its key
//! costs two cache misses, the bucket's and the entry's, and one that doesn't usually costs one. An entry that finds its
//! bucket full goes to the next; the bucket counts how many passed it by, so that a look-up knows where to stop (as in
//! Facebook's F14 tables).
//!
//! The index is divided into tables of some thousands of entries, each of which grows by a quarter when it is 90% full.
//! So it never holds many empty buckets, and no insert waits for a large table to be built anew.
//!
//! It knows nothing of what entries are worth and of when they go.

use super::{
    entry::Entry,
    hash::{KeyHasher, Locator},
};

const WIDTH: usize = 7;

/// The byte behind the tags: how many entries passed the bucket by. At its highest value it no longer counts.
const PASSED: usize = WIDTH;
const PASSED_MAX: u8 = u8::MAX;

#[repr(align(64))]
struct Bucket {
    tags: [u8; WIDTH + 1],
    entries: [Option<Entry>; WIDTH],
}

const _: () = assert!(size_of::<Bucket>() == 64 || size_of::<usize>() < 8);

/// A byte in each of a bucket's seven tags.
const LOW_BITS: u64 = 0x0001_0101_0101_0101;

impl Bucket {
    const EMPTY: Self = Self { tags: [0; WIDTH + 1], entries: [const { None }; WIDTH] };

    /// The places whose tag may be this one, as the highest bit of each byte. A place above a match may be named
    /// falsely; whoever asks compares keys anyway.
    #[inline]
    fn matches(&self, tag: u8) -> u64 {
        let differing = u64::from_le_bytes(self.tags) ^ (u64::from(tag) * LOW_BITS);
        differing.wrapping_sub(LOW_BITS) & !differing & (LOW_BITS << 7)
    }

    #[inline]
    fn find(&self, tag: u8, wanted: impl Fn(&Entry) -> bool) -> Option<usize> {
        let mut matches = self.matches(tag);
        while matches != 0 {
            let at = (matches.trailing_zeros() / 8) as usize;
            if let Some(entry) = &self.entries[at] {
                entry.prefetch_rest();
                if wanted(entry) {
                    return Some(at);
                }
            }
            matches &= matches - 1;
        }
        None
    }

    fn room(&self) -> Option<usize> {
        self.entries.iter().position(Option::is_none)
    }
}

struct Table {
    buckets: Box<[Bucket]>,
    items: usize,
}

impl Table {
    fn with_buckets(count: usize) -> Self {
        Self { buckets: std::iter::repeat_with(|| Bucket::EMPTY).take(count).collect(), items: 0 }
    }

    /// The bucket where the search for an entry begins; `fraction` is what choosing the table left of the locator.
    #[inline]
    fn home(&self, fraction: u32) -> usize {
        scale(fraction, self.buckets.len()).0
    }

    #[inline]
    fn next(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() { 0 } else { bucket + 1 }
    }

    #[inline]
    fn find(&self, fraction: u32, tag: u8, wanted: impl Fn(&Entry) -> bool) -> Option<(usize, usize)> {
        let mut bucket = self.home(fraction);
        for _ in 0..self.buckets.len() {
            let here = &self.buckets[bucket];
            if let Some(at) = here.find(tag, &wanted) {
                return Some((bucket, at));
            }
            if here.tags[PASSED] == 0 {
                return None;
            }
            bucket = self.next(bucket);
        }
        None
    }

    fn insert(&mut self, fraction: u32, tag: u8, entry: Entry) {
        let mut bucket = self.home(fraction);
        loop {
            let next = self.next(bucket);
            let here = &mut self.buckets[bucket];
            if let Some(at) = here.room() {
                here.tags[at] = tag;
                here.entries[at] = Some(entry);
                self.items += 1;
                return;
            }
            here.tags[PASSED] = here.tags[PASSED].saturating_add(1);
            bucket = next;
        }
    }

    fn remove(&mut self, fraction: u32, bucket: usize, at: usize) -> Option<Entry> {
        let mut passed = self.home(fraction);
        while passed != bucket {
            let count = &mut self.buckets[passed].tags[PASSED];
            if *count != PASSED_MAX {
                *count -= 1;
            }
            passed = self.next(passed);
        }
        let here = &mut self.buckets[bucket];
        here.tags[at] = 0;
        self.items -= 1;
        here.entries[at].take()
    }

    const fn is_full(&self) -> bool {
        self.items * 10 >= self.buckets.len() * WIDTH * 9
    }

    const fn is_sparse(&self) -> bool {
        self.buckets.len() > 4 && self.items * 5 < self.buckets.len() * WIDTH * 2
    }
}

/// `of` parts, the one that `share` of 2^32 falls into, and the share of that part.
#[inline]
const fn scale(share: u32, of: usize) -> (usize, u32) {
    let product = share as u64 * of as u64;
    ((product >> 32) as usize, product as u32)
}

/// Where a walk over the index goes on.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Cursor {
    table: usize,
    bucket: usize,
    /// How many buckets the table had: if it was built anew since, its walk begins again.
    of: usize,
}

pub(super) struct Index {
    tables: Box<[Table]>,
    hasher: KeyHasher,
}

impl Index {
    /// An empty index of this many tables; keys are hashed again when a table is built anew.
    pub(super) fn new(tables: usize, hasher: KeyHasher) -> Self {
        let tables = std::iter::repeat_with(|| Table::with_buckets(1)).take(tables.max(1)).collect();
        Self { tables, hasher }
    }

    #[inline]
    fn table(&self, locator: Locator) -> (&Table, u32) {
        let (table, fraction) = scale(locator.0, self.tables.len());
        (&self.tables[table], fraction)
    }

    #[inline]
    pub(super) fn find(&self, locator: Locator, key: &[u8]) -> Option<&Entry> {
        self.find_by(locator, |entry| entry.has_key(key))
    }

    #[inline]
    pub(super) fn find_by(&self, locator: Locator, wanted: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        let (table, fraction) = self.table(locator);
        let (bucket, at) = table.find(fraction, locator.tag(), wanted)?;
        table.buckets[bucket].entries[at].as_ref()
    }

    /// Has the processor fetch the bucket.
    #[inline]
    pub(super) fn prefetch_bucket(&self, locator: Locator) {
        let (table, fraction) = self.table(locator);
        super::prefetch::read(&raw const table.buckets[table.home(fraction)]);
    }

    /// Has the processor fetch the entries that the bucket names for the locator.
    #[inline]
    pub(super) fn prefetch_entries(&self, locator: Locator) {
        let (table, fraction) = self.table(locator);
        let bucket = &table.buckets[table.home(fraction)];
        let _ = bucket.find(locator.tag(), |entry| {
            entry.prefetch();
            false
        });
    }

    /// Adds an entry whose key isn't there; returns how many others it moved, for want of room.
    pub(super) fn insert(&mut self, locator: Locator, entry: Entry) -> usize {
        let (at, fraction) = scale(locator.0, self.tables.len());
        let table = &self.tables[at];
        let (full, items) = (table.is_full(), table.items);
        if full {
            self.rebuild(at, table.buckets.len() * 5 / 4 + 1);
        }
        self.tables[at].insert(fraction, locator.tag(), entry);
        if full { items } else { 0 }
    }

    /// Puts `entry` where another of the same key is, if `may` agrees, and returns that one.
    pub(super) fn replace(
        &mut self,
        locator: Locator,
        entry: &Entry,
        may: impl FnOnce(&Entry) -> bool,
    ) -> Option<Entry> {
        let (at, fraction) = scale(locator.0, self.tables.len());
        let table = &mut self.tables[at];
        let (bucket, at) = table.find(fraction, locator.tag(), |other| other.has_key(entry.key()))?;
        let place = table.buckets[bucket].entries[at].as_mut()?;
        may(place).then(|| std::mem::replace(place, entry.clone()))
    }

    pub(super) fn remove_by(&mut self, locator: Locator, wanted: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let (at, fraction) = scale(locator.0, self.tables.len());
        let table = &mut self.tables[at];
        let (bucket, place) = table.find(fraction, locator.tag(), wanted)?;
        let entry = table.remove(fraction, bucket, place);
        if table.is_sparse() {
            let count = table.buckets.len() * 3 / 5;
            self.rebuild(at, count);
        }
        entry
    }

    fn rebuild(&mut self, at: usize, buckets: usize) {
        let old = std::mem::replace(&mut self.tables[at], Table::with_buckets(buckets));
        let count = self.tables.len();
        let table = &mut self.tables[at];
        for entry in old.buckets.into_iter().flat_map(|bucket| bucket.entries).flatten() {
            let locator = self.hasher.hash(entry.key()).locator();
            table.insert(scale(locator.0, count).1, locator.tag(), entry);
        }
    }

    /// Shows the entries of the next buckets, at least one and as many as hold `touched_max` entries; returns how many
    /// it showed, and the cursor to go on from, unless all buckets were walked.
    pub(super) fn walk(
        &self,
        from: Cursor,
        touched_max: usize,
        mut show: impl FnMut(&Entry),
    ) -> (usize, Option<Cursor>) {
        let Cursor { mut table, mut bucket, of } = from;
        if self.tables.get(table).is_none_or(|table| table.buckets.len() != of) {
            bucket = 0;
        }
        let mut touched = 0;
        while let Some(here) = self.tables.get(table) {
            while let Some(entries) = here.buckets.get(bucket) {
                if touched + WIDTH > touched_max.max(WIDTH) {
                    return (touched, Some(Cursor { table, bucket, of: here.buckets.len() }));
                }
                for entry in entries.entries.iter().flatten() {
                    show(entry);
                }
                // An empty bucket is work, too.
                touched += entries.entries.iter().flatten().count().max(1);
                bucket += 1;
            }
            table += 1;
            bucket = 0;
        }
        (touched, None)
    }

    pub(super) fn locate(&self, entry: &Entry) -> Locator {
        self.hasher.hash(entry.key()).locator()
    }
}
