//! What nodes say to each other about records of writes.

use std::sync::Arc;

use bytes::Bytes;

use super::{Mark, Place, Record, RecordId};
use crate::placement::SlotSet;

/// The most records, and the most marks, of one message.
pub const RECORDS_MAX: usize = 512;

/// When a message takes no more records, in bytes of keys and values: what a gigabit link carries in 2 ms.
pub const RECORDS_LEN: usize = 256 * 1024;

/// The longest value that travels with its record, and the longest piece of one that travels by itself, in bytes.
pub const PIECE_LEN: usize = 256 * 1024;

/// A record on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SentRecord {
    /// The record. What it is held for is the receiver's to say.
    pub record: Record,
    /// More than 0: the value, of so many bytes, is not with it and comes in pieces: before it to who keeps it, and as they are asked for
    /// to who was told of it.
    pub long_len: u64,
}

/// Something about the records of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordsCall {
    /// The group's name.
    pub group: Arc<str>,
    /// What.
    pub about: AboutRecords,
}

/// What is said about records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AboutRecords {
    /// They are to be kept as the second copies of who says it; the marks are to be taken down (rules B1 and B5).
    Keep {
        /// At most [`RECORDS_MAX`], and [`RECORDS_LEN`] bytes unless it is one.
        records: Vec<SentRecord>,
        /// At most [`RECORDS_MAX`].
        marks: Vec<Mark>,
    },
    /// A piece of a value whose record is about to come.
    Piece {
        /// The record.
        id: RecordId,
        /// Where in the value it begins.
        at: u64,
        /// At most [`PIECE_LEN`].
        bytes: Bytes,
    },
    /// Asks for all that the other has of slots, which it must have let go of; from after this record, or this mark (rule B4).
    Tell {
        /// Which slots.
        slots: SlotSet,
        /// The last that is known: records come first.
        after: After,
    },
    /// Asks for a piece of a value of which was told.
    TellPiece {
        /// The record.
        id: RecordId,
        /// Where in the value it begins.
        at: u64,
    },
    /// All that was told of these slots is where it has to be: what the other has of it need not be kept, but for second copies for who
    /// says it.
    Forget {
        /// Which slots.
        slots: SlotSet,
    },
    /// Who says it could not take a record down itself: the copy that the other keeps for it goes.
    TakeBack {
        /// The record.
        id: RecordId,
    },
}

/// How far the telling has come.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum After {
    /// It begins.
    #[default]
    Nothing,
    /// This record.
    Record(RecordId),
    /// This key's mark.
    Mark(Place),
}

/// What a node answers to what is said about records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordsReply {
    /// It is done, and outlasts the machine.
    Done,
    /// Some of what there is, in order. Nothing more is left when nothing comes.
    Told {
        /// As in [`AboutRecords::Keep`].
        records: Vec<SentRecord>,
        /// After the last record: at most [`RECORDS_MAX`].
        marks: Vec<Mark>,
        /// Members that the other itself has asked for records of these slots without an answer.
        unheard: Vec<Arc<str>>,
    },
    /// A piece of a value; nothing, where it ends or the record is gone.
    Piece(Bytes),
}
