//! The systems, behind one face.
//!
//! Each is set up as its users would for byte keys and values: keys as `Box<[u8]>`, values as `Arc<[u8]>`, its own default
//! hasher and shards. Every entry has a value of its own.

use std::{hash::BuildHasher, sync::Arc};

use foyer_memory::{Cache as Foyer, CacheBuilder, CacheProperties, EvictionConfig, LfuConfig, LruConfig, S3FifoConfig};
use larder_core::{
    Moment, Value, Version,
    placement::Slot,
    store::{Meta, Policy, Store, StoreConfig, Tier},
    version::Reading,
};
use lru::LruCache;
use parking_lot::Mutex;

type Bytes = Arc<[u8]>;
type Key = Box<[u8]>;

/// A cache as the measurements see it.
pub(crate) trait Cache: Send + Sync {
    /// Looks the key up and reads the value: its first and last bytes.
    fn get(&self, key: &[u8]) -> Option<u64>;

    fn put(&self, key: &[u8], value: &[u8]);

    /// Looks all keys up and reads the values; the number found.
    fn get_many(&self, keys: &[&[u8]]) -> usize {
        keys.iter().filter(|key| self.get(key).is_some()).count()
    }
}

/// The names of the rows, as they are written and asked for.
pub(crate) const NAMES: [&str; 8] = [
    "larder s3-fifo",
    "larder lru",
    "moka",
    "quick_cache",
    "foyer lru",
    "foyer s3-fifo",
    "foyer w-tinylfu",
    "sharded lru",
];

/// What a cache is to hold.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    pub(crate) items: u64,
    pub(crate) key_len: usize,
    pub(crate) value_len: usize,
}

/// The system of this name with room for so many entries.
pub(crate) fn build(name: &str, room: Room) -> Option<Arc<dyn Cache>> {
    let items = usize::try_from(room.items).ok()?;
    Some(match name {
        "larder s3-fifo" => Arc::new(larder(Policy::S3Fifo, room)),
        "larder lru" => Arc::new(larder(Policy::Lru, room)),
        "moka" => Arc::new(moka::sync::Cache::<Key, Bytes>::new(room.items)),
        "quick_cache" => Arc::new(quick_cache::sync::Cache::<Key, Bytes>::new(items)),
        "foyer lru" => Arc::new(foyer(LruConfig::default().into(), items)),
        "foyer s3-fifo" => Arc::new(foyer(S3FifoConfig::default().into(), items)),
        "foyer w-tinylfu" => Arc::new(foyer(LfuConfig::default().into(), items)),
        "sharded lru" => Arc::new(Sharded::new(items)),
        _ => return None,
    })
}

pub(crate) const META: Meta = Meta {
    slot: match Slot::new(1) {
        Some(slot) => slot,
        None => unreachable!(),
    },
    tier: Tier::Main,
    version: Version::ZERO,
    load_start: Reading::from_bits(0),
    fresh_until: Moment::NEVER,
    keep_until: Moment::NEVER,
};

fn larder(policy: Policy, room: Room) -> Store {
    Store::new(StoreConfig { capacity_bytes: room.items * entry_cost(room), policy, ..StoreConfig::default() })
}

/// What the store counts for an entry of these sizes.
pub(crate) fn entry_cost(room: Room) -> u64 {
    let store = Store::new(StoreConfig { shards: Some(1), ..StoreConfig::default() });
    store.put(&vec![1; room.key_len], &vec![1; room.value_len]);
    store.stats().bytes()
}

fn read(value: &[u8]) -> u64 {
    let end = |byte: Option<&u8>| byte.copied().map_or(0, u64::from);
    end(value.first()) + end(value.last())
}

impl Cache for Store {
    fn get(&self, key: &[u8]) -> Option<u64> {
        Store::get(self, key, Moment::from_nanos(1))?.bytes().map(read)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let _ = self.insert(key, Some(Value::from(value.to_vec())), META);
    }

    fn get_many(&self, keys: &[&[u8]]) -> usize {
        let mut found = 0;
        Store::get_many(self, keys, Moment::from_nanos(1), |_, hit| {
            found += usize::from(hit.is_some_and(|hit| hit.bytes().map(read) < Some(u64::MAX)));
        });
        found
    }
}

impl Cache for moka::sync::Cache<Key, Bytes> {
    fn get(&self, key: &[u8]) -> Option<u64> {
        moka::sync::Cache::get(self, key).map(|value| read(&value))
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.insert(key.into(), value.into());
    }
}

impl Cache for quick_cache::sync::Cache<Key, Bytes> {
    fn get(&self, key: &[u8]) -> Option<u64> {
        quick_cache::sync::Cache::get(self, key).map(|value| read(&value))
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.insert(key.into(), value.into());
    }
}

fn foyer(policy: EvictionConfig, items: usize) -> Foyer<Key, Bytes> {
    CacheBuilder::new(items).with_eviction_config(policy).build::<CacheProperties>()
}

impl Cache for Foyer<Key, Bytes> {
    fn get(&self, key: &[u8]) -> Option<u64> {
        Foyer::get(self, key).map(|entry| read(entry.value()))
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        drop(self.insert(key.into(), value.into()));
    }
}

/// `lru` behind a lock a shard, as many do it by hand.
struct Sharded {
    shards: Vec<Mutex<LruCache<Key, Bytes>>>,
    hasher: std::hash::RandomState,
}

impl Sharded {
    const SHARDS: usize = 16;

    fn new(items: usize) -> Self {
        let each = std::num::NonZeroUsize::new(items.div_ceil(Self::SHARDS)).unwrap_or(std::num::NonZeroUsize::MIN);
        let shards = std::iter::repeat_with(|| Mutex::new(LruCache::new(each))).take(Self::SHARDS).collect();
        Self { shards, hasher: std::hash::RandomState::new() }
    }

    fn shard(&self, key: &[u8]) -> &Mutex<LruCache<Key, Bytes>> {
        &self.shards[self.hasher.hash_one(key) as usize % Self::SHARDS]
    }
}

impl Cache for Sharded {
    fn get(&self, key: &[u8]) -> Option<u64> {
        let value = self.shard(key).lock().get(key).cloned();
        value.map(|value| read(&value))
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.shard(key).lock().put(key.into(), value.into());
    }
}
