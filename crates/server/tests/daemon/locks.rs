//! Locks at daemons, kept by a real etcd, a real Consul and a real Redis.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::Method;
use larder::{
    cluster::testing::{ConsulServer, EtcdServer, RedisServer, Server},
    peer::grpc::api::{AcquireRequest, ReleaseRequest, RenewRequest, lock_client::LockClient},
};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    channel::Channel,
    client::{Answer, Broken, Connection, request, within},
    lock_owners::{had, had_at_last},
    process::{Daemon, POLL_INTERVAL},
};

/// Longer than any of these takes, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Software that keeps locks.
pub(crate) trait Keeper: Server + Sized {
    /// What is asked for by its name.
    const PROGRAM: &str;

    /// Whether waiters are served in order of arrival.
    const HAS_ORDER: bool;

    fn start() -> Self;

    /// The keys of the configuration that name it.
    fn keys(&self) -> String;
}

impl Keeper for EtcdServer {
    const PROGRAM: &str = "etcd";
    const HAS_ORDER: bool = true;

    fn start() -> Self {
        Self::start()
    }

    fn keys(&self) -> String {
        format!("locks = \"etcd\"\netcd = [{:?}]", self.url())
    }
}

impl Keeper for ConsulServer {
    const PROGRAM: &str = "consul";
    const HAS_ORDER: bool = false;

    fn start() -> Self {
        Self::start()
    }

    fn keys(&self) -> String {
        format!("locks = \"consul\"\nconsul = {:?}\nconsul_session_ttl_min = \"1s\"", self.url())
    }
}

impl Keeper for RedisServer {
    const PROGRAM: &str = "redis";
    const HAS_ORDER: bool = true;

    fn start() -> Self {
        Self::start()
    }

    fn keys(&self) -> String {
        format!("locks = \"redis\"\nredis = {:?}", self.url())
    }
}

/// So many nodes that know nothing of each other but who keeps their locks, once that one is up.
pub(crate) async fn nodes<const N: usize>(keeper: &impl Keeper) -> [Daemon; N] {
    let config = format!(
        "[node]\nlisten = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[cluster]\n{}",
        keeper.keys()
    );
    let nodes: Vec<Daemon> = join_all([(); N].map(|()| Daemon::start(&config))).await;
    is_up(&nodes[0]).await;
    nodes.try_into().unwrap_or_else(|_| panic!("as many as were started"))
}

/// Waits until locks are to be had at a node.
pub(crate) async fn is_up(node: &Daemon) {
    within(PATIENCE, "a lock", async {
        loop {
            let taken = node.ask(take("up", TTL, Duration::ZERO)).await;
            if taken.status == 200 {
                let freed = node.ask(free("up", &granted(&taken).0)).await;
                return assert_eq!(freed.status, 204, "{freed:?}");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}

pub(crate) fn take(name: &str, ttl: Duration, wait: Duration) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let body = json!({ "ttl_ms": ttl.as_millis(), "wait_ms": wait.as_millis() }).to_string();
    request(Method::POST, &format!("/v1/locks/{name}"), &[], body)
}

pub(crate) fn renew(name: &str, token: &str) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    request(Method::PUT, &format!("/v1/locks/{name}"), &[], json!({ "token": token }).to_string())
}

pub(crate) fn free(name: &str, token: &str) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    request(Method::DELETE, &format!("/v1/locks/{name}?token={token}"), &[], "")
}

/// The token and the fence of a lock that was had.
#[track_caller]
pub(crate) fn granted(answer: &Answer) -> (String, u64) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    (told["token"].as_str().unwrap().to_owned(), told["fence"].as_u64().unwrap())
}

/// Makes a test by each keeper of each of these functions, which take it.
macro_rules! by_each_keeper {
    (@ $module:ident $server:ident $($test:ident)+) => {
        mod $module {
            use larder::core::testing::needs::needs;

            use super::{$server, Keeper};

            $(
                #[tokio::test]
                async fn $test() {
                    if needs($server::PROGRAM) {
                        super::$test(<$server as Keeper>::start()).await;
                    }
                }
            )+
        }
    };
    ($($test:ident),+ $(,)?) => {
        by_each_keeper!(@ by_etcd EtcdServer $($test)+);
        by_each_keeper!(@ by_consul ConsulServer $($test)+);
        by_each_keeper!(@ by_redis RedisServer $($test)+);
    };
}
pub(crate) use by_each_keeper;

by_each_keeper!(
    a_token_is_good_at_every_node_over_either_protocol,
    nine_contenders_on_three_nodes_take_turns,
    who_leaves_while_it_waits_holds_nothing,
    a_service_that_is_away_is_a_503,
    a_lock_outlives_a_restart_of_its_service_and_is_free_after_its_time,
);

const TTL: Duration = Duration::from_secs(10);

async fn a_token_is_good_at_every_node_over_either_protocol(keeper: impl Keeper) {
    tokens_are_good_at_every_node(&nodes(&keeper).await).await;
}

pub(crate) async fn tokens_are_good_at_every_node([a, b, c]: &[Daemon; 3]) {
    let name = "%00/%ff";
    let (token, first) = granted(&a.ask(take(name, TTL, PATIENCE)).await);
    let held = b.ask(take(name, TTL, Duration::ZERO)).await;
    assert_eq!(held.problem(), (409, "lock-held".to_owned()));
    let renewed = c.ask(renew(name, &token)).await;
    assert!(renewed.status == 200 && renewed.json()["ttl_ms"].as_u64() >= Some(10_000), "{renewed:?}");
    let wrong = b.ask(renew(name, "0-wrong")).await;
    assert_eq!(wrong.problem(), (409, "lock-lost".to_owned()));
    assert_eq!(b.ask(free(name, "0-wrong")).await.problem(), (409, "lock-lost".to_owned()));
    assert_eq!(b.ask(free(name, &token)).await.status, 204);
    assert_eq!(a.ask(renew(name, &token)).await.problem(), (409, "lock-lost".to_owned()));
    assert_eq!(a.ask(free(name, &token)).await.problem(), (409, "lock-lost".to_owned()));

    let peers = c.peers.unwrap();
    let uri = format!("http://{peers}").parse().unwrap();
    let mut grpc = LockClient::with_origin(Channel::connect(peers).await.0, uri);
    let name = bytes::Bytes::from_static(b"\0/\xff");
    let acquire = AcquireRequest { name: name.clone(), ttl_ms: None, wait_ms: None };
    let second = grpc.acquire(acquire).await.unwrap().into_inner();
    assert!((first + 1..1 << 53).contains(&second.fence), "{first}, then {}", second.fence);
    let (token, path) = (second.token, "%00/%ff");
    assert_eq!(a.ask(renew(path, &token)).await.status, 200);
    grpc.renew(RenewRequest { name: name.clone(), token: token.clone() }).await.unwrap();
    grpc.release(ReleaseRequest { name, token }).await.unwrap();
    assert_eq!(a.ask(take(path, TTL, Duration::ZERO)).await.status, 200);
}

const CONTENDERS: usize = 9;

/// How often each of them has the lock, unless `LARDER_LOCK_TURNS` says otherwise.
const TURNS: usize = 6;

/// How long all turns may take for each turn of a contender, beside what a request may.
const TURN_TIME_MAX: Duration = Duration::from_secs(5);

fn turns_each() -> usize {
    std::env::var("LARDER_LOCK_TURNS").map_or(TURNS, |turns| turns.parse().expect("a number"))
}

async fn nine_contenders_on_three_nodes_take_turns(keeper: impl Keeper) {
    nine_take_turns(&nodes(&keeper).await, has_order(&keeper)).await;
}

pub(crate) async fn nine_take_turns(nodes: &[Daemon; 3], has_order: bool) {
    let (holders, turns_each) = (Arc::new(AtomicUsize::new(0)), turns_each());
    let fences = Arc::new(Mutex::new(Vec::new()));
    let contend = async |contender: usize| {
        let mut node = Connection::open(nodes[contender % nodes.len()].clients).await?;
        for _ in 0..turns_each {
            let before = fences.lock().len();
            let (token, fence) = granted(&node.ask(take("turns", TTL, PATIENCE)).await?);
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            let others = {
                let mut fences = fences.lock();
                assert!(fences.last().is_none_or(|(last, _)| *last < fence), "{fence} after {fences:?}");
                fences.push((fence, contender));
                fences.len() - before
            };
            // Each of the others once, and once more who came back before this one was there.
            assert!(!has_order || others <= 2 * CONTENDERS, "{others} went before");
            tokio::task::yield_now().await;
            assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
            assert_eq!(node.ask(free("turns", &token)).await?.status, 204);
        }
        Ok::<(), Broken>(())
    };
    let patience = PATIENCE + TURN_TIME_MAX * u32::try_from(turns_each).unwrap();
    for contended in within(patience, "all turns", join_all((0..CONTENDERS).map(contend))).await {
        contended.unwrap();
    }
    let mut turns = HashMap::new();
    for (_, contender) in fences.lock().iter() {
        *turns.entry(*contender).or_insert(0) += 1;
    }
    assert!(turns.len() == CONTENDERS && turns.values().all(|turns| *turns == turns_each), "{turns:?}");
}

fn has_order<K: Keeper>(_keeper: &K) -> bool {
    K::HAS_ORDER
}

async fn who_leaves_while_it_waits_holds_nothing(keeper: impl Keeper) {
    let [a, b] = nodes(&keeper).await;
    let (token, _) = granted(&a.ask(take("left", TTL, PATIENCE)).await);
    let mut leaving = Connection::open(b.clients).await.unwrap();
    let waits =
        tokio::spawn(async move { leaving.ask(take("left", Duration::from_secs(60), PATIENCE)).await.map(drop) });
    // Behind the other, where there is an order, so that it is known to wait.
    let mut behind = Connection::open(b.clients).await.unwrap();
    let short = behind.ask(take("left", TTL, Duration::from_millis(500))).await.unwrap();
    assert_eq!(short.problem(), (409, "lock-held".to_owned()));
    waits.abort();
    assert!(waits.await.is_err(), "it was not answered");
    assert_eq!(a.ask(free("left", &token)).await.status, 204);
    let next = within(PATIENCE, "the next holder", a.ask(take("left", TTL, Duration::from_secs(20)))).await;
    granted(&next);
}

async fn a_service_that_is_away_is_a_503(mut keeper: impl Keeper) {
    let [a] = nodes(&keeper).await;
    let (token, _) = granted(&a.ask(take("away", Duration::from_secs(60), PATIENCE)).await);
    keeper.kill();
    for asked in [take("away", TTL, Duration::ZERO), renew("away", &token), free("away", &token)] {
        let answer = a.ask(asked).await;
        assert_eq!(answer.problem(), (503, "owner-unreachable".to_owned()));
        assert!(!answer.header("retry-after").is_empty());
    }
    assert_eq!(a.ready().await, 200, "the rest goes on");
    keeper.restart();
    within(PATIENCE, "the service", async {
        // It has forgotten nothing.
        while a.ask(renew("away", &token)).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(a.ask(free("away", &token)).await.status, 204);
}

async fn a_lock_outlives_a_restart_of_its_service_and_is_free_after_its_time(mut keeper: impl Keeper) {
    const SHORT_TTL: Duration = Duration::from_secs(2);
    let [a, b] = nodes(&keeper).await;
    let mut first = had(&a, "kept", SHORT_TTL).await;
    keeper.kill();
    keeper.restart();
    let renewed = async {
        // One that was away for longer than the ttl may have ended it.
        while first.renew(&a).await == 503 {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let ((next, at), ()) = tokio::join!(had_at_last(&b, "kept", TTL), renewed);
    first.is_followed_by(&next, SHORT_TTL, at);
    first.is_lost(&[&a, &b]).await;
}
