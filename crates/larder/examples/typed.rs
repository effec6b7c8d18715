//! Values of one's own type, and an old one while the source is down.
//!
//! `cargo run -p larder --example typed`

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use larder::{Key, Node, Outcome, typed_loader_fn};

#[derive(serde::Serialize, serde::Deserialize, Debug)]
struct Rate {
    currency: String,
    per_euro: f64,
}

static DOWN: AtomicBool = AtomicBool::new(false);

async fn rate(key: Key) -> Result<Option<Rate>, String> {
    if DOWN.load(Ordering::Relaxed) {
        return Err("the exchange does not answer".into());
    }
    let currency = key.as_bytes().escape_ascii().to_string();
    Ok((currency != "ABC").then_some(Rate { currency, per_euro: 1.08 }))
}

#[tokio::main]
async fn main() -> Result<(), larder::Error> {
    let node = Node::builder().start().await?;
    let rates = node
        .group("rates", typed_loader_fn(rate))
        .ttl(Duration::from_millis(50))
        .stale_if_error(Duration::from_secs(3600))
        .open()?
        .typed::<Rate>();

    println!("USD: {:?}", rates.get("USD").await?);
    println!("ABC: {:?}", rates.get("ABC").await?);

    DOWN.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = rates.group().lookup("USD", Duration::from_secs(1)).await?;
    if let Outcome::Stale { by } = answer.outcome {
        println!("the exchange is down; USD as of {by:?} past its ttl: {:?}", rates.get("USD").await?);
    }
    match rates.get("CHF").await {
        Err(error) if error.is_origin() => println!("CHF was never asked before: {error}"),
        other => println!("CHF: {other:?}"),
    }
    Ok(())
}
