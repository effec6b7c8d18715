//! Write-behind: writes that are acknowledged once they are on disks, and reach their origin later (rules B1 to B7).
//!
//! [`Records`] is the seam to what keeps them on this node's disk and brings them to the origin; `record.rs` says what they are. What
//! a group does about them is in `group/behind.rs`. `custody.rs` says of which slots this node has all the records that there are, and
//! `keeper.rs` sees to it that it does: `gather.rs` gets them from other nodes, and `replicas.rs` sees to second copies.
//!
//! **Who keeps records decides nothing**: which of them are this node's to flush, when a slot is answered for, where the second copy is
//! and what becomes of cached values is decided here.

mod complete;
mod custody;
mod gather;
mod keeper;
mod message;
#[cfg(all(test, feature = "testing"))]
#[expect(clippy::expect_used, reason = "a test that can't go on fails")]
mod needed;
mod pieces;
mod record;
mod replicas;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

pub(crate) use complete::Covers;
pub(crate) use custody::Custody;
pub use gather::Takeover;
pub use message::{AboutRecords, After, PIECE_LEN, RECORDS_LEN, RECORDS_MAX, RecordsCall, RecordsReply, SentRecord};
pub use record::{Appended, Holder, Mark, Place, Record, RecordId, Settled, Settlement};
pub(crate) use replicas::{TakenDown, unknown_copy};

use crate::{Error, Group, Store, Version, placement::SlotSet, version::Reading};

/// Which part of a group's capacity its unflushed writes may take at a node: one in so many (rule B3). They can't be evicted, so that
/// the rest of the cache would have to make room.
pub const UNFLUSHED_PART: u64 = 4;

/// What a group has on this node's disk, and what was brought to its origin.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RecordStats {
    /// Records that this node is to flush.
    pub pending: u64,
    /// What those take, in bytes.
    pub pending_bytes: u64,
    /// When the oldest of them was written, by the wall clock, in milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    /// Records that it keeps for other nodes.
    pub copies: u64,
    /// Writes that were given up and nobody has seen to.
    pub dead_letters: u64,
    /// Changes that the origin took, since the node started.
    pub flushed: u64,
    /// Changes for which it had something newer.
    pub conflicts: u64,
    /// Changes that are tried again.
    pub failed: u64,
}

/// What keeps records on this node's disk, and brings those that are this node's to their origins. One for a node.
///
/// Everything that changes it outlasts the machine once it is answered. The crate `larder-origin` has one, `Behind`, over its
/// journal; the feature `testing` has one in memory.
pub trait Records: Send + Sync + 'static {
    /// The greatest clock reading in it: this node's versions go on above.
    fn floor(&self) -> Reading;

    /// The members that it was last told of; nothing where it never was.
    fn members(&self) -> Option<Vec<Arc<str>>>;

    /// Remembers these members.
    fn remember_members(&self, members: Vec<Arc<str>>) -> BoxFuture<'_, Result<(), Error>>;

    /// Takes records down, all or none. One that is there already is replaced, so that its holder can change.
    ///
    /// An error of a kind other than [`Indeterminate`](crate::ErrorKind::Indeterminate) says that none was.
    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<Vec<Appended>, Error>>;

    /// Takes marks down. The records up to them go.
    fn settle(&self, marks: Vec<Mark>) -> BoxFuture<'_, Result<(), Error>>;

    /// Makes dead letters of these records, with what was gathered under them, for these reasons; their keys are marked.
    fn bury(&self, letters: Vec<(RecordId, Arc<str>)>) -> BoxFuture<'_, Result<(), Error>>;

    /// Holds these records for another reason from now on, as far as they are there.
    fn hold(&self, ids: Vec<RecordId>, holder: Holder) -> BoxFuture<'_, Result<(), Error>>;

    /// Drops these records, without marks.
    fn discard(&self, ids: Vec<RecordId>) -> BoxFuture<'_, Result<(), Error>>;

    /// The version of the newest record of a key, whatever it is held for. Nothing is waited for.
    fn newest_version(&self, place: &Place) -> Option<Version>;

    /// This record.
    fn record(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, Error>>;

    /// The newest record of a key.
    fn newest(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, Error>>;

    /// Records of a group in these slots, by slot and key, those of a key by version; from after the one given, as many as are
    /// convenient, and about so many bytes of them. None are left when none come.
    fn records(
        &self,
        group: Arc<str>,
        slots: Arc<SlotSet>,
        after: Option<RecordId>,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>>;

    /// Marks of a group in these slots, likewise.
    fn marks(
        &self,
        group: Arc<str>,
        slots: Arc<SlotSet>,
        after: Option<Place>,
    ) -> BoxFuture<'_, Result<Vec<Mark>, Error>>;

    /// What a group has in it.
    fn stats(&self, group: &str) -> RecordStats;

    /// Why nothing is taken down any more, if that is so: the node has to say so and to be started anew (rule B7).
    fn failure(&self) -> Option<Error>;

    /// A group opens whose records go to `store`. It is told what became of them ([`Group::flushed`]), and its
    /// [turns](Group::origin_turn) are waited for. Nothing is flushed until it is [taken up](Self::take_up) or
    /// [recorded](Self::recorded).
    fn open(&self, group: &Group, store: Arc<dyn Store>, write_delay: Duration);

    /// This node is to flush all that it holds as owner of these slots from now on, of all groups.
    fn take_up(&self, slots: Arc<SlotSet>) -> BoxFuture<'_, Result<(), Error>>;

    /// A record that this node is to flush was taken down.
    fn recorded(&self, id: &RecordId);

    /// This node flushes nothing of these slots any more. Answered when nothing of them is under way, or at `until`.
    fn release(&self, slots: Arc<SlotSet>, until: Instant) -> BoxFuture<'_, ()>;

    /// Flushes everything without delay. Answered when all is flushed or at `until`, with how many keys are left.
    fn drain(&self, until: Instant) -> BoxFuture<'_, usize>;
}
