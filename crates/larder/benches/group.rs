//! What a group adds to its store: a hit in process beside the bare look-up of the same keys, on one thread.
//!
//! `cargo xtask bench group`. Both hold the same keys and values and are asked for them in the same order, drawn beforehand;
//! rounds take turns. The bare look-up is handed its `now`; the group reads the clock, checks the owner and counts.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark")]

use std::{hint::black_box, sync::Arc, time::Duration, time::Instant};

use futures_util::future::BoxFuture;
use larder_bench::{Distribution, Keys, interleave};
use larder_core::{
    Clock, Error, ErrorKind, GroupConfig, LoadError, LoadRequest, Loaded, Loader, Member, Members, Moment, Node,
    NodeConfig, PeerClient, Ring, Transport, Value, Version,
    placement::Slot,
    store::{Inserted, Meta, Store, StoreConfig, Tier},
    version::Reading,
};
use rustix::time::{ClockId, clock_gettime};

const KEYS: u64 = 100_000;
const VALUE_LEN: usize = 100;
const GETS: usize = 2_000_000;
const ROUNDS: usize = 5;
const CAPACITY_BYTES: u64 = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() {
    let keys: Vec<String> = (0..KEYS).map(|index| format!("user:{index:015}")).collect();
    let zipf = Keys::new(Distribution::Zipf { exponent: 0.99 }, KEYS, 1);
    let asked: Vec<&[u8]> = zipf.take(GETS).map(|index| keys[index as usize].as_bytes()).collect();

    let store = filled_store(&keys);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let group = runtime.block_on(filled_group(&keys));

    let now = Moment::from_nanos(1);
    let mut bare = || per_get(|| asked.iter().for_each(|key| drop(black_box(store.get(key, now).unwrap()))));
    let mut hit = || {
        per_get(|| {
            runtime.block_on(async {
                for key in &asked {
                    drop(black_box(group.get(key, TIMEOUT).await.unwrap()));
                }
            });
        })
    };
    let spreads = interleave(ROUNDS, &mut [("store look-up", &mut bare), ("group hit", &mut hit)]);

    println!("ns a get, one thread, {KEYS} keys, Zipf 0.99, median of {ROUNDS} rounds of {GETS} (least to greatest)");
    spreads.iter().for_each(|spread| println!("{spread}"));
    println!("ratio {:.2}", spreads[1].median / spreads[0].median);
    let misses = group.stats().misses.sum();
    assert_eq!(misses, KEYS, "after the group was filled, only hits were to be measured");
}

fn per_get(gets: impl FnOnce()) -> f64 {
    let started = Instant::now();
    gets();
    started.elapsed().as_nanos() as f64 / GETS as f64
}

fn value(key: &[u8]) -> Value {
    key.iter().copied().cycle().take(VALUE_LEN).collect::<Vec<u8>>().into()
}

fn filled_store(keys: &[String]) -> Store {
    let store = Store::new(StoreConfig { capacity_bytes: CAPACITY_BYTES, ..StoreConfig::default() });
    for key in keys {
        let meta = Meta {
            slot: Slot::of("users", key.as_bytes()),
            tier: Tier::Main,
            version: Version::ZERO,
            load_start: Reading::default(),
            fresh_until: Moment::NEVER,
            keep_until: Moment::NEVER,
        };
        assert_eq!(store.insert(key.as_bytes(), Some(value(key.as_bytes())), meta), Inserted::Stored);
    }
    store
}

/// A group of a node that is alone.
async fn filled_group(keys: &[String]) -> larder_core::Group {
    let config = NodeConfig {
        name: "a".into(),
        ring: Ring::Slots,
        incarnation: 1,
        seed: 1,
        clock: Arc::new(Machine),
        transport: Arc::new(Nobody),
    };
    let node = Node::new(config, Members::new([Member::new("a", "127.0.0.1:0")]).unwrap()).unwrap();
    let config = GroupConfig { capacity_bytes: CAPACITY_BYTES, ..GroupConfig::default() };
    let group = node.open_group("users", config, Some(Arc::new(Origin))).unwrap();
    for key in keys {
        group.get(key, TIMEOUT).await.unwrap();
    }
    group
}

struct Origin;

impl Loader for Origin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move { Ok(Loaded::value(value(request.key.as_bytes()))) })
    }
}

struct Nobody;

impl Transport for Nobody {
    fn name(&self) -> &'static str {
        "nobody"
    }

    fn link(&self, _: &Member) -> Result<Arc<dyn PeerClient>, Error> {
        Err(Error::new(ErrorKind::Invalid, "there is nobody else"))
    }
}

/// The machine's clocks.
struct Machine;

impl Clock for Machine {
    fn now(&self) -> Moment {
        let now = clock_gettime(ClockId::Boottime);
        Moment::from_nanos(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    fn wall_ms(&self) -> u64 {
        let now = clock_gettime(ClockId::Realtime);
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    }
}
