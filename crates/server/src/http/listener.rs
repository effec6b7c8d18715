//! [`serve`]: takes connections, has their requests answered, and stops in good order.
//!
//! An accept loop of our own, because the ready-made ones set no limits: on how many connections there are, on how long
//! a client may take to say what it wants ([`Intake`]), on how long to wait at the end.
//! It knows nothing of paths or groups; and nothing of TLS: that is for the [`Accept`] it is given.

use std::{collections::HashMap, convert::Infallible, io, pin::pin, sync::atomic::AtomicBool, time::Duration};

use futures_util::future::{Either, ready};
use http::{HeaderValue, Method, header};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use larder_core::ErrorKind;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::oneshot,
    task::JoinSet,
    time::Instant,
};

use super::{
    Request, Response,
    intake::{ClientEnd, Intake, Working},
    problem::Problem,
};

/// How many connections over [`HttpLimits::connections_max`] are taken all the same, to be told so: each of their
/// requests is answered 503, at once, and the connection closed. A client that hears this can go elsewhere; one that
/// waits in the kernel's queue believes that it is connected and learns nothing until its own time-out. Beyond these
/// the kernel's queue it is: saying no costs work too.
const TURNED_AWAY_MAX: usize = 64;

/// The waits after an accept failed for want of file descriptors or memory: from a moment in which a connection may end,
/// doubled up to what a client hardly notices. A connection that ends cuts the wait short.
const ACCEPT_RETRY_TIME: std::ops::RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(1);

/// The most bytes of a request or an answer that hyper holds for a connection; longer bodies pass through in pieces.
/// Enough that large bodies are not slow, little enough for thousands of connections.
const BUFFER_LEN_MAX: usize = 64 * 1024;

/// What a listener allows its clients.
///
/// # Examples
///
/// ```
/// use larder_server::http::HttpLimits;
///
/// let limits = HttpLimits { connections_max: 100, ..HttpLimits::default() };
/// assert_eq!(limits.head_time_max.as_secs(), 10);
/// ```
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// How many connections are served at once. Each costs a file descriptor and, at rest, a few KiB of memory.
    pub connections_max: usize,
    /// The longest head of a request (its first line and headers), in bytes, at most 64 KiB; beyond: 431. A key of
    /// 1,024 bytes takes up to 3,072 of them. The number of headers is limited too, by hyper, to 100.
    pub head_len_max: usize,
    /// How long a client may take from connecting to the end of its first head, and from the first byte to the last of
    /// each later one.
    pub head_time_max: Duration,
    /// How long a connection may wait for its next request, and how long an answer may wait for its client to read on.
    pub idle_time_max: Duration,
    /// How long the requests under way may take once the listener has been told to stop.
    pub drain_time_max: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            head_len_max: 32 * 1024,
            head_time_max: Duration::from_secs(10),
            idle_time_max: Duration::from_secs(60),
            drain_time_max: Duration::from_secs(10),
        }
    }
}

/// Where connections come from: a TCP listener, one that does TLS on top, or a test's.
pub trait Accept {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// Of kind `ConnectionAborted` or `ConnectionReset` if just this connection failed; of any other if the next
    /// attempt would presumably fail as well.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Accept for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<Self::Io> {
        let (stream, _) = TcpListener::accept(self).await?;
        // An answer is written in one piece: there is nothing to gather, so nothing to wait for. It can only fail
        // where the client is gone already.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// What answers requests. Any function from a request to a future of an answer is one.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request. Reading the request's body must not take longer than some deadline: nobody else sees to
    /// that.
    fn answer(&self, request: Request) -> impl Future<Output = Response> + Send;
}

impl<H, F> Handler for H
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send,
{
    fn answer(&self, request: Request) -> impl Future<Output = Response> + Send {
        self(request)
    }
}

/// Has `handler` answer the requests of all connections that `listener` gives, until `shutdown`; then takes no more,
/// lets what is under way finish within [`HttpLimits::drain_time_max`], and returns how many connections it had to cut
/// off.
///
/// A request is answered or, where its head is malformed or can be read in more ways than one, refused with a bare 400;
/// its connection is closed then. A request with a chunked body is the last one of its connection. A client that leaves
/// has its request dropped, after a second in which it may still read the answer.
pub async fn serve<A: Accept>(
    mut listener: A,
    handler: impl Handler,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let mut connections = JoinSet::new();
    // Dropping a connection's sender tells it to finish.
    let mut going_on = HashMap::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let room = connections.len() < limits.connections_max.saturating_add(TURNED_AWAY_MAX);
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next_with_id() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(panicked) => {
                        tracing::error!("a request's handler panicked; its connection is closed");
                        panicked.id()
                    }
                };
                going_on.remove(&id);
            }
            io = next_connection(&mut listener), if room => {
                let full = connections.len() >= limits.connections_max;
                let (sender, draining) = oneshot::channel::<Infallible>();
                let task = connections.spawn(connection(io, handler.clone(), limits.clone(), full, draining));
                going_on.insert(task.id(), sender);
            }
        }
    }
    drop(listener);
    drop(going_on);
    let until = Instant::now() + limits.drain_time_max;
    while let Ok(Some(_)) = tokio::time::timeout_at(until, connections.join_next()).await {}
    let cut_off = connections.len();
    connections.shutdown().await;
    cut_off
}

/// The next connection, however long that takes.
async fn next_connection<A: Accept>(listener: &mut A) -> A::Io {
    let mut wait = *ACCEPT_RETRY_TIME.start();
    loop {
        match listener.accept().await {
            Ok(io) => return io,
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(*ACCEPT_RETRY_TIME.end());
            }
        }
    }
}

/// Answers one connection's requests, until it ends or `draining` does.
async fn connection(
    io: impl AsyncRead + AsyncWrite + Unpin,
    handler: impl Handler,
    limits: HttpLimits,
    full: bool,
    mut draining: oneshot::Receiver<Infallible>,
) {
    let (handler, working) = (&handler, &AtomicBool::new(false));
    let (ended, end) = ClientEnd::new();
    let mut intake = Intake::new(io, &limits, working, ended);
    let service = service_fn(move |mut request: Request| {
        if request.method() == Method::POST {
            request.extensions_mut().insert(end.clone());
        }
        let working = Working::begin(working);
        let is_last = full || request.headers().contains_key(header::TRANSFER_ENCODING);
        let answer = if full { Either::Left(ready(turned_away())) } else { Either::Right(handler.answer(request)) };
        async move {
            let mut response = answer.await;
            if is_last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            drop(working);
            Ok::<_, Infallible>(response)
        }
    });
    let outcome = {
        let mut connection = pin!(
            http1::Builder::new()
                .header_read_timeout(None)
                .max_header_size(limits.head_len_max)
                .max_buf_size(BUFFER_LEN_MAX.max(limits.head_len_max))
                .serve_connection(TokioIo::new(&mut intake), service)
        );
        tokio::select! {
            biased;
            outcome = connection.as_mut() => outcome,
            _ = &mut draining => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = &outcome {
        tracing::debug!(%error, "a connection ended early");
    }
    intake.close(outcome.is_err()).await;
}

fn turned_away() -> Response {
    Problem::new(ErrorKind::Overloaded, "This node has all the connections it takes: ask another one, or try again.")
        .into()
}
