//! [`Outbox`]: the requests of the frame that is put together.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use larder_core::peer::{PeerGet, PeerWrite, WriteOp};
use tokio::time::Instant;

use super::{
    convert, limits, pieces,
    proto::{self, Frame, Request, request::Op},
};

/// The bytes that a request takes in a frame beside its key and value, about.
const REQUEST_LEN: usize = 40;

/// The requests of a frame. What does not fit follows in chunks.
#[derive(Default)]
pub(super) struct Outbox {
    groups: Vec<Arc<str>>,
    /// Their keys are in `keys`, one behind the other, until the frame is filled: one piece of memory for all.
    requests: Vec<Request>,
    keys: BytesMut,
    key_ends: Vec<usize>,
    /// Values too long for a frame, each with its request's id.
    pub(super) long: Vec<(u64, Bytes)>,
    len: usize,
    now: Option<Instant>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether it takes nothing more.
    pub(super) fn is_full(&self) -> bool {
        self.len >= limits::FRAME_LEN || self.requests.len() >= limits::FRAME_COUNT_MAX
    }

    pub(super) fn get(&mut self, id: u64, get: &PeerGet, deadline: Instant) {
        let PeerGet { group, key, asked_as, value_len_max, .. } = get;
        let op = proto::Get { asked_as: convert::asked_as(*asked_as), value_len_max: *value_len_max as u64 };
        self.push(id, Some(group), key.as_bytes(), deadline, Op::Get(op));
    }

    pub(super) fn write(&mut self, id: u64, write: PeerWrite) {
        let condition = convert::condition(write.condition);
        let op = match write.op {
            WriteOp::Delete => Op::Delete(proto::Delete { condition }),
            WriteOp::Put { value, ttl } => {
                let content_type = value.content_type().map(str::to_owned).unwrap_or_default();
                let (mut value, mut chunked_len) = (value.into_bytes(), 0);
                if pieces::is_long(value.len()) {
                    chunked_len = value.len() as u64;
                    self.long.push((id, std::mem::take(&mut value)));
                }
                self.len += value.len();
                Op::Put(proto::Put { value, content_type, ttl_ms: ttl.map(convert::millis), condition, chunked_len })
            }
        };
        self.push(id, Some(&write.group), write.key.as_bytes(), write.deadline, op);
    }

    pub(super) fn ping(&mut self, id: u64, deadline: Instant) {
        self.push(id, None, b"", deadline, Op::Ping(proto::Ping {}));
    }

    fn push(&mut self, id: u64, group: Option<&Arc<str>>, key: &[u8], deadline: Instant, op: Op) {
        let now = *self.now.get_or_insert_with(Instant::now);
        self.len += REQUEST_LEN + key.len();
        let group = group.map_or(0, |group| self.place_of(group));
        let left_ms = convert::millis(deadline.saturating_duration_since(now));
        self.keys.extend_from_slice(key);
        self.key_ends.push(self.keys.len());
        self.requests.push(Request { id, group, left_ms, op: Some(op), ..Request::default() });
    }

    /// The place of a group's name among those that the frame names. Most frames name one.
    fn place_of(&mut self, group: &Arc<str>) -> u32 {
        let place = self.groups.iter().position(|named| named == group).unwrap_or_else(|| {
            self.groups.push(group.clone());
            self.groups.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// Fills a frame.
    pub(super) fn fill(self, frame: &mut Frame) {
        frame.requests = self.requests;
        let (keys, mut start) = (self.keys.freeze(), 0);
        for (request, end) in frame.requests.iter_mut().zip(self.key_ends) {
            request.key = keys.slice(start..end);
            start = end;
        }
        frame.groups = self.groups.iter().map(|group| group.to_string()).collect();
    }
}
