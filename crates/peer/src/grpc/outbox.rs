//! [`Outbox`]: the requests of the frame that is put together.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use larder_core::peer::{PeerGet, PeerWrite, WriteOp};
use prost::Message;
use tokio::time::Instant;

use super::{
    convert, limits,
    pending::Said,
    pieces,
    proto::{self, Frame, Request, request::Op},
    wire,
};

/// The bytes that a request takes in a frame beside its key and value, about.
const REQUEST_LEN: usize = 40;

/// The requests of a frame, as they are sent. What does not fit follows in chunks.
#[derive(Default)]
pub(super) struct Outbox {
    groups: Vec<Arc<str>>,
    message: BytesMut,
    count: usize,
    /// Values too long for a frame, each with its request's id.
    pub(super) long: Vec<(u64, Bytes)>,
    len: usize,
    now: Option<Instant>,
}

impl Outbox {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it takes nothing more.
    pub(super) fn is_full(&self) -> bool {
        self.len >= limits::FRAME_LEN || self.count >= limits::FRAME_COUNT_MAX
    }

    pub(super) fn get(&mut self, id: u64, get: &PeerGet, deadline: Instant) {
        let PeerGet { group, key, asked_as, value_len_max, .. } = get;
        let op = convert::get(*asked_as, *value_len_max);
        let (group, left_ms) = self.begin(Some(group), key.as_bytes(), deadline);
        wire::write_get(&mut self.message, id, group, key.as_bytes(), left_ms, op);
    }

    pub(super) fn write(&mut self, id: u64, write: PeerWrite) {
        let condition = convert::condition(write.condition);
        let op = match write.op {
            WriteOp::Delete => Op::Delete(proto::Delete { condition }),
            WriteOp::Invalidate { ends_guard } => Op::Invalidate(proto::Invalidate { ends_guard }),
            WriteOp::Put { value, ttl } => {
                let tags = convert::tags(value.tags());
                let content_type = value.content_type().map(str::to_owned).unwrap_or_default();
                let (mut value, mut chunked_len) = (value.into_bytes(), 0);
                if pieces::is_long(value.len()) {
                    chunked_len = value.len() as u64;
                    self.long.push((id, std::mem::take(&mut value)));
                }
                self.len += value.len();
                let ttl_ms = ttl.map(convert::millis);
                Op::Put(proto::Put { value, content_type, ttl_ms, condition, chunked_len, tags })
            }
        };
        let idempotency_key = write.idempotency_key.map(|key| key.to_string()).unwrap_or_default();
        self.push_keyed(id, Some(&write.group), write.key.as_bytes(), write.deadline, op, idempotency_key);
    }

    pub(super) fn slots(&mut self, id: u64, said: Said, deadline: Instant) {
        self.len += said.op.encoded_len();
        self.push(id, said.group.as_ref(), said.key.as_ref().map_or(b"", |key| key.as_bytes()), deadline, said.op);
    }

    pub(super) fn ping(&mut self, id: u64, deadline: Instant) {
        self.push(id, None, b"", deadline, Op::Ping(proto::Ping {}));
    }

    fn push(&mut self, id: u64, group: Option<&Arc<str>>, key: &[u8], deadline: Instant, op: Op) {
        self.push_keyed(id, group, key, deadline, op, String::new());
    }

    fn push_keyed(
        &mut self,
        id: u64,
        group: Option<&Arc<str>>,
        key: &[u8],
        deadline: Instant,
        op: Op,
        idempotency_key: String,
    ) {
        let (group, left_ms) = self.begin(group, key, deadline);
        let request = Request { id, group, key: Bytes::copy_from_slice(key), left_ms, op: Some(op), idempotency_key };
        wire::write_request(&mut self.message, &request);
    }

    /// Counts a request. Says which of the frame's groups it is of, and how many milliseconds it has left.
    fn begin(&mut self, group: Option<&Arc<str>>, key: &[u8], deadline: Instant) -> (u32, u64) {
        let now = *self.now.get_or_insert_with(Instant::now);
        self.count += 1;
        self.len += REQUEST_LEN + key.len();
        (group.map_or(0, |group| self.place_of(group)), convert::millis(deadline.saturating_duration_since(now)))
    }

    /// The place of a group's name among those that the frame names. Most frames name one.
    fn place_of(&mut self, group: &Arc<str>) -> u32 {
        let place =
            self.groups.iter().position(|named| Arc::ptr_eq(named, group) || named == group).unwrap_or_else(|| {
                self.groups.push(group.clone());
                self.groups.len() - 1
            });
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// The whole frame, with what else is in it.
    pub(super) fn into_message(self, mut frame: Frame) -> Bytes {
        frame.groups = self.groups.iter().map(|group| group.to_string()).collect();
        let mut message = self.message;
        message.reserve(frame.encoded_len());
        // The order of fields is of no account.
        frame.encode_raw(&mut message);
        message.freeze()
    }
}
