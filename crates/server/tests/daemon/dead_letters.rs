//! Writes that were given up, as operators look at them, try them again and drop them.

use std::{fs, path::Path, process::Output};

use http::Method;
use larder::{
    Change, Key, Version,
    core::version::Reading,
    origin::journal::{Mark, Place, Record},
};
use serde_json::json;

use crate::{
    client::{Answer, ask, get_key, request},
    data_dir::{config, journal},
    process::{Daemon, larder},
};

/// A journal with four dead letters, the last of whose key was written since; and the version of the first.
async fn with_dead_letters(folder: &Path) -> Version {
    let journal = journal(folder).await;
    let version = |number: u64| Version::new(Reading::from_bits((1_750_000_000_000 + number) << 16), 7);
    let record = |key: &[u8], number, change| {
        let id = Place::new("g", Key::copy_from(key).unwrap()).at(version(number));
        Record { written_ms: 1_750_000_000_000, ..Record::new(id, change) }
    };
    let letters = [
        record(b"put", 1, Change::Put("Zaphod".into())),
        record(b"gone", 2, Change::Delete),
        record(b"\xff/../b", 3, Change::Put("no file has such a name".into())),
        record(b"overtaken", 4, Change::Put("old".into())),
    ];
    journal.append_all(letters.to_vec()).await.unwrap();
    let reason = |record: &Record| (record.id.clone(), "no such table".into());
    assert_eq!(journal.bury(letters.iter().map(reason).collect()).await.unwrap(), [1, 2, 3, 4]);
    journal.settle(vec![Mark::new(letters[3].id.place.clone(), version(5))]).await.unwrap();
    journal.close().await;
    version(1)
}

async fn command(daemon: &Daemon, args: &[&str]) -> Output {
    let mut command = larder();
    command.arg("dead-letters").args(args).args(["--admin", &daemon.admin.to_string()]);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn admin(daemon: &Daemon, method: Method, path: &str) -> Answer {
    ask(daemon.admin, request(method, path, &[], "")).await.unwrap()
}

fn ids(answer: &Answer) -> Vec<u64> {
    let letters = answer.json()["dead_letters"].as_array().unwrap().clone();
    letters.iter().map(|letter| letter["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_shown_retried_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let version = with_dead_letters(folder.path()).await;
    let origin = |name: &str| folder.path().join("origin").join(name);
    fs::write(origin("gone"), "still here").unwrap();
    let daemon = Daemon::start(&config).await;

    let all = daemon.ask_admin("/v1/dead-letters").await;
    assert_eq!(ids(&all), [1, 2, 3, 4]);
    let (first, third) = (all.json()["dead_letters"][0].clone(), all.json()["dead_letters"][2].clone());
    let expected = json!({
        "id": 1, "group": "g", "key": "put", "version": version.to_string(), "op": "put", "len": 6, "content_type": null, "ttl_ms": null,
        "idempotency_key": null, "reason": "no such table", "written_ms": 1_750_000_000_000_u64,
        "buried_ms": first["buried_ms"],
    });
    assert!(first == expected && first["buried_ms"].as_u64() > Some(1_750_000_000_000), "{first}");
    assert!(third["key_b64"] == "/y8uLi9i" && third.get("key").is_none(), "{third}");
    // A page, the next one, and the one after the last.
    for (query, expected, next) in
        [("n=3", &[1, 2, 3][..], json!(3)), ("n=3&after=3", &[4], json!(4)), ("after=4", &[], json!(null))]
    {
        let page = daemon.ask_admin(&format!("/v1/dead-letters?{query}")).await;
        assert_eq!((&*ids(&page), &page.json()["next"]), (expected, &next), "{query}");
    }
    let shown = daemon.ask_admin("/v1/dead-letters/1").await.json();
    assert_eq!((&shown["value"], &shown["key"]), (&json!("WmFwaG9k"), &json!("put")));
    assert_eq!(daemon.ask_admin("/v1/dead-letters/2").await.json()["value"], json!(null));

    // Retried, it is a write like any other.
    let retried = admin(&daemon, Method::POST, "/v1/dead-letters/1/retry").await;
    assert_eq!((retried.status, fs::read_to_string(origin("put")).unwrap()), (204, "Zaphod".to_owned()));
    assert!(retried.header("etag").trim_matches('"').parse::<Version>().unwrap() > version);
    assert_eq!(daemon.ask(get_key("put")).await.header("etag"), retried.header("etag"));
    assert_eq!(admin(&daemon, Method::POST, "/v1/dead-letters/2/retry").await.status, 204);
    assert!(!origin("gone").exists());
    // One that is refused again stays, and so does one that a later write has overtaken.
    let refused = admin(&daemon, Method::POST, "/v1/dead-letters/3/retry").await;
    assert_eq!(refused.problem(), (502, "origin-failed".to_owned()));
    let overtaken = admin(&daemon, Method::POST, "/v1/dead-letters/4/retry").await;
    assert_eq!(overtaken.problem(), (409, "overtaken".to_owned()));
    assert_eq!(ids(&daemon.ask_admin("/v1/dead-letters").await), [3, 4]);

    assert_eq!(admin(&daemon, Method::DELETE, "/v1/dead-letters/4").await.status, 204);
    let unknown = (404, "unknown-dead-letter".to_owned());
    for (method, path) in [
        (Method::DELETE, "/v1/dead-letters/4"),
        (Method::GET, "/v1/dead-letters/1"),
        (Method::POST, "/v1/dead-letters/2/retry"),
    ] {
        assert_eq!(admin(&daemon, method, path).await.problem(), unknown, "{path}");
    }
    assert_eq!(daemon.ask_admin("/v1/dead-letters/first").await.status, 400);
}

#[tokio::test]
async fn the_commands_do_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let version = with_dead_letters(folder.path()).await;
    let daemon = Daemon::start(&config).await;
    let listed = command(&daemon, &["list"]).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    let line = format!("1  g/put  version {version}  put of 6 bytes  written 2025-06-15T15:06:40.000Z  given up ");
    assert!(listed.starts_with(&line) && listed.contains(": no such table\n2  g/gone  "), "{listed}");
    assert_eq!(listed.lines().count(), 4);
    let objects = command(&daemon, &["list", "--json"]).await.stdout;
    let objects = String::from_utf8(objects).unwrap();
    let objects: Vec<serde_json::Value> = objects.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 4);
    let shown: serde_json::Value = serde_json::from_slice(&command(&daemon, &["show", "1"]).await.stdout).unwrap();
    assert_eq!(shown["value"], "WmFwaG9k");
    for (args, code) in [
        (["retry", "1"], 0),
        (["retry", "1"], 3),
        (["retry", "4"], 1),
        (["drop", "4"], 0),
        (["drop", "4"], 3),
        (["show", "x"], 2),
    ] {
        let output = command(&daemon, &args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    }
    assert_eq!(String::from_utf8(command(&daemon, &["list"]).await.stdout).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn a_node_without_a_journal_has_no_dead_letters() {
    let daemon = Daemon::plain().await;
    assert_eq!(daemon.ask_admin("/v1/dead-letters").await.json(), json!({ "dead_letters": [], "next": null }));
    assert_eq!(daemon.ask_admin("/v1/dead-letters/1").await.problem().0, 404);
}
