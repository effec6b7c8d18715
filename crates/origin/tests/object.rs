//! The object origin: files, and a server that speaks S3's protocol as far as it is used, signatures and conditions included.

#![expect(clippy::unwrap_used, reason = "a test fails by its panic")]

#[cfg(feature = "journal")]
#[path = "support/behind.rs"]
mod behind;
#[path = "support/files.rs"]
mod files;
#[expect(dead_code, reason = "nothing is encrypted, late or endless here")]
mod support;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
};

use files::Files;
use larder_core::{
    Change, Error, ErrorKind, Found, Key, LoadError, LoadRequest, Loaded, Loader, Store, Update, UpdateError, Value,
    Version, loader_contract, store_contract,
    testing::{
        loader::{Arrange, SECRET, request},
        store::{self, delete, put, update, version},
    },
};
use larder_origin::{ObjectConfig, ObjectOrigin};
use percent_encoding::percent_decode_str;
use ring::{digest, hmac};
use support::{Answer, Asked, Server};

const KEY_ID: &str = "larder";

/// The metadata that a version stands in.
const VERSION: &str = "x-amz-meta-larderversion";

fn key(name: impl AsRef<[u8]>) -> Key {
    Key::copy_from(name.as_ref()).unwrap()
}

async fn load(origin: &ObjectOrigin, name: &str) -> Result<Loaded, LoadError> {
    origin.load(request(&key(name))).await
}

fn files() -> Files<ObjectOrigin> {
    let open = |folder: &Path| ObjectOrigin::open(ObjectConfig::new(format!("file://{}", folder.display()))).unwrap();
    Files::new(open, is_name)
}

/// Whether an object's name can have this as one of its parts.
fn is_name(part: &[u8]) -> bool {
    str::from_utf8(part).is_ok_and(|part| !part.chars().any(|char| char.is_ascii_control()))
}

loader_contract!(of_files, files());
store_contract!(writes_of_files, files());
#[cfg(feature = "journal")]
behind::behind_contract!(behind_writes_of_files, files());

/// An object of the server.
#[derive(Clone)]
struct Object {
    body: Vec<u8>,
    etag: String,
    version: Option<String>,
    content_type: Option<String>,
}

/// What the server does with those who ask for an object, or put it.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    HangAll,
    Fail,
    Refuse,
    KeepOut,
    BreakOff,
    HangPuts,
}

/// What the server makes of a put on a condition.
#[derive(Clone, Copy, PartialEq, Default)]
enum Conditions {
    #[default]
    Known,
    /// It says that it has none.
    Unknown,
    /// It puts whatever they say.
    Ignored,
}

#[derive(Default)]
struct Bucket {
    conditions: Conditions,
    objects: HashMap<Vec<u8>, Object>,
    moods: HashMap<Vec<u8>, Mood>,
    puts: u64,
    /// Put by somebody else between a look and a put.
    meanwhile: Option<Object>,
}

struct S3 {
    origin: ObjectOrigin,
    bucket: Arc<Mutex<Bucket>>,
    server: Server,
}

impl S3 {
    async fn start() -> Self {
        Self::start_with(Conditions::Known, |config| config).await
    }

    /// One that knows no conditions, and is told of none.
    async fn unconditional() -> Self {
        Self::start_with(Conditions::Unknown, |config| config.option("aws_conditional_put", "disabled")).await
    }

    async fn start_with(conditions: Conditions, configure: impl FnOnce(ObjectConfig) -> ObjectConfig) -> Self {
        let bucket = Arc::new(Mutex::new(Bucket { conditions, ..Bucket::default() }));
        let there = Arc::clone(&bucket);
        let server = Server::start(move |asked| match signed_by_us(asked) {
            true => serve(asked, &mut there.lock().unwrap()),
            false => answer("403 Forbidden", "SignatureDoesNotMatch"),
        })
        .await;
        let origin = ObjectOrigin::open(configure(config(&server, SECRET))).unwrap();
        Self { origin, bucket, server }
    }

    fn set_mood(&self, key: &Key, mood: Mood) -> bool {
        self.bucket.lock().unwrap().moods.insert(key.as_bytes().into(), mood);
        true
    }

    /// Has the object `k` be this, and something else once it was looked at.
    fn set(&self, seen: Option<Object>, meanwhile: Object) {
        let mut bucket = self.bucket.lock().unwrap();
        bucket.objects.clear();
        bucket.objects.extend(seen.map(|object| (b"k".to_vec(), object)));
        bucket.meanwhile = Some(meanwhile);
    }

    fn object(&self, name: &str) -> Option<Object> {
        self.bucket.lock().unwrap().objects.get(name.as_bytes()).cloned()
    }

    async fn write(&self, update: Update) -> Result<(), UpdateError> {
        self.origin.update(update).await
    }
}

fn config(server: &Server, secret: &str) -> ObjectConfig {
    config_of("s3://bucket/at/a", server, secret)
}

fn config_of(url: &str, server: &Server, secret: &str) -> ObjectConfig {
    ObjectConfig::new(url)
        .option("aws_endpoint", format!("http://{}", server.addr()))
        .option("AWS_ACCESS_KEY_ID", KEY_ID)
        .option("secret_access_key", secret)
}

/// An error as S3 tells it.
fn answer(status: &str, code: &str) -> Answer {
    Answer::new(status, format!("<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>"))
}

fn serve(asked: &Asked, bucket: &mut Bucket) -> Answer {
    let target: Vec<u8> = percent_decode_str(asked.target()).collect();
    let Some(name) = target.strip_prefix(b"/bucket/at/a/") else { return answer("404 Not Found", "NoSuchBucket") };
    let (held, puts) = (bucket.objects.get(name).cloned(), asked.method() == "PUT");
    match bucket.moods.get(name) {
        Some(Mood::HangAll) => return Answer::Hang(Vec::new()),
        Some(Mood::Fail) => return answer("500 Internal Server Error", "InternalError"),
        Some(Mood::Refuse) if puts => return answer("400 Bad Request", "EntityTooLarge"),
        Some(Mood::KeepOut) if puts => return answer("403 Forbidden", "AccessDenied"),
        Some(Mood::BreakOff) if puts => return Answer::Close(format!("HTTP/1.1 200 {SECRET}").into()),
        Some(Mood::HangPuts) if puts => return Answer::Hang(Vec::new()),
        _ => {}
    }
    match asked.method() {
        "DELETE" => {
            bucket.objects.remove(name);
            Answer::Keep(b"HTTP/1.1 204 No Content\r\n\r\n".into())
        }
        "PUT" => {
            let held = bucket.meanwhile.take().or(held);
            if let Some(held) = &held {
                bucket.objects.insert(name.into(), held.clone());
            }
            let condition = |name| match bucket.conditions {
                Conditions::Ignored => None,
                _ => asked.header(name)[..].first().copied(),
            };
            let (if_match, if_none_match) = (condition("if-match"), condition("if-none-match"));
            if bucket.conditions == Conditions::Unknown && if_match.or(if_none_match).is_some() {
                return answer("501 Not Implemented", "NotImplemented");
            }
            match (if_match, if_none_match, held) {
                (Some(_), _, None) => return answer("404 Not Found", "NoSuchKey"),
                (Some(wanted), _, Some(held)) if held.etag != wanted => {
                    return answer("412 Precondition Failed", "PreconditionFailed");
                }
                (_, Some("*"), Some(_)) => return answer("412 Precondition Failed", "PreconditionFailed"),
                _ => {}
            }
            bucket.puts += 1;
            let text = |header: &str| asked.header(header).first().map(|&text| text.to_owned());
            let etag = format!("\"{}\"", bucket.puts);
            let (version, content_type) = (text(VERSION), text("content-type"));
            let object = Object { body: asked.body().to_vec(), etag: etag.clone(), version, content_type };
            bucket.objects.insert(name.into(), object);
            Answer::new(&format!("200 OK\r\nETag: {etag}"), "")
        }
        method => match held {
            None if method == "HEAD" => Answer::Keep(b"HTTP/1.1 404 Not Found\r\n\r\n".into()),
            None => answer("404 Not Found", "NoSuchKey"),
            Some(held) if asked.header("if-none-match") == [held.etag.as_str()] => {
                Answer::Keep(b"HTTP/1.1 304 Not Modified\r\n\r\n".into())
            }
            Some(Object { body, etag, version, content_type }) => {
                let mut head = format!(
                    "HTTP/1.1 200 OK\r\nETag: {etag}\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nContent-Length: {}\r\n",
                    body.len()
                );
                for (name, text) in [(VERSION, version), ("Content-Type", content_type)] {
                    head += &text.map(|text| format!("{name}: {text}\r\n")).unwrap_or_default();
                }
                let body = if method == "HEAD" { Vec::new() } else { body };
                Answer::Keep([head.as_bytes(), b"\r\n", &body].concat())
            }
        },
    }
}

/// Whether a request and its body are signed with the secret (AWS Signature Version 4).
fn signed_by_us(asked: &Asked) -> bool {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let sha256 = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let [authorization] = asked.header("authorization")[..] else { return false };
    let part = |name: &str| {
        let mut parts = authorization.split([' ', ',']).filter_map(|part| part.split_once('='));
        parts.find(|(found, _)| *found == name).map(|(_, text)| text).unwrap_or_default()
    };
    let (signed, Some((id, scope))) = (part("SignedHeaders"), part("Credential").split_once('/')) else { return false };
    let body_hash = asked.header("x-amz-content-sha256").concat();
    if id != KEY_ID || body_hash != sha256(asked.body()) {
        return false;
    }
    let headers: String =
        signed.split(';').map(|name| format!("{name}:{}\n", asked.header(name).join(",").trim())).collect();
    let canonical = format!("{}\n{}\n\n{headers}\n{signed}\n{body_hash}", asked.method(), asked.target());
    let to_sign =
        format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", asked.header("x-amz-date").concat(), sha256(canonical.as_bytes()));
    let mut secret = sign(format!("AWS4{SECRET}").as_bytes(), scope.split('/').next().unwrap());
    for part in scope.split('/').skip(1) {
        secret = sign(secret.as_ref(), part);
    }
    part("Signature") == hex(sign(secret.as_ref(), &to_sign).as_ref())
}

impl Arrange for S3 {
    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    fn put(&self, key: &Key, value: &[u8]) -> bool {
        let etag = format!("\"{}-{:?}\"", value.len(), value.first());
        let object = Object { body: value.into(), etag, version: None, content_type: None };
        let fits = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && is_name(part);
        if !key.as_bytes().split(|&byte| byte == b'/').all(fits) || key.as_bytes().len() > 1000 {
            return false;
        }
        self.bucket.lock().unwrap().objects.insert(key.as_bytes().into(), object);
        true
    }

    fn hang(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::HangAll)
    }

    fn fail(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::Fail)
    }
}

impl store::Arrange for S3 {
    fn store(&self) -> &dyn Store {
        &self.origin
    }

    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    fn refuse(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::Refuse)
    }

    fn keep_out(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::KeepOut)
    }

    fn break_off(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::BreakOff)
    }

    fn hang(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::HangPuts)
    }
}

loader_contract!(s3, S3::start().await);
store_contract!(writes_of_s3, S3::start().await);
store_contract!(writes_of_s3_without_conditions, S3::unconditional().await);
#[cfg(feature = "journal")]
behind::behind_contract!(behind_writes_of_s3, S3::start().await);

#[tokio::test]
async fn an_object_bears_its_version_and_an_older_change_is_a_conflict() {
    let s3 = S3::start().await;
    let value = Value::new("new").with_content_type("text/x-odd");
    s3.write(update(&key("k"), Change::Put(value), 5)).await.unwrap();
    let held = s3.object("k").unwrap();
    assert_eq!(held.version.unwrap().parse::<Version>().unwrap(), version(5));
    assert_eq!(held.content_type.as_deref(), Some("text/x-odd"));
    for older in [put(&key("k"), "old", 4), delete(&key("k"), 4)] {
        let answer = s3.write(older).await;
        assert!(matches!(answer, Err(UpdateError::Conflict)), "{answer:?}");
        assert_eq!(s3.object("k").unwrap().body, b"new");
    }
    // Made again, and made anew.
    for place in [5, 6] {
        s3.write(put(&key("k"), "newer", place)).await.unwrap();
        assert_eq!(s3.object("k").unwrap().body, b"newer");
    }
    s3.write(delete(&key("k"), 7)).await.unwrap();
    assert!(s3.object("k").is_none());
}

/// A node that stood still between its look and its put.
#[tokio::test]
async fn a_put_that_another_came_before_is_compared_anew() {
    let s3 = S3::start().await;
    let other = |place| {
        let (etag, version) = (format!("\"other {place}\""), Some(version(place).to_string()));
        Object { body: b"other".into(), etag, version, content_type: None }
    };
    for (seen, meanwhile, done) in [(None, 9, false), (None, 3, true), (Some(2), 9, false), (Some(2), 3, true)] {
        s3.set(seen.map(other), other(meanwhile));
        let answer = s3.write(put(&key("k"), "mine", 5)).await;
        match done {
            true => assert!(answer.is_ok(), "{answer:?}"),
            false => assert!(matches!(answer, Err(UpdateError::Conflict)), "{answer:?}"),
        }
        let held = s3.object("k").unwrap().body;
        assert_eq!(held, if done { &b"mine"[..] } else { b"other" }, "{seen:?} {meanwhile}");
    }
}

/// Where the store doesn't know conditions and nobody said so, nothing is written, and the sentence says what to set.
#[tokio::test]
async fn a_store_that_knows_no_conditions_has_to_be_said_to_be_one() {
    let s3 = S3::start_with(Conditions::Unknown, |config| config).await;
    let answer = s3.write(put(&key("k"), "v", 1)).await;
    let Err(UpdateError::Unreached(error)) = answer else { panic!("{answer:?}") };
    assert!(error.to_string().contains("aws_conditional_put"), "{error}");
    assert!(s3.object("k").is_none());

    let s3 = S3::unconditional().await;
    for place in [5, 4] {
        s3.write(put(&key("k"), place.to_string(), place)).await.unwrap();
    }
    let held = s3.object("k").unwrap();
    assert_eq!((&held.body[..], held.version), (&b"4"[..], None), "the later one wins, and bears no version");
}

/// Only a change that comes between the look and the put is not seen there.
#[tokio::test]
async fn a_store_that_ignores_conditions_still_takes_nothing_older_than_it_shows() {
    let s3 = S3::start_with(Conditions::Ignored, |config| config).await;
    s3.write(put(&key("k"), "new", 5)).await.unwrap();
    let answer = s3.write(put(&key("k"), "old", 4)).await;
    assert!(matches!(answer, Err(UpdateError::Conflict)), "{answer:?}");
    assert_eq!(s3.object("k").unwrap().body, b"new");
}

#[tokio::test]
async fn what_is_unchanged_does_not_come_again() {
    let s3 = S3::start().await;
    s3.write(put(&key("k"), "value", 1)).await.unwrap();
    let Found::Value(value) = load(&s3.origin, "k").await.unwrap().found else { panic!("it is there") };
    let again = || LoadRequest { previous: Some(value.clone()), ..request(&key("k")) };
    assert_eq!(s3.origin.load(again()).await.unwrap().found, Found::Unchanged);
    s3.write(put(&key("k"), "other", 2)).await.unwrap();
    assert!(matches!(s3.origin.load(again()).await.unwrap().found, Found::Value(value) if &value[..] == b"other"));
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_before_it_is_read() {
    let s3 = S3::start().await;
    s3.write(put(&key("k"), "value", 1)).await.unwrap();
    let small = LoadRequest { value_len_max: 4, ..request(&key("k")) };
    let error = s3.origin.load(small).await.unwrap_err();
    assert_eq!(error.downcast_ref::<Error>().map(Error::kind), Some(ErrorKind::TooLarge));
}

/// What nobody finds because of the store's settings is not "not found", and no change is to blame for it.
#[tokio::test]
async fn a_bucket_that_is_not_there_and_a_secret_that_is_wrong_are_failures() {
    let s3 = S3::start().await;
    let elsewhere = ObjectOrigin::open(config_of("s3://other", &s3.server, SECRET)).unwrap();
    let stranger = ObjectOrigin::open(config(&s3.server, "12345")).unwrap();
    for origin in [elsewhere, stranger] {
        let error = load(&origin, "k").await.unwrap_err().to_string();
        assert!(error.contains("the object store") && !error.contains("12345"), "{error}");
        for change in [put(&key("k"), "v", 1), delete(&key("k"), 1)] {
            let answer = origin.update(change).await;
            assert!(matches!(answer, Err(UpdateError::Unreached(_))), "{answer:?}");
        }
    }
    let files = files();
    std::fs::remove_dir(files.folder.path()).unwrap();
    assert!(load(&files.origin, "k").await.is_err(), "the folder is gone");
}

#[tokio::test]
async fn a_server_that_is_away_was_not_reached() {
    let server = Server::start(|_| Answer::Close(Vec::new())).await;
    let away = config(&server, SECRET);
    drop(server);
    let origin = ObjectOrigin::open(away).unwrap();
    // The port is free once the listener's task is gone.
    tokio::task::yield_now().await;
    assert!(load(&origin, "k").await.is_err());
    let answer = origin.update(put(&key("k"), "v", 1)).await;
    assert!(matches!(answer, Err(UpdateError::Unreached(_))), "{answer:?}");
}

#[tokio::test]
async fn objects_in_memory_are_compared_too() {
    let origin = ObjectOrigin::open(ObjectConfig::new("memory:///")).unwrap();
    origin.update(put(&key("k"), "new", 5)).await.unwrap();
    assert!(matches!(origin.update(put(&key("k"), "old", 4)).await, Err(UpdateError::Conflict)));
    assert!(matches!(load(&origin, "k").await.unwrap().found, Found::Value(value) if &value[..] == b"new"));
}

#[test]
fn settings_that_cannot_work_are_refused_and_no_secret_is_shown() {
    let setting = |config: ObjectConfig| ObjectOrigin::open(config).map(drop).unwrap_err().setting();
    for url in ["", "bucket", "ftp://host/path", "file:///no/such/folder", "https://user:hunter2@host/path"] {
        assert_eq!(setting(ObjectConfig::new(url)), "url", "{url}");
    }
    let s3 = || ObjectConfig::new("s3://bucket").option("aws_endpoint", "http://127.0.0.1:1");
    assert_eq!(setting(s3().option("aws_regoin", "x")), "options");
    assert_eq!(setting(s3().option("timeout", "1s")), "options");
    assert_eq!(setting(s3().option("aws_access_key_id", "x")), "options", "half of the credentials");
    assert_eq!(setting(ObjectConfig::new("memory:///").option("aws_region", "x")), "options");
    let config = s3().option("aws_access_key_id", KEY_ID).option("aws_secret_access_key", SECRET);
    let shown = format!("{config:?} {:?}", ObjectOrigin::open(config.clone()).unwrap());
    assert!(!shown.contains(SECRET), "{shown}");
}
