//! [`Ledger`]: an origin that is changed behind Larder's back, and knows what it said last.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpListener, time::sleep};

use super::record::Id;

/// How long it takes at most from where it looks a key up to where it answers: changes come in between.
const LATE_MAX: Duration = Duration::from_millis(20);

/// An HTTP origin of what was written into it.
pub(crate) struct Ledger {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    entries: Mutex<HashMap<String, Id>>,
    last: AtomicU64,
    chance: Mutex<Rng>,
}

impl Ledger {
    pub(crate) async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let chance = Mutex::new(Rng::with_seed(seed));
        let state = Arc::new(State { entries: Mutex::default(), last: AtomicU64::new(0), chance });
        tokio::spawn(serve(listener, state.clone()));
        Self { address, state }
    }

    /// The URL of a key's value, as a configuration has it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/{{key}}", self.address)
    }

    /// Gives a key a new value, which is greater than all before.
    pub(crate) fn change(&self, key: &str) -> Id {
        let mut entries = self.state.entries.lock();
        let id = self.state.last.fetch_add(1, Ordering::Relaxed) + 1;
        entries.insert(key.to_owned(), id);
        id
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(answer(request.uri().path(), &state).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(path: &str, state: &State) -> Response<Full<Bytes>> {
    let id = state.entries.lock().get(path.trim_start_matches('/')).copied();
    let late = LATE_MAX.mul_f64(state.chance.lock().f64());
    sleep(late).await;
    let mut response = Response::new(Full::from(id.map(|id| id.to_string()).unwrap_or_default()));
    if id.is_none() {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}
