//! [`Flipped`]: a stream on which some of the bytes that are sent are changed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::script::Flips;

pub(crate) struct Flipped<S> {
    stream: S,
    flips: Flips,
    /// How many bytes were sent.
    sent: u64,
}

impl<S> Flipped<S> {
    pub(crate) fn new(stream: S, flips: Flips) -> Self {
        Self { stream, flips, sent: 0 }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flipped<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut bytes = bytes.to_vec();
        for (at, with) in &this.flips {
            let byte = at.checked_sub(this.sent).and_then(|at| bytes.get_mut(usize::try_from(at).ok()?));
            if let Some(byte) = byte {
                *byte ^= with;
            }
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, &bytes);
        if let Poll::Ready(Ok(len)) = written {
            this.sent += len as u64;
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Flipped<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}
