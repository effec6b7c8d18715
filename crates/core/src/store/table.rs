//! [`Table`]: some hundreds of entries, found by locator and key; the index is made of tables.
//!
//! A bucket fills one cache line: seven pointers, and a byte of each one's locator, so that a look-up that finds its key
//! costs two cache misses, the bucket's and the entry's, and one that doesn't usually costs one. An entry that finds its
//! bucket full goes to the next; the bucket counts how many passed it by, so that a look-up knows where to stop (as in
//! Facebook's F14 tables).
//!
//! Readers search it while it is written to. So a pointer is there before its tag, an entry never moves within a table,
//! and the tags of a bucket change in one step. Only one at a time writes: whoever holds the shard's lock.

#![allow(
    unsafe_code,
    reason = "readers without locks need pointers to entries, which Rust's references can't be: they are swapped while \
              they are read"
)]

use std::ptr::NonNull;

use super::{
    entry::{Entry, Header, Held},
    hash::Locator,
    sync::{AtomicPtr, AtomicU64, Ordering},
};

const WIDTH: usize = 7;

/// The most buckets of a table, and entries: all that is touched when one is built anew.
pub(super) const BUCKETS_MAX: usize = 64;
pub(super) const ITEMS_MAX: usize = BUCKETS_MAX * WIDTH;

/// How many buckets a table has: as many as fill what allocators hand out, four sizes to a doubling.
const BUCKETS: [usize; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, BUCKETS_MAX];

/// The byte behind the tags: how many entries passed the bucket by. At its highest value it no longer counts.
const PASSED_SHIFT: u32 = 8 * WIDTH as u32;
const PASSED_MAX: u64 = 0xff;

/// A byte in each of a bucket's seven tags.
const LOW_BITS: u64 = 0x0001_0101_0101_0101;

#[repr(align(64))]
pub(super) struct Bucket {
    tags: AtomicU64,
    entries: [AtomicPtr<Header>; WIDTH],
}

const _: () = assert!(cfg!(test) || size_of::<Bucket>() == 64 || size_of::<usize>() < 8);

impl Bucket {
    fn empty() -> Self {
        Self { tags: AtomicU64::new(0), entries: std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut())) }
    }

    /// The entry at this place.
    ///
    /// # Safety
    ///
    /// `at` is below [`WIDTH`], and as long as `'a`, nothing is freed that is found.
    #[inline]
    unsafe fn entry<'a>(&self, at: usize) -> Option<Held<'a>> {
        // SAFETY: The caller has it.
        let place = unsafe { self.entries.get_unchecked(at) };
        // Sequentially consistent: see `readers.rs`.
        let entry = place.load(Ordering::SeqCst);
        // SAFETY: What is not null points to an entry, and the caller has the rest.
        NonNull::new(entry).map(|entry| unsafe { Held::new(entry) })
    }

    fn set_tags(&self, change: impl FnOnce(u64) -> u64) {
        // Release: who finds the tag finds the pointer.
        self.tags.store(change(self.tags.load(Ordering::Relaxed)), Ordering::Release);
    }

    fn put(&self, at: usize, tag: u8, entry: Entry) {
        self.entries[at].store(entry.into_raw().as_ptr(), Ordering::Release);
        self.set_tags(|tags| tags | u64::from(tag) << (8 * at));
    }

    fn take(&self, at: usize) -> Option<Entry> {
        self.set_tags(|tags| tags & !(0xff << (8 * at)));
        let entry = self.entries[at].load(Ordering::Relaxed);
        self.entries[at].store(std::ptr::null_mut(), Ordering::Release);
        // SAFETY: `put` or `swap` left the bucket's reference there, and it is taken only here and there.
        NonNull::new(entry).map(|entry| unsafe { Entry::from_raw(entry) })
    }

    fn room(&self) -> Option<usize> {
        let tags = self.tags.load(Ordering::Relaxed);
        (0..WIDTH).find(|at| tags >> (8 * at) & 0xff == 0)
    }
}

/// The places of a bucket whose tag may be this one, as the highest bit of each byte. A place above a match may be named
/// falsely; whoever asks compares keys anyway.
#[inline]
const fn matches(tags: u64, tag: u8) -> u64 {
    let differing = tags ^ (tag as u64 * LOW_BITS);
    differing.wrapping_sub(LOW_BITS) & !differing & (LOW_BITS << 7)
}

/// Some buckets.
#[derive(Clone, Copy)]
pub(super) struct Table<'a>(&'a [Bucket]);

/// Where an entry of a table is.
#[derive(Clone, Copy)]
pub(super) struct At {
    bucket: usize,
    place: usize,
}

impl<'a> Table<'a> {
    pub(super) const fn new(buckets: &'a [Bucket]) -> Self {
        Self(buckets)
    }

    pub(super) const fn buckets(self) -> usize {
        self.0.len()
    }

    /// How many entries it could have.
    pub(super) const fn places(self) -> usize {
        self.0.len() * WIDTH
    }

    #[inline]
    const fn home(self, locator: Locator) -> usize {
        home(locator, self.0.len())
    }

    #[inline]
    const fn next(self, bucket: usize) -> usize {
        if bucket + 1 == self.0.len() { 0 } else { bucket + 1 }
    }

    /// # Safety
    ///
    /// As long as `'a`, nothing is freed that is found.
    #[inline]
    pub(super) unsafe fn find(self, locator: Locator, wanted: impl Fn(&Entry) -> bool) -> Option<(At, Held<'a>)> {
        let mut bucket = self.home(locator);
        let mut left = self.0.len();
        while left > 0 {
            // SAFETY: `home` and `next` are below the number of buckets, if there are any.
            let here = unsafe { self.0.get_unchecked(bucket) };
            // Acquire: with the tag comes its pointer.
            let tags = here.tags.load(Ordering::Acquire);
            let mut matches = matches(tags, locator.tag());
            while matches != 0 {
                let place = (matches.trailing_zeros() / 8) as usize;
                // SAFETY: There is no match in the highest byte; the caller has the rest.
                if let Some(entry) = unsafe { here.entry(place) } {
                    entry.prefetch_rest();
                    if wanted(&entry) {
                        return Some((At { bucket, place }, entry));
                    }
                }
                matches &= matches - 1;
            }
            if tags >> PASSED_SHIFT == 0 {
                return None;
            }
            bucket = self.next(bucket);
            left -= 1;
        }
        None
    }

    /// What is at this place.
    ///
    /// # Safety
    ///
    /// As long as `'a`, nothing is freed that is found.
    pub(super) unsafe fn at(self, At { bucket, place }: At) -> Option<Held<'a>> {
        // SAFETY: An `At` is made of a place; the caller has the rest.
        unsafe { self.0.get(bucket)?.entry(place) }
    }

    /// All entries.
    ///
    /// # Safety
    ///
    /// As long as `'a`, nothing is freed that is found.
    pub(super) unsafe fn entries(self) -> impl Iterator<Item = Held<'a>> {
        // SAFETY: The caller has it.
        self.0.iter().flat_map(|bucket| (0..WIDTH).filter_map(|at| unsafe { bucket.entry(at) }))
    }

    /// Has the processor fetch the entries that the home bucket names for the locator.
    #[inline]
    pub(super) fn prefetch_entries(self, locator: Locator) {
        let Some(bucket) = self.0.get(self.home(locator)) else { return };
        let mut matches = matches(bucket.tags.load(Ordering::Relaxed), locator.tag());
        while matches != 0 {
            if let Some(entry) = bucket.entries.get((matches.trailing_zeros() / 8) as usize) {
                Entry::prefetch_at(entry.load(Ordering::Relaxed));
            }
            matches &= matches - 1;
        }
    }

    /// Adds an entry; gives it back if there is no room in any bucket.
    pub(super) fn insert(self, locator: Locator, entry: Entry) -> Result<(), Entry> {
        let home = self.home(locator);
        let mut bucket = home;
        let mut around = 0;
        let place = loop {
            if let Some(place) = self.0[bucket].room() {
                break place;
            }
            around += 1;
            if around == self.0.len() {
                return Err(entry);
            }
            bucket = self.next(bucket);
        };
        self.pass(home, bucket, |passed| passed + 1);
        self.0[bucket].put(place, locator.tag(), entry);
        Ok(())
    }

    /// Counts anew how many entries passed the buckets from this one up to that.
    fn pass(self, mut from: usize, to: usize, count: impl Fn(u64) -> u64) {
        while from != to {
            self.0[from].set_tags(|tags| match tags >> PASSED_SHIFT {
                PASSED_MAX => tags,
                passed => tags & !(PASSED_MAX << PASSED_SHIFT) | count(passed) << PASSED_SHIFT,
            });
            from = self.next(from);
        }
    }

    pub(super) fn remove(self, locator: Locator, At { bucket, place }: At) -> Option<Entry> {
        let entry = self.0[bucket].take(place);
        self.pass(self.home(locator), bucket, |passed| passed - 1);
        entry
    }

    /// Puts an entry of the same locator where another is.
    pub(super) fn swap(self, At { bucket, place }: At, entry: Entry) -> Option<Entry> {
        let place = &self.0[bucket].entries[place];
        let old = place.load(Ordering::Relaxed);
        place.store(entry.into_raw().as_ptr(), Ordering::Release);
        // SAFETY: As in `take`.
        NonNull::new(old).map(|old| unsafe { Entry::from_raw(old) })
    }

    /// Whether one more entry than these would make look-ups slow.
    pub(super) const fn is_full(self, items: usize) -> bool {
        items * 10 >= self.0.len() * WIDTH * 9
    }

    /// Whether so few entries are worth smaller buckets.
    pub(super) const fn is_sparse(self, items: usize) -> bool {
        self.0.len() > 4 && items * 5 < self.0.len() * WIDTH * 2
    }
}

/// Where the search for an entry begins in so many buckets. The table was chosen by the locator's upper bits, and tags are
/// the lowest: a multiplication lets all of them have a say.
#[inline]
pub(super) const fn home(locator: Locator, buckets: usize) -> usize {
    ((locator.0.wrapping_mul(0x9e37_79b1) as u64 * buckets as u64) >> 32) as usize
}

/// Buckets for more entries than these of `buckets` buckets; `None` if there are no larger ones.
pub(super) fn grown(buckets: usize) -> Option<usize> {
    BUCKETS.into_iter().find(|&size| size > buckets)
}

/// How many buckets hold so many entries with some room to spare.
pub(super) fn fitting(items: usize) -> usize {
    BUCKETS.into_iter().find(|&size| items * 10 <= size * WIDTH * 8).unwrap_or(BUCKETS_MAX)
}

/// Empty buckets.
pub(super) fn buckets(count: usize) -> Box<[Bucket]> {
    std::iter::repeat_with(Bucket::empty).take(count).collect()
}
