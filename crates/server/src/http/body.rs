//! Bodies: an answer's, which are at hand whole; and a request's, which take time and room to come.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use larder::peer::http::groupcache;
use larder_core::{ErrorKind, lock::Delivery};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::problem::Problem;

/// The most bytes of requests' bodies that are held at once, those that are still coming included. Clients beyond it
/// wait, within their deadlines. Enough for 32 values of the default `max_value`; without it, ten thousand connections
/// could bring as many.
const UPLOAD_LEN_MAX: usize = 256 << 20;

/// What [`UPLOAD_LEN_MAX`] is counted in, in bytes: a semaphore can't count single ones.
const UPLOAD_UNIT_LEN: usize = 1 << 10;

/// An answer's body.
#[derive(Debug)]
pub enum Body {
    /// Its bytes. They go to the socket without being copied.
    Whole(Full<Bytes>),
    /// A message to another node.
    Peer(groupcache::Body),
    /// What its client was granted, and what takes that back if these bytes don't get as far as the connection.
    Granted(Box<(Full<Bytes>, Option<Delivery>)>),
}

impl Body {
    /// A body that brings a lock to who asked for it.
    pub(super) fn granted(bytes: Vec<u8>, delivery: Delivery) -> Self {
        Self::Granted(Box::new((Full::new(bytes.into()), Some(delivery))))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl<B: Into<Bytes>> From<B> for Body {
    fn from(bytes: B) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Peer(body) => Pin::new(body).poll_frame(cx),
            Self::Granted(granted) => {
                let (body, delivery) = &mut **granted;
                // The connection takes it, and writes it at once.
                if let Some(delivery) = delivery.take() {
                    delivery.delivered();
                }
                Pin::new(body).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Peer(body) => body.is_end_stream(),
            Self::Granted(granted) => granted.0.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Peer(body) => body.size_hint(),
            Self::Granted(granted) => granted.0.size_hint(),
        }
    }
}

/// Reads requests' bodies, within a limit on all of them together.
#[derive(Debug)]
pub(super) struct Uploads(Semaphore);

impl Default for Uploads {
    fn default() -> Self {
        Self(Semaphore::new(UPLOAD_LEN_MAX / UPLOAD_UNIT_LEN))
    }
}

impl Uploads {
    /// Reads `body` whole and hands it to `then`; its room is given back when that is done.
    ///
    /// # Errors
    ///
    /// Those of `then`; else `too-large` if it is longer than `len_max`, before it is read where its length is told;
    /// `overloaded` if there was no room for it by `deadline`, `timed-out` if it had not come by then, `bad-request` if it
    /// broke off.
    pub(super) async fn read<R>(
        &self,
        body: Incoming,
        len_max: usize,
        deadline: Instant,
        then: impl AsyncFnOnce(Bytes) -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        let told = body.size_hint().exact().map(|len| usize::try_from(len).unwrap_or(usize::MAX));
        let room = told.unwrap_or(len_max);
        if room > len_max {
            return Err(too_large(len_max));
        }
        let units = room.min(UPLOAD_LEN_MAX).div_ceil(UPLOAD_UNIT_LEN);
        // It fits: there are far fewer units than the type holds.
        let acquired = self.0.acquire_many(u32::try_from(units).unwrap_or(u32::MAX));
        let Ok(Ok(_room)) = timeout_at(deadline, acquired).await else {
            return Err(Problem::new(ErrorKind::Overloaded, "Too much is being sent at once: try again."));
        };
        match timeout_at(deadline, collect(body, told, len_max)).await {
            Ok(bytes) => then(bytes?).await,
            Err(_) => Err(Problem::new(
                ErrorKind::TimedOut,
                "The body had not come by the deadline: send it faster, or allow more time with Larder-Timeout-Ms.",
            )),
        }
    }
}

/// The bytes of `body` in memory of their own: what hyper hands out are parts of its buffers, and one small value that is
/// kept would keep a whole buffer.
async fn collect(mut body: Incoming, told: Option<usize>, len_max: usize) -> Result<Bytes, Problem> {
    let mut bytes = Vec::with_capacity(told.unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::bad_request("The body broke off, or its chunks are malformed."))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > len_max - bytes.len() {
            return Err(too_large(len_max));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into_boxed_slice().into())
}

fn too_large(len_max: usize) -> Problem {
    Problem::new(ErrorKind::TooLarge, format!("The body is longer than the {len_max} bytes that are allowed here."))
}
