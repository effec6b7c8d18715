//! [`Ledger`]: an origin that is changed behind Larder's back, or takes writes and fences, and is slow to answer.

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
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpListener, time::sleep};

use super::record::{Id, Version};

/// How long it takes at most from where it looks a key up to where it answers: changes come in between.
const LATE_MAX: Duration = Duration::from_millis(20);

/// What bodies have before the padding: an id.
const ID_END: char = ' ';

/// What is known of a key.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// What it has, if it is there.
    id: Option<Id>,
    /// Of the last write that came through Larder.
    version: Version,
}

/// An HTTP origin of what was written into it.
pub(crate) struct Ledger {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    entries: Mutex<HashMap<String, Entry>>,
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
        entries.entry(key.to_owned()).or_default().id = Some(id);
        id
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(answer(request, &state).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Does what is asked at once, or just before the answer, by chance.
async fn answer(request: Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    let key = request.uri().path().trim_start_matches('/').to_owned();
    let (method, version) = (request.method().clone(), request.headers().get("larder-version").cloned());
    // Of one that broke off nothing is done.
    let Ok(body) = request.into_body().collect().await else { return status(StatusCode::BAD_REQUEST) };
    let (late, is_done_late) = {
        let mut chance = state.chance.lock();
        (LATE_MAX.mul_f64(chance.f64()), chance.bool())
    };
    if is_done_late {
        sleep(late).await;
    }
    let answer = match version {
        None => state.get(&key),
        Some(version) => {
            let version = Version::from_str_radix(version.to_str().unwrap(), 16).unwrap();
            let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
            let id = (method == Method::PUT).then(|| body.split(ID_END).next().unwrap().parse().unwrap());
            state.write(&key, id, version)
        }
    };
    if !is_done_late {
        sleep(late).await;
    }
    answer
}

impl State {
    fn get(&self, key: &str) -> Response<Full<Bytes>> {
        match self.entries.lock().get(key).and_then(|entry| entry.id) {
            Some(id) => Response::new(Full::from(id.to_string())),
            None => status(StatusCode::NOT_FOUND),
        }
    }

    /// Takes nothing that is older than what it has.
    fn write(&self, key: &str, id: Option<Id>, version: Version) -> Response<Full<Bytes>> {
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.to_owned()).or_default();
        if version <= entry.version {
            return status(StatusCode::CONFLICT);
        }
        *entry = Entry { id, version };
        status(StatusCode::NO_CONTENT)
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
