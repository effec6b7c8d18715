//! [`Intake`]: a connection's socket, as the HTTP library gets to see it.
//!
//! It does what hyper leaves out. Requests are handed on one whole head at a time, each [vetted](super::head) before.
//! And there are two waits where hyper knows one: a request's head must come soon once it has begun, and on a new
//! connection at once; between requests there is more patience. The same patience ends a connection whose client
//! doesn't read its answers.
//!
//! How long a request's body may take is not its affair: whoever reads the body has a deadline.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::watch,
    time::{Instant, Sleep},
};

use super::{
    HttpLimits,
    head::{self, Framing, Verdict},
};

/// What hyper is given in place of a head that is refused: nothing that could be a request, so that it answers 400 and
/// closes the connection.
const NO_REQUEST: &[u8] = b"\0\r\n\r\n";

/// How long to wait, after the last answer, for a client to stop sending what nobody will read. Without the wait the
/// kernel would answer those bytes with a reset, and the client might never see why it was refused (RFC 9112, section
/// 9.6). A client reads an answer within a round trip or two.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// How long a client that closed its sending half may still wait for the answer to its last request. It looks the same
/// as one that has gone altogether, and hyper drops the request of that one at once: too hard on who sends a request by
/// a pipe. A second is enough for a hit and for most loads, and a load that nobody waits for ends soon all the same.
const HALF_CLOSED_TIME_MAX: Duration = Duration::from_secs(1);

/// What comes next on the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A head.
    Head,
    /// So many bytes of a body.
    Body(u64),
    /// Bytes of no concern: what follows is the connection's last request, or its head is too long and hyper says so.
    Rest,
    /// Nothing: a head was refused, or patience ended.
    Over,
}

/// Says, while it lives, that a request is being worked on.
pub(super) struct Working<'a>(&'a AtomicBool);

impl<'a> Working<'a> {
    pub(super) fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Says of a request whether its client will send no more: mostly it has gone. Requests that may be read about again have none; those that do
/// something (POST) have one among their extensions.
#[derive(Clone)]
pub(super) struct ClientEnd(watch::Receiver<bool>);

impl ClientEnd {
    /// What tells it.
    pub(super) fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Waits until the client will send no more.
    pub(super) async fn reached(mut self) {
        // Without its sender there is no connection any more.
        drop(self.0.wait_for(|ended| *ended).await);
    }
}

/// A connection's socket that hands on whole, vetted heads, and knows when to stop waiting.
pub(super) struct Intake<'a, Io> {
    io: Io,
    stage: Stage,
    /// Bytes that were read and not handed on.
    held: BytesMut,
    /// How many of them are for handing on.
    passed: usize,
    /// How many of them, in part of a head, were looked at.
    scanned: usize,
    head_len_max: usize,
    head_time: Duration,
    idle_time: Duration,
    /// Nothing has been handed on yet.
    fresh: bool,
    /// The client will send no more.
    ended: bool,
    /// Who else is told of that.
    end: watch::Sender<bool>,
    working: &'a AtomicBool,
    /// From when waiting is counted: something was written, or a head began to arrive.
    since: Instant,
    /// Rings no later than patience ends. Moved when it rings and not at each request, because that is cheaper.
    timer: Pin<Box<Sleep>>,
}

impl<'a, Io: AsyncRead + AsyncWrite + Unpin> Intake<'a, Io> {
    pub(super) fn new(io: Io, limits: &HttpLimits, working: &'a AtomicBool, end: watch::Sender<bool>) -> Self {
        let now = Instant::now();
        Self {
            io,
            stage: Stage::Head,
            held: BytesMut::new(),
            passed: 0,
            scanned: 0,
            head_len_max: limits.head_len_max,
            head_time: limits.head_time_max,
            idle_time: limits.idle_time_max,
            fresh: true,
            ended: false,
            end,
            working,
            since: now,
            timer: Box::pin(tokio::time::sleep_until(now + limits.head_time_max)),
        }
    }

    /// Closes the connection, so that the client gets to read the last answer.
    pub(super) async fn close(mut self, failed: bool) {
        let unread = failed || matches!(self.stage, Stage::Body(_) | Stage::Rest) || !self.held.is_empty();
        let lingering = async {
            // An error here says that the connection is gone already.
            if self.io.shutdown().await.is_err() || self.ended || !unread {
                return;
            }
            let mut sink = [0; 4096];
            while matches!(self.io.read(&mut sink).await, Ok(1..)) {}
        };
        let _ = tokio::time::timeout(LINGER_TIME_MAX, lingering).await;
    }

    /// Decides what of the held bytes may be handed on. With nothing decided, more must be read.
    fn vet_held(&mut self) {
        match self.stage {
            Stage::Head => {
                // Empty lines before a request are to be overlooked (RFC 9112, section 2.2).
                while self.held.starts_with(b"\r\n") {
                    self.held.advance(2);
                }
                match head::vet(&self.held, self.scanned) {
                    Verdict::Whole { len, framing } => {
                        self.passed = len;
                        self.head_is_whole(framing);
                    }
                    Verdict::Partial { .. } if self.held.len() >= self.head_len_max => self.stage = Stage::Rest,
                    Verdict::Partial { scanned } => self.scanned = scanned,
                    Verdict::Refused(reason) => {
                        tracing::debug!(reason, "refused a request");
                        self.held = BytesMut::from(NO_REQUEST);
                        self.passed = NO_REQUEST.len();
                        self.stage = Stage::Over;
                    }
                }
            }
            Stage::Body(left) => {
                self.passed = self.held.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.body_moved(left, self.passed);
            }
            Stage::Rest => {}
            Stage::Over => {}
        }
        if self.stage == Stage::Rest {
            self.passed = self.held.len();
        }
    }

    fn head_is_whole(&mut self, framing: Framing) {
        self.fresh = false;
        self.scanned = 0;
        self.stage = match framing {
            Framing::Length(0) => Stage::Head,
            Framing::Length(len) => Stage::Body(len),
            Framing::Chunked => Stage::Rest,
        };
    }

    fn body_moved(&mut self, left: u64, by: usize) {
        let left = left.saturating_sub(by as u64);
        self.stage = if left == 0 { Stage::Head } else { Stage::Body(left) };
    }

    /// Sorts what was just read into `read[before..]`: what may be handed on stays there, the rest is held.
    fn sort(&mut self, read: &mut ReadBuf<'_>, before: usize) {
        let new = &read.filled()[before..];
        let keep = match self.stage {
            Stage::Head => match head::vet(new, 0) {
                // Nearly every read on a busy connection is one whole head.
                Verdict::Whole { len, framing } if self.held.is_empty() && !new.starts_with(b"\r\n") => {
                    self.head_is_whole(framing);
                    len
                }
                _ => 0,
            },
            Stage::Body(left) => {
                let len = new.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.body_moved(left, len);
                len
            }
            Stage::Rest => new.len(),
            Stage::Over => 0,
        };
        if keep < new.len() {
            if self.held.is_empty() && !self.fresh {
                self.wait_from_now(self.head_time);
            }
            self.held.extend_from_slice(&new[keep..]);
            read.set_filled(before + keep);
        }
    }

    /// The client's end: told at once, but to a request that is being worked on.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let has_request = self.working.load(Ordering::Relaxed) && !matches!(self.stage, Stage::Body(_));
        if has_request && !self.is_out_of_patience(cx) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn wait_from_now(&mut self, time: Duration) {
        self.since = Instant::now();
        self.timer.as_mut().reset(self.since + time);
    }

    /// Whether nothing has moved for too long. Has the task woken when that may be so.
    fn is_out_of_patience(&mut self, cx: &mut Context<'_>) -> bool {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.working.load(Ordering::Relaxed) && !self.ended {
                self.since = now;
            }
            let patience = match () {
                () if self.ended => HALF_CLOSED_TIME_MAX,
                () if self.fresh || !self.held.is_empty() => self.head_time,
                () => self.idle_time,
            };
            let until = self.since + patience;
            if until <= now {
                return true;
            }
            self.timer.as_mut().reset(until);
        }
        false
    }

    /// Notes that a write got somewhere, or says that it never will.
    fn judge_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Ok(_)) => {
                self.since = Instant::now();
                if self.ended {
                    // The end was kept from hyper while it had a request to answer. Now it should look again.
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending if self.is_out_of_patience(cx) => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            _ => {}
        }
        written
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Intake<'_, Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.passed == 0 && !this.held.is_empty() {
                this.vet_held();
            }
            if this.passed > 0 {
                let len = this.passed.min(read.remaining());
                read.put_slice(&this.held[..len]);
                this.held.advance(len);
                this.passed -= len;
                return Poll::Ready(Ok(()));
            }
            if this.stage == Stage::Over {
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return this.poll_end(cx);
            }
            let before = read.filled().len();
            let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, read) else {
                if this.is_out_of_patience(cx) {
                    // hyper takes this for the client's own end and closes the connection.
                    this.stage = Stage::Over;
                    this.ended = true;
                    return Poll::Ready(Ok(()));
                }
                return Poll::Pending;
            };
            result?;
            if read.filled().len() == before {
                this.ended = true;
                this.end.send_replace(true);
                this.wait_from_now(HALF_CLOSED_TIME_MAX);
                continue;
            }
            this.sort(read, before);
            if read.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Intake<'_, Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.judge_write(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.judge_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
