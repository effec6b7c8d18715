//! Reads and writes what most frames carry, in one pass: questions, and answers that bring a short value.
//!
//! prost makes a tree of structs of a frame, field by field, and a frame carries hundreds of gets. What is read here stands in
//! `proto/larder/peer/v1/peer.proto`; whatever else a frame carries, and whatever is wrong with one, is left to prost, so
//! that both read the same (the tests hold them to it).

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::proto::{Answer, Found, Frame, Get, Request, Version, answer::Outcome, request::Op};

/// A field's number and how it is encoded: the key before it.
const fn key(number: u64, encoding: u64) -> u64 {
    number << 3 | encoding
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LEN: u64 = 2;
const FIXED32: u64 = 5;

mod frame {
    pub(super) const CLOCK: u64 = super::key(1, super::FIXED64);
    pub(super) const VIEW: u64 = super::key(2, super::FIXED64);
    pub(super) const GROUPS: u64 = super::key(4, super::LEN);
    pub(super) const REQUESTS: u64 = super::key(5, super::LEN);
    pub(super) const ANSWERS: u64 = super::key(6, super::LEN);
}

mod request {
    pub(super) const ID: u64 = super::key(1, super::FIXED64);
    pub(super) const GROUP: u64 = super::key(2, super::VARINT);
    pub(super) const KEY: u64 = super::key(3, super::LEN);
    pub(super) const LEFT_MS: u64 = super::key(4, super::VARINT);
    pub(super) const GET: u64 = super::key(5, super::LEN);
}

mod get {
    pub(super) const ASKED_AS: u64 = super::key(1, super::VARINT);
    pub(super) const VALUE_LEN_MAX: u64 = super::key(2, super::VARINT);
}

mod answer {
    pub(super) const ID: u64 = super::key(1, super::FIXED64);
    pub(super) const FOUND: u64 = super::key(2, super::LEN);
}

mod found {
    pub(super) const VALUE: u64 = super::key(1, super::LEN);
    pub(super) const VERSION: u64 = super::key(4, super::LEN);
    pub(super) const AGE_MS: u64 = super::key(5, super::VARINT);
    pub(super) const TTL_LEFT_MS: u64 = super::key(6, super::VARINT);
}

mod version {
    pub(super) const READING: u64 = super::key(1, super::FIXED64);
    pub(super) const INCARNATION: u64 = super::key(2, super::FIXED32);
}

/// Reads what follows the key of a field, from the head of `bytes`.
struct Reader<'a> {
    message: &'a Bytes,
    at: Range<usize>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.message[self.at.clone()]
    }

    fn varint(&mut self) -> Option<u64> {
        let rest = self.rest();
        let first = *rest.first()?;
        if first < 0x80 {
            self.at.start += 1;
            return Some(first.into());
        }
        let mut value = 0;
        // A tenth byte is left to prost, which knows what it may be.
        for (at, byte) in rest.iter().take(9).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.at.start += at + 1;
                return Some(value);
            }
        }
        None
    }

    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let fixed = *self.rest().first_chunk()?;
        self.at.start += N;
        Some(fixed)
    }

    fn fixed64(&mut self) -> Option<u64> {
        self.fixed().map(u64::from_le_bytes)
    }

    /// Where the bytes are of which the length stands before them.
    fn part(&mut self) -> Option<Range<usize>> {
        let len = usize::try_from(self.varint()?).ok()?;
        let start = self.at.start;
        let end = start.checked_add(len).filter(|end| *end <= self.at.end)?;
        self.at.start = end;
        Some(start..end)
    }

    /// What follows has the length before it.
    fn nested(&mut self) -> Option<Self> {
        Some(Self { at: self.part()?, message: self.message })
    }

    fn bytes(&mut self) -> Option<Bytes> {
        self.part().map(|at| self.message.slice(at))
    }

    /// Reads a message, in which each field gets a turn of `field`. `None`: there is something that it does not read.
    fn fields<T>(mut self, mut to: T, mut field: impl FnMut(&mut T, u64, &mut Self) -> Option<()>) -> Option<T> {
        while !self.at.is_empty() {
            let key = self.varint()?;
            field(&mut to, key, &mut self)?;
        }
        Some(to)
    }

    /// Reads one element of a list, this way or as prost does.
    fn element<T: Message + Default>(&mut self, read: impl FnOnce(Self) -> Option<T>) -> Option<T> {
        let at = self.part()?;
        let message = self.message;
        read(Self { at: at.clone(), message }).or_else(|| T::decode(message.slice(at)).ok())
    }
}

/// Reads a frame of at most so many fields. `None`: prost must.
pub(super) fn read(message: &Bytes, fields: usize) -> Option<Frame> {
    let frame = Frame::default();
    Reader { at: 0..message.len(), message }.fields(frame, |frame, key, reader| {
        match key {
            frame::CLOCK => frame.clock = reader.fixed64()?,
            frame::VIEW => frame.view = reader.fixed64()?,
            frame::GROUPS => {
                let name = str::from_utf8(&message[reader.part()?]).ok()?;
                frame.groups.push(name.to_owned());
            }
            frame::REQUESTS => {
                if frame.requests.is_empty() {
                    frame.requests.reserve_exact(fields);
                }
                frame.requests.push(reader.element(read_request)?);
            }
            frame::ANSWERS => {
                if frame.answers.is_empty() {
                    frame.answers.reserve_exact(fields);
                }
                frame.answers.push(reader.element(read_answer)?);
            }
            _ => return None,
        }
        Some(())
    })
}

fn read_request(reader: Reader<'_>) -> Option<Request> {
    reader.fields(Request::default(), |request, key, reader| {
        match key {
            request::ID => request.id = reader.fixed64()?,
            // As prost does: what is too long is cut.
            request::GROUP => request.group = reader.varint()? as u32,
            request::KEY => request.key = reader.bytes()?,
            request::LEFT_MS => request.left_ms = reader.varint()?,
            request::GET if request.op.is_none() => request.op = Some(Op::Get(read_get(reader.nested()?)?)),
            _ => return None,
        }
        Some(())
    })
}

fn read_get(reader: Reader<'_>) -> Option<Get> {
    reader.fields(Get::default(), |get, key, reader| {
        match key {
            get::ASKED_AS => get.asked_as = reader.varint()? as i32,
            get::VALUE_LEN_MAX => get.value_len_max = reader.varint()?,
            _ => return None,
        }
        Some(())
    })
}

fn read_answer(reader: Reader<'_>) -> Option<Answer> {
    reader.fields(Answer::default(), |answer, key, reader| {
        match key {
            answer::ID => answer.id = reader.fixed64()?,
            answer::FOUND if answer.outcome.is_none() => {
                answer.outcome = Some(Outcome::Found(read_found(reader.nested()?)?));
            }
            _ => return None,
        }
        Some(())
    })
}

fn read_found(reader: Reader<'_>) -> Option<Found> {
    reader.fields(Found::default(), |found, key, reader| {
        match key {
            found::VALUE => found.value = Some(reader.bytes()?),
            found::VERSION if found.version.is_none() => found.version = Some(read_version(reader.nested()?)?),
            found::AGE_MS => found.age_ms = reader.varint()?,
            found::TTL_LEFT_MS => found.ttl_left_ms = Some(reader.varint()?),
            _ => return None,
        }
        Some(())
    })
}

fn read_version(reader: Reader<'_>) -> Option<Version> {
    reader.fields(Version::default(), |version, key, reader| {
        match key {
            version::READING => version.reading = reader.fixed64()?,
            version::INCARNATION => version.incarnation = reader.fixed().map(u32::from_le_bytes)?,
            _ => return None,
        }
        Some(())
    })
}

/// Writes a question as an element of a frame's requests. One with a term is left to prost: few have one.
pub(super) fn write_get(out: &mut BytesMut, id: u64, group: u32, asked: &[u8], left_ms: u64, get: Get) {
    let Get { asked_as, value_len_max, term } = get;
    if term.is_some() {
        let key = Bytes::copy_from_slice(asked);
        return write_request(out, &Request { id, group, key, left_ms, op: Some(Op::Get(get)), ..Request::default() });
    }
    let asked_as = u64::try_from(asked_as).unwrap_or_default();
    let numbers = [
        (request::GROUP, u64::from(group)),
        (request::LEFT_MS, left_ms),
        (get::ASKED_AS, asked_as),
        (get::VALUE_LEN_MAX, value_len_max),
    ];
    let [group_len, left_len, asked_as_len, max_len] = numbers.map(|(_, number)| number_len(number));
    let get_len = (asked_as_len + max_len) as u64;
    let key_len = asked.len() as u64;
    let len = 9 + group_len + 1 + varint_len(key_len) + asked.len() + left_len + 1 + 1 + get_len as usize;
    out.reserve(len + 4);
    put_varint(out, frame::REQUESTS);
    put_varint(out, len as u64);
    put_varint(out, request::ID);
    out.put_u64_le(id);
    put_number(out, numbers[0]);
    put_varint(out, request::KEY);
    put_varint(out, key_len);
    out.put_slice(asked);
    put_number(out, numbers[1]);
    put_varint(out, request::GET);
    put_varint(out, get_len);
    put_number(out, numbers[2]);
    put_number(out, numbers[3]);
}

/// Writes anything that is asked as an element of a frame's requests.
pub(super) fn write_request(out: &mut BytesMut, request: &Request) {
    put_varint(out, frame::REQUESTS);
    // There is always room in such a buffer.
    let _infallible = request.encode_length_delimited(out);
}

/// A field that is left out where it is zero.
fn put_number(out: &mut BytesMut, (key, number): (u64, u64)) {
    if number != 0 {
        put_varint(out, key);
        put_varint(out, number);
    }
}

/// The length of such a field with its key, which is a short one.
fn number_len(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + varint_len(number) }
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::grpc::{
        codec::count_fields,
        proto::{Chunk, Failed, NotHeld, Ping, Push, Recall},
    };

    prop_compose! {
        fn any_version()(reading: u64, incarnation: u32) -> Version {
            Version { reading, incarnation }
        }
    }

    prop_compose! {
        fn any_get()(
            asked_as in 0..5_i32,
            value_len_max: u64,
            term in option::weighted(0.2, any_version()),
        ) -> Get {
            Get { asked_as, value_len_max, term }
        }
    }

    prop_compose! {
        fn any_found()(
            value in option::of(vec(any::<u8>(), 0..300)),
            version in option::of(any_version()),
            age_ms: u64,
            ttl_left_ms: Option<u64>,
        ) -> Found {
            Found { value: value.map(Bytes::from), version, age_ms, ttl_left_ms, ..Found::default() }
        }
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let op = prop_oneof![
            8 => any_get().prop_map(|get| Some(Op::Get(get))),
            1 => Just(Some(Op::Ping(Ping {}))),
            1 => any::<bool>().prop_map(|has_yours| Some(Op::Recall(Recall { has_yours }))),
            1 => any_version().prop_map(|term| {
                Some(Op::Push(Push { term: Some(term), entries: "entries".into() }))
            }),
            1 => Just(None),
        ];
        (any::<u64>(), 0..3_u32, vec(any::<u8>(), 0..200), any::<u64>(), op).prop_map(
            |(id, group, key, left_ms, op)| Request { id, group, key: key.into(), left_ms, op, ..Request::default() },
        )
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        let failed = Failed { slug: "overloaded".into(), message: "later".into(), retry_after_ms: Some(1) };
        let outcome = prop_oneof![
            8 => any_found().prop_map(|found| Some(Outcome::Found(found))),
            1 => any_found().prop_map(|found| {
                Some(Outcome::Found(Found { content_type: "text/plain".into(), lease_ms: Some(7), ..found }))
            }),
            1 => Just(Some(Outcome::Failed(failed))),
            1 => Just(Some(Outcome::NotHeld(NotHeld {}))),
            1 => Just(None),
        ];
        (any::<u64>(), outcome).prop_map(|(id, outcome)| Answer { id, outcome })
    }

    prop_compose! {
        fn any_frame()(
            clock: u64,
            view: u64,
            groups in vec("[a-zé]{0,9}", 0..3),
            requests in vec(any_request(), 0..5),
            answers in vec(any_answer(), 0..5),
            chunks in vec(any::<u64>(), 0..2),
        ) -> Frame {
            let chunks = chunks.into_iter().map(|id| Chunk { id, data: "piece".into() }).collect();
            Frame { clock, view, hello: None, groups, requests, answers, chunks }
        }
    }

    fn read_as_prost_does(bytes: Vec<u8>) -> Result<(), TestCaseError> {
        let message = Bytes::from(bytes);
        if let Some(frame) = read(&message, count_fields(&message)) {
            prop_assert_eq!(Ok(frame), Frame::decode(message));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_prost_reads(frame in any_frame()) {
            let message = Bytes::from(frame.encode_to_vec());
            let read = read(&message, count_fields(&message));
            prop_assert_eq!(read.is_some(), frame.chunks.is_empty(), "only a rare frame is left to prost");
            read_as_prost_does(message.into())?;
        }

        #[test]
        fn bad_bytes_are_read_as_prost_does(frame in any_frame(), at: prop::sample::Index, byte: u8, cut: bool) {
            let mut bytes = frame.encode_to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes.truncate(if cut { at + 1 } else { bytes.len() });
            }
            read_as_prost_does(bytes)?;
        }

        #[test]
        fn fields_that_come_twice_are_read_as_prost_does(one in any_answer(), other in any_answer(), request in any_request()) {
            let answer = [one.encode_to_vec(), other.encode_to_vec()].concat();
            let request = [request.encode_to_vec(), request.encode_to_vec()].concat();
            let mut bytes = BytesMut::new();
            for (key, element) in [(frame::ANSWERS, answer), (frame::REQUESTS, request)] {
                put_varint(&mut bytes, key);
                put_varint(&mut bytes, element.len() as u64);
                bytes.put_slice(&element);
            }
            read_as_prost_does(bytes.to_vec())?;
        }

        #[test]
        fn what_is_written_is_what_prost_reads(request in any_request(), other in any_request()) {
            let mut bytes = BytesMut::new();
            for Request { id, group, key, left_ms, op, .. } in [request.clone(), other.clone()] {
                match op {
                    Some(Op::Get(get)) => write_get(&mut bytes, id, group, &key, left_ms, get),
                    op => write_request(&mut bytes, &Request { id, group, key, left_ms, op, ..Request::default() }),
                }
            }
            prop_assert_eq!(Frame::decode(bytes.freeze()).unwrap().requests, [request, other]);
        }
    }
}
