//! What is said about records of writes, as the peer protocol has it, and back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_core::{
    Change, Error, Key, Value,
    behind::{
        AboutRecords, After, Mark, PIECE_LEN, Place, RECORDS_MAX, Record, RecordId, RecordsCall, RecordsReply,
        SentRecord,
    },
    membership::MEMBERS_MAX,
    peer::IDEMPOTENCY_KEY_LEN_MAX,
};
use prost::Message;

use super::{
    convert::{self, millis, parse_version, version},
    proto::{self, answer::Outcome, request::Op},
    slots::{parse_counted, parse_slots, wrong},
};

/// What is said.
pub(super) fn op(call: &RecordsCall) -> Op {
    match &call.about {
        AboutRecords::Keep { records, marks } => {
            Op::KeepRecords(proto::KeepRecords { records: records_of(records, marks, &[]) })
        }
        AboutRecords::Piece { id, at, bytes } => {
            Op::KeepPiece(proto::KeepPiece { record: Some(place_of(id)), at: *at, data: bytes.clone() })
        }
        AboutRecords::Tell { slots, after } => {
            let (after_record, after_mark) = match after {
                After::Nothing => (None, Bytes::new()),
                After::Record(id) => (Some(place_of(id)), Bytes::new()),
                After::Mark(place) => (None, place.key.to_bytes()),
            };
            Op::TellRecords(proto::TellRecords { slots: slots.to_bytes().into(), after_record, after_mark })
        }
        AboutRecords::TellPiece { id, at } => Op::TellPiece(proto::TellPiece { record: Some(place_of(id)), at: *at }),
        AboutRecords::Forget { slots } => Op::ForgetRecords(proto::ForgetRecords { slots: slots.to_bytes().into() }),
        AboutRecords::TakeBack { id } => Op::TakeBackRecord(proto::TakeBackRecord { record: Some(place_of(id)) }),
    }
}

/// What another node says of a group. `None`: it is not about records.
pub(super) fn parse_op(op: Op, group: &Arc<str>) -> Option<Result<AboutRecords, Error>> {
    Some(match op {
        Op::KeepRecords(keep) => parse_records(keep.records, group).map(|told| {
            let (records, marks, _) = told;
            AboutRecords::Keep { records, marks }
        }),
        Op::KeepPiece(piece) if piece.data.len() > PIECE_LEN => Err(wrong("a piece of a value is too long")),
        Op::KeepPiece(proto::KeepPiece { record, at, data }) => parse_place(record, group)
            // It waits for the others, and must not keep the frame that it came in.
            .map(|id| AboutRecords::Piece { id, at, bytes: Bytes::copy_from_slice(&data) }),
        Op::TellRecords(tell) => parse_tell(tell, group),
        Op::TellPiece(proto::TellPiece { record, at }) => {
            parse_place(record, group).map(|id| AboutRecords::TellPiece { id, at })
        }
        Op::ForgetRecords(forget) => parse_slots(&forget.slots).map(|slots| AboutRecords::Forget { slots }),
        Op::TakeBackRecord(proto::TakeBackRecord { record }) => {
            parse_place(record, group).map(|id| AboutRecords::TakeBack { id })
        }
        _ => return None,
    })
}

/// What this node answers.
pub(super) fn outcome(reply: &RecordsReply) -> Outcome {
    match reply {
        RecordsReply::Done => Outcome::RecordsDone(proto::RecordsDone {}),
        RecordsReply::Told { records, marks, unheard } => {
            let places = records.iter().map(|sent| &sent.record.id.place).chain(marks.iter().map(|mark| &mark.place));
            let group = places.map(|place| place.group.to_string()).next().unwrap_or_default();
            Outcome::RecordsTold(proto::RecordsTold { records: records_of(records, marks, unheard), group })
        }
        RecordsReply::Piece(bytes) => Outcome::RecordPiece(proto::RecordPiece { data: bytes.clone() }),
    }
}

/// What another node answers. `None`: it is not about records.
pub(super) fn parse_outcome(outcome: Outcome) -> Option<Result<RecordsReply, Error>> {
    Some(match outcome {
        Outcome::RecordsDone(_) => Ok(RecordsReply::Done),
        Outcome::RecordsTold(told) => parse_records(told.records, &told.group.into())
            .map(|(records, marks, unheard)| RecordsReply::Told { records, marks, unheard }),
        Outcome::RecordPiece(piece) if piece.data.len() > PIECE_LEN => Err(wrong("a piece of a value is too long")),
        Outcome::RecordPiece(piece) => Ok(RecordsReply::Piece(piece.data)),
        _ => return None,
    })
}

fn place_of(id: &RecordId) -> proto::RecordPlace {
    proto::RecordPlace { key: id.place.key.to_bytes(), version: Some(version(id.version)) }
}

fn parse_id(key: &[u8], version: Option<proto::Version>, group: &Arc<str>) -> Result<RecordId, Error> {
    let version = version.ok_or_else(|| wrong("a record has no version"))?;
    Ok(Place::new(group.clone(), Key::copy_from(key)?).at(parse_version(version)))
}

fn parse_place(place: Option<proto::RecordPlace>, group: &Arc<str>) -> Result<RecordId, Error> {
    let proto::RecordPlace { key, version } = place.ok_or_else(|| wrong("which record it is of is missing"))?;
    parse_id(&key, version, group)
}

fn parse_tell(tell: proto::TellRecords, group: &Arc<str>) -> Result<AboutRecords, Error> {
    let proto::TellRecords { slots, after_record, after_mark } = tell;
    let after = match (after_record, &after_mark[..]) {
        (None, []) => After::Nothing,
        (record @ Some(_), []) => After::Record(parse_place(record, group)?),
        (None, mark) => After::Mark(Place::new(group.clone(), Key::copy_from(mark)?)),
        (Some(_), _) => return Err(wrong("the last that is known is a record or a mark")),
    };
    Ok(AboutRecords::Tell { slots: parse_slots(&slots)?, after })
}

fn records_of(records: &[SentRecord], marks: &[Mark], unheard: &[Arc<str>]) -> Bytes {
    let mark = |mark: &Mark| proto::RecordMark {
        key: mark.place.key.to_bytes(),
        version: Some(version(mark.version)),
        written_ms: mark.written_ms,
    };
    let records = proto::Records {
        records: records.iter().map(record_of).collect(),
        marks: marks.iter().map(mark).collect(),
        unheard: unheard.iter().map(|name| name.to_string()).collect(),
    };
    records.encode_to_vec().into()
}

fn record_of(SentRecord { record, long_len }: &SentRecord) -> proto::Record {
    let Record { id, change, ttl, idempotency_key, written_ms, .. } = record;
    let value = match change {
        Change::Put(value) => Some(value),
        Change::Delete => None,
    };
    proto::Record {
        key: id.place.key.to_bytes(),
        version: Some(version(id.version)),
        value: value.filter(|_| *long_len == 0).map(Value::to_bytes),
        content_type: value.and_then(Value::content_type).map(str::to_owned).unwrap_or_default(),
        tags: value.map(|value| convert::tags(value.tags())).unwrap_or_default(),
        ttl_ms: ttl.map(millis),
        idempotency_key: idempotency_key.as_ref().map(|key| key.to_string()).unwrap_or_default(),
        written_ms: *written_ms,
        long_len: *long_len,
    }
}

/// Records, marks and members that were not heard.
type Told = (Vec<SentRecord>, Vec<Mark>, Vec<Arc<str>>);

fn parse_records(records: Bytes, group: &Arc<str>) -> Result<Told, Error> {
    let records: proto::Records = parse_counted(records, 2 * RECORDS_MAX + MEMBERS_MAX)?;
    let proto::Records { records, marks, unheard } = records;
    if records.len() > RECORDS_MAX || marks.len() > RECORDS_MAX || unheard.len() > MEMBERS_MAX {
        return Err(wrong("there are too many records"));
    }
    let mark = |mark: proto::RecordMark| {
        let RecordId { place, version } = parse_id(&mark.key, mark.version, group)?;
        Ok::<_, Error>(Mark { place, version, written_ms: mark.written_ms })
    };
    let records = records.into_iter().map(|record| parse_record(record, group)).collect::<Result<_, Error>>()?;
    let marks = marks.into_iter().map(mark).collect::<Result<_, Error>>()?;
    Ok((records, marks, unheard.into_iter().map(Arc::from).collect()))
}

fn parse_record(record: proto::Record, group: &Arc<str>) -> Result<SentRecord, Error> {
    let proto::Record { key, version, value, content_type, tags, ttl_ms, idempotency_key, written_ms, long_len } =
        record;
    let id = parse_id(&key, version, group)?;
    if value.as_ref().is_some_and(|value| value.len() > PIECE_LEN || long_len > 0) {
        return Err(wrong("a record's value is too long, or comes twice"));
    }
    if idempotency_key.len() > IDEMPOTENCY_KEY_LEN_MAX {
        return Err(wrong("an idempotency key is too long"));
    }
    let change = match value {
        None if long_len == 0 => Change::Delete,
        value => {
            let bytes = Bytes::copy_from_slice(&value.unwrap_or_default());
            Change::Put(convert::value(bytes, content_type).with_tags(convert::parse_tags(&tags)))
        }
    };
    let idempotency_key = (!idempotency_key.is_empty()).then(|| idempotency_key.into());
    let ttl = ttl_ms.map(Duration::from_millis);
    let record = Record { idempotency_key, written_ms, ..Record::new(id, change) }.with_ttl(ttl);
    Ok(SentRecord { record, long_len })
}
