//! [`CountedCodec`]: messages as prost has them, of which none is read that would take many times its length; and what
//! reads and writes the frames of an exchange.
//!
//! An empty element of a list takes two bytes on the wire and a hundred in memory. Lists stand at the top of messages here, so
//! that a look at what a message carries, one level deep, tells what it would take.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::{limits::FIELDS_MAX, proto::Frame, wire};

/// What the generated code reads and writes clients' messages with.
#[derive(Default, Debug)]
pub(super) struct CountedCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Codec for CountedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = CountedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountedDecoder(self.0.decoder())
    }
}

/// What the generated code reads and writes frames with.
#[derive(Default, Debug)]
pub(super) struct FrameCodec(ProstCodec<Frame, Frame>);

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = Frame;
    type Encoder = ProstEncoder<Frame>;
    type Decoder = FrameDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        FrameDecoder
    }
}

/// What reads the frames of who answers, and sends those of who asks, which are written already.
#[derive(Debug)]
pub(super) struct AskerCodec;

impl Codec for AskerCodec {
    type Encode = Bytes;
    type Decode = Frame;
    type Encoder = Written;
    type Decoder = FrameDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        Written
    }

    fn decoder(&mut self) -> Self::Decoder {
        FrameDecoder
    }
}

#[derive(Debug)]
pub(super) struct Written;

impl Encoder for Written {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(message.len());
        out.put(message);
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct FrameDecoder;

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        let fields = checked_count(bytes.chunk())?;
        let message = bytes.copy_to_bytes(bytes.remaining());
        let read = wire::read(&message, fields).map_or_else(|| Frame::decode(message), Ok);
        read.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

#[derive(Debug)]
pub(super) struct CountedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for CountedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        checked_count(bytes.chunk())?;
        self.0.decode(bytes)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// How many fields a message has, unless it has too many.
fn checked_count(bytes: &[u8]) -> Result<usize, Status> {
    let count = count_fields(bytes);
    if count > FIELDS_MAX {
        return Err(Status::invalid_argument(format!("a message carries more than {FIELDS_MAX} things")));
    }
    Ok(count)
}

/// How many fields a message has, as far as it can be read: prost says what is wrong with the rest.
pub(super) fn count_fields(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some(key) = varint(&mut bytes) {
        let len = match key & 7 {
            0 => varint(&mut bytes).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut bytes),
            5 => Some(4),
            _ => None,
        };
        let Some(rest) = len.and_then(|len| bytes.get(usize::try_from(len).ok()?..)) else { break };
        bytes = rest;
        count += 1;
    }
    count
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or_default();
        if *first < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::{Answer, Chunk, Frame, Request};

    #[test]
    fn fields_of_each_kind_are_counted_and_those_within_are_not() {
        let request = || Request { id: 1, left_ms: u64::MAX, key: vec![7; 300].into(), ..Request::default() };
        let frame = Frame {
            clock: 1,
            view: 2,
            groups: vec!["g".into(); 3],
            requests: (0..200).map(|_| request()).collect(),
            answers: vec![Answer::default(); 5],
            chunks: vec![Chunk { id: 1, data: vec![0; 20_000].into() }],
            ..Frame::default()
        };
        let bytes = frame.encode_to_vec();
        assert_eq!(count_fields(&bytes), 2 + 3 + 200 + 5 + 1);
        // A varint and four fixed bytes, as a newer node may add.
        assert_eq!(count_fields(&[0x98, 0x06, 0xff, 0x01, 0x9d, 0x06, 1, 2, 3, 4]), 2);
    }

    #[test]
    fn what_can_not_be_read_ends_the_count() {
        for bytes in [&[0x2a][..], &[0x2a, 5, 0], &[0xff; 20], &[0x2b], &[0x2a, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            assert_eq!(count_fields(bytes), 0, "{bytes:?}");
        }
        assert_eq!(count_fields(&[0x2a, 0, 0x2a, 0, 0x2a]), 2);
    }
}
