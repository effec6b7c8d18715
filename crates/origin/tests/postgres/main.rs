//! The PostgreSQL origin, against a real server.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by its panic")]

#[cfg(feature = "journal")]
#[path = "../support/behind.rs"]
mod behind;
#[expect(dead_code, reason = "a benchmark has it do more")]
mod server;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use larder_core::{
    Error, Found, Key, LoadError, LoadRequest, Loaded, Loader, Store, Update, UpdateError, loader_contract,
    store_contract,
    testing::{
        loader::{Arrange, SECRET, request},
        needs::needs,
        store::{self, delete, put},
    },
};
use larder_origin::{ConfigError, PostgresConfig, PostgresOrigin};
use server::{Admin, Server};
use tokio::time::timeout;
use tokio_postgres::types::ToSql;

fn key(bytes: impl AsRef<[u8]>) -> Key {
    Key::copy_from(bytes.as_ref()).unwrap()
}

async fn load(origin: &PostgresOrigin, name: impl AsRef<[u8]>) -> Result<Loaded, LoadError> {
    origin.load(request(&key(name))).await
}

async fn load_many(origin: &PostgresOrigin, keys: &[&str]) -> Vec<Found> {
    let requests = keys.iter().map(|name| request(&key(name))).collect();
    origin.load_many(requests).await.unwrap().into_iter().map(|answer| answer.unwrap().found).collect()
}

fn value(value: &'static str) -> Found {
    Found::Value(value.into())
}

/// A server with these tables, and an origin on it.
struct Postgres {
    origin: PostgresOrigin,
    admin: Admin,
    server: Server,
}

impl Postgres {
    fn new(tables: &str, select: &str) -> Self {
        Self::with(tables, select, |config| config)
    }

    fn with(tables: &str, select: &str, configure: impl FnOnce(PostgresConfig) -> PostgresConfig) -> Self {
        let server = Server::start();
        let admin = server.admin();
        admin.run(tables);
        let origin = PostgresOrigin::new(configure(PostgresConfig::new(server.url(), select))).unwrap();
        Self { origin, admin, server }
    }

    /// Text and integers as they are in most tables.
    fn users(configure: impl FnOnce(PostgresConfig) -> PostgresConfig) -> Self {
        let tables =
            "CREATE TABLE users (id int PRIMARY KEY, body text); INSERT INTO users VALUES (42, 'Ada'), (7, 'Bo')";
        Self::with(tables, SELECT, configure)
    }

    /// The queries of the origin that run at the server.
    fn active(&self) -> u64 {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = $1 AND state = 'active'";
        self.admin.run_with(sql, vec![Box::new("larder")])
    }

    /// The connections of the origin.
    fn connections(&self) -> u64 {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = $1";
        self.admin.run_with(sql, vec![Box::new("larder")])
    }
}

const SELECT: &str = "SELECT body FROM users WHERE id = $1";

/// A table whose rows may hang or fail.
struct Held(Postgres);

impl Held {
    fn new(batch_len_max: usize) -> Self {
        const VALUE: &str = "CASE state WHEN 'hang' THEN pg_sleep(3600)::text::bytea
            WHEN 'fail' THEN convert_from(value, 'UTF8')::json::text::bytea ELSE value END";
        let many = format!("SELECT key, {VALUE} FROM held WHERE key = ANY($1)");
        Self(Postgres::with(
            "CREATE TABLE held (key bytea PRIMARY KEY, state text, value bytea)",
            &format!("SELECT {VALUE} FROM held WHERE key = $1"),
            |config| config.select_many(many).batch_len_max(batch_len_max),
        ))
    }

    fn hold(&self, key: &Key, state: &'static str, value: &[u8]) -> bool {
        let sql = "INSERT INTO held VALUES ($1, $2, $3)
            ON CONFLICT (key) DO UPDATE SET state = excluded.state, value = excluded.value";
        let parameters: Vec<Box<dyn ToSql + Sync + Send>> =
            vec![Box::new(key.as_bytes().to_vec()), Box::new(state), Box::new(value.to_vec())];
        self.0.admin.run_with(sql, parameters) == 1
    }
}

impl Arrange for Held {
    fn loader(&self) -> &dyn Loader {
        &self.0.origin
    }

    fn put(&self, key: &Key, value: &[u8]) -> bool {
        self.hold(key, "value", value)
    }

    fn hang(&self, key: &Key) -> bool {
        self.hold(key, "hang", &[])
    }

    fn fail(&self, key: &Key) -> bool {
        self.hold(key, "fail", SECRET.as_bytes())
    }
}

loader_contract!(needs "postgres", contract, Held::new(60));

/// A table of keys, values and versions whose trigger has what a test says happen to those who write a key.
struct Written(Postgres);

const SELECT_WRITTEN: &str = "SELECT value FROM written WHERE key = $1";
const UPSERT: &str = "INSERT INTO written VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const UPSERT_MANY: &str = "INSERT INTO written SELECT * FROM unnest($1::text[], $2::bytea[])
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const DELETE: &str = "DELETE FROM written WHERE key = $1";
const FENCED_UPSERT: &str = "INSERT INTO written VALUES ($1, $2, $3)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version
    WHERE excluded.version >= written.version";
const FENCED_UPSERT_MANY: &str = "INSERT INTO written SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::text[])
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version
    WHERE excluded.version >= written.version";
const FENCED_DELETE: &str = "DELETE FROM written WHERE key = $1 AND version <= $3";

impl Written {
    /// With keys that are text.
    fn plain() -> Self {
        Self::new("text", |config| config.upsert(UPSERT).delete(DELETE))
    }

    /// The same, in batches.
    fn in_batches() -> Self {
        Self::new("text", |config| config.upsert(UPSERT).delete(DELETE).upsert_many(UPSERT_MANY))
    }

    /// With keys that are bytes.
    fn fenced() -> Self {
        Self::new("bytea", |config| {
            config.upsert(FENCED_UPSERT).delete(FENCED_DELETE).upsert_many(FENCED_UPSERT_MANY).batch_len_max(60)
        })
    }

    fn new(key: &str, configure: impl FnOnce(PostgresConfig) -> PostgresConfig) -> Self {
        let tables = format!(
            "CREATE TABLE written (key {key} PRIMARY KEY, value bytea, version text);
             CREATE TABLE moods (key {key} PRIMARY KEY, mood text);
             CREATE FUNCTION obey() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE mood text := (SELECT mood FROM moods WHERE moods.key = NEW.key);
             BEGIN
                 IF mood = 'keep out' THEN RAISE EXCEPTION 'the password is {SECRET}' USING ERRCODE = '53100'; END IF;
                 IF mood = 'refuse' THEN RAISE EXCEPTION 'the password is {SECRET}'; END IF;
                 IF mood = 'break off' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                 IF mood = 'hang' THEN PERFORM pg_sleep(3600); END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER obey BEFORE INSERT OR UPDATE ON written FOR EACH ROW EXECUTE FUNCTION obey()"
        );
        Self(Postgres::with(&tables, SELECT_WRITTEN, configure))
    }

    fn set_mood(&self, key: &Key, mood: &str) -> bool {
        let key = str::from_utf8(key.as_bytes()).unwrap();
        self.0.admin.run(&format!("INSERT INTO moods VALUES ('{key}', '{mood}')"));
        true
    }
}

impl store::Arrange for Written {
    fn store(&self) -> &dyn Store {
        &self.0.origin
    }

    fn loader(&self) -> &dyn Loader {
        &self.0.origin
    }

    fn refuse(&self, key: &Key) -> bool {
        self.set_mood(key, "refuse")
    }

    fn keep_out(&self, key: &Key) -> bool {
        self.set_mood(key, "keep out")
    }

    fn break_off(&self, key: &Key) -> bool {
        self.set_mood(key, "break off")
    }

    fn hang(&self, key: &Key) -> bool {
        self.set_mood(key, "hang")
    }
}

store_contract!(needs "postgres", writes, Written::plain());
store_contract!(needs "postgres", writes_that_are_fenced_and_in_batches, Written::fenced());
#[cfg(feature = "journal")]
behind::behind_contract!(needs "postgres", behind_writes_in_batches, Written::fenced());

#[tokio::test]
async fn keys_and_values_are_text_bytes_json_numbers_and_uuids() {
    if !needs("postgres") {
        return;
    }
    let postgres = Postgres::new("", "SELECT ''");
    let uuid = "0193a5c8-e000-7000-8010-00000000002a";
    let types = [
        ("text", "é", Some("é")),
        ("varchar(5)", "é", Some("é")),
        ("bytea", "é", Some("é")),
        ("smallint", "-42", Some("-42")),
        ("int", "42", Some("42")),
        ("bigint", "42", Some("42")),
        ("uuid", uuid, Some(uuid)),
        ("text", "NULL", None),
    ];
    for (of, name, found) in types {
        let tables = format!("DROP TABLE IF EXISTS t; CREATE TABLE t (k {of}, v {of})");
        postgres.admin.run(&tables);
        let literal = found.map_or("NULL".to_owned(), |found| {
            if of == "bytea" { format!("convert_to('{found}', 'UTF8')") } else { format!("'{found}'") }
        });
        let stored = if of == "bytea" { format!("convert_to('{name}', 'UTF8')") } else { format!("'{name}'") };
        postgres.admin.run(&format!("INSERT INTO t VALUES ({stored}, {literal})"));
        let config = PostgresConfig::new(postgres.server.url(), "SELECT v FROM t WHERE k = $1")
            .select_many("SELECT k, v FROM t WHERE k = ANY($1)")
            .upsert("UPDATE t SET v = $2 WHERE k = $1");
        let origin = PostgresOrigin::new(config).unwrap();
        assert!(origin.check().await.unwrap(), "{of}");
        let expected = found.map_or(Found::Nothing, value);
        assert_eq!(load(&origin, name).await.unwrap().found, expected, "{of}");
        assert_eq!(load_many(&origin, &[name, "no such"]).await, [expected, Found::Nothing], "{of}");
        origin.update(put(&key(name), name, 1)).await.unwrap();
        assert_eq!(load(&origin, name).await.unwrap().found, value(name), "{of}");
    }
    for of in ["json", "jsonb"] {
        let select = format!("SELECT ('{{\"of\": ' || to_json($1::text)::text || '}}')::{of}");
        let origin = PostgresOrigin::new(PostgresConfig::new(postgres.server.url(), select)).unwrap();
        assert_eq!(load(&origin, "a").await.unwrap().found, value(r#"{"of": "a"}"#), "{of}");
    }
}

#[tokio::test]
async fn a_key_that_no_row_can_have_is_nothing_and_takes_no_write() {
    if !needs("postgres") {
        return;
    }
    let upsert = "INSERT INTO users VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body";
    let postgres = Postgres::users(|config| config.upsert(upsert).delete("DELETE FROM users WHERE id = $1"));
    let keys: [&[u8]; 6] = [b"x", b"042", b" 42", b"42.0", b"2147483648", b"\xff"];
    for name in keys {
        assert_eq!(load(&postgres.origin, name).await.unwrap(), Loaded::nothing());
        let answer = postgres.origin.update(put(&key(name), "v", 1)).await;
        assert!(matches!(answer, Err(UpdateError::Refused(_))), "{answer:?}");
        postgres.origin.update(delete(&key(name), 1)).await.unwrap();
    }
    let answer = postgres.origin.update(put(&key("42"), b"not text: \xff", 1)).await;
    assert!(matches!(answer, Err(UpdateError::Refused(_))), "{answer:?}");
    assert_eq!(load(&postgres.origin, "42").await.unwrap(), Loaded::value("Ada"));
}

#[tokio::test]
async fn a_batch_is_one_statement() {
    if !needs("postgres") {
        return;
    }
    // The single statements fail for every key, so that only the others can have answered.
    let fails = "SELECT json_build_object($1::text, 1 / (length($1::text) - length($1::text)))";
    let postgres = Postgres::with("CREATE TABLE written (key text PRIMARY KEY, value bytea)", fails, |config| {
        config
            .select_many("SELECT key, value FROM written WHERE key = ANY($1)")
            .upsert("INSERT INTO written SELECT $1, $2 WHERE 1 / (length($1::text) - length($1::text)) > 0")
            .upsert_many(UPSERT_MANY)
    });
    load(&postgres.origin, "a").await.unwrap_err();
    postgres.origin.update(put(&key("a"), "1", 1)).await.unwrap_err();
    let answers = postgres.origin.update_many(vec![put(&key("a"), "1", 1), put(&key("b"), "2", 1)]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(load_many(&postgres.origin, &["b", "a"]).await, [value("2"), value("1")]);
}

/// A sequence counts what is undone as well: so many statements the server was asked for.
#[tokio::test]
async fn a_poison_change_is_found_in_few_statements_and_holds_up_no_other() {
    if !needs("postgres") {
        return;
    }
    let written = Written::in_batches();
    written.0.admin.run(
        "CREATE SEQUENCE asked;
         CREATE FUNCTION count_asked() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM nextval('asked'); RETURN NULL; END $$;
         CREATE TRIGGER count BEFORE INSERT ON written FOR EACH STATEMENT EXECUTE FUNCTION count_asked()",
    );
    let poison = [17, 60];
    for at in poison {
        written.set_mood(&key(format!("k{at}")), "refuse");
    }
    let batch = (0..100).map(|at| put(&key(format!("k{at}")), "v", 1)).collect();
    for (at, answer) in written.0.origin.update_many(batch).await.iter().enumerate() {
        match poison.contains(&at) {
            true => assert!(matches!(answer, Err(UpdateError::Refused(_))), "{answer:?}"),
            false => assert!(answer.is_ok(), "{at}: {answer:?}"),
        }
    }
    let within = written.0.admin.run_with("SELECT FROM asked WHERE last_value <= $1", vec![Box::new(32_i64)]);
    assert_eq!(within, 1, "more statements than that for two of a hundred");
}

#[tokio::test]
async fn keys_that_the_database_spells_otherwise_are_found_alone_and_in_a_batch() {
    if !needs("postgres") {
        return;
    }
    let postgres = Postgres::with(
        "CREATE TABLE t (k char(5), v text); INSERT INTO t VALUES ('ab', 'found'), ('abcde', 'whole')",
        "SELECT v FROM t WHERE k = $1",
        |config| config.select_many("SELECT k, v FROM t WHERE k = ANY($1)"),
    );
    let keys = ["abcde", "ab", "ab   ", "x"];
    let expected = [value("whole"), value("found"), value("found"), Found::Nothing];
    assert_eq!(load_many(&postgres.origin, &keys).await, expected);
    for (key, expected) in keys.iter().zip(expected) {
        assert_eq!(load(&postgres.origin, key).await.unwrap().found, expected, "{key:?}");
    }
}

#[tokio::test]
async fn a_batch_with_one_value_too_large_brings_the_others() {
    if !needs("postgres") {
        return;
    }
    let many = "SELECT id, body FROM users WHERE id = ANY($1)";
    let postgres = Postgres::users(|config| config.select_many(many));
    postgres.admin.run("UPDATE users SET body = repeat('x', 5000) WHERE id = 7");
    let small = |name| LoadRequest { value_len_max: 100, ..request(&key(name)) };
    let answers = postgres.origin.load_many(vec![small("7"), small("42")]).await.unwrap();
    assert!(answers[0].as_ref().unwrap_err().downcast_ref::<Error>().unwrap().is_too_large());
    assert_eq!(answers[1].as_ref().unwrap(), &Loaded::value("Ada"));
}

#[tokio::test]
async fn what_the_server_refuses_before_a_commit_changed_nothing() {
    if !needs("postgres") {
        return;
    }
    let written = Written::in_batches();
    written.0.admin.run(
        "ALTER TABLE written ADD CHECK (length(value) < 10);
         CREATE TABLE of (key text PRIMARY KEY, value text REFERENCES written DEFERRABLE INITIALLY DEFERRED)",
    );
    let refused = |answer: Result<(), UpdateError>, code: &str| {
        let Err(UpdateError::Refused(error)) = answer else { panic!("{answer:?}") };
        assert!(error.to_string().contains(code), "{error}");
    };
    refused(written.0.origin.update(put(&key("k"), "much too long", 1)).await, "23514");
    let of = PostgresConfig::new(written.0.server.url(), "SELECT value FROM of WHERE key = $1")
        .upsert("INSERT INTO of VALUES ($1, $2)");
    let of = PostgresOrigin::new(of).unwrap();
    // Checked at the commit.
    refused(of.update(put(&key("k"), "missing", 1)).await, "23503");
    written.0.admin.run("DROP TABLE of");
    refused(of.update(put(&key("k"), "missing", 1)).await, "42P01");
    let timed_out = format!("{} options='-c lock_timeout=1'", written.0.server.url());
    let locked = PostgresConfig::new(timed_out, SELECT_WRITTEN).upsert(UPSERT);
    let locked = PostgresOrigin::new(locked).unwrap();
    locked.update(put(&key("k"), "v", 1)).await.unwrap();
    written.0.admin.run("BEGIN; UPDATE written SET value = 'held'");
    let answer = locked.update(put(&key("k"), "w", 2)).await;
    let Err(UpdateError::Unreached(error)) = answer else { panic!("whoever holds it lets go of it: {answer:?}") };
    assert!(error.to_string().contains("55P03"), "{error}");
    written.0.admin.run("ROLLBACK");
    assert_eq!(load(&written.0.origin, "k").await.unwrap(), Loaded::value("v"));
}

#[tokio::test]
async fn a_mistaken_statement_is_named() {
    if !needs("postgres") {
        return;
    }
    let postgres = Postgres::users(|config| config);
    let check = async |config: PostgresConfig| PostgresOrigin::new(config).unwrap().check().await.unwrap_err();
    let selects = [
        ("SELECT body FROM users", "must take one parameter, $1"),
        ("SELECT body FROM users WHERE id = $1 OR id = $2", "must take one parameter, $1"),
        ("SELEC body FROM users WHERE id = $1", "syntax error at or near \"SELEC\""),
        ("SELECT bdy FROM users WHERE id = $1", "column \"bdy\" does not exist"),
        ("SELECT body FROM user_s WHERE id = $1", "relation \"user_s\" does not exist"),
        ("SELECT id, body FROM users WHERE id = $1", "returns 2 columns, and should only the value"),
        ("SELECT now() FROM users WHERE id = $1", "its column now is of the type timestamptz: cast it to text"),
        ("SELECT body FROM users WHERE id = $1::numeric", "its $1 is of the type numeric: cast it to text"),
        ("SELECT body FROM users WHERE id = $1; DROP TABLE users", "multiple commands"),
    ];
    for (select, message) in selects {
        let error = check(PostgresConfig::new(postgres.server.url(), select)).await;
        assert_eq!(error.setting(), "select");
        assert!(error.message().contains(message), "{error}");
    }
    let config = || PostgresConfig::new(postgres.server.url(), SELECT);
    let upsert = "INSERT INTO users VALUES ($1, $2)";
    let fenced = "UPDATE users SET body = $2 WHERE id = $1 AND '' < $3";
    let others = [
        (config().select_many(SELECT), "select_many", "its $1 is of the type int4: cast it to an array of text"),
        (config().select_many("SELECT id FROM users WHERE id = ANY($1)"), "select_many", "returns 1 columns"),
        (config().upsert("DELETE FROM users WHERE id = $1"), "upsert", "must take $1, the key, and $2, the value"),
        (config().upsert("UPDATE users SET body = $2 WHERE id = $1 OR id = $4"), "upsert", "parameter $3"),
        (config().upsert(format!("{upsert} RETURNING id")), "upsert", "returns columns"),
        (config().upsert("UPDATE users SET body = $2 WHERE id = $1 AND id < $3"), "upsert", "cast its $3 to text"),
        (config().delete("DELETE FROM users WHERE id = $1 AND body = $2"), "delete", "may take $3"),
        (config().delete("DELETE FROM users"), "delete", "could not determine data type of parameter $1"),
        (config().upsert(upsert).upsert_many(upsert), "upsert_many", "cast it to an array of text"),
        (
            config().upsert(fenced).upsert_many("INSERT INTO users SELECT * FROM unnest($1::int[], $2::text[])"),
            "upsert_many",
            "must name $3, the version, if upsert does",
        ),
    ];
    for (config, setting, message) in others {
        let error = check(config).await;
        assert_eq!(error.setting(), setting);
        assert!(error.message().contains(message), "{error}");
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let refused = |config: PostgresConfig| PostgresOrigin::new(config).unwrap_err();
    for url in ["", "users.db", "postgres://", "mysql://h/db", "postgres://h:port/db", "host=h sslmode=maybe"] {
        let error = refused(PostgresConfig::new(url, SELECT));
        assert_eq!(error.setting(), "url", "{url}");
    }
    let config = || PostgresConfig::new(format!("postgres://me:{SECRET}@h/db"), SELECT);
    assert_eq!(refused(config().batch_len_max(0)).setting(), "batch_len_max");
    assert_eq!(refused(config().connections_max(0)).setting(), "connections_max");
    assert_eq!(refused(config().upsert_many(UPSERT_MANY)).setting(), "upsert_many");
    assert_eq!(refused(config().ca_file("/no/such/file")).setting(), "ca_file");
    let shown = format!("{:?} {:?}", config(), PostgresOrigin::new(config()).unwrap());
    assert!(!shown.contains(SECRET), "{shown}");
}

#[tokio::test]
async fn a_change_without_its_statement_is_refused() {
    if !needs("postgres") {
        return;
    }
    let postgres = Postgres::users(|config| config);
    assert!(!postgres.origin.takes_writes() && !postgres.origin.fences());
    for update in [put(&key("42"), "v", 1), delete(&key("42"), 1)] {
        let answer = postgres.origin.update(update).await;
        assert!(matches!(answer, Err(UpdateError::Refused(_))), "{answer:?}");
    }
    assert!(Written::fenced().0.origin.fences());
    assert!(!Written::plain().0.origin.fences());
}

#[tokio::test]
async fn a_server_that_is_away_is_a_failure_and_is_found_once_it_is_there() {
    if !needs("postgres") {
        return;
    }
    let mut server = Server::stopped();
    let config = PostgresConfig::new(server.url(), "SELECT $1::text").upsert("SELECT WHERE $1::text = $2::text");
    let origin = PostgresOrigin::new(config).unwrap();
    for _ in 0..2 {
        assert!(!origin.check().await.unwrap());
        let error = load(&origin, "k").await.unwrap_err().to_string();
        assert!(error.contains("can't be reached"), "{error}");
        let answer = origin.update(put(&key("k"), "v", 1)).await;
        assert!(matches!(answer, Err(UpdateError::Unreached(_))), "{answer:?}");

        server.restart();
        assert_eq!(load(&origin, "k").await.unwrap(), Loaded::value("k"));
        assert!(join_all((0..5).map(|_| load(&origin, "k"))).await.iter().all(Result::is_ok));
        // Its connections break while nobody uses them.
        server.stop();
    }
}

#[tokio::test]
async fn a_query_that_is_given_up_is_cancelled_at_the_server() {
    if !needs("postgres") {
        return;
    }
    let held = Held::new(1);
    let hanging = key("hanging");
    assert!(held.hang(&hanging));
    let given_up = (0..5).map(|_| timeout(Duration::from_millis(200), held.0.origin.load(request(&hanging))));
    assert!(join_all(given_up).await.iter().all(Result::is_err));
    while held.0.active() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn there_are_never_more_connections_than_configured() {
    if !needs("postgres") {
        return;
    }
    let postgres = Postgres::with(
        "CREATE TABLE gate ()",
        "SELECT $1::text FROM (SELECT count(*) FROM gate) AS waited",
        |config| config.connections_max(3),
    );
    let origin = Arc::new(postgres.origin);
    assert!(origin.check().await.unwrap());
    // What a transaction sees of others' activity stays as it was.
    let locker = postgres.server.admin();
    locker.run("BEGIN; LOCK gate");
    let loads: Vec<_> = (0..20)
        .map(|_| {
            let origin = Arc::clone(&origin);
            tokio::spawn(async move { load(&origin, "k").await.unwrap() })
        })
        .collect();
    let postgres = Postgres { origin: PostgresOrigin::new(PostgresConfig::new("host=h", SELECT)).unwrap(), ..postgres };
    while postgres.active() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(postgres.connections(), 3);
    locker.run("COMMIT");
    for load in loads {
        assert_eq!(load.await.unwrap(), Loaded::value("k"));
    }
    assert_eq!(postgres.connections(), 3);
}

#[tokio::test]
async fn tables_may_change_while_it_is_open() {
    if !needs("postgres") {
        return;
    }
    let postgres = Postgres::users(|config| config);
    assert!(join_all((0..5).map(|_| load(&postgres.origin, "42"))).await.iter().all(Result::is_ok));
    postgres.admin.run("ALTER TABLE users ADD COLUMN age int; INSERT INTO users VALUES (8, 'Cy')");
    assert_eq!(load(&postgres.origin, "8").await.unwrap(), Loaded::value("Cy"));
    // What was prepared holds no more, on any connection: one load hears of it.
    postgres.admin.run("ALTER TABLE users ALTER COLUMN body TYPE bytea USING convert_to(body, 'UTF8')");
    load(&postgres.origin, "8").await.unwrap_err();
    for _ in 0..5 {
        assert_eq!(load(&postgres.origin, "8").await.unwrap(), Loaded::value("Cy"));
    }
}

#[tokio::test]
async fn passwords_and_certificates_are_checked_and_never_told() {
    if !needs("postgres") {
        return;
    }
    let certificate = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (made, other) = (certificate(), certificate());
    let files = tempfile::tempdir().unwrap();
    let (ca_file, other_file) = (files.path().join("ca.pem"), files.path().join("other.pem"));
    std::fs::write(&ca_file, made.cert.pem()).unwrap();
    std::fs::write(&other_file, other.cert.pem()).unwrap();
    let server = Server::start_with_tcp(
        &["ssl=on"],
        &[("server.crt", &made.cert.pem()), ("server.key", &made.signing_key.serialize_pem())],
    );
    server.admin().run(&format!("CREATE USER me PASSWORD '{SECRET}'"));
    let config = |password: &str, more: &str| {
        let address = server.address();
        let url = format!(
            "host=localhost hostaddr={} port={} user=me password={password} dbname=postgres {more}",
            address.ip(),
            address.port()
        );
        PostgresConfig::new(url, "SELECT ssl::text || $1 FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    };
    let ask = async |config: PostgresConfig| load(&PostgresOrigin::new(config).unwrap(), "!").await;
    assert_eq!(ask(config(SECRET, "")).await.unwrap(), Loaded::value("false!"));
    for mode in ["prefer", "require"] {
        let secured = || config(SECRET, &format!("sslmode={mode}"));
        assert_eq!(ask(secured().ca_file(&ca_file)).await.unwrap(), Loaded::value("true!"), "{mode}");
        let error = ask(secured().ca_file(&other_file)).await.unwrap_err().to_string();
        assert!(error.contains("certificate") && !error.contains(SECRET), "{error}");
    }
    let wrong = PostgresOrigin::new(config("wrong", "")).unwrap();
    let error: ConfigError = wrong.check().await.unwrap_err();
    assert_eq!(error.to_string(), "url: doesn't let us in: password authentication failed for user \"me\"");
    let error = load(&wrong, "k").await.unwrap_err().to_string();
    assert!(error.contains("url") && !error.contains("me\"") && !error.contains("wrong\""), "{error}");
}

#[tokio::test]
async fn of_a_change_under_which_the_server_stops_nobody_knows_what_became() {
    if !needs("postgres") {
        return;
    }
    let mut written = Written::plain();
    assert!(written.set_mood(&key("hang"), "hang"));
    let origin = Arc::new(std::mem::replace(
        &mut written.0.origin,
        PostgresOrigin::new(PostgresConfig::new("host=h", SELECT)).unwrap(),
    ));
    let update: Update = put(&key("hang"), "v", 1);
    let changing = tokio::spawn({
        let origin = Arc::clone(&origin);
        async move { origin.update(update).await }
    });
    let asleep = "SELECT 1 FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'PgSleep'";
    while written.0.admin.run_with(asleep, vec![Box::new("larder")]) == 0 {
        tokio::task::yield_now().await;
    }
    written.0.server.stop();
    let answer = changing.await.unwrap();
    assert!(matches!(answer, Err(UpdateError::Unknown(_))), "{answer:?}");
}
