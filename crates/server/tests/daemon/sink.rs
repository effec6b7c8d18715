//! An origin that is written to, in the process of the test: it takes down every change, and takes them, refuses them or is away as it
//! is told to.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::sleep,
};

use crate::{
    client::{GROUP, within},
    process::{Daemon, POLL_INTERVAL},
};

/// How long a change may take to come that has to: a flush that failed is tried again after 30 s at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a request that hung may take from when it does not have to any more, in milliseconds.
const UNHANG_MS_MAX: u64 = 300;

/// What becomes of requests.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(crate) enum Mood {
    /// They are answered.
    #[default]
    Well,
    /// They are answered after so long.
    Slow(Duration),
    /// They are answered 503, and nothing is done.
    Failing,
    /// They are not answered before it is in another mood.
    Hanging,
}

/// A change as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Made {
    pub(crate) key: String,
    /// As `Larder-Version` had it.
    pub(crate) version: String,
    /// `None`: it is deleted.
    pub(crate) value: Option<String>,
}

/// What has been asked of it.
#[derive(Default)]
struct Traffic {
    /// Changes that were asked for, made or not.
    writes: AtomicUsize,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
}

/// A request that is under way.
struct UnderWay<'sink>(&'sink Traffic);

impl Traffic {
    fn begin(&self) -> UnderWay<'_> {
        let under_way = self.under_way.fetch_add(1, Relaxed) + 1;
        self.under_way_max.fetch_max(under_way, Relaxed);
        UnderWay(self)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// Waits until a metric is this.
pub(crate) async fn metric_comes_to(daemon: &Daemon, name: &str, wanted: u64) {
    within(PATIENCE, name, async {
        while daemon.metric(name).await != wanted {
            sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}

/// An HTTP origin. A key that begins with `poison` takes no value.
pub(crate) struct Sink {
    address: SocketAddr,
    made: watch::Sender<Vec<Made>>,
    mood: watch::Sender<Mood>,
    rows: watch::Sender<HashMap<String, String>>,
    traffic: Traffic,
    /// How many connections there are.
    open: watch::Sender<usize>,
    /// The newest version of each key, where nothing older is taken.
    newest: Option<Mutex<HashMap<String, String>>>,
    turned_down: AtomicUsize,
    chance: Mutex<fastrand::Rng>,
    /// What the next change has to wait for.
    turnstile: Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

/// A change that has come, or will, and is not made yet.
pub(crate) struct Parked {
    comes: oneshot::Receiver<()>,
    goes_on: oneshot::Sender<()>,
}

impl Parked {
    /// Waits until it has come.
    pub(crate) async fn comes(&mut self) {
        within(PATIENCE, "a change", &mut self.comes).await.unwrap();
    }

    /// Has it made, or judged.
    pub(crate) fn goes_on(self) {
        self.goes_on.send(()).unwrap();
    }
}

impl Sink {
    /// One that takes every change that comes.
    pub(crate) async fn start() -> Arc<Self> {
        Self::serve(None).await
    }

    /// One that turns changes down with 412 that are older than what it has.
    pub(crate) async fn fencing() -> Arc<Self> {
        Self::serve(Some(Mutex::default())).await
    }

    async fn serve(newest: Option<Mutex<HashMap<String, String>>>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (made, rows, traffic, open, turned_down, turnstile) = Default::default();
        let (mood, chance) = (watch::Sender::new(Mood::default()), Mutex::new(fastrand::Rng::with_seed(1)));
        let sink = Arc::new(Self { address, made, mood, rows, traffic, open, newest, turned_down, chance, turnstile });
        let serving = sink.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sink = serving.clone();
                let service = service_fn(move |request| {
                    let sink = sink.clone();
                    async move { Ok::<_, Infallible>(sink.answer(request).await) }
                });
                serving.open.send_modify(|open| *open += 1);
                let (connection, open) =
                    (http1::Builder::new().serve_connection(TokioIo::new(stream), service), serving.clone());
                tokio::spawn(async move {
                    drop(connection.await);
                    open.open.send_modify(|open| *open -= 1);
                });
            }
        });
        sink
    }

    /// The configuration of a group that writes here behind, with these settings besides.
    pub(crate) fn group(&self, settings: &str) -> String {
        let url = format!("http://{}/{{key}}", self.address);
        format!(
            "[groups.{GROUP}]\nwrite = \"behind\"\n{settings}\n[groups.{GROUP}.origin]\nkind = \"http\"\nurl = \"{url}\"\n"
        )
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Waits until it has answered all that those have asked who were killed, and nobody else is there.
    pub(crate) async fn is_left(&self) {
        let mut open = self.open.subscribe();
        within(PATIENCE, "an end of all connections", open.wait_for(|open| *open == 0)).await.unwrap();
    }

    /// Has the next change wait that comes.
    pub(crate) fn park(&self) -> Parked {
        let ((come, comes), (goes_on, wait)) = (oneshot::channel(), oneshot::channel());
        *self.turnstile.lock() = Some((come, wait));
        Parked { comes, goes_on }
    }

    /// How many changes were older than what it had.
    pub(crate) fn turned_down(&self) -> usize {
        self.turned_down.load(Relaxed)
    }

    /// Every change that was made, in order.
    pub(crate) fn made(&self) -> Vec<Made> {
        self.made.borrow().clone()
    }

    /// How many changes it was asked for, whether or not it made them.
    pub(crate) fn writes(&self) -> usize {
        self.traffic.writes.load(Relaxed)
    }

    /// How many requests were under way at once at most.
    pub(crate) fn under_way_max(&self) -> usize {
        self.traffic.under_way_max.load(Relaxed)
    }

    /// What it has under a key.
    pub(crate) fn row(&self, key: &str) -> Option<String> {
        self.rows.borrow().get(key).cloned()
    }

    /// Puts something into it behind Larder's back.
    pub(crate) fn set(&self, key: &str, value: &str) {
        self.rows.send_modify(|rows| drop(rows.insert(key.into(), value.into())));
    }

    /// Waits until what it has is like this.
    pub(crate) async fn comes_to(&self, what: &str, is_so: impl Fn(&HashMap<String, String>) -> bool) {
        let mut rows = self.rows.subscribe();
        drop(within(PATIENCE, what, rows.wait_for(|rows| is_so(rows))).await.unwrap());
    }

    /// Fails if a key's changes were not made in the order of their versions.
    #[track_caller]
    pub(crate) fn assert_in_order(&self) {
        let mut last: HashMap<String, String> = HashMap::new();
        for Made { key, version, .. } in self.made() {
            let before = last.insert(key.clone(), version.clone()).unwrap_or_default();
            // The same one may come again, if nobody heard that it was made.
            assert!(version >= before, "{key}: {version} was made after {before}");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let _under_way = self.traffic.begin();
        if request.method() != Method::GET {
            self.traffic.writes.fetch_add(1, Relaxed);
        }
        let (head, body) = request.into_parts();
        let key = percent_decode_str(head.uri.path().strip_prefix('/').unwrap()).decode_utf8().unwrap().into_owned();
        let Ok(body) = body.collect().await else { return status(StatusCode::BAD_REQUEST) };
        let mut mood = self.mood.subscribe();
        loop {
            let now = *mood.borrow_and_update();
            match now {
                Mood::Well => break,
                Mood::Slow(time) => {
                    sleep(time).await;
                    break;
                }
                Mood::Failing => return status(StatusCode::SERVICE_UNAVAILABLE),
                Mood::Hanging => {
                    // The sender lives as long as the test.
                    mood.changed().await.unwrap();
                    // Those that hung come in any order.
                    let pause = self.chance.lock().u64(..UNHANG_MS_MAX);
                    sleep(Duration::from_millis(pause)).await;
                }
            }
        }
        let value = match head.method {
            Method::GET => {
                return self
                    .row(&key)
                    .map_or_else(|| status(StatusCode::NOT_FOUND), |row| Response::new(Full::from(row)));
            }
            Method::PUT if key.starts_with("poison") => return status(StatusCode::UNPROCESSABLE_ENTITY),
            Method::PUT => Some(String::from_utf8(body.to_bytes().to_vec()).unwrap()),
            _ => None,
        };
        let turnstile = self.turnstile.lock().take();
        if let Some((come, wait)) = turnstile {
            // Who let neither go on is not there any more.
            let _told = come.send(());
            let _done = wait.await;
        }
        let version = head.headers["larder-version"].to_str().unwrap().to_owned();
        let mut newest = self.newest.as_ref().map(Mutex::lock);
        if let Some(newest) = &mut newest {
            let newest = newest.entry(key.clone()).or_default();
            if version < *newest {
                self.turned_down.fetch_add(1, Relaxed);
                return status(StatusCode::PRECONDITION_FAILED);
            }
            newest.clone_from(&version);
        }
        self.made.send_modify(|made| made.push(Made { key: key.clone(), version, value: value.clone() }));
        self.rows.send_modify(|rows| match value {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key)),
        });
        status(StatusCode::NO_CONTENT)
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}
