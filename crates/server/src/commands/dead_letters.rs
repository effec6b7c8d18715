//! `larder dead-letters`: the writes that a node gave up, and what is to become of them.

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::{Failure, client::NodeClient, print, time, wait_for};
use crate::cli::{DeadLetterArgs, DeadLettersArgs};

/// Letters that are asked for at once.
const PAGE_LEN: usize = 1000;

/// Prints the dead letters of a node, one a line.
///
/// # Errors
///
/// If the node can't be asked.
pub fn list(args: &DeadLettersArgs) -> Result<(), Failure> {
    wait_for(async {
        let node = NodeClient::of_admin(args.admin.url.clone());
        let mut after = Value::from(0);
        loop {
            let page = node.ask_json(&format!("/v1/dead-letters?after={after}&n={PAGE_LEN}")).await?;
            let letters = page["dead_letters"].as_array().map(Vec::as_slice).unwrap_or_default();
            let line = |letter| if args.json { format!("{letter}\n") } else { format!("{}\n", told(letter)) };
            print(letters.iter().map(line).collect::<String>().as_bytes())?;
            after = page["next"].clone();
            if !after.is_u64() || letters.is_empty() {
                return Ok(());
            }
        }
    })
}

/// Prints one dead letter and its value.
///
/// # Errors
///
/// If there is no such letter, or the node can't be asked.
pub fn show(args: &DeadLetterArgs) -> Result<(), Failure> {
    let letter = wait_for(async { client(args).ask_json(&path(args.id)).await })?;
    print(format!("{letter:#}\n").as_bytes())
}

/// Makes the write anew, as of now.
///
/// # Errors
///
/// If there is no such letter, the key was written since, the write fails again, or the node can't be asked.
pub fn retry(args: &DeadLetterArgs) -> Result<(), Failure> {
    let path = format!("{}/retry", path(args.id));
    wait_for(async { client(args).ask(Method::POST, &path, Bytes::new()).await.map(drop) })
}

/// Drops one for good.
///
/// # Errors
///
/// If there is no such letter, or the node can't be asked.
pub fn drop_letter(args: &DeadLetterArgs) -> Result<(), Failure> {
    wait_for(async { client(args).ask(Method::DELETE, &path(args.id), Bytes::new()).await.map(drop) })
}

fn client(args: &DeadLetterArgs) -> NodeClient {
    NodeClient::of_admin(args.admin.url.clone())
}

fn path(id: u64) -> String {
    format!("/v1/dead-letters/{id}")
}

/// A letter in one line.
fn told(letter: &Value) -> String {
    let text = |name: &str| letter[name].as_str().unwrap_or("-");
    let at = |name: &str| letter[name].as_u64().map_or_else(|| "-".to_owned(), time);
    let change = match letter["len"].as_u64() {
        Some(len) => format!("put of {len} bytes"),
        None => "delete".to_owned(),
    };
    let key = letter["key"].as_str().map(|key| key.escape_debug().to_string());
    let key = key.unwrap_or_else(|| format!("base64:{}", text("key_b64")));
    format!(
        "{}  {}/{key}  version {}  {change}  written {}  given up {}: {}",
        letter["id"],
        text("group"),
        text("version"),
        at("written_ms"),
        at("buried_ms"),
        text("reason")
    )
}
