//! What writes behind come to at an origin, as one suite: from a journal through a flusher to the store, and what is found there then.
//!
//! `behind_contract!` makes a test of each behaviour below. An origin is arranged as for its own writes, which it passes first.

use std::time::Duration;
use std::{future::pending, sync::Arc};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use larder_core::{
    Change, Found, Key, Store, Update, UpdateError, Value,
    testing::{
        clock::TokioClock,
        loader::{odd_keys, request},
        store::{Arrange, version},
    },
};
use larder_origin::{
    flush::{Flush, FlushConfig},
    journal::{Journal, JournalConfig, Place, Record, path_in},
    storage::DiskStorage,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

const GROUP: &str = "g";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an origin may take for a batch: what hangs is waited for so long.
const TIMEOUT: Duration = Duration::from_millis(500);

type Answers = Vec<Result<(), UpdateError>>;
type Asked = (Vec<Update>, oneshot::Sender<Answers>);

/// A store that has what is asked of it answered elsewhere: an arrangement may be of one thread, and a flusher is of all.
struct Hatch {
    len_max: usize,
    ask: mpsc::UnboundedSender<Asked>,
}

impl Store for Hatch {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(async move { self.update_many(vec![update]).await.remove(0) })
    }

    fn update_batch_len_max(&self) -> usize {
        self.len_max
    }

    fn update_many(&self, updates: Vec<Update>) -> BoxFuture<'_, Answers> {
        Box::pin(async move {
            let (answer, answers) = oneshot::channel();
            self.ask.send((updates, answer)).unwrap();
            answers.await.unwrap()
        })
    }
}

/// Has a store answer what is asked, for ever.
async fn serve(store: &dyn Store, mut asked: mpsc::UnboundedReceiver<Asked>) {
    let answer = |(mut updates, mut answer): Asked| async move {
        let made = async {
            match updates.len() {
                1 => vec![store.update(updates.remove(0)).await],
                _ => store.update_many(updates).await,
            }
        };
        let made = tokio::select! {
            made = made => made,
            () = answer.closed() => return,
        };
        // Whoever asked may have given up just now.
        let _heard = answer.send(made);
    };
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(asked) = asked.recv() => under_way.push(answer(asked)),
            Some(()) = under_way.next() => {}
        }
    }
}

/// A journal and what flushes it.
struct Behind {
    journal: Journal,
    flush: Flush,
}

impl Behind {
    /// Takes a change down.
    async fn write(&self, key: &Key, change: Change, place: u64) {
        let id = Place::new(GROUP, key.clone()).at(version(place));
        self.journal.append(Record::new(id.clone(), change)).await.unwrap();
        self.flush.recorded(&id);
    }

    async fn put(&self, key: &Key, value: &[u8], place: u64) {
        self.write(key, Change::Put(Value::new(value.to_vec())), place).await;
    }

    /// Brings all to the origin, and gives the keys of what was refused for good.
    async fn flushed(&self) -> Vec<Key> {
        assert_eq!(self.flush.drain(Instant::now() + PATIENCE).await, 0, "all has come to its end");
        self.dead().await
    }

    async fn dead(&self) -> Vec<Key> {
        let letters = self.journal.dead_letters(0, 1000).await.unwrap();
        letters.into_iter().map(|letter| letter.record.id.place.key).collect()
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        let waits = async {
            while !is_so(self).await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waits).await.unwrap_or_else(|_| panic!("{what} takes too long"));
    }
}

/// Has `work` write behind to the origin.
async fn behind(origin: &impl Arrange, work: impl AsyncFnOnce(&Behind)) {
    let folder = tempfile::tempdir().unwrap();
    let storage = DiskStorage::new(path_in(folder.path()));
    let journal = Journal::open(storage, JournalConfig::default(), TokioClock::new()).await.unwrap();
    let config = FlushConfig { write_delay: Duration::from_millis(1), timeout: TIMEOUT, seed: 7 };
    let (ask, asked) = mpsc::unbounded_channel();
    let hatch = Arc::new(Hatch { len_max: origin.store().update_batch_len_max(), ask });
    let limit = Arc::new(Arc::new(Semaphore::new(4)));
    let flush = Flush::new(GROUP, config, hatch, Arc::new(journal.clone()), limit);
    let running = tokio::spawn(flush.clone().run(pending()));
    let behind = Behind { journal, flush };
    tokio::select! {
        () = serve(origin.store(), asked) => {}
        () = work(&behind) => {}
    }
    running.abort();
    behind.journal.close().await;
}

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

async fn held(origin: &impl Arrange, key: &Key) -> Option<Vec<u8>> {
    match origin.loader().load(request(key)).await.unwrap().found {
        Found::Value(value) => Some(value.to_vec()),
        _ => None,
    }
}

/// The newest of each key gets there, whatever its bytes, deletes too. What the origin can't hold is given up and keeps nothing back.
pub(crate) async fn the_newest_of_each_key_gets_there(origin: &impl Arrange) {
    behind(origin, async |behind| {
        let (keys, gone) = (odd_keys(), key("gone"));
        behind.put(&gone, b"there", 1).await;
        assert!(behind.flushed().await.is_empty());
        behind.write(&gone, Change::Delete, 2).await;
        for key in &keys {
            behind.put(key, b"older", 3).await;
            behind.put(key, key.as_bytes(), 4).await;
        }
        let dead = behind.flushed().await;
        assert!(dead.len() < keys.len());
        for key in &keys {
            let expected = (!dead.contains(key)).then_some(key.as_bytes());
            assert_eq!(held(origin, key).await.as_deref(), expected, "{}", key.as_bytes().escape_ascii());
        }
        assert_eq!(held(origin, &gone).await, None);
    })
    .await;
}

/// What is refused becomes a dead letter, and all that was gathered with it gets there.
pub(crate) async fn what_is_refused_is_given_up_alone(origin: &impl Arrange) {
    let (refused, others) = (key("refused"), (0..20).map(|number| key(&format!("beside-{number}"))));
    let others: Vec<Key> = others.collect();
    if !origin.refuse(&refused) {
        return;
    }
    behind(origin, async |behind| {
        behind.put(&refused, b"never", 1).await;
        for key in &others {
            behind.put(key, b"value", 1).await;
        }
        assert_eq!(behind.flushed().await, [refused]);
        for key in &others {
            assert_eq!(held(origin, key).await.as_deref(), Some(&b"value"[..]), "{key:?}");
        }
    })
    .await;
}

/// What the origin can't take for now is tried again, and not given up.
pub(crate) async fn what_is_kept_out_waits(origin: &impl Arrange) {
    let kept_out = key("kept-out");
    if !origin.keep_out(&kept_out) {
        return;
    }
    behind(origin, async |behind| {
        behind.put(&kept_out, b"value", 1).await;
        behind.until("another try", async |behind| behind.flush.stats().failed >= 2).await;
        assert!(behind.dead().await.is_empty() && behind.flush.pending() == 1);
    })
    .await;
}

/// What hangs is given up for a while, and all that was gathered with it gets there.
pub(crate) async fn what_hangs_holds_up_no_other(origin: &impl Arrange) {
    let (hanging, others) = (key("hanging"), [key("one"), key("two"), key("three")]);
    if !origin.hang(&hanging) {
        return;
    }
    behind(origin, async |behind| {
        behind.put(&hanging, b"never", 1).await;
        for key in &others {
            behind.put(key, b"value", 1).await;
        }
        behind.until("what hangs", async |behind| behind.flush.pending() == 1).await;
        for key in &others {
            assert_eq!(held(origin, key).await.as_deref(), Some(&b"value"[..]), "{key:?}");
        }
    })
    .await;
}

/// Makes a module of tests, one for each behaviour above, as [`store_contract!`](larder_core::store_contract) does.
macro_rules! behind_contract {
    ($name:ident, $arrange:expr) => {
        crate::behind::behind_contract!(@behaviours $name, $arrange, true);
    };
    (needs $program:literal, $name:ident, $arrange:expr) => {
        crate::behind::behind_contract!(@behaviours $name, $arrange, larder_core::testing::needs::needs($program));
    };
    (@behaviours $name:ident, $arrange:expr, $is_there:expr) => {
        crate::behind::behind_contract!(
            @tests $name, $arrange, $is_there,
            the_newest_of_each_key_gets_there
            what_is_refused_is_given_up_alone
            what_is_kept_out_waits
            what_hangs_holds_up_no_other
        );
    };
    (@tests $name:ident, $arrange:expr, $is_there:expr, $($behaviour:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test]
                async fn $behaviour() {
                    if $is_there {
                        crate::behind::$behaviour(&$arrange).await;
                    }
                }
            )*
        }
    };
}
pub(crate) use behind_contract;
