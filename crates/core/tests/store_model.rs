//! The store's lock-free parts under loom, which runs them in every order that threads and memory allow: the same files as in
//! the store, on loom's atomics, with entries that notice when they are used after they were freed.
//!
//! Where loom would need too long, it is told how often a thread may be interrupted ([`SWITCHES_MAX`]).

#![cfg(not(miri))]
#![allow(unsafe_code, dead_code, reason = "a test of unsafe code, which uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a helper that can't go on fails its test")]
#![expect(clippy::arc_with_non_send_sync, reason = "loom's threads take turns on one")]

#[path = "../src/store/hash.rs"]
mod hash;
#[path = "../src/store/index.rs"]
mod index;
#[path = "../src/store/prefetch.rs"]
mod prefetch;
#[path = "../src/store/readers.rs"]
mod readers;
#[path = "../src/store/table.rs"]
mod table;

use std::{ptr::NonNull, sync::Arc};

use entry::{Entry, Header};
use hash::{KeyHasher, Locator};
use index::{Buckets, Index, Tables};
use loom::{sync::Mutex, thread};
use readers::Readers;

/// A forgotten fence or seat is found with two.
const SWITCHES_MAX: usize = 3;

/// How many threads there may be, the first included.
const THREADS_MAX: usize = 3;

/// What `sync.rs` is to the store.
mod sync {
    pub(super) use loom::{
        sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
        thread::yield_now,
    };

    use super::THREADS_MAX;

    /// Loom takes stores and loads that are sequentially consistent for weaker ones, but fences for what they are.
    pub(super) fn announce(at: &AtomicUsize, value: usize) {
        at.store(value, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    loom::thread_local! {
        /// Which of the values is this thread's.
        pub(super) static NUMBER: std::cell::Cell<usize> = std::cell::Cell::new(0);
    }

    pub(super) struct ThreadLocal<T>([T; THREADS_MAX]);

    impl<T: Default> ThreadLocal<T> {
        pub(super) fn new() -> Self {
            Self(std::array::from_fn(|_| T::default()))
        }

        pub(super) fn get(&self) -> Option<&T> {
            self.0.get(NUMBER.with(std::cell::Cell::get))
        }

        pub(super) fn get_or_default(&self) -> &T {
            &self.0[0]
        }

        pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
            self.0.iter()
        }
    }
}

/// What `entry.rs` is to the store: an entry that is a key and a number.
mod entry {
    use std::{marker::PhantomData, mem::ManuallyDrop, ops::Deref, ptr::NonNull};

    use loom::{
        cell::UnsafeCell,
        sync::atomic::{AtomicUsize, Ordering, fence},
    };

    pub(super) struct Header {
        refs: AtomicUsize,
        key: [u8; 1],
        number: u32,
        /// Loom complains if this is written to while, or unordered with when, it is read.
        alive: UnsafeCell<bool>,
    }

    impl Header {
        pub(super) fn new(key: u8, number: u32) -> Self {
            Self { refs: AtomicUsize::new(1), key: [key], number, alive: UnsafeCell::new(true) }
        }
    }

    pub(super) struct Entry(pub(super) NonNull<Header>);

    // SAFETY: What is shared is atomic, or watched by loom.
    unsafe impl Send for Entry {}

    impl Entry {
        fn header(&self) -> &Header {
            // SAFETY: The test keeps all headers to its end.
            unsafe { self.0.as_ref() }
        }

        pub(super) fn number(&self) -> u32 {
            // SAFETY: Loom watches that nobody writes meanwhile.
            assert!(self.header().alive.with(|alive| unsafe { *alive }), "used after it was freed");
            self.header().number
        }

        pub(super) fn key(&self) -> &[u8] {
            &self.header().key
        }

        pub(super) fn has_key(&self, key: &[u8]) -> bool {
            self.number();
            self.key() == key
        }

        pub(super) fn into_raw(self) -> NonNull<Header> {
            let header = self.0;
            std::mem::forget(self);
            header
        }

        pub(super) unsafe fn from_raw(header: NonNull<Header>) -> Self {
            Self(header)
        }

        pub(super) fn prefetch_at(_: *const Header) {}

        pub(super) fn prefetch_rest(&self) {}
    }

    impl Clone for Entry {
        fn clone(&self) -> Self {
            assert!(self.header().refs.fetch_add(1, Ordering::Relaxed) > 0, "a reference to what was freed");
            Self(self.0)
        }
    }

    impl Drop for Entry {
        fn drop(&mut self) {
            if self.header().refs.fetch_sub(1, Ordering::Release) == 1 {
                fence(Ordering::Acquire);
                // SAFETY: Loom watches that nobody reads meanwhile.
                self.header().alive.with_mut(|alive| unsafe { *alive = false });
            }
        }
    }

    pub(super) struct Held<'a>(ManuallyDrop<Entry>, PhantomData<&'a Entry>);

    impl Held<'_> {
        pub(super) unsafe fn new(header: NonNull<Header>) -> Self {
            Self(ManuallyDrop::new(Entry(header)), PhantomData)
        }

        pub(super) unsafe fn own(self) -> Entry {
            ManuallyDrop::into_inner(self.0)
        }
    }

    impl Deref for Held<'_> {
        type Target = Entry;

        fn deref(&self) -> &Entry {
            &self.0
        }
    }
}

/// What is taken out of the shard.
enum Taken {
    Entry(Entry),
    Buckets(Buckets),
}

/// A shard without a policy.
struct Shard {
    index: Index,
    tables: Mutex<Tables>,
    readers: Readers<Taken>,
    hasher: KeyHasher,
    /// Nothing is given back to the allocator before the end, so that a mistake is seen and not suffered.
    headers: std::sync::Mutex<Vec<Arc<Header>>>,
}

const SEED: u64 = 1;

/// What is freed counts for so much that its thread tries at once.
const HEAVY: usize = 1 << 15;

impl Shard {
    fn new(held: usize) -> Self {
        let hasher = KeyHasher::new(SEED);
        let (index, tables) = index::index(1, hasher.clone());
        let (tables, readers, headers) = (Mutex::new(tables), Readers::default(), std::sync::Mutex::default());
        let shard = Self { index, tables, readers, hasher, headers };
        (0..held).for_each(|n| shard.insert(key(n), 0));
        shard
    }

    fn locator(&self, key: u8) -> Locator {
        self.hasher.hash(&[key]).locator()
    }

    fn entry(&self, key: u8, number: u32) -> Entry {
        let header = Arc::new(Header::new(key, number));
        let entry = Entry(NonNull::from(&*header));
        self.headers.lock().unwrap().push(header);
        entry
    }

    /// What a look-up does: sits down, looks, takes a reference, and uses it after it has left.
    fn get(&self, key: u8) -> Option<u32> {
        let entry = {
            let reading = self.readers.enter(0);
            self.index.seen_by(&reading).find(self.locator(key), &[key])?.clone()
        };
        Some(entry.number())
    }

    /// What a look-up does with an entry that turns out to be another key's.
    fn look_at(&self, key: u8) {
        let reading = self.readers.enter(0);
        let seen = self.index.seen_by(&reading);
        assert!(seen.find_by(self.locator(key), |entry| entry.number() == u32::MAX).is_none());
    }

    fn insert(&self, key: u8, number: u32) {
        let mut tables = self.tables.lock().unwrap();
        let (locator, entry) = (self.locator(key), self.entry(key, number));
        let at = self.index.seen_with(&tables).find_at(locator, |entry| entry.has_key(&[key])).map(|(at, _)| at);
        if let Some(at) = at {
            let old = tables.swap(&self.index, locator, at, entry).unwrap();
            self.readers.free(Taken::Entry(old), HEAVY, 0);
        } else if let Some(buckets) = tables.insert(&self.index, locator, entry).ok().unwrap().out_of {
            self.readers.free(Taken::Buckets(buckets), HEAVY, 0);
        }
    }

    fn remove(&self, key: u8) {
        let mut tables = self.tables.lock().unwrap();
        let taken = tables.remove_by(&self.index, self.locator(key), true, |entry| entry.has_key(&[key]));
        let (entry, rebuilt) = taken.unwrap();
        self.readers.free(Taken::Entry(entry), HEAVY, 0);
        if let Some(buckets) = rebuilt.out_of {
            self.readers.free(Taken::Buckets(buckets), HEAVY, 0);
        }
    }
}

/// The n-th of keys that are all in one table.
fn key(n: usize) -> u8 {
    let table = |key: u8| KeyHasher::new(SEED).hash(&[key]).locator().0 >> 29;
    (0..=u8::MAX).filter(|&key| table(key) == 0).nth(n).unwrap()
}

/// Runs a reader beside a writer, on a shard that holds the first keys of one table, in every order.
fn side_by_side(held: usize, read: fn(&Shard), write: fn(&Shard)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(SWITCHES_MAX);
    model.check(move || {
        let shard = Arc::new(Shard::new(held));
        let reader = {
            let shard = Arc::clone(&shard);
            thread::spawn(move || {
                sync::NUMBER.with(|number| number.set(1));
                read(&shard);
            })
        };
        write(&shard);
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_never_gets_what_was_freed_when_its_key_is_removed() {
    side_by_side(1, |shard| assert!(matches!(shard.get(key(0)), None | Some(0))), |shard| shard.remove(key(0)));
}

#[test]
fn what_a_reader_only_looked_at_is_freed_after_it_looked() {
    side_by_side(1, |shard| shard.look_at(key(0)), |shard| shard.remove(key(0)));
}

#[test]
fn a_reader_gets_the_old_or_the_new_when_its_key_is_replaced() {
    side_by_side(1, |shard| assert!(matches!(shard.get(key(0)), Some(0 | 1))), |shard| shard.insert(key(0), 1));
}

#[test]
fn a_reader_gets_nothing_or_a_whole_entry_when_its_key_comes() {
    side_by_side(1, |shard| assert!(matches!(shard.get(key(1)), None | Some(1))), |shard| shard.insert(key(1), 1));
}

#[test]
fn a_reader_that_was_told_of_a_removal_finds_nothing() {
    use loom::sync::atomic::{AtomicBool, Ordering};
    loom::model(|| {
        let shard = Arc::new(Shard::new(1));
        let told = Arc::new(AtomicBool::new(false));
        let reader = {
            let (shard, told) = (Arc::clone(&shard), Arc::clone(&told));
            thread::spawn(move || {
                sync::NUMBER.with(|number| number.set(1));
                if told.load(Ordering::Acquire) {
                    assert_eq!(shard.get(key(0)), None);
                }
            })
        };
        shard.remove(key(0));
        told.store(true, Ordering::Release);
        reader.join().unwrap();
    });
}

/// As many entries as fill a table of one bucket.
#[test]
fn a_reader_finds_its_key_while_others_make_its_table_grow() {
    side_by_side(7, |shard| assert_eq!(shard.get(key(3)), Some(0)), |shard| shard.insert(key(7), 1));
}

#[test]
fn a_reader_finds_its_key_while_the_one_next_to_it_goes_and_another_comes() {
    side_by_side(
        2,
        |shard| assert_eq!(shard.get(key(1)), Some(0)),
        |shard| {
            shard.remove(key(0));
            shard.insert(key(2), 1);
        },
    );
}

#[test]
fn two_readers_and_a_writer_get_along() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let shard = Arc::new(Shard::new(1));
        let readers = [1, 2].map(|seat| {
            let shard = Arc::clone(&shard);
            thread::spawn(move || {
                sync::NUMBER.with(|number| number.set(seat));
                assert!(matches!(shard.get(key(0)), Some(0 | 1)));
            })
        });
        shard.insert(key(0), 1);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}
