//! Writes that outlast their process before the origin has them, by what programs embed.

#![expect(clippy::unwrap_used, reason = "a test fails by its panic")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use larder::{
    Change, Group, Key, Node, SystemClock, Value, loader_fn,
    origin::{behind::Behind, journal::JournalConfig},
    store_fn,
};

type Rows = Arc<Mutex<BTreeMap<Key, Value>>>;

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3_600);

async fn start(folder: &Path, rows: &Rows) -> (Node, Group, Behind) {
    let behind = Behind::open(folder, JournalConfig::default(), SystemClock).await.unwrap();
    let node = Node::builder().name("a").journal(behind.clone()).start().await.unwrap();
    let (read, written) = (rows.clone(), rows.clone());
    let loader = loader_fn(move |key| {
        let row = read.lock().unwrap().get(&key).cloned();
        async { Ok::<_, std::io::Error>(row) }
    });
    let store = store_fn(move |update| {
        match update.change {
            Change::Put(value) => written.lock().unwrap().insert(update.key, value),
            Change::Delete => written.lock().unwrap().remove(&update.key),
        };
        async { Ok(()) }
    });
    let group = node.group("users", loader).write_behind(store, NEVER).open().unwrap();
    (node, group, behind)
}

#[tokio::test]
async fn what_was_acknowledged_is_answered_and_flushed_by_the_next_run() {
    let (folder, rows) = (tempfile::tempdir().unwrap(), Rows::default());
    let (key, other) = (Key::new("42").unwrap(), Key::new("43").unwrap());
    rows.lock().unwrap().insert(other.clone(), "Bo".into());
    {
        let (_node, users, behind) = start(folder.path(), &rows).await;
        users.put("42", "Ada").await.unwrap();
        users.delete("43").await.unwrap();
        behind.close().await;
    }
    assert_eq!(rows.lock().unwrap().get(&key), None);
    let (_node, users, behind) = start(folder.path(), &rows).await;
    assert_eq!((users.get("42").await.unwrap(), users.get("43").await.unwrap()), (Some("Ada".into()), None));
    assert_eq!(users.core().record_stats().unwrap().pending, 2);
    assert_eq!(behind.flush_all(Duration::from_secs(10)).await, 0);
    assert_eq!(rows.lock().unwrap().clone(), BTreeMap::from([(key, "Ada".into())]));
    let stats = users.core().record_stats().unwrap();
    assert_eq!((stats.pending, stats.flushed, stats.dead_letters), (0, 2, 0));
    behind.close().await;
}
