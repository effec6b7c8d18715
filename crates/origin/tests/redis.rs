//! The Redis origin, against a real server.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by its panic")]

#[cfg(feature = "journal")]
#[path = "support/behind.rs"]
mod behind;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use larder_core::{
    Key, LoadError, Loaded, Loader, Store, UpdateError, loader_contract, store_contract,
    testing::{
        loader::{Arrange, SECRET, request},
        needs::needs,
        store::{self, delete, put},
    },
};
use larder_origin::{RedisConfig, RedisOrigin};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// What the server says once it takes connections.
const READY: &str = "eady to accept connections";

fn key(name: impl AsRef<[u8]>) -> Key {
    Key::copy_from(name.as_ref()).unwrap()
}

/// A server that is reached by a socket in its folder.
struct Server {
    folder: TempDir,
    child: Option<Child>,
}

impl Server {
    fn start() -> Self {
        let mut server = Self { folder: tempfile::tempdir().unwrap(), child: None };
        server.restart();
        server
    }

    fn restart(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no"]);
        command.args(["--requirepass", SECRET]);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("redis-server can be started");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        self.child = Some(child);
        assert!(lines.by_ref().any(|line| line.contains(READY)), "redis-server ended");
        thread::spawn(move || lines.for_each(drop));
    }

    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn url(&self, password: &str) -> String {
        format!("redis+unix://{}?pass={password}", self.socket().display())
    }

    fn admin(&self) -> redis::Connection {
        redis::Client::open(self.url(SECRET)).unwrap().get_connection().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
    }
}

struct Redis {
    origin: RedisOrigin,
    server: Server,
}

impl Redis {
    fn new() -> Self {
        let server = Server::start();
        let origin = RedisOrigin::new(RedisConfig::new(server.url(SECRET)).prefix("p:")).unwrap();
        Self { origin, server }
    }

    fn run<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut self.server.admin()).unwrap()
    }
}

impl Arrange for Redis {
    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    fn put(&self, key: &Key, value: &[u8]) -> bool {
        self.run::<String>(&[b"SET", &[b"p:", key.as_bytes()].concat(), value]) == "OK"
    }

    fn hang(&self, _: &Key) -> bool {
        false
    }

    fn fail(&self, key: &Key) -> bool {
        self.run::<i64>(&[b"SADD", &[b"p:", key.as_bytes()].concat(), SECRET.as_bytes()]) == 1
    }
}

impl store::Arrange for Redis {
    fn store(&self) -> &dyn Store {
        &self.origin
    }

    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    fn refuse(&self, key: &Key) -> bool {
        // All may be read, and what begins otherwise may be written.
        let others = format!("%RW~p:[^{}]*", char::from(key.as_bytes()[0]));
        self.run::<String>(&[b"ACL", b"SETUSER", b"default", b"resetkeys", b"%R~*", others.as_bytes()]) == "OK"
    }

    fn keep_out(&self, _: &Key) -> bool {
        self.run::<String>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]) == "OK"
    }

    fn break_off(&self, _: &Key) -> bool {
        false
    }

    fn hang(&self, _: &Key) -> bool {
        false
    }
}

loader_contract!(needs "redis", contract, Redis::new());
store_contract!(needs "redis", writes, Redis::new());
#[cfg(feature = "journal")]
behind::behind_contract!(needs "redis", behind_writes, Redis::new());

async fn load(origin: &RedisOrigin, name: &str) -> Result<Loaded, LoadError> {
    origin.load(request(&key(name))).await
}

#[tokio::test]
async fn a_server_that_is_away_is_a_failure_and_is_found_once_it_is_there() {
    if !needs("redis") {
        return;
    }
    let mut redis = Redis::new();
    for _ in 0..2 {
        redis.origin.update(put(&key("k"), "v", 1)).await.unwrap();
        assert_eq!(load(&redis.origin, "k").await.unwrap(), Loaded::value("v"));
        assert_eq!(redis.run::<String>(&[b"GET", b"p:k"]), "v");
        redis.server.stop();
        // One may be the first to hear of it.
        let _heard = load(&redis.origin, "k").await;
        let error = load(&redis.origin, "k").await.unwrap_err().to_string();
        assert!(error.contains("can't be reached"), "{error}");
        for update in [put(&key("k"), "v", 1), delete(&key("k"), 1)] {
            let answer = redis.origin.update(update).await;
            assert!(matches!(answer, Err(UpdateError::Unreached(_))), "{answer:?}");
        }
        let _old = std::fs::remove_file(redis.server.socket());
        redis.server.restart();
    }
}

#[tokio::test]
async fn a_wrong_password_is_a_failure_that_does_not_tell_it() {
    if !needs("redis") {
        return;
    }
    let server = Server::start();
    let origin = RedisOrigin::new(RedisConfig::new(server.url("12345"))).unwrap();
    let error = load(&origin, "k").await.unwrap_err().to_string();
    assert!(error.contains("Redis") && !error.contains("12345"), "{error}");
    let answer = origin.update(put(&key("k"), "v", 1)).await;
    assert!(matches!(answer, Err(UpdateError::Unreached(_))), "{answer:?}");
}

#[tokio::test]
async fn of_a_change_whose_answer_never_comes_nobody_knows_what_became() {
    // It greets, and breaks off once it has been sent a change.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.windows(3).any(|bytes| bytes == b"SET") || heard.windows(7).any(|bytes| bytes == b"SETINFO") {
                if stream.read_buf(&mut heard).await.unwrap() == 0 {
                    break;
                }
                if heard.windows(7).any(|bytes| bytes == b"SETINFO") {
                    let len = heard.windows(7).filter(|bytes| *bytes == b"SETINFO").count();
                    stream.write_all(&b"+OK\r\n".repeat(len)).await.unwrap();
                    heard.clear();
                }
            }
        }
    });
    let origin = RedisOrigin::new(RedisConfig::new(format!("redis://{address}"))).unwrap();
    for _ in 0..3 {
        let answer = origin.update(put(&key("k"), "v", 1)).await;
        assert!(matches!(answer, Err(UpdateError::Unknown(_))), "{answer:?}");
    }
}

#[test]
fn a_url_that_cannot_work_is_refused_and_none_is_shown() {
    for url in ["", "127.0.0.1", "http://h", "redis://", "rediss://h", "redis://h:port"] {
        let error = RedisOrigin::new(RedisConfig::new(url)).unwrap_err();
        assert_eq!(error.setting(), "url", "{url}");
    }
    let config = RedisConfig::new(format!("redis://:{SECRET}@h"));
    let shown = format!("{config:?} {:?}", RedisOrigin::new(config.clone()).unwrap());
    assert!(!shown.contains(SECRET), "{shown}");
}
