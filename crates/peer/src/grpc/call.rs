//! [`Call`]: a client's call while it is under way, and the bodies of its request and its answer.
//!
//! gRPC's library gathers a message whole before it says that there is one. So what a call may cost is seen to here, while
//! the bytes come and go: how long they may take, how many there may be, and how many of all calls at once.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, Incoming};
use larder_core::{
    Error, ErrorKind,
    group::{TIMEOUT_DEFAULT, TIMEOUT_MAX},
    lock::Delivery,
};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until, timeout_at},
};
use tonic::{Status, body::Body};

use super::{limits, status, streams::Open};

/// How many bytes of a message tell its length: a flag, and four of them.
const PREFIX_LEN: usize = 5;

/// The header that tells how long a call may take.
const TIMEOUT: &str = "grpc-timeout";

/// Room for the long messages of calls: of one connection's, within that of all.
pub(super) struct Room {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// Room that a message takes.
type Taken = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Room {
    /// The room of all calls.
    pub(super) fn of_all() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(limits::MESSAGES_LEN_MAX / limits::MESSAGES_LEN_UNIT))
    }

    pub(super) fn of_connection(all: Arc<Semaphore>) -> Arc<Self> {
        let own = Semaphore::new(limits::CONNECTION_MESSAGES_LEN_MAX / limits::MESSAGES_LEN_UNIT);
        Arc::new(Self { own: Arc::new(own), all })
    }

    /// Waits for room for a message of so many bytes. `None`: it needs none.
    async fn take(self: Arc<Self>, len: usize, deadline: Instant) -> Result<Option<Taken>, Error> {
        if len <= limits::LONG_MESSAGE_LEN {
            return Ok(None);
        }
        let units = len.min(limits::CONNECTION_MESSAGES_LEN_MAX).div_ceil(limits::MESSAGES_LEN_UNIT);
        // It fits: there are far fewer units than the type holds.
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let taken = async {
            // In this order, so that who waits for its own room takes none of the others'.
            let own = self.own.clone().acquire_many_owned(units).await.ok()?;
            let all = self.all.clone().acquire_many_owned(units).await.ok()?;
            Some((own, all))
        };
        let taken = timeout_at(deadline, taken).await.ok().flatten();
        let full = || Error::new(ErrorKind::Overloaded, "too much is being sent at once: try again");
        taken.map(Some).ok_or_else(full)
    }
}

/// A client's call while it is under way.
pub(super) struct Call {
    deadline: Instant,
    /// Whether its client said how long it may take.
    is_bounded: bool,
    /// What takes back what its client was granted, if the answer is not handed over.
    delivery: Mutex<Option<Delivery>>,
    room: Arc<Room>,
    /// For the request, and then for the answer.
    taken: Mutex<Option<Taken>>,
    _open: Open,
}

impl Call {
    /// # Errors
    ///
    /// If its headers tell no time that it may take.
    pub(super) fn new(headers: &HeaderMap, room: Arc<Room>, open: Open) -> Result<Arc<Self>, Error> {
        let (deadline, is_bounded) = (Instant::now() + timeout(headers)?, headers.contains_key(TIMEOUT));
        let (delivery, taken) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { deadline, is_bounded, delivery, room, taken, _open: open }))
    }

    /// How much time is left.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// How much time is left for a call that waits so long for others: who says how long all may take means it, else the wait comes on
    /// top.
    pub(super) fn left_beside(&self, wait: Duration) -> Duration {
        if self.is_bounded { self.left() } else { self.left() + wait }
    }

    /// The answer brings this to the client.
    pub(super) fn delivers(&self, delivery: Delivery) {
        *self.delivery.lock() = Some(delivery);
    }

    /// Waits for room for an answer of so many bytes, now that the request has been dealt with. It is kept until the answer was
    /// handed over.
    pub(super) async fn make_room(&self, len: usize) -> Result<(), Error> {
        drop(self.taken.lock().take());
        let taken = self.room.clone().take(len, self.deadline).await?;
        *self.taken.lock() = taken;
        Ok(())
    }
}

/// How long a call may take, as `grpc-timeout` tells it: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Duration, Error> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(TIMEOUT_DEFAULT) };
    parse_timeout(value.as_bytes()).map(|timeout| timeout.min(TIMEOUT_MAX)).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "the header grpc-timeout is none: give up to eight digits and one of HMSmun")
    })
}

fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The body of a call's request. It ends in an error at the deadline, and before a message is read that is too long or
/// for which there is no room.
pub(super) struct Intake {
    body: Incoming,
    call: Arc<Call>,
    len_max: usize,
    stage: Stage,
    late: Pin<Box<Sleep>>,
}

enum Stage {
    /// The length is still to come. What has come until now.
    Prefix(BytesMut),
    /// There must be room first. What has come until now.
    Room(Bytes, BoxFuture<'static, Result<Option<Taken>, Error>>),
    Rest,
}

impl Intake {
    pub(super) fn new(body: Incoming, len_max: usize, call: Arc<Call>) -> Self {
        let late = Box::pin(sleep_until(call.deadline));
        Self { body, call, len_max, stage: Stage::Prefix(BytesMut::new()), late }
    }

    /// The next piece of the body, once the message may be read.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match &mut self.stage {
                Stage::Rest => {
                    let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
                    return Poll::Ready(frame.map(|frame| frame.map_err(|error| broke_off(&error))));
                }
                Stage::Room(begun, room) => {
                    let taken = ready!(room.as_mut().poll(cx)).map_err(status::of)?;
                    let begun = mem::take(begun);
                    *self.call.taken.lock() = taken;
                    self.stage = Stage::Rest;
                    return Poll::Ready(Some(Ok(Frame::data(begun))));
                }
                Stage::Prefix(begun) => {
                    let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
                    let data = match frame.transpose().map_err(|error| broke_off(&error))?.map(Frame::into_data) {
                        Some(Ok(data)) => data,
                        // The message is missing, or most of it: that is found out by who reads it.
                        _ => {
                            let begun = mem::take(begun).freeze();
                            self.stage = Stage::Rest;
                            return Poll::Ready(Some(Ok(Frame::data(begun))));
                        }
                    };
                    begun.extend_from_slice(&data);
                    let Some([_, len @ ..]) = begun.first_chunk::<PREFIX_LEN>() else { continue };
                    let len = u32::from_be_bytes(*len) as usize;
                    if len > self.len_max {
                        return Poll::Ready(Some(Err(status::of(too_large(self.len_max)))));
                    }
                    let begun = mem::take(begun).freeze();
                    let room = self.call.room.clone().take(len, self.call.deadline);
                    self.stage = Stage::Room(begun, Box::pin(room));
                }
            }
        }
    }
}

impl HttpBody for Intake {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let piece = this.poll(cx);
        if piece.is_pending() && this.late.as_mut().poll(cx).is_ready() {
            let error = Error::new(ErrorKind::TimedOut, "the request had not come by the deadline: send it faster");
            return Poll::Ready(Some(Err(status::of(error))));
        }
        piece
    }
}

fn broke_off(error: &hyper::Error) -> Status {
    Status::cancelled(format!("the request broke off: {error}"))
}

fn too_large(len_max: usize) -> Error {
    Error::new(ErrorKind::TooLarge, format!("the request is longer than the {len_max} bytes that are allowed here"))
}

/// The body of a call's answer, in pieces. The call is under way until the last of it was handed over.
pub(super) struct Outgoing {
    body: Body,
    rest: Bytes,
    call: Arc<Call>,
}

impl Outgoing {
    pub(super) fn new(body: Body, call: Arc<Call>) -> Self {
        Self { body, rest: Bytes::new(), call }
    }

    /// The connection has all of it.
    fn is_handed_over(&self) {
        if let Some(delivery) = self.call.delivery.lock().take() {
            delivery.delivered();
        }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.rest = data,
                Some(Ok(Err(trailers))) => {
                    this.is_handed_over();
                    return Poll::Ready(Some(Ok(trailers)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.is_handed_over();
                    return Poll::Ready(None);
                }
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(limits::PIECE_LEN));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (value, expected) in [
            ("10S", Some(Duration::from_secs(10))),
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0m", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("", None),
            ("S", None),
            ("10", None),
            ("100000000S", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("1s", None),
            ("1 S", None),
        ] {
            assert_eq!(parse_timeout(value.as_bytes()), expected, "{value}");
        }
    }

    const MIB: usize = 1024 * 1024;

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_holds_up_itself_and_not_others() {
        let all = Room::of_all();
        let (one, other) = (Room::of_connection(all.clone()), Room::of_connection(all));
        let soon = || Instant::now() + Duration::from_secs(1);
        let held = one.clone().take(limits::CONNECTION_MESSAGES_LEN_MAX, soon()).await.unwrap();
        let error = one.clone().take(MIB, soon()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(one.clone().take(limits::LONG_MESSAGE_LEN, soon()).await.unwrap().is_none(), "short ones need none");
        assert!(other.take(MIB, soon()).await.unwrap().is_some());
        drop(held);
        assert!(one.take(1024 * MIB, soon()).await.unwrap().is_some(), "one that is longer than all room has it all");
    }

    #[tokio::test(start_paused = true)]
    async fn all_connections_share_what_room_there_is() {
        let all = Room::of_all();
        let count = limits::MESSAGES_LEN_MAX / limits::CONNECTION_MESSAGES_LEN_MAX;
        let soon = || Instant::now() + Duration::from_secs(1);
        let mut held = Vec::new();
        for _ in 0..count {
            let room = Room::of_connection(all.clone());
            held.push(room.take(limits::CONNECTION_MESSAGES_LEN_MAX, soon()).await.unwrap());
        }
        let late = Room::of_connection(all);
        assert!(late.clone().take(MIB, soon()).await.is_err());
        let mut waits = std::pin::pin!(late.take(MIB, soon()));
        assert!(timeout_at(Instant::now() + Duration::from_millis(500), &mut waits).await.is_err());
        held.pop();
        assert!(waits.await.unwrap().is_some());
    }

    #[test]
    fn a_call_has_ten_seconds_unless_it_says_more_and_never_more_than_a_minute() {
        let of = |value: &'static str| {
            timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value.parse().unwrap())]))
        };
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), TIMEOUT_DEFAULT);
        assert_eq!(of("20S").unwrap(), Duration::from_secs(20));
        assert_eq!(of("5M").unwrap(), TIMEOUT_MAX);
        assert!(of("soon").unwrap_err().is_invalid());
    }
}
