//! Records on their way: long values go in pieces, ahead of their records.

use std::{collections::HashMap, iter::Peekable, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::{
    Record, RecordId,
    message::{PIECE_LEN, RECORDS_LEN, RECORDS_MAX, SentRecord},
};
use crate::{Change, Error, ErrorKind, Moment, Value};

/// The most bytes of values of which pieces have come and not all: eight of the longest that groups allow unless told otherwise.
const PARTIAL_LEN_MAX: usize = 64 << 20;

/// How long a value is waited for of which no more pieces come.
const PARTIAL_WAIT: Duration = Duration::from_secs(10);

/// Values of which pieces have come, by who sends them.
#[derive(Default)]
pub(super) struct Partial(Mutex<Values>);

#[derive(Default)]
struct Values {
    values: HashMap<(Arc<str>, RecordId), (BytesMut, Moment)>,
    len: usize,
}

impl Partial {
    /// Takes a piece. Pieces come in order; one at the start begins anew.
    pub(super) fn add(&self, from: &Arc<str>, id: RecordId, at: u64, piece: &[u8], now: Moment) -> Result<(), Error> {
        let mut this = self.0.lock();
        let Values { values, len } = &mut *this;
        if *len + piece.len() > PARTIAL_LEN_MAX {
            values.retain(|_, (bytes, touched)| {
                let stays = now.since(*touched) < PARTIAL_WAIT;
                *len -= if stays { 0 } else { bytes.len() };
                stays
            });
        }
        if *len + piece.len() > PARTIAL_LEN_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "too many long values are on their way to this node"));
        }
        let (bytes, touched) = values.entry((from.clone(), id)).or_insert_with(|| (BytesMut::new(), now));
        if at == 0 {
            *len -= bytes.len();
            bytes.clear();
        }
        if at != bytes.len() as u64 {
            return Err(wrong("a piece of a value does not follow the one before"));
        }
        bytes.extend_from_slice(piece);
        *touched = now;
        *len += piece.len();
        Ok(())
    }

    /// The record, with its value, if that has come.
    pub(super) fn whole(&self, from: &Arc<str>, sent: SentRecord) -> Result<Record, Error> {
        let SentRecord { record, long_len } = sent;
        if long_len == 0 {
            return Ok(record);
        }
        let mut this = self.0.lock();
        let found = this.values.remove(&(from.clone(), record.id.clone()));
        let (bytes, _) = found.ok_or_else(|| wrong("the pieces of a value have not come"))?;
        this.len -= bytes.len();
        with_value(record, bytes.freeze(), long_len)
    }
}

/// A record whose value came by itself.
pub(super) fn with_value(record: Record, bytes: Bytes, long_len: u64) -> Result<Record, Error> {
    if bytes.len() as u64 != long_len {
        return Err(wrong("a value has another length than was announced"));
    }
    let Change::Put(told) = &record.change else { return Err(wrong("a deletion has a value")) };
    let value = Value::new(bytes).with_tags(told.tags());
    let value = match told.content_type() {
        Some(content_type) => value.with_content_type(content_type),
        None => value,
    };
    Ok(Record { change: Change::Put(value), ..record })
}

/// A record as it is sent, and its value if that has to go by itself.
pub(super) fn sent(record: Record) -> (SentRecord, Option<Bytes>) {
    match &record.change {
        Change::Put(value) if value.len() > PIECE_LEN => {
            let (bytes, about) = (value.to_bytes(), Value::new(Bytes::new()).with_tags(value.tags()));
            let about = match value.content_type() {
                Some(content_type) => about.with_content_type(content_type),
                None => about,
            };
            let long_len = bytes.len() as u64;
            (SentRecord { record: Record { change: Change::Put(about), ..record }, long_len }, Some(bytes))
        }
        _ => (SentRecord { record, long_len: 0 }, None),
    }
}

/// What a record takes with its value, in bytes.
fn len(record: &Record) -> usize {
    let value_len = match &record.change {
        Change::Put(value) => value.len(),
        Change::Delete => 0,
    };
    record.id.place.key.as_bytes().len() + value_len
}

/// As many of these records as go into a message; the others are left.
pub(super) fn message_of(records: &mut Peekable<impl Iterator<Item = SentRecord>>) -> Vec<SentRecord> {
    as_many(records, |sent| len(&sent.record))
}

/// As many of these records as go to who keeps copies at a time; the others are left. Of a value that goes by itself all counts, so
/// that at most one waits for its record there.
pub(super) fn copies_of(records: &mut Peekable<impl Iterator<Item = Record>>) -> Vec<Record> {
    as_many(records, len)
}

fn as_many<T>(records: &mut Peekable<impl Iterator<Item = T>>, len: impl Fn(&T) -> usize) -> Vec<T> {
    let (mut message, mut message_len) = (Vec::new(), 0);
    while let Some(next) = records.peek() {
        let next_len = len(next);
        if !message.is_empty() && (message.len() >= RECORDS_MAX || message_len + next_len > RECORDS_LEN) {
            break;
        }
        message_len += next_len;
        message.extend(records.next());
    }
    message
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, Version, behind::Place, store::Tag};

    fn record(len: usize) -> Record {
        let id = Place::new("g", Key::new(len.to_string()).unwrap()).at(Version::ZERO);
        let value = Value::new(vec![b'v'; len]).with_content_type("text/plain");
        Record::new(id, Change::Put(value.with_tags([Tag::of(b"t")].into_iter().collect())))
    }

    #[test]
    fn a_long_value_goes_by_itself_and_comes_together_again() {
        let (partial, from, now) = (Partial::default(), Arc::from("a"), Moment::default());
        let (long, bytes) = sent(record(PIECE_LEN + 1));
        let bytes = bytes.unwrap();
        assert!(partial.whole(&from, long.clone()).is_err(), "nothing has come yet");
        for (number, piece) in bytes.chunks(PIECE_LEN).enumerate() {
            partial.add(&from, long.record.id.clone(), (number * PIECE_LEN) as u64, piece, now).unwrap();
        }
        assert!(partial.add(&from, long.record.id.clone(), 7, b"x", now).is_err(), "it does not follow");
        assert!(partial.whole(&Arc::from("b"), long.clone()).is_err(), "another one sends it");
        assert_eq!(partial.whole(&from, long).unwrap(), record(PIECE_LEN + 1));
        assert_eq!(partial.0.lock().len, 0);
        let (short, bytes) = sent(record(PIECE_LEN));
        assert!(bytes.is_none());
        assert_eq!(partial.whole(&from, short).unwrap(), record(PIECE_LEN));
    }

    #[test]
    fn what_never_comes_whole_gives_its_room_back() {
        let (partial, from) = (Partial::default(), Arc::from("a"));
        let piece = vec![0; PARTIAL_LEN_MAX / 2];
        let id = |number| Place::new("g", Key::new(vec![number]).unwrap()).at(Version::ZERO);
        let start = Moment::default();
        partial.add(&from, id(1), 0, &piece, start).unwrap();
        partial.add(&from, id(2), 0, &piece, start).unwrap();
        assert!(partial.add(&from, id(3), 0, &piece, start).unwrap_err().is_retryable());
        partial.add(&from, id(3), 0, &piece, start + PARTIAL_WAIT).unwrap();
    }

    #[test]
    fn a_message_takes_so_many_records_and_at_least_one() {
        let all = [RECORDS_LEN, 1, RECORDS_LEN - 100, 50, 50];
        let mut records = all.map(|len| sent(record(len)).0).into_iter().peekable();
        let lens = std::iter::from_fn(|| Some(message_of(&mut records).len()).filter(|len| *len > 0));
        assert_eq!(lens.collect::<Vec<_>>(), [1, 3, 1]);
    }

    #[test]
    fn a_long_value_goes_to_who_keeps_it_with_no_other_long_one() {
        let all = [1, PIECE_LEN + 1, PIECE_LEN + 1, 1, 1];
        let mut records = all.map(record).into_iter().peekable();
        let lens = std::iter::from_fn(|| Some(copies_of(&mut records).len()).filter(|len| *len > 0));
        assert_eq!(lens.collect::<Vec<_>>(), [1, 1, 1, 2]);
    }
}
