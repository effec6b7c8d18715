//! What a write costs, and what copies of hot keys are worth: nodes in one process that ask each other over gRPC on loopback.
//!
//! `cargo xtask bench writes`, or `cargo bench --package larder --bench writes -- PART…` for some of `put`, `hot`, `tag`,
//! `flash` and `reads`. What is compared takes turns, and a ratio is the median of those within each round. All nodes share the threads of one
//! runtime, so that rates are those of the askers and the asked together.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

mod support;

use std::{
    convert::Infallible,
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use larder::{
    ByteSize, Group, GroupConfig, Outcome, Tag, Tags, Value,
    core::{
        stats::{Protocol, Source},
        store::Tier,
    },
    loader_fn,
};
use larder_bench::{Distribution, Keys};
use tokio::{
    runtime::Runtime,
    task::{JoinSet, yield_now},
    time::{MissedTickBehavior, interval, timeout},
};

use support::{Cluster, GROUP, Rounds, TIMEOUT, VALUE_LEN, key, median, middle, value};

const ROUNDS: usize = 7;

/// Keys that one node owns and another asks for.
const KEYS: usize = 10_000;
const OPS_OF_ONE: usize = 5_000;
const CALLERS: usize = 64;
const CALLERS_FOR: Duration = Duration::from_millis(750);

const HOT_PUTS: usize = 300;

const TAGGED: usize = 1_000_000;
const TAG: &[u8] = b"all";
const INVALIDATIONS: usize = 20;
/// One in so many of the tagged entries is looked at before and after.
const LOOKED_AT: usize = 1_009;

const FLASH_KEYS: u64 = 100_000;
const FLASH_ROUNDS: usize = 5;
const FLASH_CALLERS: usize = 16;
/// Each caller asks once in this time: 4,000 gets a second and node.
const FLASH_EVERY: Duration = Duration::from_millis(4);
const FLASH_STEP: Duration = Duration::from_millis(500);
const FLASH_STEPS: usize = 8;
/// Times the mean of the nodes.
const FLASH_BAR: f64 = 1.5;

/// What is measured, and its name.
type Part = (&'static str, fn(&Runtime));

fn main() {
    let asked: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let parts: [Part; 5] = [("put", put), ("hot", hot), ("flash", flash), ("reads", reads), ("tag", tag)];
    for (name, part) in parts {
        if is_asked(name) {
            part(&runtime);
        }
    }
}

// A put beside a get

#[derive(Clone, Copy)]
enum Op {
    Get,
    Put,
}

impl Op {
    async fn run(self, group: &Group, key: &str, value: &Value) {
        match self {
            Self::Get => assert!(group.get(key).await.unwrap().is_some()),
            Self::Put => group.put(key, value.clone()).await.unwrap(),
        }
    }
}

fn put(runtime: &Runtime) {
    let (_cluster, asker, keys) = runtime.block_on(async {
        let cluster = Cluster::start(3, |_, node| node).await;
        let groups = plain_groups(&cluster, &GroupConfig { hot_lease: Duration::ZERO, ..GroupConfig::default() });
        let keys: Arc<[String]> = cluster.keys_of(1).take(KEYS).collect();
        for key in &*keys {
            groups[0].put(key, value()).await.unwrap();
        }
        (cluster, groups[0].clone(), keys)
    });
    let mut rounds = Rounds::new();
    for _ in 0..ROUNDS {
        let p50 = |op| runtime.block_on(p50_of_one(op, &asker, &keys)).as_secs_f64() * 1e6;
        let rate = |op| runtime.block_on(rate_of_many(op, &asker, &keys));
        rounds.add([p50(Op::Get), p50(Op::Put), rate(Op::Get), rate(Op::Put)]);
    }
    println!(
        "\nA put to a group without an origin beside a get, asked of a node that does not own the key, {VALUE_LEN} B"
    );
    println!("one caller, p50 µs      get {:8.1}   put {:8.1}", rounds.median(0), rounds.median(1));
    println!("put / get               {}", rounds.ratio(1, 0));
    println!("{CALLERS} callers, a second   get {:8.0}   put {:8.0}", rounds.median(2), rounds.median(3));
    println!("get / put               {}", rounds.ratio(2, 3));
}

async fn p50_of_one(op: Op, asker: &Group, keys: &Arc<[String]>) -> Duration {
    let (asker, keys) = (asker.clone(), keys.clone());
    // On a thread of the runtime, where a program's tasks are.
    let asking = tokio::spawn(async move {
        let (mut order, value) = (Keys::new(Distribution::Uniform, keys.len() as u64, 1), value());
        let mut taken = Vec::with_capacity(OPS_OF_ONE);
        for _ in 0..OPS_OF_ONE {
            let key = &keys[order.draw() as usize];
            let started = Instant::now();
            op.run(&asker, key, &value).await;
            taken.push(started.elapsed());
        }
        taken
    });
    middle(asking.await.unwrap())
}

/// Operations a second.
async fn rate_of_many(op: Op, asker: &Group, keys: &Arc<[String]>) -> f64 {
    let mut callers = JoinSet::new();
    let started = Instant::now();
    for caller in 0..CALLERS {
        let (asker, keys) = (asker.clone(), keys.clone());
        callers.spawn(async move {
            let (mut order, value) = (Keys::new(Distribution::Uniform, keys.len() as u64, caller as u64), value());
            let mut done = 0_u64;
            while started.elapsed() < CALLERS_FOR {
                op.run(&asker, &keys[order.draw() as usize], &value).await;
                done += 1;
            }
            done
        });
    }
    let done: u64 = callers.join_all().await.into_iter().sum();
    done as f64 / started.elapsed().as_secs_f64()
}

// A put of a hot key beside one of a cold key

fn hot(runtime: &Runtime) {
    runtime.block_on(async {
        let cluster = Cluster::start(3, |_, node| node).await;
        let groups = plain_groups(&cluster, &GroupConfig::default());
        let keys: Vec<String> = cluster.keys_of(1).take(1 + HOT_PUTS).collect();
        let (hot, cold) = keys.split_first().unwrap();
        for key in &keys {
            groups[0].put(key, value()).await.unwrap();
        }
        let others = [groups[0].clone(), groups[2].clone()];
        lend(&others, hot).await;
        let mut full = JoinSet::new();
        for other in &others {
            full.spawn(gets_without_pause(other.clone(), hot.clone()));
        }
        let full: Vec<usize> = full.join_all().await;
        let half = full.iter().sum::<usize>() / full.len() / 2;

        let mut rounds = Rounds::new();
        for _ in 0..ROUNDS {
            let [cold_alone, hot_alone] = puts(&others, hot, cold).await;
            let is_over = Arc::new(AtomicBool::new(false));
            let mut readers = JoinSet::new();
            for other in &others {
                readers.spawn(gets_at_half_load(other.clone(), hot.clone(), half, is_over.clone()));
            }
            let [cold_read, hot_read] = puts(&others, hot, cold).await;
            is_over.store(true, Ordering::Relaxed);
            readers.join_all().await;
            rounds.add([cold_alone, hot_alone, cold_read, hot_read]);
        }
        println!("\nA put of a key with copies at both other nodes beside one of a key without, p50 µs, one caller");
        println!("nobody reads            cold {:8.1}   hot {:8.1}", rounds.median(0), rounds.median(1));
        println!("hot / cold              {}", rounds.ratio(1, 0));
        println!("read at half load       cold {:8.1}   hot {:8.1}", rounds.median(2), rounds.median(3));
        println!("hot / cold              {}", rounds.ratio(3, 2));
        println!("half load is {half} gets a ms at each of the two nodes");
    });
}

/// The p50 of puts of cold keys and of the hot one, by turns, in µs. `others` are those that don't own them; the first is asked.
async fn puts(others: &[Group; 2], hot: &str, cold: &[String]) -> [f64; 2] {
    let (others, hot, cold) = (others.clone(), hot.to_owned(), cold.to_owned());
    let putting = tokio::spawn(async move {
        let (mut of_cold, mut of_hot) = (Vec::new(), Vec::new());
        for key in &cold {
            lend(&others, &hot).await;
            for (key, taken) in [(key, &mut of_cold), (&hot, &mut of_hot)] {
                let value = value();
                let started = Instant::now();
                others[0].put(key, value).await.unwrap();
                taken.push(started.elapsed());
            }
        }
        [of_cold, of_hot].map(|taken| middle(taken).as_secs_f64() * 1e6)
    });
    putting.await.unwrap()
}

/// Asks until each of `groups` has a copy.
async fn lend(groups: &[Group], key: &str) {
    for group in groups {
        let lent = async {
            while group.lookup(key, TIMEOUT).await.unwrap().outcome != Outcome::Hit(Tier::Hot) {
                yield_now().await;
            }
        };
        timeout(TIMEOUT, lent).await.unwrap();
    }
}

/// How many gets between two looks at what else there is to do.
const GETS_AT_ONCE: usize = 32;

async fn get_some(group: &Group, key: &str, count: usize) {
    for _ in 0..count.div_ceil(GETS_AT_ONCE) {
        for _ in 0..GETS_AT_ONCE {
            group.get(key).await.unwrap();
        }
        yield_now().await;
    }
}

/// How many gets a millisecond a reader can do.
async fn gets_without_pause(group: Group, key: String) -> usize {
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < CALLERS_FOR {
        get_some(&group, &key, GETS_AT_ONCE).await;
        done += GETS_AT_ONCE;
    }
    done / usize::try_from(CALLERS_FOR.as_millis()).unwrap()
}

async fn gets_at_half_load(group: Group, key: String, a_millisecond: usize, is_over: Arc<AtomicBool>) {
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        get_some(&group, &key, a_millisecond).await;
    }
}

// A tag with a million entries behind it

fn tag(runtime: &Runtime) {
    runtime.block_on(async {
        let cluster = Cluster::start(3, |_, node| node).await;
        let groups = plain_groups(
            &cluster,
            &GroupConfig { capacity_bytes: ByteSize::gib(1).as_u64(), ..GroupConfig::default() },
        );
        let mut keys = vec![Vec::new(); groups.len()];
        for key in (0..TAGGED).map(|index| key(index as u64)) {
            keys[cluster.owner_of(&key)].push(key);
        }
        let keys: Vec<Arc<[String]>> = keys.into_iter().map(Arc::from).collect();
        let mut taken = Vec::new();
        for round in 0..INVALIDATIONS {
            let mut filling = JoinSet::new();
            for (group, keys) in groups.iter().zip(&keys) {
                filling.spawn(put_tagged(group.clone(), keys.clone()));
            }
            filling.join_all().await;
            let items: usize = groups.iter().map(|group| group.core().store_stats().items() as usize).sum();
            assert_eq!((items, found(&groups, &keys).await.0), (TAGGED, true), "all are there");
            // Each node is asked in its turn.
            let group = groups[round % groups.len()].clone();
            let invalidating = tokio::spawn(async move {
                let started = Instant::now();
                group.invalidate_tags([TAG]).await.unwrap();
                started.elapsed()
            });
            taken.push(invalidating.await.unwrap());
            assert!(!found(&groups, &keys).await.1, "none is there");
        }
        let worst = *taken.iter().max().unwrap();
        println!("\nInvalidating a tag with {TAGGED} entries behind it at three nodes, {INVALIDATIONS} times");
        println!("median {:.3} ms, worst {:.3} ms", ms(middle(taken)), ms(worst));
    });
}

async fn put_tagged(group: Group, keys: Arc<[String]>) {
    let mut tags = Tags::NONE;
    assert!(tags.push(Tag::of(TAG)));
    let value = value().with_tags(tags);
    for (index, key) in keys.iter().enumerate() {
        group.put(key, value.clone()).await.unwrap();
        if index % GETS_AT_ONCE == 0 {
            yield_now().await;
        }
    }
}

/// Whether all, and whether any, of a part of the keys are found at any node.
async fn found(groups: &[Group], keys: &[Arc<[String]>]) -> (bool, bool) {
    let (mut all, mut any) = (true, false);
    for key in keys.iter().flat_map(|keys| keys.iter()).step_by(LOOKED_AT) {
        for group in groups {
            let is_there = group.get(key).await.unwrap().is_some();
            all &= is_there;
            any |= is_there;
        }
    }
    (all, any)
}

// A flash key

fn flash(runtime: &Runtime) {
    let mut rounds: [Vec<Flash>; 2] = Default::default();
    for _ in 0..FLASH_ROUNDS {
        for (lease, flashes) in [Duration::from_secs(1), Duration::ZERO].into_iter().zip(&mut rounds) {
            flashes.push(runtime.block_on(flash_round(lease)));
        }
    }
    let per_second = FLASH_CALLERS as f64 / FLASH_EVERY.as_secs_f64();
    println!(
        "\nFive nodes, Zipf 1.2 over {FLASH_KEYS} keys, {per_second:.0} gets a second asked of each, from a cold start"
    );
    println!("what the owner of the hottest key answers, in means of the nodes, by half seconds");
    for (name, flashes) in ["hot_lease 1 s", "hot_lease 0"].iter().zip(&rounds) {
        let shares = (0..FLASH_STEPS).map(|step| median(flashes.iter().map(|flash| flash.shares[step])));
        let shares: Vec<String> = shares.map(|share| format!("{share:5.2}")).collect();
        println!("{name:<14} {}", shares.join(" "));
        let step = FLASH_STEP.as_secs_f64();
        let below = flashes.iter().map(|flash| flash.below_after.map_or(f64::INFINITY, |steps| steps as f64 * step));
        let worst = below.clone().fold(0.0, f64::max);
        let (below, hot) = (median(below), median(flashes.iter().map(|flash| flash.hot_hits)));
        println!(
            "{:<14} below {FLASH_BAR} after {}, at worst {}; hot hits {:.1} %",
            "",
            seconds(below),
            seconds(worst),
            100.0 * hot
        );
    }
}

fn seconds(time: f64) -> String {
    if time.is_finite() { format!("{time:.1} s") } else { "never".to_owned() }
}

struct Flash {
    /// For each half second, what the owner answered over the mean of the nodes.
    shares: Vec<f64>,
    /// After how many half seconds it is below the bar for good.
    below_after: Option<usize>,
    /// Part of all gets that were answered with a copy.
    hot_hits: f64,
}

async fn flash_round(hot_lease: Duration) -> Flash {
    let cluster = Cluster::start(5, |_, node| node).await;
    let groups = loaded_groups(&cluster, &GroupConfig { hot_lease, ..GroupConfig::default() });
    let owner = cluster.owner_of(&key(0));
    // Gets that each node answered itself. The others are among the requests to the nodes that it asked.
    let answered: Vec<Arc<AtomicU64>> = groups.iter().map(|_| Arc::default()).collect();
    let so_far = || -> Vec<u64> {
        let requests = groups.iter().map(|group| group.core().stats().server_requests.of(Protocol::Grpc).sum());
        requests.zip(&answered).map(|(requests, own)| requests + own.load(Ordering::Relaxed)).collect()
    };

    let mut callers: JoinSet<()> = JoinSet::new();
    for (node, group) in groups.iter().enumerate() {
        for caller in 0..FLASH_CALLERS {
            let (group, answered) = (group.clone(), answered[node].clone());
            let seed = (node * FLASH_CALLERS + caller) as u64;
            callers.spawn(async move {
                let mut keys = Keys::new(Distribution::Zipf { exponent: 1.2 }, FLASH_KEYS, seed);
                let mut ticks = interval(FLASH_EVERY);
                loop {
                    ticks.tick().await;
                    let key = key(keys.draw());
                    let outcome = group.lookup(&key, TIMEOUT).await.unwrap().outcome;
                    if matches!(outcome, Outcome::Hit(_) | Outcome::Miss { source: Source::Origin, .. }) {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    }
    let mut steps = interval(FLASH_STEP);
    steps.tick().await;
    let (mut shares, mut before) = (Vec::new(), so_far());
    for _ in 0..FLASH_STEPS {
        steps.tick().await;
        let now = so_far();
        let new: Vec<u64> = now.iter().zip(&before).map(|(now, before)| now - before).collect();
        shares.push(new[owner] as f64 * new.len() as f64 / new.iter().sum::<u64>() as f64);
        before = now;
    }
    callers.shutdown().await;
    let last_above = shares.iter().rposition(|share| *share >= FLASH_BAR);
    // The half second at whose end it is known.
    let below_after = last_above.map_or(1, |step| step + 2);
    let sum = |of: fn(&Group) -> u64| groups.iter().map(of).sum::<u64>() as f64;
    let hot_hits = sum(|group| group.core().stats().hits_hot.sum()) / sum(|group| group.core().stats().gets());
    Flash { below_after: (below_after <= FLASH_STEPS).then_some(below_after), shares, hot_hits }
}

// Reads of a group that nobody writes

fn reads(runtime: &Runtime) {
    let (_cluster, owner, asker, keys) = runtime.block_on(async {
        let cluster = Cluster::start(3, |_, node| node).await;
        let groups = loaded_groups(&cluster, &GroupConfig { hot_lease: Duration::ZERO, ..GroupConfig::default() });
        let keys: Arc<[String]> = cluster.keys_of(1).take(KEYS).collect();
        for key in &*keys {
            groups[0].get(key).await.unwrap();
        }
        (cluster, groups[1].clone(), groups[0].clone(), keys)
    });
    let mut rounds = Rounds::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let hits = 100 * keys.len();
        for key in keys.iter().cycle().take(hits) {
            assert!(owner.core().get_now(key.as_bytes()).is_some());
        }
        let hit = started.elapsed().as_secs_f64() * 1e9 / hits as f64;
        let p50 = runtime.block_on(p50_of_one(Op::Get, &asker, &keys)).as_secs_f64() * 1e6;
        rounds.add([hit, p50, runtime.block_on(rate_of_many(Op::Get, &asker, &keys))]);
    }
    println!("\nGets of a group with an origin that nobody writes, {VALUE_LEN} B");
    println!("hit at its owner, ns {:.0}", rounds.median(0));
    println!(
        "over a hop: one caller, p50 µs {:.1}; {CALLERS} callers, a second {:.0}",
        rounds.median(1),
        rounds.median(2)
    );
}

// Groups, on all nodes

fn plain_groups(cluster: &Cluster, config: &GroupConfig) -> Vec<Group> {
    cluster.nodes.iter().map(|node| node.plain_group(GROUP).config(config.clone()).open().unwrap()).collect()
}

fn loaded_groups(cluster: &Cluster, config: &GroupConfig) -> Vec<Group> {
    let loader = || loader_fn(|_| async { Ok::<_, Infallible>(Some(value())) });
    cluster.nodes.iter().map(|node| node.group(GROUP, loader()).config(config.clone()).open().unwrap()).collect()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
