//! Readers and writers at every node of a cluster, while nodes stand still, come, leave and die, and links between them break.
//!
//! There are keys in demand, of which copies are lent; keys that are asked for now and then; keys that do not all fit; keys that
//! are counted by compare-and-set; and keys of an origin that changes, where a change is acknowledged once the key is invalidated.
//! `LARDER_TORTURE_SECONDS` sets for how long each test goes on at least, `LARDER_TORTURE_SEED` by what chance.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fastrand::Rng;
use futures_util::future::join_all;
use http::Method;
use rustix::process::Signal;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use super::{
    clients::{Clients, Crowd, Does},
    fresh::{self, Allowance, Losses},
    ledger::Ledger,
    linear,
    record::{History, Op, Operation, Outcome},
};
use crate::{
    churn::fleet::Fleet,
    client::{Answer, GROUP, get_key, key_path, put_key, request, within},
    gossip::{agree, start},
    process::Daemon,
    proxy::{Mode, Proxy},
    ways::Ways,
};

/// How long a test goes on unless told otherwise.
const SECONDS: u64 = 5;

/// The lease of all groups here, as it comes.
const HOT_LEASE: Duration = Duration::from_secs(1);

/// How long a node may take to leave.
pub(super) const LEAVE_TIME_MAX: Duration = Duration::from_secs(15);

/// How many requests have to go by between one event and the next, and in a test at least.
pub(super) const REQUESTS_BETWEEN: usize = 500;

/// How long a broken link stays so: longer than a silence that a node is given up for.
const BROKEN_TIME_MAX: Duration = Duration::from_secs(2);

const ROUNDS: usize = 10;
const WRITERS_PER_NODE: usize = 4;

fn set(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

pub(super) fn seed() -> u64 {
    set("LARDER_TORTURE_SEED").unwrap_or(1)
}

/// Until when a test goes on.
pub(super) fn end() -> Instant {
    Instant::now() + Duration::from_secs(set("LARDER_TORTURE_SECONDS").unwrap_or(SECONDS))
}

fn groups(ledger: &Ledger) -> String {
    let url = ledger.url();
    format!(
        "[groups.plain]\n[groups.small]\ncapacity = \"64KiB\"\n[groups.users]\n[groups.users.origin]\nkind = \"http\"\nurl = \"{url}\"\n"
    )
}

pub(super) fn keys(kind: &str, len: usize) -> Vec<Arc<str>> {
    (0..len).map(|number| format!("{kind}-{number}").into()).collect()
}

/// Readers and writers of all kinds of keys.
fn begin(doors: Vec<(String, SocketAddr)>, ledger: &Arc<Ledger>) -> Clients {
    let mut clients = Clients::new(doors, seed());
    let (hot, cold, small) = (keys("hot", 8), keys("cold", 300), keys("small", 400));
    let (count, users) = (keys("count", 3), keys("users", 24));
    for key in &users {
        let id = ledger.change(key);
        let (began, ended) = (Duration::ZERO, Duration::ZERO);
        let (op, outcome) = (Op::Put(id), Outcome::Done(Some(id.into())));
        let (node, said) = (String::new(), "before all others".to_owned());
        clients.history().add(Operation { client: 0, node, key: key.clone(), op, began, ended, outcome, said });
    }
    let crowds = [
        ("plain", hot.clone(), 3, Does::Get, 5, 0),
        ("plain", hot, 1, Does::Write, 100, 0),
        ("plain", cold.clone(), 1, Does::Get, 10, 0),
        ("plain", cold, 1, Does::Write, 20, 0),
        ("small", small.clone(), 1, Does::Get, 10, 0),
        ("small", small, 1, Does::Write, 10, 1_000),
        ("plain", count, 2, Does::Count, 30, 0),
        ("users", users[..4].to_vec(), 2, Does::Get, 5, 0),
        ("users", users.clone(), 1, Does::Get, 10, 0),
        ("users", users, 1, Does::Change(ledger.clone()), 50, 0),
    ];
    for (group, keys, per_node, does, pause_ms, padding) in crowds {
        clients.begin(&Crowd { group, keys, per_node, does, pause: Duration::from_millis(pause_ms), padding });
    }
    clients
}

/// What may become of the values of a plain cache, and what reads of an origin's may be older than elsewhere.
struct Promise {
    plain: Losses,
    users: Allowance,
}

/// Holds what the clients saw against the promise. Keys that do not all fit may be evicted at any time.
#[track_caller]
fn judge(history: &History, promise: &Promise) {
    let mut wrong = Vec::new();
    for (key, mut operations) in history.by_key() {
        let (losses, allowance) = match key.split('-').next() {
            Some("users") => (Losses::None, promise.users),
            Some("small") => (Losses::Allowed, Allowance::NONE),
            _ => (promise.plain, Allowance::NONE),
        };
        if key.starts_with("users") {
            by_origin(&mut operations);
        }
        wrong.extend(fresh::check(&operations, losses, &allowance).err());
    }
    let answered =
        |what: fn(&Operation) -> bool| history.by_key().values().flatten().filter(|operation| what(operation)).count();
    let (reads, writes) = (answered(|it| matches!(it.outcome, Outcome::Found(..))), answered(Operation::is_done));
    eprintln!("{} requests; {reads} values read, {writes} writes done; {} wrong", history.len(), wrong.len());
    let count = wrong.len();
    wrong.truncate(3);
    assert!(wrong.is_empty(), "{count} keys, seed {}:\n{}", seed(), wrong.join("\n"));
    assert!(reads > REQUESTS_BETWEEN && writes > REQUESTS_BETWEEN / 10, "{reads} reads, {writes} writes");
}

/// Puts the origin's own order into the place of versions, which say when a value was loaded.
fn by_origin(operations: &mut [Operation]) {
    for operation in operations {
        if let Outcome::Found(id, version) = &mut operation.outcome {
            *version = (*id).into();
        }
    }
}

/// How many gets of a group a node has answered from copies of others' values.
async fn hot_hits(node: &Daemon, group: &str) -> u64 {
    let metrics = node.ask_admin("/metrics").await;
    let name = format!("larder_hits_total{{group=\"{group}\",tier=\"hot\"}} ");
    metrics.text().lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

async fn three(ledger: &Ledger) -> Fleet {
    Fleet::start(&["a", "b", "c"], &groups(ledger)).await
}

#[tokio::test]
async fn no_read_is_older_than_what_was_acknowledged_before_it() {
    let ledger = Arc::new(Ledger::start(seed()).await);
    let fleet = three(&ledger).await;
    let (clients, end) = (begin(fleet.doors(), &ledger), end());
    while Instant::now() < end {
        clients.go_on_for(REQUESTS_BETWEEN).await;
    }
    let history = clients.end().await;
    judge(&history, &Promise { plain: Losses::None, users: Allowance::NONE });
    for (key, operations) in history.by_key() {
        if key.starts_with("count") || key.starts_with("hot") {
            linear::check(&operations).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
    }
    for node in fleet.iter() {
        for group in ["plain", "users"] {
            assert!(hot_hits(node, group).await > 0, "{group}: nothing was lent");
        }
    }
}

#[tokio::test]
async fn a_node_that_stands_still_for_three_leases_brings_nothing_old_back() {
    let ledger = Arc::new(Ledger::start(seed()).await);
    let fleet = three(&ledger).await;
    let (clients, end, mut chance) = (begin(fleet.doors(), &ledger), end(), Rng::with_seed(seed()));
    clients.go_on_for(REQUESTS_BETWEEN).await;
    let from = clients.history().now();
    loop {
        let name = *chance.choice(&["a", "b", "c"]).unwrap();
        fleet.get(name).signal(Signal::STOP);
        // The pause itself.
        sleep(3 * HOT_LEASE).await;
        fleet.get(name).signal(Signal::CONT);
        fleet.agree().await;
        clients.go_on_for(REQUESTS_BETWEEN).await;
        if Instant::now() > end {
            break;
        }
    }
    let until = clients.history().now();
    let history = clients.end().await;
    // It may have been sent away, and what it held with it; and its stand-ins answered meanwhile.
    judge(&history, &Promise { plain: Losses::Allowed, users: Allowance { age: HOT_LEASE, from, until } });
}

#[tokio::test]
async fn nodes_that_join_drain_and_die_bring_nothing_old_back() {
    let ledger = Arc::new(Ledger::start(seed()).await);
    let mut fleet = three(&ledger).await;
    let (clients, end) = (begin(fleet.doors(), &ledger), end());
    clients.go_on_for(REQUESTS_BETWEEN).await;
    let from = clients.history().now();
    loop {
        fleet.add("d").await;
        clients.tell_of(fleet.doors());
        clients.go_on_for(REQUESTS_BETWEEN).await;
        fleet.remove("c").kill();
        clients.tell_of(fleet.doors());
        fleet.agree().await;
        fleet.add("c").await;
        clients.tell_of(fleet.doors());
        clients.go_on_for(REQUESTS_BETWEEN).await;
        let drained = fleet.remove("d");
        clients.tell_of(fleet.doors());
        drained.signal(Signal::TERM);
        assert_eq!(within(LEAVE_TIME_MAX, "to leave", drained.exit_code()).await, Some(0));
        fleet.agree().await;
        clients.go_on_for(REQUESTS_BETWEEN).await;
        if Instant::now() > end {
            break;
        }
    }
    let until = clients.history().now();
    let history = clients.end().await;
    judge(&history, &Promise { plain: Losses::Allowed, users: Allowance { age: HOT_LEASE, from, until } });
}

/// Three nodes, and a proxy before each.
async fn proxied(groups: &str) -> (Ways, Vec<Daemon>, Vec<Proxy>) {
    let ways = Ways::between(3).await;
    let (mut nodes, mut proxies) = (Vec::new(), Vec::new());
    for (place, name) in ["a", "b", "c"].into_iter().enumerate() {
        let (known, real) = (ways.advertised(place).ip(), ways.to(place).ip());
        let listener = TcpListener::bind((known, 0)).await.unwrap();
        let peer = SocketAddr::new(real, listener.local_addr().unwrap().port());
        let node = format!("advertise = \"{known}\"\nlisten = \"{real}:0\"\npeer = \"{peer}\"");
        proxies.push(Proxy::at(listener, peer));
        nodes.push(start(name, &node, &ways.to(place).to_string(), &[ways.advertised(0)], groups).await);
    }
    agree(&nodes.iter().collect::<Vec<_>>(), &["a", "b", "c"]).await;
    (ways, nodes, proxies)
}

/// The members stay who they are: gossip takes other ways.
#[tokio::test]
async fn links_that_stall_lose_and_break_bring_nothing_old_back() {
    let ledger = Arc::new(Ledger::start(seed()).await);
    let (_ways, nodes, proxies) = proxied(&groups(&ledger)).await;
    let doors = ["a", "b", "c"].iter().zip(&nodes).map(|(name, node)| ((*name).to_owned(), node.clients)).collect();
    let view_changes = async || join_all(nodes.iter().map(|node| node.metric("larder_view_changes_total"))).await;
    let before = view_changes().await;
    let (clients, end, mut chance) = (begin(doors, &ledger), end(), Rng::with_seed(seed()));
    clients.go_on_for(REQUESTS_BETWEEN).await;
    while Instant::now() < end {
        let proxy = chance.choice(&proxies).unwrap();
        match chance.u8(..6) {
            0 => proxy.cut().await,
            1 => proxy.set(Mode::Stall),
            2 => proxy.set(Mode::Swallow),
            3 => proxy.set(Mode::Delay(Duration::from_millis(chance.u64(..50)))),
            4 => proxy.set(Mode::Reset(chance.usize(..20_000))),
            _ => proxy.set(Mode::Truncate(chance.usize(..20_000))),
        }
        // How long it lasts.
        sleep(BROKEN_TIME_MAX.mul_f64(chance.f64())).await;
        proxy.set(Mode::Pass);
        clients.go_on_for(REQUESTS_BETWEEN / 5).await;
    }
    let (from, until) = (Duration::ZERO, Duration::MAX);
    let history = clients.end().await;
    judge(&history, &Promise { plain: Losses::None, users: Allowance { age: HOT_LEASE, from, until } });
    assert_eq!(view_changes().await, before);
}

/// Has several clients of each node put different values at once; answers in no order.
async fn put_at_once(fleet: &Fleet, key: &str, condition: &[(&str, &str)]) -> Vec<(String, Answer)> {
    let writers = fleet.iter().cycle().take(3 * WRITERS_PER_NODE).enumerate().map(|(writer, node)| async move {
        let value = format!("of writer {writer}");
        let put = request(Method::PUT, &key_path(key), condition, value.clone());
        (value, node.ask(put).await)
    });
    join_all(writers).await
}

/// The value that all nodes have.
async fn agreed(fleet: &Fleet, key: &str) -> (String, String) {
    let mut answers = join_all(fleet.iter().map(|node| node.ask(get_key(key)))).await;
    let shown = |answer: &Answer| (answer.header("etag").to_owned(), answer.text().to_owned());
    let first = shown(&answers.remove(0));
    assert!(answers.iter().all(|answer| shown(answer) == first), "{first:?} {answers:?}");
    first
}

#[tokio::test]
async fn of_puts_at_once_each_has_its_version_and_the_greatest_stays() {
    let fleet = Fleet::start(&["a", "b", "c"], &format!("[groups.{GROUP}]\n")).await;
    for round in 0..ROUNDS {
        let key = format!("key{round}");
        let mut puts = put_at_once(&fleet, &key, &[]).await;
        assert!(puts.iter().all(|(_, put)| put.status == 204), "{puts:?}");
        puts.sort_by_key(|(_, put)| put.header("etag").to_owned());
        let tags: Vec<&str> = puts.iter().map(|(_, put)| put.header("etag")).collect();
        assert!(tags.windows(2).all(|pair| pair[0] < pair[1]), "{tags:?}");
        let (value, last) = puts.last().unwrap();
        assert_eq!(agreed(&fleet, &key).await, (last.header("etag").to_owned(), value.clone()));
    }
}

#[tokio::test]
async fn of_puts_at_once_on_one_condition_one_is_done() {
    let fleet = Fleet::start(&["a", "b", "c"], &format!("[groups.{GROUP}]\n")).await;
    for round in 0..ROUNDS {
        let key = format!("key{round}");
        let mut condition = ("if-none-match", "*".to_owned());
        for _ in 0..3 {
            let puts = put_at_once(&fleet, &key, &[(condition.0, &condition.1)]).await;
            assert!(puts.iter().all(|(_, put)| [204, 412].contains(&put.status)), "{puts:?}");
            let done: Vec<_> = puts.iter().filter(|(_, put)| put.status == 204).collect();
            let [(value, put)] = &done[..] else { panic!("{done:?}") };
            let (tag, present) = agreed(&fleet, &key).await;
            assert_eq!((tag.as_str(), &present), (put.header("etag"), value));
            condition = ("if-match", tag);
        }
        assert_eq!(fleet.get("a").ask(put_key(&key, "v")).await.status, 204);
        let late = put_at_once(&fleet, &key, &[(condition.0, &condition.1)]).await;
        assert!(late.iter().all(|(_, put)| put.status == 412), "{late:?}");
    }
}
