//! [`Clients`]: readers, writers and counters at all nodes, that write down what they see.
//!
//! Each client asks one node, whatever becomes of it, so that there is always somebody who asks a node that stands still, until the list of
//! nodes changes. A get is given up after a second and asked anew: what a node is asked while it stands still, it answers as soon as it
//! goes on.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;
use http::{Method, Request};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    ledger::Ledger,
    record::{History, Id, Op, Operation, Outcome, Version},
};
use crate::client::{Answer, Broken, Connection, request};

/// How long a client waits for the answer to a get.
const GET_TIME_MAX: Duration = Duration::from_secs(1);

/// The same for a write, which may have to wait for a lease.
const WRITE_TIME_MAX: Duration = Duration::from_secs(4);

/// Of how many writes one is a delete.
const DELETES: u64 = 12;

/// Of how many changes of an origin one is made known by the invalidation of a list of keys, and one of the whole group.
const LISTED: u64 = 5;
const WHOLE: u64 = 30;

/// Who does what, with the same keys.
#[derive(Clone)]
pub(crate) struct Crowd {
    pub(crate) group: &'static str,
    pub(crate) keys: Vec<Arc<str>>,
    /// How many clients a node has.
    pub(crate) per_node: usize,
    pub(crate) does: Does,
    /// The longest pause between two requests of a client; half of it on the average.
    pub(crate) pause: Duration,
    /// How long values are besides their number.
    pub(crate) padding: usize,
}

#[derive(Clone)]
pub(crate) enum Does {
    Get,
    /// Puts, and deletes now and then.
    Write,
    /// Gets, and puts on the condition that nothing has changed since.
    Count,
    /// Changes the origin, then invalidates.
    Change(Arc<Ledger>),
}

/// Clients at work.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    clients: usize,
    chance: Rng,
}

struct Shared {
    history: Arc<History>,
    doors: Mutex<Vec<(String, SocketAddr)>>,
    ids: AtomicU64,
    stopped: AtomicBool,
}

impl Clients {
    pub(crate) fn new(doors: Vec<(String, SocketAddr)>, seed: u64) -> Self {
        let (history, doors) = (History::begin(), Mutex::new(doors));
        let shared = Arc::new(Shared { history, doors, ids: AtomicU64::new(1), stopped: AtomicBool::new(false) });
        Self { shared, tasks: JoinSet::new(), clients: 0, chance: Rng::with_seed(seed) }
    }

    /// More of them begin.
    pub(crate) fn begin(&mut self, crowd: &Crowd) {
        let nodes = self.shared.doors.lock().len();
        for _ in 0..crowd.per_node * nodes {
            let client = Client {
                shared: self.shared.clone(),
                number: self.clients,
                crowd: crowd.clone(),
                connections: HashMap::new(),
                chance: self.chance.fork(),
            };
            self.tasks.spawn(client.work());
            self.clients += 1;
        }
    }

    pub(crate) fn history(&self) -> &Arc<History> {
        &self.shared.history
    }

    /// Clients hear of other nodes.
    pub(crate) fn tell_of(&self, doors: Vec<(String, SocketAddr)>) {
        *self.shared.doors.lock() = doors;
    }

    /// Waits for so many requests more.
    pub(crate) async fn go_on_for(&self, requests: usize) {
        let until = self.shared.history.len() + requests;
        while self.shared.history.len() < until {
            sleep(crate::process::POLL_INTERVAL).await;
        }
    }

    /// Has all clients end what they have begun, and stop.
    pub(crate) async fn end(self) -> Arc<History> {
        self.shared.stopped.store(true, Relaxed);
        let Self { shared, mut tasks, .. } = self;
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        shared.history.clone()
    }
}

struct Client {
    shared: Arc<Shared>,
    number: usize,
    crowd: Crowd,
    connections: HashMap<SocketAddr, Connection>,
    chance: Rng,
}

impl Client {
    async fn work(mut self) {
        while !self.shared.stopped.load(Relaxed) {
            let key = self.chance.choice(&self.crowd.keys).unwrap().clone();
            match self.crowd.does.clone() {
                Does::Get => drop(self.get(&key).await),
                Does::Write => {
                    let id = self.new_id();
                    let op = if self.chance.u64(..DELETES) == 0 { Op::Delete } else { Op::Put(id) };
                    self.write(&key, op).await;
                }
                Does::Count => {
                    let id = self.new_id();
                    let op = match self.get(&key).await {
                        Outcome::Found(_, version) => Some(Op::PutIf(version, id)),
                        Outcome::Nothing => Some(Op::PutIfAbsent(id)),
                        _ => None,
                    };
                    if let Some(op) = op {
                        self.write(&key, op).await;
                    }
                }
                Does::Change(ledger) => self.change(&key, &ledger).await,
            }
            sleep(self.crowd.pause.mul_f64(self.chance.f64())).await;
        }
    }

    fn new_id(&self) -> Id {
        self.shared.ids.fetch_add(1, Relaxed)
    }

    async fn get(&mut self, key: &Arc<str>) -> Outcome {
        let request = request(Method::GET, &self.path(key), &[], "");
        let began = self.shared.history.now();
        let (node, answer) = self.ask(request, GET_TIME_MAX).await;
        let outcome = answer.as_ref().map_or(Outcome::NotDone, |answer| match answer.status {
            200 => Outcome::Found(id_in(answer), version_of(answer).unwrap()),
            404 => Outcome::Nothing,
            _ => Outcome::NotDone,
        });
        self.note(node, key, Op::Get, began, outcome, &answer);
        outcome
    }

    async fn write(&mut self, key: &Arc<str>, op: Op) {
        let condition = match op {
            Op::PutIf(version, _) => Some(("if-match", format!("\"{version:024x}\""))),
            Op::PutIfAbsent(_) => Some(("if-none-match", "*".to_owned())),
            _ => None,
        };
        let headers: Vec<(&str, &str)> = condition.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (method, body) = match op.writes().flatten() {
            Some(id) => (Method::PUT, format!("{id} {}", "x".repeat(self.crowd.padding))),
            None => (Method::DELETE, String::new()),
        };
        let request = request(method, &self.path(key), &headers, body);
        let began = self.shared.history.now();
        let (node, answer) = self.ask(request, WRITE_TIME_MAX).await;
        let outcome = outcome_of_write(&answer, version_of);
        self.note(node, key, op, began, outcome, &answer);
    }

    /// The change is made whatever becomes of the invalidation.
    async fn change(&mut self, key: &Arc<str>, ledger: &Ledger) {
        let invalidate = |body: serde_json::Value| {
            let path = format!("/v1/groups/{}/invalidate", self.crowd.group);
            request(Method::POST, &path, &[], body.to_string())
        };
        let kind = self.chance.u64(..WHOLE);
        let request = if kind == 0 {
            invalidate(serde_json::json!({"all": true}))
        } else if kind.is_multiple_of(LISTED) {
            invalidate(serde_json::json!({"keys": [&**key]}))
        } else {
            request(Method::DELETE, &self.path(key), &[], "")
        };
        let began = self.shared.history.now();
        let id = ledger.change(key);
        let (node, answer) = self.ask(request, WRITE_TIME_MAX).await;
        let outcome = match outcome_of_write(&answer, |_| None) {
            // Its place among all changes is known.
            Outcome::Done(_) => Outcome::Done(Some(id.into())),
            _ => Outcome::Unknown,
        };
        self.note(node, key, Op::Put(id), began, outcome, &answer);
    }

    fn path(&self, key: &str) -> String {
        format!("/v1/groups/{}/keys/{key}", self.crowd.group)
    }

    /// Asks this client's node.
    async fn ask(&mut self, request: Request<Full<bytes::Bytes>>, time: Duration) -> (String, Result<Answer, Broken>) {
        let (name, address) = {
            let doors = self.shared.doors.lock();
            doors[self.number % doors.len()].clone()
        };
        let connections = &mut self.connections;
        let asked = async {
            let mut connection = match connections.remove(&address).filter(|connection| !connection.is_closed()) {
                Some(connection) => connection,
                None => Connection::open(address).await?,
            };
            let answer = connection.ask(request).await?;
            connections.insert(address, connection);
            Ok(answer)
        };
        (name, timeout(time, asked).await.unwrap_or_else(|_| Err("given up".into())))
    }

    fn note(
        &self,
        node: String,
        key: &Arc<str>,
        op: Op,
        began: Duration,
        outcome: Outcome,
        answer: &Result<Answer, Broken>,
    ) {
        let said = match answer {
            Ok(answer) if answer.status < 400 => format!("{} {}", answer.status, answer.header("cache-status")),
            Ok(answer) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
            Err(error) => error.to_string(),
        };
        let (client, key, ended) = (self.number, key.clone(), self.shared.history.now());
        self.shared.history.add(Operation { client, node, key, op, began, ended, outcome, said });
    }
}

/// What a write's answer says of it.
fn outcome_of_write(answer: &Result<Answer, Broken>, version: impl Fn(&Answer) -> Option<Version>) -> Outcome {
    match answer {
        Ok(answer) if answer.status == 204 => Outcome::Done(version(answer)),
        Ok(answer) if answer.status == 412 => Outcome::Refused,
        Ok(answer) if answer.status == 503 => Outcome::NotDone,
        // It may have been sent before it broke or took too long.
        Ok(answer) if answer.status == 504 => Outcome::Unknown,
        Ok(answer) => panic!("nobody expects {answer:?}"),
        Err(_) => Outcome::Unknown,
    }
}

fn version_of(answer: &Answer) -> Option<Version> {
    let tag = answer.header("etag").trim_matches('"');
    (!tag.is_empty()).then(|| Version::from_str_radix(tag, 16).unwrap())
}

fn id_in(answer: &Answer) -> Id {
    answer.text().split(' ').next().unwrap().parse().unwrap()
}
