//! What records, marks and dead letters look like as bytes.
//!
//! A place is what sorts: group, slot, length of the key, key, and for records the version, each so written that bytes sort as
//! the things do. Everything stored ends with a CRC-32 of its place and itself, which is looked at whenever it is read.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_core::{
    Change, Key, Value, Version,
    behind::{Holder, Mark, Place, Record, RecordId},
    placement::Slot,
    store::{Tag, Tags},
    version::Reading,
};

/// What a record takes beside its own bytes: its entry in the file's pages, and in the table of ages in memory.
pub const RECORD_OVERHEAD: u64 = 256;

/// The longest content type, idempotency key, name or reason, in bytes: more is nothing that people write.
pub const TEXT_LEN_MAX: usize = 4096;

/// The way in which things are written as bytes.
const ENCODING: u8 = 1;

/// The way in which records are written that have a ttl or tags. An older version, which would take those for a part of the value,
/// does not read it: it refuses such a journal.
const ENCODING_WITH_MORE: u8 = 2;

/// What a version takes, in bytes, and what a checksum.
const VERSION_LEN: usize = 12;
const CHECKSUM_LEN: usize = 4;

/// What is longer than it can be written, if anything is.
pub(super) fn too_long(record: &Record) -> Option<&'static str> {
    let content_type = match &record.change {
        Change::Put(value) => value.content_type(),
        Change::Delete => None,
    };
    let holder = match &record.holder {
        Holder::CopyFor(name) => Some(&**name),
        Holder::Owner => None,
    };
    let texts = [("content type", content_type), ("idempotency key", record.idempotency_key.as_deref())];
    let mut texts = texts.into_iter().chain([("holder's name", holder)]);
    texts.find(|(_, text)| text.is_some_and(|text| text.len() > TEXT_LEN_MAX)).map(|(what, _)| what)
}

/// A write that was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// Its number, never given twice.
    pub id: u64,
    /// What was to be written.
    pub record: Record,
    /// Why it was not.
    pub reason: Arc<str>,
    /// When it was given up, by the wall clock, in milliseconds since 1970.
    pub buried_ms: u64,
}

/// Writes what sorts as it does.
pub(super) mod places {
    use super::*;

    /// What all places of a group begin with. Names of groups have no zero.
    pub(in super::super) fn group(group: &str) -> Vec<u8> {
        [group.as_bytes(), &[0]].concat()
    }

    /// What all places of a group's slot begin with.
    pub(in super::super) fn slot(name: &str, slot: Slot) -> Vec<u8> {
        let mut bytes = group(name);
        bytes.extend_from_slice(&slot.number().to_be_bytes());
        bytes
    }

    /// A key's place, and what those of its records begin with.
    pub(in super::super) fn key(place: &Place) -> Vec<u8> {
        let mut bytes = slot(&place.group, place.slot);
        let key = place.key.as_bytes();
        // A key has 1,024 bytes at most.
        bytes.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(key);
        bytes
    }

    /// The place of the key of the record at this place.
    pub(in super::super) fn of_key(record: &[u8]) -> &[u8] {
        &record[..record.len() - VERSION_LEN]
    }

    /// A record's place.
    pub(in super::super) fn record(id: &RecordId) -> Vec<u8> {
        let mut bytes = key(&id.place);
        version(id.version, &mut bytes);
        bytes
    }

    pub(in super::super) fn version(version: Version, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&version.reading().to_bits().to_be_bytes());
        bytes.extend_from_slice(&version.incarnation().to_be_bytes());
    }

    /// The first place after all those that begin with `prefix`; none if there can't be any.
    pub(in super::super) fn after(prefix: &[u8]) -> Option<Vec<u8>> {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Some(end);
            }
        }
        None
    }

    pub(in super::super) fn read_key(bytes: &[u8]) -> Option<Place> {
        let mut fields = Fields(bytes);
        let place = fields.place()?;
        fields.0.is_empty().then_some(place)
    }

    pub(in super::super) fn read_record(bytes: &[u8]) -> Option<RecordId> {
        let mut fields = Fields(bytes);
        let id = fields.place()?.at(fields.version()?);
        fields.0.is_empty().then_some(id)
    }
}

const PUT: u8 = 1;
const HAS_CONTENT_TYPE: u8 = 2;
const HAS_IDEMPOTENCY_KEY: u8 = 4;
const IS_COPY: u8 = 8;
const HAS_TTL: u8 = 16;
const HAS_TAGS: u8 = 32;

/// A record's bytes at `place`.
pub(super) fn encode(place: &[u8], record: &Record) -> Vec<u8> {
    let (value, content_type) = match &record.change {
        Change::Put(value) => (Some(value), value.content_type()),
        Change::Delete => (None, None),
    };
    let holder = match &record.holder {
        Holder::CopyFor(name) => Some(&**name),
        Holder::Owner => None,
    };
    let texts =
        [(HAS_CONTENT_TYPE, content_type), (HAS_IDEMPOTENCY_KEY, record.idempotency_key.as_deref()), (IS_COPY, holder)];
    let mut flags = if value.is_some() { PUT } else { 0 };
    for (flag, text) in texts {
        flags |= text.map_or(0, |_| flag);
    }
    let tags = value.map_or(Tags::NONE, Value::tags);
    flags |= record.ttl.map_or(0, |_| HAS_TTL) | if tags.is_empty() { 0 } else { HAS_TAGS };
    let encoding = if flags & (HAS_TTL | HAS_TAGS) == 0 { ENCODING } else { ENCODING_WITH_MORE };
    let mut bytes = Vec::with_capacity(64 + value.map_or(0, |value| value.len()));
    bytes.extend_from_slice(&[encoding, flags]);
    bytes.extend_from_slice(&record.written_ms.to_be_bytes());
    for text in texts.into_iter().filter_map(|(_, text)| text) {
        push_text(text, &mut bytes);
    }
    if let Some(ttl) = record.ttl {
        bytes.extend_from_slice(&u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
    }
    if !tags.is_empty() {
        let numbers: Vec<u8> = tags.iter().flat_map(|tag| tag.number().to_be_bytes()).collect();
        push_bytes(&numbers, &mut bytes);
    }
    if let Some(value) = value {
        bytes.extend_from_slice(value);
    }
    seal(place, bytes)
}

/// The record that stands at `place`, or what is wrong with it.
pub(super) fn decode(place: &[u8], bytes: &[u8]) -> Result<Record, Wrong> {
    let id = places::read_record(place).ok_or(Wrong::Place)?;
    let mut fields = Fields(unseal(place, bytes)?);
    let record = (|| {
        let [encoding, flags] = fields.array()?;
        let has_more = flags & (HAS_TTL | HAS_TAGS) != 0;
        if encoding != (if has_more { ENCODING_WITH_MORE } else { ENCODING }) {
            return None;
        }
        let written_ms = fields.u64()?;
        let mut text = |flag| if flags & flag == 0 { Some(None) } else { fields.text().map(Some) };
        let (content_type, idempotency_key) = (text(HAS_CONTENT_TYPE)?, text(HAS_IDEMPOTENCY_KEY)?);
        let holder = text(IS_COPY)?.map_or(Holder::Owner, |name| Holder::CopyFor(name.into()));
        let ttl = if flags & HAS_TTL == 0 { None } else { Some(Duration::from_nanos(fields.u64()?)) };
        let tags = if flags & HAS_TAGS == 0 { Tags::NONE } else { read_tags(fields.bytes()?)? };
        let change = if flags & PUT == 0 {
            Change::Delete
        } else {
            let value = Value::new(Bytes::copy_from_slice(fields.0)).with_tags(tags);
            Change::Put(content_type.map_or(value.clone(), |content_type| value.with_content_type(content_type)))
        };
        Some(Record { id, change, ttl, idempotency_key: idempotency_key.map(Arc::from), holder, written_ms })
    })();
    record.ok_or(Wrong::Content)
}

fn read_tags(numbers: &[u8]) -> Option<Tags> {
    let (numbers, []) = numbers.as_chunks() else { return None };
    numbers.iter().map(|number| Tag::new(u16::from_be_bytes(*number))).collect()
}

/// What is looked at of a record that goes, without making the record of it.
pub(super) struct Outline {
    pub(super) is_owned: bool,
    pub(super) written_ms: u64,
}

/// The outline of the record that stands at `place`, or what is wrong with it.
pub(super) fn outline(place: &[u8], bytes: &[u8]) -> Result<Outline, Wrong> {
    let mut fields = Fields(unseal(place, bytes)?);
    let outline = (|| {
        let [encoding, flags] = fields.array()?;
        let is_known = matches!(encoding, ENCODING | ENCODING_WITH_MORE);
        is_known.then_some(Outline { is_owned: flags & IS_COPY == 0, written_ms: fields.u64()? })
    })();
    outline.ok_or(Wrong::Content)
}

/// A mark's bytes at `place`.
pub(super) fn encode_mark(place: &[u8], version: Version, written_ms: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + 8 + VERSION_LEN + CHECKSUM_LEN);
    bytes.extend_from_slice(&[ENCODING, 0]);
    bytes.extend_from_slice(&written_ms.to_be_bytes());
    places::version(version, &mut bytes);
    seal(place, bytes)
}

/// The mark that stands at `place`, or what is wrong with it.
pub(super) fn decode_mark(place: &[u8], bytes: &[u8]) -> Result<Mark, Wrong> {
    let Stamp { version, written_ms } = stamp(place, bytes)?;
    let place = places::read_key(place).ok_or(Wrong::Place)?;
    Ok(Mark { place, version, written_ms })
}

/// What a mark says of its place.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    pub(super) version: Version,
    pub(super) written_ms: u64,
}

/// What the mark at `place` says, or what is wrong with it.
pub(super) fn stamp(place: &[u8], bytes: &[u8]) -> Result<Stamp, Wrong> {
    let mut fields = Fields(unseal(place, bytes)?);
    let stamp = (|| {
        fields.head()?;
        Some(Stamp { written_ms: fields.u64()?, version: fields.version()? })
    })();
    stamp.ok_or(Wrong::Content)
}

/// A dead letter's bytes.
pub(super) fn encode_dead(letter: &DeadLetter) -> Vec<u8> {
    let place = places::record(&letter.record.id);
    let mut bytes = vec![ENCODING, 0];
    bytes.extend_from_slice(&letter.buried_ms.to_be_bytes());
    push_text(&letter.reason, &mut bytes);
    push_bytes(&place, &mut bytes);
    bytes.extend_from_slice(&encode(&place, &letter.record));
    seal(&letter.id.to_be_bytes(), bytes)
}

/// The dead letter of this number, or what is wrong with it.
pub(super) fn decode_dead(id: u64, bytes: &[u8]) -> Result<DeadLetter, Wrong> {
    let mut fields = Fields(unseal(&id.to_be_bytes(), bytes)?);
    let head = (|| {
        fields.head()?;
        Some((fields.u64()?, fields.text()?, fields.bytes()?))
    })();
    let (buried_ms, reason, place) = head.ok_or(Wrong::Content)?;
    Ok(DeadLetter { id, record: decode(place, fields.0)?, reason: reason.into(), buried_ms })
}

/// Some bytes under a name.
pub(super) fn seal(place: &[u8], mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(place, &bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

/// What was sealed.
pub(super) fn unseal<'a>(place: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], Wrong> {
    let (bytes, stored) = bytes.split_last_chunk().ok_or(Wrong::Content)?;
    if checksum(place, bytes) == u32::from_be_bytes(*stored) { Ok(bytes) } else { Err(Wrong::Checksum) }
}

fn checksum(place: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(place);
    hasher.update(bytes);
    hasher.finalize()
}

/// What is wrong with something that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Wrong {
    #[error("its place is none")]
    Place,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it can't be read")]
    Content,
}

pub(super) fn push_text(text: &str, bytes: &mut Vec<u8>) {
    push_bytes(text.as_bytes(), bytes);
}

/// Cuts what is too long, which only a reason can be.
fn push_bytes(text: &[u8], bytes: &mut Vec<u8>) {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&text[..usize::from(len)]);
}

/// What is left to read.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// The flags after the encoding, if that is the one known.
    fn head(&mut self) -> Option<u8> {
        let [encoding, flags] = self.array()?;
        (encoding == ENCODING).then_some(flags)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_be_bytes(self.array()?);
        self.take(len.into())
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn version(&mut self) -> Option<Version> {
        let reading = Reading::from_bits(self.u64()?);
        Some(Version::new(reading, u32::from_be_bytes(self.array()?)))
    }

    fn place(&mut self) -> Option<Place> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let group = Arc::from(std::str::from_utf8(self.take(end)?).ok()?);
        self.take(1)?;
        let slot = Slot::new(u16::from_be_bytes(self.array()?))?;
        let key = Key::copy_from(self.bytes()?).ok()?;
        Some(Place { group, slot, key })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(group: &str, key: &[u8]) -> Place {
        Place::new(group, Key::copy_from(key).unwrap())
    }

    fn version(bits: u64, incarnation: u32) -> Version {
        Version::new(Reading::from_bits(bits), incarnation)
    }

    prop_compose! {
        fn a_record()(
            key in proptest::collection::vec(any::<u8>(), 1..50),
            (bits, incarnation, written_ms) in any::<(u64, u32, u64)>(),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)),
            content_type in proptest::option::of("[a-z/]{0,9}"),
            idempotency_key in proptest::option::of("[a-z]{0,9}"),
            holder in proptest::option::of("[a-z]{1,9}"),
            ttl in proptest::option::of(any::<u64>()),
            tags in proptest::collection::vec(0..4096_u16, 0..5),
        ) -> Record {
            let change = value.map_or(Change::Delete, |value| {
                let value = Value::new(value).with_tags(tags.into_iter().filter_map(Tag::new).collect());
                Change::Put(content_type.map_or(value.clone(), |content_type| value.with_content_type(content_type)))
            });
            Record {
                id: place("users", &key).at(version(bits, incarnation)),
                change,
                ttl: ttl.map(Duration::from_nanos),
                idempotency_key: idempotency_key.map(Arc::from),
                holder: holder.map_or(Holder::Owner, |name| Holder::CopyFor(name.into())),
                written_ms,
            }
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_and_no_flipped_bit_goes_unseen(record in a_record(), flip in any::<prop::sample::Index>()) {
            let place = places::record(&record.id);
            let mut bytes = encode(&place, &record);
            prop_assert_eq!(decode(&place, &bytes).unwrap(), record);
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&place, &bytes).is_err());
        }

        #[test]
        fn places_sort_by_group_slot_key_and_version(left in a_record(), right in a_record()) {
            let sort = |record: &Record| {
                let key = record.id.place.key.as_bytes();
                (record.id.place.slot, key.len(), key.to_vec(), record.id.version)
            };
            prop_assert_eq!(places::record(&left.id).cmp(&places::record(&right.id)), sort(&left).cmp(&sort(&right)));
        }
    }

    #[test]
    fn a_record_at_another_place_is_wrong() {
        let record = Record::new(place("users", b"a").at(Version::ZERO), Change::Delete);
        let bytes = encode(&places::record(&record.id), &record);
        let other = places::record(&place("users", b"a").at(version(1, 1)));
        assert_eq!(decode(&other, &bytes), Err(Wrong::Checksum));
    }

    #[test]
    fn dead_letters_and_marks_come_back() {
        let record = Record::new(place("users", b"a").at(version(7, 1)), Change::Put("x".into()));
        let letter = DeadLetter { id: 3, record, reason: "too long".into(), buried_ms: 9 };
        assert_eq!(decode_dead(3, &encode_dead(&letter)).unwrap(), letter);
        assert_eq!(decode_dead(4, &encode_dead(&letter)), Err(Wrong::Checksum));
        let mark = Mark { place: place("users", b"a"), version: version(7, 1), written_ms: 5 };
        let at = places::key(&mark.place);
        assert_eq!(decode_mark(&at, &encode_mark(&at, mark.version, mark.written_ms)).unwrap(), mark);
    }

    #[test]
    fn the_end_of_a_prefix_is_after_all_that_begin_with_it() {
        assert_eq!(places::after(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(places::after(&[1, 255]), Some(vec![2]));
        assert_eq!(places::after(&[255]), None);
    }
}
