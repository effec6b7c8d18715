//! `groupcachepb.GetResponse`, the message in which a value travels, and the body that carries it without copying it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use prost::{
    DecodeError, Message,
    encoding::{WireType, encode_key, encode_varint},
};

/// The media type of the message, as golang/groupcache names it.
pub(super) const MEDIA_TYPE: &str = "application/x-protobuf";

/// The most that the message has beside the value's bytes: our own fields take 31, and forks may add some.
pub(super) const OVERHEAD_LEN_MAX: usize = 1024;

/// golang/groupcache's field 2, `minute_qps`, is of no use to us: its server doesn't fill it in.
#[derive(Clone, PartialEq, Message)]
struct GetResponse {
    #[prost(bytes = "bytes", optional, tag = "1")]
    value: Option<Bytes>,
    /// Of forks: Unix nanoseconds, 0 for none.
    #[prost(int64, optional, tag = "3")]
    expire: Option<i64>,
}

/// The value in a message. It shares `message`'s memory.
pub(super) fn decode(message: Bytes) -> Result<Bytes, DecodeError> {
    Ok(GetResponse::decode(message)?.value.unwrap_or_default())
}

/// A message, or an error's text, in the two pieces in which it is written: what stands before the value, and the
/// value.
#[derive(Clone, Debug)]
pub struct Body {
    pieces: [Bytes; 2],
}

impl Body {
    /// The message with this value, which is shared and not copied.
    pub(super) fn value(value: Bytes, expire_unix_ns: Option<i64>) -> Self {
        // Fields may stand in any order; the value comes last so that what is around it is one piece.
        let mut head = BytesMut::with_capacity(32);
        head.extend_from_slice(&GetResponse { value: None, expire: expire_unix_ns }.encode_to_vec());
        encode_key(1, WireType::LengthDelimited, &mut head);
        encode_varint(value.len() as u64, &mut head);
        Self { pieces: [head.freeze(), value] }
    }

    /// A plain text.
    pub(super) fn text(text: String) -> Self {
        Self { pieces: [Bytes::new(), text.into()] }
    }

    fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.pieces.iter_mut().find(|piece| !piece.is_empty());
        Poll::Ready(next.map(|piece| Ok(Frame::data(std::mem::take(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn bytes_of(body: Body) -> Bytes {
        let len = body.len();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len(), len);
        bytes
    }

    #[tokio::test]
    async fn the_bytes_are_those_of_the_go_program() {
        // proto.Marshal(&pb.GetResponse{Value: []byte("abc")})
        assert_eq!(bytes_of(Body::value("abc".into(), None)).await, &b"\x0a\x03abc"[..]);
        assert_eq!(bytes_of(Body::value("abc".into(), Some(300))).await, &b"\x18\xac\x02\x0a\x03abc"[..]);
    }

    #[tokio::test]
    async fn a_value_comes_back_and_is_not_copied() {
        for len in [0, 1, 127, 128, 70_000] {
            let value = Bytes::from(vec![7; len]);
            let message = bytes_of(Body::value(value.clone(), Some(i64::MAX))).await;
            assert!(message.len() - len <= OVERHEAD_LEN_MAX);
            let decoded = decode(message.clone()).unwrap();
            assert_eq!(decoded, value);
            assert!(len == 0 || message.as_ptr_range().contains(&decoded.as_ptr()));
        }
    }

    #[test]
    fn fields_of_others_are_passed_over_and_rubbish_is_refused() {
        // Value "v", minute_qps 1.0, a field 9 of a fork.
        let foreign = Bytes::from_static(b"\x0a\x01v\x11\0\0\0\0\0\0\xf0\x3f\x48\x05");
        assert_eq!(decode(foreign).unwrap(), "v");
        assert_eq!(decode(Bytes::new()).unwrap(), "", "Go leaves an empty value out");
        assert!(decode(Bytes::from_static(b"\x0a\xffabc")).is_err());
        assert!(decode(Bytes::from_static(b"<html>")).is_err());
    }
}
