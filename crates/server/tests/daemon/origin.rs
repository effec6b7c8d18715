//! An origin in the process of the test: it counts what it is asked, and answers when it is let.

use std::{collections::HashMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::{net::TcpListener, sync::watch};

use crate::client::{GROUP, value_of, within};

/// How long a key that begins with `late` takes.
pub(crate) const LATE: Duration = Duration::from_millis(1_200);

/// How long an expected request may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// An HTTP origin. A key's value is [`value_of`] it, but `missing…` is 404, `broken…` 500, `late…` takes [`LATE`], and
/// `sized/N/…` has N bytes.
pub(crate) struct Origin {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// The path of each request, as it came.
    targets: watch::Sender<Vec<String>>,
    open: watch::Sender<bool>,
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { targets: watch::Sender::default(), open: watch::Sender::new(true) });
        tokio::spawn(serve(listener, state.clone()));
        Self { address, state }
    }

    /// To which an escaped key is appended.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The configuration of a group that reads from here, with these settings besides.
    pub(crate) fn group(&self, settings: &str) -> String {
        let url = self.url();
        format!("[groups.{GROUP}]\n{settings}\n[groups.{GROUP}.origin]\nkind = \"http\"\nurl = \"{url}{{key}}\"\n")
    }

    /// Holds every answer back until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.state.open.send_replace(false);
    }

    pub(crate) fn release(&self) {
        self.state.open.send_replace(true);
    }

    /// Waits until it has been asked so often.
    pub(crate) async fn is_asked(&self, times: usize) {
        let mut targets = self.state.targets.subscribe();
        let asked = targets.wait_for(|targets| targets.len() >= times);
        within(PATIENCE, "a request to the origin", asked).await.unwrap();
    }

    /// The path of each request, as it came.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.state.targets.borrow().clone()
    }

    /// How often it was asked.
    pub(crate) fn asked_len(&self) -> usize {
        self.state.targets.borrow().len()
    }

    /// How often each key was asked for, of those that were.
    pub(crate) fn loads_by_key(&self) -> HashMap<String, usize> {
        let mut loads = HashMap::new();
        for target in &*self.state.targets.borrow() {
            *loads.entry(String::from_utf8_lossy(&key_in(target)).into_owned()).or_default() += 1;
        }
        loads
    }

    /// How often a key was asked for.
    pub(crate) fn loads(&self, key: impl AsRef<[u8]>) -> usize {
        self.targets().iter().filter(|target| key_in(target) == key.as_ref()).count()
    }
}

fn key_in(target: &str) -> Vec<u8> {
    percent_decode_str(target.strip_prefix('/').unwrap()).collect()
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(answer(request.uri().to_string(), &state).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(target: String, state: &State) -> Response<Full<Bytes>> {
    let key = key_in(&target);
    state.targets.send_modify(|targets| targets.push(target));
    // The sender lives as long as the test.
    let _ = state.open.subscribe().wait_for(|open| *open).await;
    let mut response = Response::new(Full::from(value_of(&key)));
    if key.starts_with(b"missing") {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if key.starts_with(b"broken") {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    } else if key.starts_with(b"late") {
        tokio::time::sleep(LATE).await;
    } else if let Some(rest) = key.strip_prefix(b"sized/") {
        let len = str::from_utf8(rest).unwrap().split('/').next().unwrap().parse().unwrap();
        *response.body_mut() = Full::from(vec![b'x'; len]);
    }
    response
}
