//! The connections to one node: kept alive, handed out one request at a time, limited in number.
//!
//! A pool of our own rather than hyper-util's, because three rules hang on what that one hides: when a request leaves
//! (rule G2), whether it was written at all (a write may then be sent again), and whether the connection had been used
//! before (only then may a break mean that the other side had closed it for idleness, and a get be asked again).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    rt::{Read, Write},
};
use larder_core::{Error, ErrorKind, peer::PeerError};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use tower_service::Service;

/// Requests under way to one node, each on a connection of its own. More would only wait at the other side; two hundred
/// nodes' worth of these still fit under a usual limit of 65,536 open files.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Requests that wait for a connection. At the 10,000 a second that a pool of this kind does, the last one of them
/// waits less than a second.
pub(super) const WAITING_MAX: usize = 8192;
/// Connections that nobody uses. Enough that a steady load opens no new ones.
const IDLE_MAX: usize = 64;
/// How long an unused connection is kept: well below the 60 seconds after which Larder nodes close it, so that the two
/// rarely meet.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that are being made. A burst of requests to a node that few asked before would overrun its queue of new
/// connections; and some of its requests find one that another has done with.
const CONNECTING_MAX: usize = 16;
/// How long connecting may take: a lost packet is repeated after one second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The longest head of an answer, in bytes.
const HEAD_LEN_MAX: usize = 16 * 1024;

/// What makes connections: hyper-util's `HttpConnector`, or a simulated network.
pub trait Connect: Clone + Send + Sync + 'static {
    /// A connection.
    type Stream: Read + Write + Send + Unpin + 'static;

    /// Connects to the authority of `uri`.
    fn connect(&self, uri: Uri) -> impl Future<Output = Result<Self::Stream, BoxError>> + Send;
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S> Connect for S
where
    S: Service<Uri, Response: Read + Write + Send + Unpin + 'static, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    type Stream = S::Response;

    async fn connect(&self, uri: Uri) -> Result<S::Response, BoxError> {
        let mut service = self.clone();
        std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
        service.call(uri).await.map_err(Into::into)
    }
}

/// The connections to one node.
pub(super) struct Pool<C> {
    connector: C,
    /// Scheme and authority.
    node: Uri,
    idle: Arc<Mutex<Vec<Idle>>>,
    turns: Semaphore,
    queue: Semaphore,
    connecting: Semaphore,
    /// Wakes all who wait when the node can't be reached: they would only find out one after the other.
    unreachable: Notify,
}

type Sender = SendRequest<Full<Bytes>>;

struct Idle {
    sender: Sender,
    since: Instant,
}

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) head: response::Parts,
    /// `None` if it is longer than allowed.
    pub(super) body: Option<Bytes>,
}

impl<C: Connect> Pool<C> {
    pub(super) fn new(connector: C, node: Uri) -> Self {
        Self {
            connector,
            node,
            idle: Arc::default(),
            turns: Semaphore::new(CONNECTIONS_MAX),
            queue: Semaphore::new(WAITING_MAX),
            connecting: Semaphore::new(CONNECTING_MAX),
            unreachable: Notify::new(),
        }
    }

    /// Sends a request and reads its answer, of which the body may have `body_len_max` bytes.
    ///
    /// `request` is made when there is a connection to write it to: from then on nobody has a say in when it leaves. It
    /// is made once more if a connection that had been used before turns out to be closed, and nothing was written to
    /// it or the request is `repeatable`. If it is `None`, nobody needs it any more.
    pub(super) async fn exchange(
        &self,
        mut request: impl FnMut() -> Option<Request<Full<Bytes>>>,
        repeatable: bool,
        body_len_max: impl Fn(&response::Parts) -> usize,
    ) -> Result<Answer, PeerError> {
        let _turn = self.turn().await?;
        let (mut sender, mut reused) = self.checkout().await?;
        let response = loop {
            let Some(request) = request() else {
                self.give_back(sender);
                return Err(PeerError::not_sent("nobody waits for the answer any more"));
            };
            let lost = match sender.try_send_request(request).await {
                Ok(response) => break response,
                Err(lost) => lost,
            };
            let unsent = lost.message().is_some();
            if !(reused && (unsent || repeatable && !lost.error().is_parse())) {
                let message = self.says("it broke the connection off", lost.error());
                return Err(if unsent { PeerError::not_sent(message) } else { PeerError::broke_off(message) });
            }
            (sender, reused) = (self.connect().await?, false);
        };
        let (head, body) = response.into_parts();
        let body = read(body, body_len_max(&head))
            .await
            .map_err(|error| PeerError::broke_off(self.says("it broke its answer off", &error)))?;
        if body.is_some() {
            self.give_back(sender);
        }
        Ok(Answer { head, body })
    }

    /// Sends a request on a new connection, past all that wait, and is content with any answer.
    pub(super) async fn knock(&self, request: Request<Full<Bytes>>) -> Result<(), PeerError> {
        let mut sender = self.connect().await?;
        let answer = sender.send_request(request).await;
        answer.map(drop).map_err(|error| PeerError::broke_off(self.says("it broke the connection off", &error)))
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, PeerError> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        let full = |_| {
            let message = format!("{WAITING_MAX} requests already wait for {}: try again later", self.name());
            PeerError::Answered(Error::new(ErrorKind::Overloaded, message))
        };
        let _place = self.queue.try_acquire().map_err(full)?;
        self.wait_for(&self.turns).await
    }

    async fn wait_for<'a>(&self, permits: &'a Semaphore) -> Result<SemaphorePermit<'a>, PeerError> {
        tokio::select! {
            // In this order: whoever failed to connect wakes the others, and then hands its permit on.
            biased;
            () = self.unreachable.notified() => {
                Err(PeerError::not_sent(format!("{}: others could not connect", self.name())))
            }
            permit = permits.acquire() => permit.map_err(|error| PeerError::not_sent(error.to_string())),
        }
    }

    /// A connection, and whether it was used before.
    async fn checkout(&self) -> Result<(Sender, bool), PeerError> {
        if let Some(sender) = self.take_idle() {
            return Ok((sender, true));
        }
        let _connecting = self.wait_for(&self.connecting).await?;
        if let Some(sender) = self.take_idle() {
            return Ok((sender, true));
        }
        let connected = self.connect().await;
        if connected.is_err() {
            self.unreachable.notify_waiters();
        }
        Ok((connected?, false))
    }

    /// The connection that was used last: what is left over grows old, and is closed.
    fn take_idle(&self) -> Option<Sender> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        while let Some(Idle { sender, since }) = idle.pop() {
            if now - since < IDLE_TIMEOUT && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn give_back(&self, mut sender: Sender) {
        let idle = self.idle.clone();
        if sender.is_ready() {
            put_idle(&idle, sender);
            return;
        }
        // Its task has yet to see that the answer was read; or the other side answered before it had read the request,
        // and may never be ready.
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(IDLE_TIMEOUT, sender.ready()).await {
                put_idle(&idle, sender);
            }
        });
    }

    async fn connect(&self) -> Result<Sender, PeerError> {
        let failed = |cause: &dyn std::error::Error| PeerError::not_sent(self.says("could not connect", cause));
        let stream = timeout(CONNECT_TIMEOUT, self.connector.connect(self.node.clone()))
            .await
            .map_err(|elapsed| failed(&elapsed))?
            .map_err(|error| failed(&*error))?;
        let (sender, connection) = http1::Builder::new()
            .max_header_size(HEAD_LEN_MAX)
            .handshake(stream)
            .await
            .map_err(|error| failed(&error))?;
        // Ends when the sender is dropped or the other side closes.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another node ended");
            }
        });
        Ok(sender)
    }

    fn name(&self) -> &str {
        self.node.authority().map_or("", |authority| authority.as_str())
    }

    /// A sentence with all causes of an error, which tell each its own part.
    fn says(&self, what: &str, error: &dyn std::error::Error) -> Box<str> {
        let mut message = format!("{}: {what}: {error}", self.name());
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        message.into()
    }
}

fn put_idle(idle: &Mutex<Vec<Idle>>, sender: Sender) {
    let mut idle = idle.lock();
    if idle.len() < IDLE_MAX {
        idle.push(Idle { sender, since: Instant::now() });
    }
}

/// Reads a body; `None` if it is longer than allowed, without reading it where the head says so.
async fn read(mut body: Incoming, len_max: usize) -> Result<Option<Bytes>, hyper::Error> {
    if body.size_hint().lower() > len_max as u64 {
        return Ok(None);
    }
    let mut pieces: Vec<Bytes> = Vec::with_capacity(1);
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        len += piece.len();
        if len > len_max {
            return Ok(None);
        }
        pieces.push(piece);
    }
    Ok(Some(if pieces.len() == 1 { pieces.swap_remove(0) } else { pieces.concat().into() }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::advance,
    };

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    /// What the other end does with a connection.
    #[derive(Clone, Copy, PartialEq)]
    enum Other {
        Answers,
        Waits,
        IsNotThere,
        CannotBeReached,
    }

    /// A network of one node, which counts the connections to it, and those being made.
    #[derive(Clone)]
    struct Net(Other, Arc<AtomicUsize>, Arc<AtomicUsize>);

    impl Service<Uri> for Net {
        type Response = TokioIo<DuplexStream>;
        type Error = std::io::Error;
        type Future = std::pin::Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            let Self(other, made, making) = self.clone();
            Box::pin(async move {
                assert!(making.fetch_add(1, Ordering::Relaxed) < CONNECTING_MAX);
                tokio::task::yield_now().await;
                making.fetch_sub(1, Ordering::Relaxed);
                match other {
                    Other::CannotBeReached => return std::future::pending().await,
                    Other::IsNotThere => return Err(std::io::ErrorKind::ConnectionRefused.into()),
                    Other::Answers | Other::Waits => {}
                }
                made.fetch_add(1, Ordering::Relaxed);
                let (here, mut there) = duplex(1024);
                tokio::spawn(async move {
                    let mut tail = [0; 4];
                    while let Ok(byte) = there.read_u8().await {
                        tail.rotate_left(1);
                        tail[3] = byte;
                        if other == Other::Answers && &tail == b"\r\n\r\n" {
                            there.write_all(ANSWER).await.unwrap();
                        }
                    }
                });
                Ok(TokioIo::new(here))
            })
        }
    }

    fn pool(other: Other) -> (Pool<Net>, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        (Pool::new(Net(other, made.clone(), Arc::default()), Uri::from_static("http://b:1/")), made)
    }

    async fn exchange(pool: &Pool<Net>) -> Result<Answer, PeerError> {
        let request = || Some(Request::get("/").header("host", "b:1").body(Full::default()).unwrap());
        pool.exchange(request, true, |_| 0).await
    }

    fn sent<T>(outcome: Result<T, PeerError>) -> bool {
        match outcome {
            Err(PeerError::Unreachable { sent, .. }) => sent,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("it was answered"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_used_for_long_is_not_used_again() {
        let (pool, made) = pool(Other::Answers);
        for (wait, connections) in
            [(Duration::ZERO, 1), (IDLE_TIMEOUT / 2, 1), (IDLE_TIMEOUT, 2), (IDLE_TIMEOUT * 2, 3)]
        {
            advance(wait).await;
            assert!(exchange(&pool).await.is_ok());
            assert_eq!(made.load(Ordering::Relaxed), connections, "after {wait:?}");
        }
        assert_eq!(pool.idle.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_leaves_few_connections() {
        let (pool, made) = pool(Other::Answers);
        let answers = futures_util::future::join_all((0..1_000).map(|_| exchange(&pool))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert!(made.load(Ordering::Relaxed) <= CONNECTIONS_MAX);
        assert!((1..=IDLE_MAX).contains(&pool.idle.lock().len()));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_and_those_who_wait_for_one_are_limited() {
        let (pool, made) = pool(Other::Waits);
        let mut asked: Vec<_> = (0..CONNECTIONS_MAX + WAITING_MAX).map(|_| Box::pin(exchange(&pool))).collect();
        for _ in 0..CONNECTIONS_MAX {
            for exchange in &mut asked {
                assert!(exchange.now_or_never().is_none());
            }
            if made.load(Ordering::Relaxed) == CONNECTIONS_MAX {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(made.load(Ordering::Relaxed), CONNECTIONS_MAX);
        let one_more = exchange(&pool).now_or_never();
        let Some(Err(PeerError::Answered(error))) = one_more else { panic!("it waits") };
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        asked.pop();
        assert!(exchange(&pool).now_or_never().is_none(), "there is a place again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_cannot_be_reached_keeps_nobody_waiting_longer_than_the_first() {
        for other in [Other::CannotBeReached, Other::IsNotThere] {
            let (pool, _) = pool(other);
            let asked = Instant::now();
            let answers = futures_util::future::join_all((0..1_000).map(|_| exchange(&pool))).await;
            assert!(answers.into_iter().all(|answer| !sent(answer)));
            assert!(asked.elapsed() <= CONNECT_TIMEOUT + Duration::from_millis(1));
        }
    }
}
