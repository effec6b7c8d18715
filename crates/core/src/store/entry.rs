//! [`Entry`]: what is known of a key, the key and the value, in one allocation that is counted by reference.
//!
//! One allocation instead of three saves 30 to 60 bytes an entry, and a look-up one or two cache misses: the header, the
//! key and the start of the value lie side by side. A reader shares the allocation, so that an evicted value lives on in
//! its readers' hands and no byte is copied on the way out.
//!
//! Times and versions are exact. What seldom differs takes space only where it does: a `keep_until` after `fresh_until`,
//! a `load_start` that isn't shortly before the version, tags, and what is known about the value.
//!
//! ```text
//! header (40) | Arc<About>? (8) | keep_until? (8) | load_start? (8) | tags? (32) | key | value
//! ```

#![allow(
    unsafe_code,
    reason = "header, optional words and bytes in one allocation: triomphe's ThinArc takes 16 bytes more, which puts an \
              entry of 20 + 100 bytes into the next size class, 32 bytes up"
)]

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    marker::PhantomData,
    mem,
    ops::Deref,
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering, fence},
    },
};

use super::{Meta, Tags, Tier};
use crate::{
    KEY_LEN_MAX, Moment, Value, Version,
    placement::{SLOT_COUNT, Slot},
    value::About,
    version::Reading,
};

/// The lowest bits of `refs` are the entry's heat.
const HEAT_MASK: u32 = (1 << 2) - 1;
const ONE_REF: u32 = HEAT_MASK + 1;

/// How hot an entry may be.
pub(super) const HEAT_MAX: u32 = HEAT_MASK;

/// More references than this can only be a leak; to count on would end in a value freed while it is read.
const REFS_MAX: u32 = u32::MAX / 2;

/// What an entry costs beside its own allocation, in bytes: its share of the index (a pointer and a tag, at 72 to 90%
/// load), its place in a queue, and a ghost.
const TABLES_COST: u64 = 12 + 6 + 5;

/// The least that any entry costs.
pub(super) const COST_MIN: usize = size_of::<Header>() + TABLES_COST as usize;

const KEY_LEN_MASK: u16 = (1 << 11) - 1;
const NOTHING: u16 = 1 << 11;
const ABOUT: u16 = 1 << 12;
const KEPT_STALE: u16 = 1 << 13;
const LOAD_APART: u16 = 1 << 14;
const TAGGED: u16 = 1 << 15;
const PARTS: u16 = ABOUT | KEPT_STALE | LOAD_APART | TAGGED;
const SLOT_MASK: u16 = SLOT_COUNT - 1;
const HOT: u16 = 1 << 15;
const STAND_IN: u16 = 1 << 14;

/// The size of an optional word; tags take several.
const WORD: usize = 8;

pub(super) struct Header {
    /// How many references there are, above how hot the entry is: who reads it changes both at once.
    refs: AtomicU32,
    /// The policy's: where in its queues the entry is. Used under the shard's lock only.
    place: AtomicU32,
    reading: u64,
    fresh_until: u64,
    incarnation: u32,
    /// How long before the version's reading the load began, unless `LOAD_APART`.
    load_before: u32,
    value_len: u32,
    slot: u16,
    /// The key's length and the flags.
    key: u16,
}

const _: () = {
    assert!(size_of::<Header>() == 40 && align_of::<Header>() <= WORD);
    assert!(size_of::<Arc<About>>() <= WORD && size_of::<Tags>() == 4 * WORD && align_of::<Tags>() <= WORD);
    assert!(KEY_LEN_MAX <= KEY_LEN_MASK as usize && SLOT_COUNT.is_power_of_two() && SLOT_MASK & (HOT | STAND_IN) == 0);
};

impl Header {
    const fn has(&self, flag: u16) -> bool {
        self.key & flag != 0
    }

    const fn key_len(&self) -> usize {
        (self.key & KEY_LEN_MASK) as usize
    }

    /// Where the part of this flag begins, counted from behind the header, if it is there; with `0` where the key does.
    #[inline]
    const fn offset(&self, flag: u16) -> usize {
        if self.has(PARTS) { self.offset_among_parts(flag) } else { 0 }
    }

    #[inline(never)]
    const fn offset_among_parts(&self, flag: u16) -> usize {
        let mut words = 0;
        if flag != ABOUT && self.has(ABOUT) {
            words += 1;
        }
        if (flag == LOAD_APART || flag == TAGGED || flag == 0) && self.has(KEPT_STALE) {
            words += 1;
        }
        if (flag == TAGGED || flag == 0) && self.has(LOAD_APART) {
            words += 1;
        }
        if flag == 0 && self.has(TAGGED) {
            words += size_of::<Tags>() / WORD;
        }
        words * WORD
    }

    const fn len(&self) -> usize {
        size_of::<Self>() + self.offset(0) + self.key_len() + self.value_len as usize
    }

    /// `None` if no machine of this width has the memory.
    fn layout(&self) -> Option<Layout> {
        Layout::from_size_align(self.len(), WORD).ok()
    }
}

/// A counted reference to an entry.
#[repr(transparent)]
pub(crate) struct Entry(NonNull<Header>);

/// An entry that someone else's reference keeps for as long as `'a`.
pub(super) struct Held<'a>(NonNull<Header>, PhantomData<&'a Entry>);

impl<'a> Held<'a> {
    /// # Safety
    ///
    /// `header` came from [`Entry::into_raw`], and that reference isn't dropped before the end of `'a`.
    pub(super) const unsafe fn new(header: NonNull<Header>) -> Self {
        Self(header, PhantomData)
    }

    /// # Safety
    ///
    /// The caller takes that reference for his own; nobody else drops it.
    pub(super) const unsafe fn own(self) -> Entry {
        Entry(self.0)
    }
}

impl Deref for Held<'_> {
    type Target = Entry;

    #[inline]
    fn deref(&self) -> &Entry {
        // SAFETY: An entry is nothing but this pointer, and the reference that it stands for is there for `'a`.
        unsafe { &*ptr::from_ref(&self.0).cast::<Entry>() }
    }
}

// SAFETY: What is shared never changes after `new`, but for two atomic fields; `Arc<About>` is Send and Sync itself.
unsafe impl Send for Entry {}
// SAFETY: As above.
unsafe impl Sync for Entry {}

impl Entry {
    /// An entry with one reference; `None` if the key or the value is longer than any store takes.
    pub(super) fn new(key: &[u8], value: Option<&Value>, meta: &Meta) -> Option<Self> {
        let (bytes, tags) = (value.map_or(&[][..], |value| value), value.map_or(Tags::NONE, Value::tags));
        // Tags have a place of their own.
        let about = value.and_then(Value::about).filter(|about| about.is_beyond_tags());
        let value_len = u32::try_from(bytes.len()).ok()?;
        if key.len() > KEY_LEN_MAX {
            return None;
        }
        let reading = meta.version.reading().to_bits();
        let load_before = reading.checked_sub(meta.load_start.to_bits()).and_then(|by| u32::try_from(by).ok());
        let flag = |condition, flag| if condition { flag } else { 0 };
        let header = Header {
            refs: AtomicU32::new(ONE_REF),
            place: AtomicU32::new(0),
            reading,
            fresh_until: meta.fresh_until.as_nanos(),
            incarnation: meta.version.incarnation(),
            load_before: load_before.unwrap_or_default(),
            value_len,
            slot: meta.slot.number()
                | match meta.tier {
                    Tier::Main => 0,
                    Tier::Hot => HOT,
                    Tier::StandIn => STAND_IN,
                },
            key: key.len() as u16
                | flag(value.is_none(), NOTHING)
                | flag(about.is_some(), ABOUT)
                | flag(meta.keep_until != meta.fresh_until, KEPT_STALE)
                | flag(load_before.is_none(), LOAD_APART)
                | flag(!tags.is_empty(), TAGGED),
        };
        let layout = header.layout()?;
        // SAFETY: The layout holds a header, so that it isn't empty. Every part is written within it: `Header::len`
        // sums up the same parts, `Header::offset` keeps them apart, and all before the key are multiples of the
        // alignment.
        unsafe {
            let Some(at) = NonNull::new(alloc(layout).cast::<Header>()) else { handle_alloc_error(layout) };
            let parts = at.as_ptr().add(1).cast::<u8>();
            if let Some(about) = about {
                parts.add(header.offset(ABOUT)).cast::<Arc<About>>().write(Arc::clone(about));
            }
            if header.has(KEPT_STALE) {
                parts.add(header.offset(KEPT_STALE)).cast::<u64>().write(meta.keep_until.as_nanos());
            }
            if header.has(LOAD_APART) {
                parts.add(header.offset(LOAD_APART)).cast::<u64>().write(meta.load_start.to_bits());
            }
            if header.has(TAGGED) {
                parts.add(header.offset(TAGGED)).cast::<Tags>().write(tags);
            }
            let start = parts.add(header.offset(0));
            ptr::copy_nonoverlapping(key.as_ptr(), start, key.len());
            ptr::copy_nonoverlapping(bytes.as_ptr(), start.add(key.len()), bytes.len());
            at.write(header);
            Some(Self(at))
        }
    }

    pub(super) const fn into_raw(self) -> NonNull<Header> {
        let header = self.0;
        mem::forget(self);
        header
    }

    /// # Safety
    ///
    /// `header` came from [`into_raw`](Self::into_raw), and its reference was not taken back yet.
    pub(super) const unsafe fn from_raw(header: NonNull<Header>) -> Self {
        Self(header)
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: `new` wrote it, and as this reference is counted it still stands.
        unsafe { self.0.as_ref() }
    }

    /// The part of this flag, if it is there. Most entries have none, and who asks on a fast path looks first.
    #[inline(never)]
    fn part<T>(&self, flag: u16) -> Option<&T> {
        let header = self.header();
        // SAFETY: If the flag is set, `new` wrote a value there, never changed since; each caller names its type.
        header.has(flag).then(|| unsafe { &*self.behind_header().add(header.offset(flag)).cast::<T>() })
    }

    #[inline]
    fn behind_header(&self) -> *const u8 {
        // SAFETY: The allocation holds at least a header.
        unsafe { self.0.as_ptr().add(1).cast_const().cast() }
    }

    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        let header = self.header();
        // SAFETY: `new` wrote this many bytes there, and nothing changes them.
        unsafe { slice::from_raw_parts(self.behind_header().add(header.offset(0)), header.key_len()) }
    }

    /// Whether this is the entry's key. Keys are short and mostly equal if this is asked at all: a call of `memcmp` takes
    /// longer than the comparison.
    #[inline]
    pub(super) fn has_key(&self, key: &[u8]) -> bool {
        let own = self.key();
        let Some(last) = own.len().checked_sub(WORD) else { return own == key };
        if own.len() != key.len() {
            return false;
        }
        let differ = |at: usize| {
            // SAFETY: Both are of this length, and a word from here on is in it.
            unsafe {
                own.as_ptr().add(at).cast::<u64>().read_unaligned()
                    != key.as_ptr().add(at).cast::<u64>().read_unaligned()
            }
        };
        let mut at = 0;
        while at < last {
            if differ(at) {
                return false;
            }
            at += WORD;
        }
        // The last word overlaps the one before it.
        !differ(last)
    }

    /// Whether there is a value; if not, it is remembered that there is none.
    #[inline]
    pub(super) fn has_value(&self) -> bool {
        !self.header().has(NOTHING)
    }

    /// The value's bytes; none where it is remembered that there is no value.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        let header = self.header();
        // SAFETY: `new` wrote this many bytes behind the key, and nothing changes them.
        unsafe {
            let start = self.behind_header().add(header.offset(0) + header.key_len());
            slice::from_raw_parts(start, header.value_len as usize)
        }
    }

    #[inline]
    pub(crate) fn about(&self) -> Option<&Arc<About>> {
        if self.header().has(ABOUT) { self.part(ABOUT) } else { None }
    }

    #[inline]
    pub(crate) fn tags(&self) -> Option<&Tags> {
        if self.header().has(TAGGED) { self.part(TAGGED) } else { None }
    }

    pub(super) fn slot(&self) -> Slot {
        // The mask leaves only numbers of slots.
        Slot::new(self.header().slot & SLOT_MASK).unwrap_or(const { Slot::new(0).unwrap() })
    }

    #[inline]
    pub(super) fn tier(&self) -> Tier {
        match self.header().slot & (HOT | STAND_IN) {
            0 => Tier::Main,
            STAND_IN => Tier::StandIn,
            _ => Tier::Hot,
        }
    }

    #[inline]
    pub(super) fn keep_until(&self) -> Moment {
        let header = self.header();
        let apart = if header.has(KEPT_STALE) { self.part(KEPT_STALE) } else { None };
        Moment::from_nanos(apart.copied().unwrap_or(header.fresh_until))
    }

    #[inline]
    pub(super) fn load_start(&self) -> Reading {
        let header = self.header();
        let apart = if header.has(LOAD_APART) { self.part(LOAD_APART) } else { None };
        Reading::from_bits(apart.copied().unwrap_or(header.reading.wrapping_sub(u64::from(header.load_before))))
    }

    pub(super) fn version(&self) -> Version {
        Version::new(Reading::from_bits(self.header().reading), self.header().incarnation)
    }

    #[inline]
    pub(super) fn meta(&self) -> Meta {
        Meta {
            slot: self.slot(),
            tier: self.tier(),
            version: self.version(),
            load_start: self.load_start(),
            fresh_until: Moment::from_nanos(self.header().fresh_until),
            keep_until: self.keep_until(),
        }
    }

    /// Another reference, for a use of the entry, which makes it hotter. Two uses at once may count as one.
    #[inline]
    pub(super) fn clone_used(&self) -> Self {
        let refs = &self.header().refs;
        let now = refs.load(Ordering::Relaxed);
        if now & HEAT_MASK < HEAT_MAX
            && now < REFS_MAX
            && refs.compare_exchange(now, now + ONE_REF + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            return Self(self.0);
        }
        self.clone()
    }

    #[inline]
    pub(super) fn heat(&self) -> u32 {
        self.header().refs.load(Ordering::Relaxed) & HEAT_MASK
    }

    /// Sets the heat of an entry that nobody else has yet.
    pub(super) fn begin_with_heat(&self, heat: u32) {
        debug_assert!(self.header().refs.load(Ordering::Relaxed) == ONE_REF);
        self.header().refs.store(ONE_REF | heat, Ordering::Relaxed);
    }

    /// Sets the heat, up to [`HEAT_MAX`].
    pub(super) fn set_heat(&self, heat: u32) {
        if self.heat() != heat {
            let set = |refs: u32| Some(refs & !HEAT_MASK | heat);
            let _ = self.header().refs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
        }
    }

    /// What it costs in memory, in bytes, with its share of the tables.
    pub(super) fn cost(&self) -> u64 {
        let about = self.about().map_or(0, |about| about.cost());
        size_class(self.header().len()) + TABLES_COST + about as u64
    }

    #[inline]
    pub(super) fn place(&self) -> u32 {
        self.header().place.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_place(&self, place: u32) {
        self.header().place.store(place, Ordering::Relaxed);
    }

    /// Which entry this is, among those that are there.
    #[inline]
    pub(super) fn id(&self) -> *const () {
        self.0.as_ptr().cast_const().cast()
    }

    /// Has the processor fetch the lines of what may be an entry.
    #[inline]
    pub(super) fn prefetch_at(header: *const Header) {
        super::prefetch::read(header);
        Self::prefetch_behind(header);
    }

    /// Has it fetch the next two, where the key may end and the value of most entries is, while the first is waited for.
    #[inline]
    pub(super) fn prefetch_rest(&self) {
        Self::prefetch_behind(self.0.as_ptr());
    }

    #[inline]
    fn prefetch_behind(header: *const Header) {
        super::prefetch::read(header.cast::<u8>().wrapping_add(64));
        super::prefetch::read(header.cast::<u8>().wrapping_add(128));
    }
}

impl Clone for Entry {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: who clones holds a reference, so that the count can't reach zero meanwhile; as in `Arc`.
        // Those who panic leave theirs counted, and there is room for another half a billion of them.
        assert!(self.header().refs.fetch_add(ONE_REF, Ordering::Relaxed) < REFS_MAX, "a value's references leak");
        Self(self.0)
    }
}

impl Drop for Entry {
    #[inline]
    fn drop(&mut self) {
        // Release, and acquire by whoever frees: all uses through other references happen before it; as in `Arc`.
        if self.header().refs.fetch_sub(ONE_REF, Ordering::Release) < 2 * ONE_REF {
            fence(Ordering::Acquire);
            self.free();
        }
    }
}

impl Entry {
    #[cold]
    #[inline(never)]
    fn free(&mut self) {
        let header = self.header();
        let Some(layout) = header.layout() else { return };
        // SAFETY: This was the last reference. `new` allocated with the same layout, which depends on fields that never
        // change (so that there is one); the `Arc` was written if the flag is set, and is dropped only here.
        unsafe {
            if header.has(ABOUT) {
                ptr::drop_in_place(self.0.as_ptr().add(1).cast::<Arc<About>>());
            }
            dealloc(self.0.as_ptr().cast(), layout);
        }
    }
}

/// What an allocator takes for an allocation: jemalloc's classes, four to a doubling. Others' are finer, or coarser by
/// a few bytes.
const fn size_class(len: usize) -> u64 {
    let len = len as u64;
    if len <= 128 {
        return len.next_multiple_of(16);
    }
    len.next_multiple_of(1 << ((len - 1).ilog2() - 2))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Tag, tests::meta_until},
        *,
    };

    #[test]
    fn sizes_are_rounded_as_the_allocator_rounds_them() {
        let classes = [(1, 16), (16, 16), (113, 128), (129, 160), (160, 160), (161, 192), (257, 320), (4_097, 5_120)];
        for (len, class) in classes {
            assert_eq!(size_class(len), class, "{len}");
        }
    }

    #[test]
    fn tags_come_back() {
        let tags: Tags = (0..7).map(|n| Tag::of(&[n])).collect();
        let stale = Meta { keep_until: Moment::NEVER, ..meta_until(9) };
        let value = Value::from("v").with_content_type("text/plain").with_tags(tags);
        let entry = Entry::new(b"k", Some(&value), &stale).unwrap();
        assert_eq!(entry.tags(), Some(&tags));
        assert_eq!(entry.meta(), stale);
        assert_eq!(Value::stored(entry), value);
    }
}
