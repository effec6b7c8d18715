//! [`Readers`]: who reads which shard, so that nothing is freed under a reader that holds no lock.
//!
//! Every thread has a seat of its own. Before it looks at a shard it notes the shard there, and afterwards that it left.
//! Whoever takes an entry out of the shard frees it only once no seat names the shard: who comes later can't find the
//! entry any more. So readers write to a line that no other reader writes to, and never wait.
//!
//! Why that holds: a reader notes its shard, then loads pointers from the shard's index; a writer takes a pointer out of
//! the index, then looks at the seats. The note and the loads are sequentially consistent, and a fence that is stands
//! between the writer's two steps, so that both can't miss each other: either the reader doesn't see the pointer, or the
//! writer sees the note. This is the idea of epochs (Fraser, "Practical lock-freedom", 2004) without a count of them: a
//! reader is in a shard for less than a microsecond, so that a writer that meets one there just tries again later.
//!
//! What a thread took out waits at its seat until a few things have gathered, as to look at the others' seats costs as
//! much as to free something; few enough that the memory is still in the processor's cache when it is used again.

#![allow(unsafe_code, reason = "a seat is shared, but what waits there is its thread's alone")]

use std::{cell::UnsafeCell, marker::PhantomData};

use super::sync::{AtomicUsize, Ordering, ThreadLocal, announce, fence, yield_now};

/// How many bytes a thread gathers before it looks whether they can be freed.
const DUE_BYTES: usize = 16 << 10;

/// What a thing counts for at least, so that 32 small ones are due as well.
const THING_BYTES: usize = 1 << 9;

/// How many bytes of one thread may be held up by a reader that doesn't get on, as the system put its thread to sleep;
/// beyond that, it is waited for.
const HELD_UP_BYTES_MAX: usize = 1 << 20;

const NOWHERE: usize = 0;
const EVERYWHERE: usize = usize::MAX;

/// The seats of all threads that ever came by. There are as many as there were threads at once: a thread's seat, with what
/// waits there, goes to a later one. `T` is what is taken out of shards.
pub(super) struct Readers<T: Send>(ThreadLocal<Seat<T>>);

#[repr(align(128))]
struct Seat<T> {
    /// What the thread reads: [`NOWHERE`], [`EVERYWHERE`], or a shard's number plus one.
    reading: AtomicUsize,
    waiting: UnsafeCell<Waiting<T>>,
}

// SAFETY: Other threads only look at `reading`.
unsafe impl<T: Send> Sync for Seat<T> {}

/// What a thread took out and didn't free yet.
struct Waiting<T> {
    things: Vec<Taken<T>>,
    bytes: usize,
    /// How many bytes there have to be for the next attempt.
    due: usize,
}

struct Taken<T> {
    #[expect(dead_code, reason = "kept to be dropped")]
    thing: T,
    shard: usize,
    bytes: usize,
}

/// While it stands, nothing is freed that is found in the shards that it is for. It stays on its thread.
pub(super) struct Reading<'readers> {
    reading: &'readers AtomicUsize,
    /// What the thread was reading already: a reader may be called within another.
    before: usize,
    on_its_thread: PhantomData<*const ()>,
}

impl<T: Send> Default for Readers<T> {
    fn default() -> Self {
        Self(ThreadLocal::new())
    }
}

impl<T> Default for Seat<T> {
    fn default() -> Self {
        let waiting = Waiting { things: Vec::new(), bytes: 0, due: DUE_BYTES };
        Self { reading: AtomicUsize::new(NOWHERE), waiting: UnsafeCell::new(waiting) }
    }
}

impl<T: Send> Readers<T> {
    /// Begins to read the shard of this number.
    #[inline]
    pub(super) fn enter(&self, shard: usize) -> Reading<'_> {
        self.read(shard + 1)
    }

    /// Begins to read any shard.
    #[inline]
    pub(super) fn enter_all(&self) -> Reading<'_> {
        self.read(EVERYWHERE)
    }

    #[inline]
    fn read(&self, at: usize) -> Reading<'_> {
        let reading = &self.seat().reading;
        let before = reading.load(Ordering::Relaxed);
        announce(reading, if before == NOWHERE { at } else { EVERYWHERE });
        Reading { reading, before, on_its_thread: PhantomData }
    }

    #[inline]
    fn seat(&self) -> &Seat<T> {
        self.0.get().unwrap_or_else(|| self.first_seat())
    }

    #[cold]
    fn first_seat(&self) -> &Seat<T> {
        let seat = self.0.get_or_default();
        // Whoever frees sees that the seat is there before it can miss what is noted on it.
        fence(Ordering::SeqCst);
        seat
    }

    /// Frees what was taken out of the shard of this number, once nobody reads there who may have found it.
    pub(super) fn free(&self, thing: T, bytes: usize, shard: usize) {
        let seat = self.seat();
        let bytes = bytes.max(THING_BYTES);
        // SAFETY: Only the seat's thread comes here, and not from within: to drop a thing doesn't call the store.
        let waiting = unsafe { &mut *seat.waiting.get() };
        waiting.things.push(Taken { thing, shard, bytes });
        waiting.bytes += bytes;
        if waiting.bytes < waiting.due {
            return;
        }
        let is_reading = seat.reading.load(Ordering::Relaxed) != NOWHERE;
        self.free_waiting(waiting);
        // Who reads itself would wait for itself.
        while waiting.bytes >= HELD_UP_BYTES_MAX && !is_reading {
            yield_now();
            self.free_waiting(waiting);
        }
        waiting.due = waiting.bytes + DUE_BYTES;
    }

    /// Frees what the caller's thread took out, but for what others may be reading.
    pub(super) fn free_all(&self) {
        // SAFETY: As in `free`.
        self.free_waiting(unsafe { &mut *self.seat().waiting.get() });
    }

    fn free_waiting(&self, waiting: &mut Waiting<T>) {
        let Waiting { things, bytes, .. } = waiting;
        if things.is_empty() {
            return;
        }
        let mut kept = 0;
        fence(Ordering::SeqCst);
        for seat in self.0.iter() {
            // Acquire: what a reader did with what it found happens before that is freed.
            let at = seat.reading.load(Ordering::Acquire);
            let others = &mut things[kept..];
            let mut read = 0;
            for number in 0..others.len() {
                if at == others[number].shard + 1 || at == EVERYWHERE {
                    others.swap(read, number);
                    read += 1;
                }
            }
            kept += read;
        }
        things.truncate(kept);
        *bytes = things.iter().map(|taken| taken.bytes).sum();
    }
}

impl Drop for Reading<'_> {
    #[inline]
    fn drop(&mut self) {
        self.reading.store(self.before, Ordering::Release);
    }
}
