//! Long values in pieces: [`Outgoing`] cuts them up, [`Incoming`] puts them together.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{limits::CHUNK_LEN, proto::Chunk};

/// Whether a value of `len` bytes travels in pieces.
pub(super) const fn is_long(len: usize) -> bool {
    len > CHUNK_LEN
}

/// Values that are being sent, a piece of each in turn.
#[derive(Default)]
pub(super) struct Outgoing {
    values: VecDeque<(u64, Bytes)>,
}

impl Outgoing {
    /// Takes a value that was announced, or is about to be.
    pub(super) fn send(&mut self, id: u64, value: Bytes) {
        self.values.push_back((id, value));
    }

    /// The next piece of those values that are still `wanted`.
    pub(super) fn next(&mut self, wanted: impl Fn(u64) -> bool) -> Option<Chunk> {
        loop {
            let (id, mut value) = self.values.pop_front()?;
            if !wanted(id) {
                continue;
            }
            let data = value.split_to(CHUNK_LEN.min(value.len()));
            if !value.is_empty() {
                self.values.push_back((id, value));
            }
            return Some(Chunk { id, data });
        }
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
    }
}

/// A value of which pieces arrive. It takes memory as they come, whatever was announced.
pub(super) struct Incoming {
    len: usize,
    bytes: BytesMut,
}

impl Incoming {
    pub(super) fn new(len: usize) -> Self {
        Self { len, bytes: BytesMut::new() }
    }

    /// The length that was announced.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a piece; gives the value once it is whole.
    ///
    /// # Errors
    ///
    /// What is wrong with the piece.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<Option<Bytes>, &'static str> {
        if piece.is_empty() || piece.len() > CHUNK_LEN || piece.len() > self.len - self.bytes.len() {
            return Err("a chunk is empty, too long, or more than was announced");
        }
        self.bytes.extend_from_slice(piece);
        Ok((self.bytes.len() == self.len).then(|| self.bytes.split().freeze()))
    }
}
