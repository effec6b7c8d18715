//! A cache in a program: a slow source, a hundred callers at once, one load.
//!
//! `cargo run -p larder --example embed`

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use larder::{ByteSize, Key, Node, loader_fn};
use tokio::{task::JoinSet, time::Instant};

static LOADS: AtomicU32 = AtomicU32::new(0);

async fn slow_source(key: Key) -> Result<Option<String>, std::io::Error> {
    LOADS.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(Some(format!("the profile of user {}", key.as_bytes().escape_ascii())))
}

#[tokio::main]
async fn main() -> Result<(), larder::Error> {
    let node = Node::builder().start().await?;
    let users =
        node.group("users", loader_fn(slow_source)).capacity(ByteSize::mib(16)).ttl(Duration::from_secs(60)).open()?;

    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let users = users.clone();
        callers.spawn(async move { users.get("42").await });
    }
    for value in callers.join_all().await {
        value?;
    }
    println!("100 callers: {} load, {:?}", LOADS.load(Ordering::Relaxed), start.elapsed());

    let start = Instant::now();
    let value = users.get("42").await?.unwrap_or_else(|| "nobody".into());
    println!("again: {:?} after {:?}", value.escape_ascii().to_string(), start.elapsed());
    Ok(())
}
