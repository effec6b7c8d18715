//! Against real servers: what must hold by any of the services, as scenarios, and what is of one alone.
//!
//! Time passes for real here, because servers count ttls by it; a scenario waits a ttl, never for luck.

use std::{
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use larder_core::{
    Clock, LockGuard, LockService, Locks,
    testing::{lock::LockBackend, needs::needs},
};
use parking_lot::Mutex;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::*;
use crate::testing::{BootClock, Server};

/// Short, and still longer than a busy machine stands still.
const TTL: Duration = Duration::from_secs(2);

/// How long anything may take that happens in milliseconds on a machine that does nothing else, or in some ttls.
const SOON: Duration = Duration::from_secs(60);

/// How many contend, on how many nodes, and how often the lock is had in all.
const CONTENDERS_LEN: usize = 9;
const NODES_LEN: usize = 3;
const TURNS_LEN: usize = 500;

/// A server that keeps locks, and does harm to them.
trait LockServer: Server {
    /// The most ttls from the last renewal of a holder that vanished until its lock is free.
    const TTLS_UNTIL_FREE: u32;

    /// Whether waiters are served in order of arrival.
    const HAS_QUEUE: bool;

    /// The service, as one more node has it.
    fn service(&self, seed: u64) -> Arc<dyn LockService>;

    fn locks(&self) -> Locks {
        Locks::new(self.service(next_seed()), BootClock)
    }
}

/// Each node's chance is another.
fn next_seed() -> u64 {
    static SEEDS: AtomicU64 = AtomicU64::new(1);
    SEEDS.fetch_add(1, Ordering::Relaxed)
}

/// A server, for the suite.
struct Backend<S>(S);

impl<S: LockServer> LockBackend for Backend<S> {
    fn service(&self) -> Arc<dyn LockService> {
        self.0.service(next_seed())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(BootClock)
    }

    fn ttl(&self) -> Duration {
        TTL
    }

    fn vanish_time_max(&self) -> Duration {
        TTL * S::TTLS_UNTIL_FREE + Duration::from_secs(8)
    }
}

/// What a lock protects: it takes no fence below one that it has seen.
#[derive(Default)]
struct Resource {
    seen: Mutex<u64>,
}

impl Resource {
    /// Whether the work was taken.
    fn takes(&self, fence: u64) -> bool {
        let mut seen = self.seen.lock();
        let is_taken = *seen <= fence;
        *seen = fence.max(*seen);
        is_taken
    }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(SOON, work).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// The lock, however often it has to be asked for: a server that was just started or stopped may be away.
async fn had(locks: &Locks, name: &'static str) -> LockGuard {
    let tries = async {
        loop {
            match locks.lock(name).ttl(TTL).wait(SOON).acquire().await {
                Ok(guard) => return guard,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    within("a lock", tries).await
}

/// One that wants the lock, and gets it when it is free.
fn contender(locks: &Locks, name: &'static str) -> JoinHandle<LockGuard> {
    let locks = locks.clone();
    tokio::spawn(async move { had(&locks, name).await })
}

/// Makes a module of tests for a server: the contract, and each scenario, where its program is.
macro_rules! each_lock_scenario {
    ($module:ident, $server:ty, $program:literal) => {
        each_lock_scenario! { @ $module, $server, $program:
            five_hundred_turns_of_nine_contenders_on_three_nodes
            a_server_that_is_stopped_and_started_gives_no_lock_twice
            a_server_that_stands_still_has_holders_told_before_others_get_the_lock
            a_holder_that_stood_still_knows_it_before_it_can_do_harm
            who_gets_no_answer_is_told_so_and_leaves_nothing_behind
            the_next_holder_is_told_what_the_one_before_had_to_say
        }
    };
    (@ $module:ident, $server:ty, $program:literal: $($name:ident)+) => {
        mod $module {
            use super::*;

            larder_core::lock_contract!(contract, {
                if !needs($program) {
                    return;
                }
                Backend(<$server>::start())
            });

            $(
                #[tokio::test]
                async fn $name() {
                    if needs($program) {
                        super::$name(<$server>::start()).await;
                    }
                }
            )+
        }
    };
}

async fn five_hundred_turns_of_nine_contenders_on_three_nodes<S: LockServer>(server: S) {
    let nodes: Vec<Locks> = (0..NODES_LEN).map(|_| server.locks()).collect();
    drop(had(&nodes[0], "warm").await);
    let (turns, holder, resource) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(0)), Arc::new(Resource::default()));
    let mut contenders = JoinSet::new();
    for number in 0..CONTENDERS_LEN {
        let (locks, turns, holder, resource) =
            (nodes[number % NODES_LEN].clone(), turns.clone(), holder.clone(), resource.clone());
        contenders.spawn(async move {
            let mut mine = 0;
            while turns.load(Ordering::SeqCst) < TURNS_LEN {
                let guard = locks.lock("contended").wait(SOON).acquire().await.expect("everybody gets a turn");
                {
                    let before = std::mem::replace(&mut *holder.lock(), guard.fence());
                    assert_eq!(before, 0, "two hold it");
                }
                assert!(resource.takes(guard.fence()), "fences don't grow");
                tokio::task::yield_now().await;
                assert_eq!(std::mem::take(&mut *holder.lock()), guard.fence());
                turns.fetch_add(1, Ordering::SeqCst);
                mine += 1;
                assert!(guard.release().await.expect("the server is there"));
            }
            mine
        });
    }
    let mut had_turns = Vec::new();
    while let Some(mine) = within("all turns", contenders.join_next()).await {
        had_turns.push(mine.expect("a contender does not fail"));
    }
    let fair_share = TURNS_LEN / CONTENDERS_LEN;
    let share_min = if S::HAS_QUEUE { fair_share / 2 } else { 1 };
    assert!(had_turns.iter().all(|mine| *mine >= share_min), "{had_turns:?}");
}

/// Whoever holds a lock goes on holding it or is told, and nobody else has it meanwhile.
async fn a_server_that_is_stopped_and_started_gives_no_lock_twice<S: LockServer>(mut server: S) {
    let (one, other) = (server.locks(), server.locks());
    let guard = had(&one, "a").await;
    let contender = contender(&other, "a");
    server.kill();
    server.restart();
    let began = BootClock.now();
    while BootClock.now().since(began) < TTL * 2 {
        // In this order: it may be lost in between, and be had by the other right after.
        let is_had = contender.is_finished();
        assert!(!(is_had && guard.is_held()), "two hold it");
        sleep(TTL / 100).await;
    }
    let fence = guard.fence();
    drop(guard);
    let next = within("the other's turn", contender).await.unwrap();
    assert!(next.fence() > fence && next.is_held());
}

async fn a_server_that_stands_still_has_holders_told_before_others_get_the_lock<S: LockServer>(server: S) {
    let (one, other) = (server.locks(), server.locks());
    let guard = had(&one, "a").await;
    let contender = contender(&other, "a");
    sleep(TTL).await;
    assert!(guard.is_held() && !contender.is_finished());
    server.pause();
    within("the loss", guard.lost()).await;
    assert!(!guard.is_held() && !contender.is_finished());
    server.resume();
    let next = within("the other's turn", contender).await.unwrap();
    assert!(next.fence() > guard.fence() && next.is_held() && !guard.is_held());
}

/// Its thread stands still while the lock runs out: timers and renewals, all but the clock.
async fn a_holder_that_stood_still_knows_it_before_it_can_do_harm<S: LockServer>(server: S) {
    let resource = Arc::new(Resource::default());
    let (one, other) = (server.locks(), server.locks());
    let (goes_on, is_still) = mpsc::channel::<()>();
    let (tells, told) = oneshot::channel();
    let its = resource.clone();
    // Its services live in a runtime of their own, so that what stands still is all of it.
    let service = server.service(next_seed());
    drop(one);
    let holder = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let guard = had(&Locks::new(service, BootClock), "a").await;
            assert!(its.takes(guard.fence()));
            let lost = guard.lost();
            tells.send(guard.fence()).unwrap();
            is_still.recv().unwrap();
            assert!(!guard.is_held(), "it is known at once");
            within("the loss", lost).await;
            assert!(!its.takes(guard.fence()), "its late work is refused");
        });
    });
    let fence = within("the first holder", told).await.unwrap();
    let next = had(&other, "a").await;
    assert!(next.fence() > fence && resource.takes(next.fence()));
    goes_on.send(()).unwrap();
    tokio::task::spawn_blocking(|| holder.join().unwrap()).await.unwrap();
    assert!(next.is_held(), "who comes back takes nothing away");
}

async fn who_gets_no_answer_is_told_so_and_leaves_nothing_behind<S: LockServer>(server: S) {
    let locks = server.locks();
    let guard = had(&locks, "a").await;
    server.pause();
    let error = within("an answer", locks.lock("b").wait(Duration::ZERO).try_acquire()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let released = within("an end", guard.release()).await;
    assert!(released.unwrap_err().is_retryable());
    server.resume();
    for name in ["a", "b"] {
        let next = had(&locks, name).await;
        assert!(next.is_held());
    }
}

async fn the_next_holder_is_told_what_the_one_before_had_to_say<S: LockServer>(server: S) {
    let nodes = [server.locks(), server.locks()];
    drop(had(&nodes[0], "warm").await);
    let take = async |place: usize, name: &'static str, note: &'static str| {
        nodes[place].lock(name).note(note).wait(SOON).acquire().await.unwrap()
    };
    let says = [(0, "a\n10.0.0.1:5274", ""), (1, "b\n10.0.0.2:5274", "a\n10.0.0.1:5274"), (1, "c", "b\n10.0.0.2:5274")];
    for (place, said, heard) in says {
        let guard = take(place, "a", said).await;
        assert_eq!(guard.note_before(), heard);
        // Who only wants it and doesn't get it says nothing.
        assert!(nodes[0].lock("a").wait(Duration::ZERO).note("nobody").try_acquire().await.unwrap().is_none());
        assert!(guard.release().await.unwrap());
    }
    // Others of that name at its beginning, and who has nothing to say, are none of theirs.
    for name in ["a/", "a/b", "ab", "note"] {
        assert_eq!(take(0, name, "other").await.note_before(), "", "{name}");
    }
    drop(take(0, "a", "").await);
    assert_eq!(take(0, "a", "d").await.note_before(), "c");
}

#[cfg(feature = "etcd")]
mod by_etcd {
    use super::*;
    use crate::{EtcdConfig, testing::EtcdServer};

    impl LockServer for EtcdServer {
        // etcd looks for ended leases twice a second.
        const TTLS_UNTIL_FREE: u32 = 2;
        const HAS_QUEUE: bool = true;

        fn service(&self, seed: u64) -> Arc<dyn LockService> {
            Arc::new(EtcdLocks::new(EtcdConfig::new([self.url()]), BootClock, seed).unwrap())
        }
    }

    each_lock_scenario!(all, EtcdServer, "etcd");

    fn queue_len(server: &EtcdServer) -> usize {
        server.ctl(&["get", "--prefix", "--keys-only", "/larder/locks/"]).split_whitespace().count()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn waiters_are_served_in_order_of_arrival_and_a_queue_leaves_nothing_behind() {
        if !needs("etcd") {
            return;
        }
        let server = EtcdServer::start();
        served_in_order(&server, || queue_len(&server)).await;
        within("an empty queue", async {
            while queue_len(&server) > 0 {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lock_that_an_operator_takes_away_is_lost_at_once() {
        if !needs("etcd") {
            return;
        }
        let server = EtcdServer::start();
        let locks = server.locks();
        drop(had(&locks, "warm").await);
        // It would be renewed in 20 s.
        let guard = locks.lock("a/b").ttl(SOON).acquire().await.unwrap();
        let key = server.ctl(&["get", "--prefix", "--keys-only", "/larder/locks/a%2Fb/"]);
        assert_eq!(server.ctl(&["del", key.trim()]).trim(), "1");
        timeout(Duration::from_secs(10), guard.lost()).await.expect("the holder is told");
        assert!(!guard.release().await.unwrap());
    }
}

#[cfg(feature = "consul")]
mod by_consul {
    use http::Method;

    use super::*;
    use crate::{ConsulConfig, consul::client::Client, registry::tls_config, testing::ConsulServer};

    impl LockServer for ConsulServer {
        // Consul takes up to twice the ttl to end a session, and then there is the lock-delay.
        const TTLS_UNTIL_FREE: u32 = 3;
        const HAS_QUEUE: bool = false;

        fn service(&self, seed: u64) -> Arc<dyn LockService> {
            let config = ConsulConfig::new(self.url());
            Arc::new(ConsulLocks::new(config, Duration::from_secs(1), BootClock, seed).unwrap())
        }
    }

    each_lock_scenario!(all, ConsulServer, "consul");

    /// Whatever ends a session, its holder has given the lock up before another gets it.
    #[tokio::test]
    async fn a_session_that_an_operator_ends_costs_its_holder_the_lock_before_another_has_it() {
        if !needs("consul") {
            return;
        }
        let server = ConsulServer::start();
        let (one, other) = (server.locks(), server.locks());
        let guard = had(&one, "a").await;
        let contender = contender(&other, "a");
        let client = Client::new(&server.url(), None, tls_config(false, &Default::default()).unwrap(), SOON).unwrap();
        let session = |what: &str| format!("/v1/session/{what}/{}", guard.token().as_str());
        let told = client.ask(Method::GET, &session("info"), None, SOON).await.unwrap().good().unwrap();
        let told = String::from_utf8_lossy(&told.body).into_owned();
        assert!(!told.contains("serfHealth"), "what others think of a machine ends no session: {told}");
        client.ask(Method::PUT, &session("destroy"), None, SOON).await.unwrap().good().unwrap();
        within("the loss", guard.lost()).await;
        assert!(!contender.is_finished(), "the lock-delay is not over");
        assert!(within("the other's turn", contender).await.unwrap().fence() > guard.fence());
    }

    #[test]
    fn a_ttl_that_no_lock_may_have_is_refused() {
        let config = ConsulConfig::new("http://127.0.0.1:8500");
        assert!(ConsulLocks::new(config.clone(), Duration::from_secs(61), BootClock, 1).is_err());
        assert!(ConsulLocks::new(config, CONSUL_SESSION_TTL_MIN, BootClock, 1).is_ok());
    }
}

#[cfg(feature = "redis")]
mod by_redis {
    use super::*;
    use crate::testing::RedisServer;

    impl LockServer for RedisServer {
        const TTLS_UNTIL_FREE: u32 = 1;
        const HAS_QUEUE: bool = true;

        fn service(&self, seed: u64) -> Arc<dyn LockService> {
            Arc::new(RedisLocks::new(RedisConfig::new(self.url()), BootClock, seed).unwrap())
        }
    }

    each_lock_scenario!(all, RedisServer, "redis");

    fn waiters_len(server: &RedisServer) -> usize {
        server.cli(&["ZCARD", "larder:queue:a"]).trim().parse().unwrap()
    }

    fn scripts_run(server: &RedisServer) -> u64 {
        let stats = server.cli(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
        line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn waiters_are_served_in_order_of_arrival_and_a_queue_leaves_nothing_behind() {
        if !needs("redis") {
            return;
        }
        let server = RedisServer::start();
        served_in_order(&server, || waiters_len(&server) + 1).await;
        assert_eq!(server.cli(&["KEYS", "*"]).trim(), "larder:fence");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_does_not_ask_again_and_again() {
        if !needs("redis") {
            return;
        }
        let server = RedisServer::start();
        let locks = server.locks();
        drop(had(&locks, "warm").await);
        let guard = locks.lock("a").ttl(SOON).acquire().await.unwrap();
        let before = scripts_run(&server);
        let waited = locks.lock("a").wait(Duration::from_secs(1)).try_acquire().await.unwrap();
        assert!(waited.is_none() && guard.is_held());
        let asked = scripts_run(&server) - before;
        // At first, when the subscription stands, at the end, and to give up the place.
        assert!(asked <= 4, "{asked} scripts in a second");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn fences_go_on_growing_where_the_server_lost_them() {
        if !needs("redis") {
            return;
        }
        let mut server = RedisServer::start();
        let locks = server.locks();
        let before = had(&locks, "a").await;
        server.kill();
        server.forget();
        server.restart();
        within("the loss", before.lost()).await;
        assert!(had(&locks, "a").await.fence() > before.fence());
    }

    #[tokio::test]
    async fn a_url_that_can_not_be_is_refused_without_being_repeated() {
        for url in ["", "127.0.0.1", "http://:secret@127.0.0.1:6379", "redis://:secret@"] {
            let error = RedisLocks::new(RedisConfig::new(url), BootClock, 1).map(|_| ()).unwrap_err();
            assert!(error.is_invalid() && !error.message().contains("secret"), "{url}: {error}");
        }
        assert!(!format!("{:?}", RedisConfig::new("redis://:secret@127.0.0.1")).contains("secret"));
    }
}

/// Waiters come one by one, each when the one before has its place, and are served so.
#[cfg(any(feature = "etcd", feature = "redis"))]
async fn served_in_order<S: LockServer>(server: &S, queue_len: impl Fn() -> usize) {
    let nodes: Vec<Locks> = (0..NODES_LEN).map(|_| server.locks()).collect();
    let first = had(&nodes[0], "a").await;
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = JoinSet::new();
    for number in 0..CONTENDERS_LEN {
        let (locks, served) = (nodes[number % NODES_LEN].clone(), served.clone());
        waiters.spawn(async move {
            let guard = locks.lock("a").wait(SOON).acquire().await.unwrap();
            served.lock().push(number);
            assert!(guard.release().await.unwrap());
        });
        within("a place", async {
            while queue_len() < number + 2 {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    assert!(first.release().await.unwrap());
    while let Some(ended) = within("all turns", waiters.join_next()).await {
        ended.unwrap();
    }
    assert_eq!(*served.lock(), (0..CONTENDERS_LEN).collect::<Vec<_>>());
}
