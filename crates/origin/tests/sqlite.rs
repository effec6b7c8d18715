//! The SQLite origin, against real files.

#![expect(clippy::unwrap_used, reason = "a test fails by its panic")]

#[cfg(feature = "journal")]
#[path = "support/behind.rs"]
mod behind;

use std::time::Duration;

use larder_core::{
    Error, Found, Key, LoadError, Loaded, Loader, Store, Update, UpdateError, loader_contract, store_contract,
    testing::{
        loader::{Arrange, SECRET, request},
        store::{self, delete, put},
    },
};
use larder_origin::{ConfigError, SqliteConfig, SqliteOrigin};
use rusqlite::{Connection, params, types::Value as SqlValue};
use tempfile::TempDir;
use tokio::time::timeout;

/// A table in a folder of its own, with a connection that writes to it.
struct Database {
    writer: Connection,
    url: String,
    _folder: TempDir,
}

impl Database {
    fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("test.db").to_str().unwrap().to_owned();
        let writer = Connection::open(&url).unwrap();
        writer.execute_batch(sql).unwrap();
        Self { writer, url, _folder: folder }
    }

    /// Text and integers as they are in most tables.
    fn users() -> Self {
        Self::new("CREATE TABLE users (id INTEGER PRIMARY KEY, body); INSERT INTO users VALUES (42, 'Ada'), (7, 'Bo')")
    }

    fn open(&self, select: &str) -> Result<SqliteOrigin, ConfigError> {
        SqliteOrigin::open(SqliteConfig::new(&self.url, select))
    }

    fn open_many(&self, select: &str, select_many: &str) -> Result<SqliteOrigin, ConfigError> {
        SqliteOrigin::open(SqliteConfig::new(&self.url, select).select_many(select_many))
    }
}

const SELECT: &str = "SELECT body FROM users WHERE id = $1";

async fn load(origin: &SqliteOrigin, key: &str) -> Result<Loaded, LoadError> {
    origin.load(request(&Key::copy_from(key.as_bytes()).unwrap())).await
}

async fn load_many(origin: &SqliteOrigin, keys: &[&str]) -> Vec<Found> {
    let requests = keys.iter().map(|key| request(&Key::copy_from(key.as_bytes()).unwrap())).collect();
    origin.load_many(requests).await.unwrap().into_iter().map(|answer| answer.unwrap().found).collect()
}

struct Sqlite {
    database: Database,
    origin: SqliteOrigin,
}

impl Sqlite {
    fn new(batch_len_max: usize) -> Self {
        const HANG: &str = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

        let database = Database::new("PRAGMA journal_mode = WAL; CREATE TABLE held (key PRIMARY KEY, state, value)");
        let value =
            format!("CASE state WHEN 'hang' THEN ({HANG}) WHEN 'fail' THEN json(CAST(value AS TEXT)) ELSE value END");
        let select = format!("SELECT {value} FROM held WHERE key = $1");
        let many =
            format!("SELECT asked.value, {value} FROM json_each($1) AS asked JOIN held ON held.key = asked.value");
        let many = many.replace("(value AS", "(held.value AS").replace("ELSE value", "ELSE held.value");
        let config = SqliteConfig::new(&database.url, select).select_many(many).batch_len_max(batch_len_max);
        Self { origin: SqliteOrigin::open(config).unwrap(), database }
    }

    fn hold(&self, key: &Key, state: &str, value: &[u8]) -> bool {
        let key = match str::from_utf8(key.as_bytes()) {
            Ok(text) => SqlValue::Text(text.to_owned()),
            Err(_) => SqlValue::Blob(key.as_bytes().to_vec()),
        };
        let insert = "INSERT OR REPLACE INTO held VALUES (?, ?, ?)";
        self.database.writer.execute(insert, params![key, state, value]).unwrap() == 1
    }
}

impl Arrange for Sqlite {
    fn loader(&self) -> &dyn Loader {
        &self.origin
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

loader_contract!(contract, Sqlite::new(500));
loader_contract!(contract_in_small_batches, Sqlite::new(7));

#[tokio::test]
async fn text_blobs_and_numbers_are_values_and_null_is_nothing() {
    let database = Database::new(
        "CREATE TABLE t (k TEXT PRIMARY KEY, v);
         INSERT INTO t VALUES ('text', 'é'), ('blob', x'00ff'), ('empty', ''), ('integer', -7), ('real', 1.0),
                              ('large', 1e300), ('null', NULL)",
    );
    let origin = database
        .open_many("SELECT v FROM t WHERE k = $1", "SELECT k, v FROM t WHERE k IN (SELECT value FROM json_each($1))")
        .unwrap();
    let expected: [(&str, Option<&[u8]>); 8] = [
        ("text", Some("é".as_bytes())),
        ("blob", Some(b"\x00\xff")),
        ("empty", Some(b"")),
        ("integer", Some(b"-7")),
        ("real", Some(b"1.0")),
        ("large", Some(b"1.0e+300")),
        ("null", None),
        ("missing", None),
    ];
    let batch = load_many(&origin, &expected.map(|(key, _)| key)).await;
    for ((key, value), in_batch) in expected.into_iter().zip(batch) {
        let expected = value.map_or(Found::Nothing, |value| Found::Value(value.to_vec().into()));
        assert_eq!(load(&origin, key).await.unwrap().found, expected, "{key}");
        assert_eq!(in_batch, expected, "{key}");
    }
}

#[tokio::test]
async fn a_batch_is_one_statement() {
    let database = Database::users();
    // The single statement fails for every key, so that only the other one can have answered.
    let origin = database
        .open_many("SELECT json('{' || $1)", "SELECT id, body FROM users WHERE id IN (SELECT value FROM json_each($1))")
        .unwrap();
    load(&origin, "42").await.unwrap_err();
    let found = load_many(&origin, &["7", "42"]).await;
    assert_eq!(found, [Found::Value("Bo".into()), Found::Value("Ada".into())]);
}

#[tokio::test]
async fn keys_that_the_database_takes_for_one_find_the_same_alone_and_in_a_batch() {
    let database = Database::users();
    let by_id = "SELECT id, body FROM users WHERE id IN (SELECT value FROM json_each($1))";
    let by_asked = "SELECT asked.value, body FROM json_each($1) AS asked JOIN users ON users.id = asked.value";
    for select_many in [by_id, by_asked] {
        let origin = database.open_many(SELECT, select_many).unwrap();
        let keys = ["42", "042", " 42", "42.0", "43", "7"];
        for (key, in_batch) in keys.iter().zip(load_many(&origin, &keys).await) {
            assert_eq!(load(&origin, key).await.unwrap().found, in_batch, "{key:?} by {select_many}");
        }
        assert_eq!(load(&origin, "042").await.unwrap(), Loaded::value("Ada"));
    }
}

#[tokio::test]
async fn a_batch_with_one_value_too_large_brings_the_others() {
    let database = Database::users();
    database.writer.execute("UPDATE users SET body = zeroblob(5000) WHERE id = 7", []).unwrap();
    let origin =
        database.open_many(SELECT, "SELECT id, body FROM users WHERE id IN (SELECT value FROM json_each($1))").unwrap();
    let mut requests: Vec<_> = ["7", "42"].map(|key| request(&Key::new(key).unwrap())).into();
    requests.iter_mut().for_each(|request| request.value_len_max = 100);
    let answers = origin.load_many(requests).await.unwrap();
    assert!(answers[0].as_ref().unwrap_err().downcast_ref::<Error>().unwrap().is_too_large());
    assert_eq!(answers[1].as_ref().unwrap(), &Loaded::value("Ada"));
}

#[tokio::test]
async fn a_value_that_sqlite_will_not_handle_is_too_large() {
    let database = Database::users();
    database.writer.execute("UPDATE users SET body = zeroblob(100000000) WHERE id = 7", []).unwrap();
    let origin = database.open(SELECT).unwrap();
    let error = load(&origin, "7").await.unwrap_err();
    assert!(error.downcast_ref::<Error>().unwrap().is_too_large(), "{error}");
    assert_eq!(load(&origin, "42").await.unwrap(), Loaded::value("Ada"));
}

#[tokio::test]
async fn a_writers_lock_is_waited_for() {
    let database = Database::users();
    let origin = database.open(SELECT).unwrap();
    database.writer.execute_batch("BEGIN EXCLUSIVE; UPDATE users SET body = 'Eve' WHERE id = 42").unwrap();
    let mut waiting = Box::pin(load(&origin, "42"));
    // Long enough to fail in, where nothing waited.
    timeout(Duration::from_millis(100), &mut waiting).await.unwrap_err();
    database.writer.execute_batch("COMMIT").unwrap();
    assert_eq!(waiting.await.unwrap(), Loaded::value("Eve"));
}

#[tokio::test]
async fn rows_and_tables_may_change_while_it_is_open() {
    let database = Database::users();
    let origin = database.open(SELECT).unwrap();
    assert_eq!(load(&origin, "8").await.unwrap(), Loaded::nothing());
    database.writer.execute_batch("INSERT INTO users VALUES (8, 'Cy'); ALTER TABLE users ADD COLUMN age").unwrap();
    assert_eq!(load(&origin, "8").await.unwrap(), Loaded::value("Cy"));

    database.writer.execute_batch("ALTER TABLE users RENAME TO people").unwrap();
    let error = load(&origin, "8").await.unwrap_err().to_string();
    assert!(error.contains("no such table: users") && !error.contains("SELECT"), "{error}");
    database.writer.execute_batch("ALTER TABLE people RENAME TO users").unwrap();
    assert_eq!(load(&origin, "8").await.unwrap(), Loaded::value("Cy"));
}

#[test]
fn a_mistaken_statement_is_named() {
    let database = Database::users();
    let mistakes = [
        ("", "must take one parameter"),
        ("SELECT body FROM users", "must take one parameter"),
        ("SELECT body FROM users WHERE id = $2", "must take one parameter"),
        ("SELECT body FROM users WHERE id = $key", "must take one parameter"),
        ("SELECT body FROM users WHERE id = $1 OR id = $2", "must take one parameter"),
        ("SELEC body FROM users WHERE id = $1", "near \"SELEC\": syntax error, at byte 0"),
        ("SELECT bdy FROM users WHERE id = $1", "no such column: bdy, at byte 7"),
        ("SELECT body FROM user WHERE id = $1", "no such table: user, in"),
        ("SELECT body FROM users WHERE id = $1 AND (", "incomplete input"),
        ("SELECT id, body FROM users WHERE id = $1", "returns 2 columns"),
        ("DELETE FROM users WHERE id = $1 RETURNING body", "must only read"),
        ("SELECT body FROM users WHERE id = $1; DROP TABLE users", "ultiple statements"),
    ];
    for (select, message) in mistakes {
        let error = database.open(select).unwrap_err();
        assert_eq!(error.setting(), "select");
        assert!(error.message().contains(message), "{error}");
    }
    let error = database.open_many(SELECT, SELECT).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("select_many: returns 1 columns, and should only the key and the value: {SELECT:?}")
    );
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "not a database, and long enough to be sure of it".repeat(100)).unwrap();
    for path in [text, folder.path().join("missing.db"), folder.path().to_owned()] {
        let error = SqliteOrigin::open(SqliteConfig::new(path.to_str().unwrap(), SELECT)).unwrap_err();
        assert_eq!(error.setting(), "url");
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
    }
    assert!(!folder.path().join("missing.db").exists());
}

#[tokio::test]
async fn a_url_may_be_a_path_with_or_without_scheme_or_a_file_uri() {
    let database = Database::users();
    let path = &database.url;
    for url in [path.clone(), format!("sqlite:{path}"), format!("sqlite://{path}"), format!("file:{path}?mode=ro")] {
        let origin = SqliteOrigin::open(SqliteConfig::new(&url, SELECT)).unwrap();
        assert_eq!(load(&origin, "42").await.unwrap(), Loaded::value("Ada"), "{url}");
    }
}

#[test]
fn an_empty_batch_is_refused() {
    let database = Database::users();
    let error = SqliteOrigin::open(SqliteConfig::new(&database.url, SELECT).batch_len_max(0)).unwrap_err();
    assert_eq!(error.setting(), "batch_len_max");
}

#[test]
fn without_select_many_there_are_no_batches() {
    assert_eq!(Database::users().open(SELECT).unwrap().batch_len_max(), 1);
}

/// A table of keys, values and versions, and how it is written.
struct Written {
    database: Database,
    origin: SqliteOrigin,
}

const WRITTEN: &str = "CREATE TABLE written (key PRIMARY KEY, value, version TEXT) WITHOUT ROWID";
const SELECT_WRITTEN: &str = "SELECT value FROM written WHERE key = $1";
const UPSERT: &str = "INSERT INTO written VALUES ($1, $2, '') ON CONFLICT DO UPDATE SET value = excluded.value";
const DELETE: &str = "DELETE FROM written WHERE key = $1";
const UPSERT_MANY: &str = "INSERT INTO written SELECT value, $2 ->> key, '' FROM json_each($1) WHERE true
    ON CONFLICT DO UPDATE SET value = excluded.value";
const FENCED_UPSERT: &str = "INSERT INTO written VALUES ($1, $2, $3)
    ON CONFLICT DO UPDATE SET value = excluded.value, version = excluded.version WHERE excluded.version >= version";
const FENCED_DELETE: &str = "DELETE FROM written WHERE key = $1 AND version <= $3";
const FENCED_UPSERT_MANY: &str =
    "INSERT INTO written SELECT value, $2 ->> key, $3 ->> key FROM json_each($1) WHERE true
    ON CONFLICT DO UPDATE SET value = excluded.value, version = excluded.version WHERE excluded.version >= version";

impl Written {
    fn plain() -> Self {
        Self::new(|config| config.upsert(UPSERT).delete(DELETE))
    }

    fn in_batches(batch_len_max: usize) -> Self {
        Self::new(|config| config.upsert(UPSERT).delete(DELETE).upsert_many(UPSERT_MANY).batch_len_max(batch_len_max))
    }

    fn fenced() -> Self {
        Self::new(|config| config.upsert(FENCED_UPSERT).delete(FENCED_DELETE).upsert_many(FENCED_UPSERT_MANY))
    }

    fn new(configure: impl FnOnce(SqliteConfig) -> SqliteConfig) -> Self {
        let database = Database::new(&format!("PRAGMA journal_mode = WAL; {WRITTEN}"));
        let config = configure(SqliteConfig::new(&database.url, SELECT_WRITTEN));
        Self { origin: SqliteOrigin::open(config).unwrap(), database }
    }

    /// Has something happen whenever `key` is written.
    fn on(&self, key: &Key, what: &str) -> bool {
        let key = str::from_utf8(key.as_bytes()).unwrap();
        for (name, event) in [("inserted", "INSERT"), ("updated", "UPDATE")] {
            let trigger = format!(
                "CREATE TRIGGER IF NOT EXISTS {name} BEFORE {event} ON written WHEN NEW.key = '{key}' BEGIN {what}; END"
            );
            self.database.writer.execute_batch(&trigger).unwrap();
        }
        true
    }

    async fn held(&self, key: &str) -> Found {
        load(&self.origin, key).await.unwrap().found
    }
}

const NEVER_ENDS: &str =
    "SELECT count(*) FROM (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n)";

impl store::Arrange for Written {
    fn store(&self) -> &dyn Store {
        &self.origin
    }

    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    fn refuse(&self, key: &Key) -> bool {
        self.on(key, &format!("SELECT RAISE(ABORT, 'the password is {SECRET}')"))
    }

    fn keep_out(&self, _: &Key) -> bool {
        false
    }

    fn break_off(&self, _: &Key) -> bool {
        false
    }

    fn hang(&self, key: &Key) -> bool {
        self.on(key, NEVER_ENDS)
    }

    fn is_one_after_another(&self) -> bool {
        true
    }
}

store_contract!(writes, Written::plain());
store_contract!(writes_in_batches, Written::in_batches(500));
store_contract!(writes_in_small_batches, Written::in_batches(7));
store_contract!(writes_that_are_fenced, Written::fenced());
#[cfg(feature = "journal")]
behind::behind_contract!(behind_writes, Written::plain());
#[cfg(feature = "journal")]
behind::behind_contract!(behind_writes_in_batches, Written::in_batches(7));

async fn make(origin: &SqliteOrigin, update: Update) -> Result<(), UpdateError> {
    origin.update(update).await
}

fn key(name: &str) -> Key {
    Key::copy_from(name.as_bytes()).unwrap()
}

fn refusal(answer: Result<(), UpdateError>) -> String {
    let Err(UpdateError::Refused(error) | UpdateError::Unreached(error)) = answer else { panic!("{answer:?}") };
    error.to_string()
}

#[tokio::test]
async fn what_was_deleted_with_its_version_kept_is_not_brought_back_by_an_older_write() {
    const KEEP: &str = "UPDATE written SET value = NULL, version = $3 WHERE key = $1 AND version <= $3";
    let written = Written::new(|config| config.upsert(FENCED_UPSERT).delete(KEEP));
    make(&written.origin, put(&key("k"), "v", 1)).await.unwrap();
    make(&written.origin, delete(&key("k"), 3)).await.unwrap();
    let late = make(&written.origin, put(&key("k"), "late", 2)).await;
    assert!(matches!(late, Err(UpdateError::Conflict)), "{late:?}");
    assert_eq!(written.held("k").await, Found::Nothing);
}

#[tokio::test]
async fn text_is_written_as_text_and_all_else_as_a_blob() {
    let written = Written::in_batches(10);
    let values: [(&str, &[u8], &str); 5] = [
        ("text", "é".as_bytes(), "text"),
        ("number", b"042", "text"),
        ("empty", b"", "text"),
        ("nul", b"a\0b", "blob"),
        ("bytes", b"\xff", "blob"),
    ];
    let batch: Vec<Update> = values.iter().map(|(name, value, _)| put(&key(name), value, 1)).collect();
    assert!(written.origin.update_many(batch).await.iter().all(Result::is_ok));
    for (name, value, in_batch) in values {
        let type_of = || -> String {
            let sql = "SELECT typeof(value) FROM written WHERE key = ?";
            written.database.writer.query_row(sql, [name], |row| row.get(0)).unwrap()
        };
        assert_eq!(type_of(), in_batch, "{name}");
        make(&written.origin, put(&key(name), value, 2)).await.unwrap();
        assert_eq!(type_of(), in_batch, "{name}");
    }
}

#[tokio::test]
async fn a_batch_is_one_statement_and_one_transaction() {
    // The single statement fails for every key, so that only the other one can have answered.
    let refused = "INSERT INTO written VALUES ($1, json('{' || $2), '')";
    let written = Written::new(|config| config.upsert(refused).delete(DELETE).upsert_many(UPSERT_MANY));
    make(&written.origin, put(&key("a"), "1", 1)).await.unwrap_err();
    let batch = vec![put(&key("a"), "1", 1), delete(&key("c"), 1), put(&key("b"), "2", 1)];
    let answers = written.origin.update_many(batch).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(written.held("b").await, Found::Value("2".into()));
}

#[tokio::test]
async fn a_constraint_is_a_refusal_also_one_that_is_checked_last() {
    let written = Written::plain();
    let sql = "CREATE TABLE of (key PRIMARY KEY REFERENCES written DEFERRABLE INITIALLY DEFERRED);
               CREATE TABLE small (key PRIMARY KEY, value CHECK (length(value) < 3))";
    written.database.writer.execute_batch(sql).unwrap();
    let small = SqliteConfig::new(&written.database.url, "SELECT value FROM small WHERE key = $1")
        .upsert("INSERT INTO small VALUES ($1, $2)");
    let small = SqliteOrigin::open(small).unwrap();
    let why = refusal(make(&small, put(&key("k"), "long", 1)).await);
    assert!(why.contains("275"), "SQLITE_CONSTRAINT_CHECK: {why}");
    let of = SqliteConfig::new(&written.database.url, "SELECT key FROM of WHERE key = $1")
        .upsert("INSERT INTO of SELECT $1 WHERE $2 <> ''");
    let of = SqliteOrigin::open(of).unwrap();
    let why = refusal(make(&of, put(&key("k"), "v", 1)).await);
    assert!(why.contains("787"), "SQLITE_CONSTRAINT_FOREIGNKEY: {why}");
    assert_eq!(load(&of, "k").await.unwrap().found, Found::Nothing);
    make(&written.origin, put(&key("k"), "v", 1)).await.unwrap();
    make(&of, put(&key("k"), "v", 2)).await.unwrap();
}

#[tokio::test]
async fn another_writers_lock_is_waited_for() {
    let written = Written::plain();
    written.database.writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting = Box::pin(make(&written.origin, put(&key("k"), "v", 1)));
    // Longer than one try, and long enough to fail in where nothing waited.
    timeout(Duration::from_millis(300), &mut waiting).await.unwrap_err();
    assert_eq!(written.held("k").await, Found::Nothing);
    written.database.writer.execute_batch("COMMIT").unwrap();
    waiting.await.unwrap();
    assert_eq!(written.held("k").await, Found::Value("v".into()));
}

#[tokio::test]
async fn a_write_that_is_given_up_while_it_waits_is_never_made() {
    let written = Written::plain();
    written.database.writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let given_up = make(&written.origin, put(&key("given up"), "v", 1));
    timeout(Duration::from_millis(50), given_up).await.unwrap_err();
    written.database.writer.execute_batch("COMMIT").unwrap();
    // Made after it, on the one connection that there is.
    make(&written.origin, put(&key("k"), "v", 2)).await.unwrap();
    assert_eq!(written.held("given up").await, Found::Nothing);
}

#[tokio::test]
async fn a_statement_that_ends_its_transaction_is_a_refusal_and_holds_up_none_of_its_batch() {
    let written = Written::in_batches(10);
    written.on(&key("ends"), "SELECT RAISE(ROLLBACK, 'no')");
    let batch = vec![put(&key("a"), "1", 1), put(&key("ends"), "2", 1), put(&key("b"), "3", 1)];
    let mut answers = written.origin.update_many(batch).await;
    refusal(answers.remove(1));
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(written.held("a").await, Found::Value("1".into()));
}

/// A file that has been changed counts that, so that it tells of how many transactions something was.
#[tokio::test]
async fn a_poison_change_is_found_in_few_transactions_and_holds_up_no_other() {
    let database = Database::new(WRITTEN);
    let config = SqliteConfig::new(&database.url, SELECT_WRITTEN).upsert(UPSERT).upsert_many(UPSERT_MANY);
    let written = Written { origin: SqliteOrigin::open(config).unwrap(), database };
    written.on(&key("k17"), "SELECT RAISE(ABORT, 'no')");
    let changes = || {
        let head = std::fs::read(&written.database.url).unwrap();
        u32::from_be_bytes(head[24..28].try_into().unwrap())
    };
    let before = changes();
    let batch = (0..100).map(|at| put(&key(&format!("k{at}")), "v", 1)).collect();
    for (at, answer) in written.origin.update_many(batch).await.into_iter().enumerate() {
        match at == 17 {
            true => drop(refusal(answer)),
            false => assert!(answer.is_ok(), "{at}: {answer:?}"),
        }
    }
    let made = changes() - before;
    assert!(made <= 12, "{made} transactions for one of a hundred");
}

#[tokio::test]
async fn a_change_without_its_statement_is_refused() {
    let database = Database::users();
    let only_reads = database.open(SELECT).unwrap();
    assert!(!only_reads.takes_writes());
    let why = refusal(make(&only_reads, put(&key("42"), "v", 1)).await);
    assert!(why.contains("set its upsert"), "{why}");
    let config = SqliteConfig::new(&database.url, SELECT).upsert("UPDATE users SET body = $2 WHERE id = $1");
    let origin = SqliteOrigin::open(config).unwrap();
    assert!(origin.takes_writes() && !origin.fences());
    let why = refusal(make(&origin, delete(&key("42"), 1)).await);
    assert!(why.contains("set its delete"), "{why}");
    make(&origin, put(&key("42"), "Eve", 1)).await.unwrap();
    assert_eq!(load(&origin, "42").await.unwrap(), Loaded::value("Eve"));
}

#[test]
fn a_mistaken_statement_that_writes_is_named() {
    let database = Database::new(WRITTEN);
    let open = |configure: &dyn Fn(SqliteConfig) -> SqliteConfig| {
        SqliteOrigin::open(configure(SqliteConfig::new(&database.url, SELECT_WRITTEN))).unwrap_err()
    };
    let upserts = [
        ("SELECT $1, $2", "must write"),
        ("DELETE FROM written WHERE key = $1", "must take $1, the key, and $2, the value"),
        ("INSERT INTO written VALUES ($1, $2, $4)", "and may take $3, the version, and nothing else"),
        ("INSERT INTO written VALUES (?, ?, '')", "must take $1"),
        ("INSERT INTO written VALUES ($1, $2)", "table written has 3 columns but 2 values were supplied"),
        ("INSERT INTO written VALUES ($1, $2, $3) RETURNING value", "leave RETURNING out"),
        ("INSERT INTO writen VALUES ($1, $2, $3)", "no such table: writen"),
    ];
    for (upsert, message) in upserts {
        let error = open(&|config| config.upsert(upsert));
        assert_eq!(error.setting(), "upsert");
        assert!(error.message().contains(message), "{error}");
    }
    let error = open(&|config| config.delete("DELETE FROM written WHERE key = $1 AND value = $2"));
    assert_eq!(error.setting(), "delete");
    assert!(error.message().contains("must take $1, the key, and may take $3"), "{error}");
    let error = open(&|config| config.upsert(FENCED_UPSERT).upsert_many(UPSERT_MANY));
    assert_eq!(error.to_string(), "upsert_many: must name $3, the version, if upsert does, and else not");
    let error = open(&|config| config.upsert_many(UPSERT_MANY));
    assert_eq!(error.setting(), "upsert_many");
}

#[test]
fn only_where_all_its_statements_name_the_version_does_it_fence() {
    assert!(Written::fenced().origin.fences());
    assert!(!Written::plain().origin.fences());
    assert!(!Written::new(|config| config.upsert(FENCED_UPSERT).delete(DELETE)).origin.fences());
}
