//! [`OriginConfig`]: where a group's values come from, and the short form of `--origin`.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::{
    difference::Differences,
    document::{Entry, Override, Value},
    kind::{Choice, Describe, Flag, Kind, Named, Refusal, Scalar, SubTable, Text, Whole, Works},
    mistake::Mistakes,
    section::{Absent, Default, Key, Presence, Reader, Required, Section, section},
    shapes,
};

/// The most headers that are sent to an origin.
const HEADERS_MAX: usize = 64;

/// The most options of an object store: more than any has.
const OPTIONS_MAX: usize = 64;

/// The group that `--origin` is for.
pub(super) const DEFAULT_GROUP: &str = "default";

/// Where a group's values come from.
#[derive(Clone, PartialEq, Debug)]
pub enum OriginConfig {
    /// From nowhere: the group is a plain cache.
    None,
    /// A web server.
    Http(HttpOriginConfig),
    /// An SQLite database.
    Sqlite(SqliteOriginConfig),
    /// A PostgreSQL database.
    Postgres(PostgresOriginConfig),
    /// A folder of files.
    Directory(DirectoryOriginConfig),
    /// An object store.
    Object(ObjectOriginConfig),
    /// A Redis server.
    Redis(RedisOriginConfig),
}

/// The kinds of origin; what a kind's table holds is in [`OriginTable::read`].
#[derive(Clone, Copy, PartialEq)]
enum OriginKind {
    None,
    Http,
    Sqlite,
    Postgres,
    Directory,
    Object,
    Redis,
}

const KIND: Choice<OriginKind> = Choice(&[
    Works("none", OriginKind::None),
    Works("http", OriginKind::Http),
    Works("sqlite", OriginKind::Sqlite),
    Works("postgres", OriginKind::Postgres),
    Works("directory", OriginKind::Directory),
    Works("object", OriginKind::Object),
    Works("redis", OriginKind::Redis),
]);

section! {
    /// A web server: GET of `url`. 200 is the value, 404 and 410 are "not found", anything else is a failure. Redirects are not followed.
    /// Writes are PUT and DELETE of the same URL, with `Larder-Version` (24 hexadecimal digits, later ones greater) and `Idempotency-Key`: 2xx is
    /// done, 409 and 412 say that the server has a newer version, other 4xx but 408 that nothing changed; anything else leaves it open.
    pub struct HttpOriginConfig {
        /// The URL of a value; `{key}` in its path or query stands for the key, percent-encoded. A user and password in it are sent
        /// as basic authentication.
        url: Secret = KeyUrl, Required;
        /// Whether the origin's `Cache-Control` (`max-age`, `no-store`) decides on the ttl.
        respect_cache_control: bool = Flag, Default("false");
        /// Headers that go with each request, such as `headers = { authorization = "env:ORIGIN_TOKEN" }`.
        headers: BTreeMap<String, Secret> = Named {
            suffix: "",
            names: Text { expected: "the name of a header", fits: is_header_name },
            of: HeaderValue,
            len_max: HEADERS_MAX,
        }, Default("{}");
        /// A PEM file with the certificates that an `https` origin is trusted by.
        ca_file: Option<PathBuf> = FilePath { expected: "the path of a PEM file" }, Absent("those that the system trusts");
    }
}

section! {
    /// An SQLite database. NULL or no row is "not found".
    pub struct SqliteOriginConfig {
        /// The database's file; `sqlite:` may stand before it.
        url: String = shapes::DATABASE, Required;
        /// The statement that finds a value, such as `SELECT body FROM users WHERE id = $1`.
        select: String = shapes::SQL, Required;
        /// The statement that finds many at once: `$1` is a JSON array of keys, and each row is a key as it was asked for and its value, such as
        /// `SELECT asked.value, users.body FROM json_each($1) AS asked JOIN users ON users.id = asked.value`.
        select_many: Option<String> = shapes::SQL, Absent("`select` is run for each key");
        /// The statement that writes a value. If it names `$3` it fences: it must write nothing older than what is there, and 0 rows changed is a
        /// conflict.
        upsert: Option<String> = shapes::UPSERT, Absent("no values are written");
        /// The statement that writes many values: `$1`, `$2` and `$3` are JSON arrays, such as
        /// `SELECT value, $2 ->> key, $3 ->> key FROM json_each($1)`.
        upsert_many: Option<String> = shapes::UPSERT, Absent("`upsert` is run for each value");
        /// The statement that deletes a value; with `$3` it fences too.
        delete: Option<String> = shapes::DELETE, Absent("no values are deleted");
    }
}

section! {
    /// A PostgreSQL database. NULL or no row is "not found", and so is a key that a column of the type of `$1` can't have. Keys and values are
    /// text, `bytea`, JSON, integers or UUIDs.
    pub struct PostgresOriginConfig {
        /// The database, as libpq takes it. Over TLS the server's certificate is checked. Without `sslmode` in it, TLS is used if the server
        /// has it, and not on this machine.
        url: Secret = PostgresUrl, Required;
        /// The statement that finds a value, such as `SELECT body FROM users WHERE id = $1`.
        select: String = shapes::SQL, Required;
        /// The statement that finds many at once: `$1` is an array of keys, and each row is a key and its value, such as
        /// `SELECT id, body FROM users WHERE id = ANY($1)`.
        select_many: Option<String> = shapes::SQL, Absent("`select` is run for each key");
        /// The statement that writes a value. If it names `$3` it fences: it must write nothing older than what is there, and 0 rows changed is a
        /// conflict.
        upsert: Option<String> = shapes::UPSERT, Absent("no values are written");
        /// The statement that writes many values: `$1`, `$2` and `$3` are arrays, such as `unnest($1::text[], $2::text[], $3::text[])`.
        upsert_many: Option<String> = shapes::UPSERT, Absent("`upsert` is run for each value");
        /// The statement that deletes a value; with `$3` it fences too.
        delete: Option<String> = shapes::DELETE, Absent("no values are deleted");
        /// The most connections of a node.
        connections: usize = Whole { min: 1_usize, max: 1_000 }, Default("10");
        /// A PEM file with the certificates that the server is trusted by.
        ca_file: Option<PathBuf> = FilePath { expected: "the path of a PEM file" }, Absent("those that the system trusts");
    }
}

section! {
    /// A folder with one file for each key; what lies outside it is "not found". Writes rename a new file over the old one.
    pub struct DirectoryOriginConfig {
        /// The folder.
        path: PathBuf = FilePath { expected: "the path of a folder" }, Required;
    }
}

section! {
    /// An object store: a key is the name of an object below the URL's path. Where the store keeps metadata and knows conditions, objects bear
    /// the version that they were put under as `larderversion`, and a put that is older than what is there is a conflict. Where S3's like knows
    /// no `If-Match`, say so by `aws_conditional_put = "disabled"`. Google's and Microsoft's stores are spoken to by the crate object_store,
    /// and were not tried.
    pub struct ObjectOriginConfig {
        /// The store: `s3://bucket/path` (S3 and what speaks like it), `gs://bucket/path`, `az://container/path`, `https://host/path` (WebDAV), or
        /// `file:///path` for files, which here is no file that the URL stands in. `memory:///` is for trying things out: it ends with the node.
        url: Secret = StoreUrl, Required;
        /// What the store needs to know, by the names of the crate object_store, such as `options = { aws_region = "eu-central-1",
        /// aws_access_key_id = "env:S3_KEY_ID", aws_secret_access_key = "env:S3_SECRET" }`; `aws_endpoint` for what speaks like S3. Nothing
        /// else is taken from the environment.
        options: BTreeMap<String, Secret> = Named {
            suffix: "",
            names: Text { expected: "the name of an option", fits: is_option_name },
            of: SecretText,
            len_max: OPTIONS_MAX,
        }, Default("{}");
        /// A PEM file with the certificates that the store is trusted by.
        ca_file: Option<PathBuf> = FilePath { expected: "the path of a PEM file" }, Absent("those that the system trusts");
    }
}

section! {
    /// A Redis server: GET, SET and DEL of strings. It doesn't fence.
    pub struct RedisOriginConfig {
        /// The server.
        url: Secret = RedisUrl { schemes: &["redis://", "redis+unix://", "unix://"] }, Required;
        /// What stands before each key there.
        prefix: String = shapes::LABEL, Default("\"\"");
    }
}

/// The table `origin` of a group.
pub(super) struct OriginTable;

impl Describe for OriginTable {
    fn expected(&self) -> String {
        "a table".to_owned()
    }

    fn tables(&self) -> Vec<SubTable> {
        fn table<S: Section>(kind: &'static str) -> SubTable {
            SubTable { suffix: "", variant: Some(kind), about: S::ABOUT, keys: S::KEYS }
        }
        vec![
            table::<HttpOriginConfig>("http"),
            table::<SqliteOriginConfig>("sqlite"),
            table::<PostgresOriginConfig>("postgres"),
            table::<DirectoryOriginConfig>("directory"),
            table::<ObjectOriginConfig>("object"),
            table::<RedisOriginConfig>("redis"),
        ]
    }
}

impl Kind for OriginTable {
    type Output = OriginConfig;

    fn read(&self, path: &str, entry: &Entry, mistakes: &mut Mistakes) -> Option<OriginConfig> {
        let Value::Table(table) = &entry.value else {
            mistakes.expected(entry.place, path, &self.expected(), &entry.value);
            return None;
        };
        let mut table = table.clone();
        let kind_path = format!("{path}.kind");
        let Some(kind) = table.remove("kind") else {
            mistakes.missing(entry.place, kind_path, &KIND.expected());
            return None;
        };
        // Without a kind nobody can say which keys are right.
        let kind = KIND.read(&kind_path, &kind, mistakes)?;
        let place = entry.place;
        Some(match kind {
            OriginKind::None => {
                Reader::empty(path, place, &table, mistakes);
                OriginConfig::None
            }
            OriginKind::Http => OriginConfig::Http(Reader::section(path, place, &table, mistakes)?),
            OriginKind::Sqlite => OriginConfig::Sqlite(Reader::section(path, place, &table, mistakes)?),
            OriginKind::Postgres => OriginConfig::Postgres(Reader::section(path, place, &table, mistakes)?),
            OriginKind::Directory => OriginConfig::Directory(Reader::section(path, place, &table, mistakes)?),
            OriginKind::Object => OriginConfig::Object(Reader::section(path, place, &table, mistakes)?),
            OriginKind::Redis => OriginConfig::Redis(Reader::section(path, place, &table, mistakes)?),
        })
    }
}

/// Text that must not be shown: `Debug` hides it.
///
/// # Examples
///
/// ```
/// use larder_server::config::Secret;
///
/// let token = Secret::new("Bearer 12345");
/// assert_eq!(format!("{token:?}"), "Secret(…)");
/// assert_eq!(token.reveal(), "Bearer 12345");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Any text that must not be shown, such as a password.
pub(super) struct SecretText;

impl Describe for SecretText {
    fn expected(&self) -> String {
        "text".to_owned()
    }
}

impl Scalar for SecretText {
    type Value = Secret;

    fn take(&self, value: &Value) -> Result<Secret, Refusal> {
        match value {
            Value::Text(text) => Ok(Secret::new(text)),
            _ => Err(Refusal::Unexpected),
        }
    }
}

/// The URL of an HTTP origin, with `{key}` in it.
struct KeyUrl;

impl Describe for KeyUrl {
    fn expected(&self) -> String {
        r#"an http:// or https:// URL with {key} in its path or query, such as "http://127.0.0.1:9000/users/{key}""#
            .to_owned()
    }
}

impl Scalar for KeyUrl {
    type Value = Secret;

    fn take(&self, value: &Value) -> Result<Secret, Refusal> {
        let Value::Text(text) = value else { return Err(Refusal::Unexpected) };
        let uri = text.replace("{key}", "key").parse::<http::Uri>();
        let scheme = uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
        let below = text.splitn(4, '/').nth(3).unwrap_or_default();
        if scheme && below.contains("{key}") {
            return Ok(Secret::new(text));
        }
        // What stands before an `@` may be a password, which is not shown.
        Err(if text.contains('@') {
            Refusal::Because(format!("expected {}", self.expected()))
        } else {
            Refusal::Unexpected
        })
    }
}

/// The URL of a PostgreSQL database. It may hold a password, and is never shown.
struct PostgresUrl;

impl Describe for PostgresUrl {
    fn expected(&self) -> String {
        r#"the URL of a PostgreSQL database such as "postgres://larder@127.0.0.1/users""#.to_owned()
    }
}

impl Scalar for PostgresUrl {
    type Value = Secret;

    fn take(&self, value: &Value) -> Result<Secret, Refusal> {
        let Value::Text(text) = value else { return Err(Refusal::Unexpected) };
        let has_scheme = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        // libpq's other form, in which every part has a name.
        if has_scheme || text.contains("host=") || text.contains("hostaddr=") {
            return Ok(Secret::new(text));
        }
        Err(Refusal::Because(format!("expected {}", self.expected())))
    }
}

/// The schemes that an object store's URL may have.
const STORE_SCHEMES: [&str; 12] = [
    "s3://",
    "s3a://",
    "gs://",
    "az://",
    "adl://",
    "azure://",
    "abfs://",
    "abfss://",
    "http://",
    "https://",
    "file:///",
    "memory:///",
];

/// The URL of an object store, which is never shown.
struct StoreUrl;

impl Describe for StoreUrl {
    fn expected(&self) -> String {
        r#"the URL of an object store such as "s3://bucket/path" or "file:///path""#.to_owned()
    }
}

impl Scalar for StoreUrl {
    type Value = Secret;

    fn take(&self, value: &Value) -> Result<Secret, Refusal> {
        match value {
            Value::Text(text) if STORE_SCHEMES.iter().any(|scheme| text.starts_with(scheme)) => Ok(Secret::new(text)),
            Value::Text(_) => Err(Refusal::Because(format!("expected {}", self.expected()))),
            _ => Err(Refusal::Unexpected),
        }
    }

    fn is_itself(&self, text: &str) -> bool {
        text.starts_with("file:///")
    }
}

/// Which there are is for the store to say.
fn is_option_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The URL of a Redis server. It may hold a password, and is never shown.
pub(super) struct RedisUrl {
    /// What it may begin with.
    pub(super) schemes: &'static [&'static str],
}

impl Describe for RedisUrl {
    fn expected(&self) -> String {
        r#"the URL of a Redis server such as "redis://127.0.0.1:6379/0""#.to_owned()
    }
}

impl Scalar for RedisUrl {
    type Value = Secret;

    fn take(&self, value: &Value) -> Result<Secret, Refusal> {
        match value {
            Value::Text(text) if self.schemes.iter().any(|scheme| text.starts_with(scheme)) => Ok(Secret::new(text)),
            Value::Text(_) => Err(Refusal::Because(format!("expected {}", self.expected()))),
            _ => Err(Refusal::Unexpected),
        }
    }
}

/// The value of a header: it may be a token, and is never shown.
struct HeaderValue;

impl Describe for HeaderValue {
    fn expected(&self) -> String {
        "text that can be the value of a header".to_owned()
    }
}

impl Scalar for HeaderValue {
    type Value = Secret;

    fn take(&self, value: &Value) -> Result<Secret, Refusal> {
        match value {
            Value::Text(text) if http::HeaderValue::from_str(text).is_ok() => Ok(Secret::new(text)),
            Value::Text(_) => Err(Refusal::Because(format!("expected {}", self.expected()))),
            _ => Err(Refusal::Unexpected),
        }
    }
}

/// Headers that tell where the request and its body end are not the configuration's to set.
fn is_header_name(name: &str) -> bool {
    let reserved = ["connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"];
    http::HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| !reserved.contains(&name.as_str()))
}

/// The path of a file or folder.
pub(super) struct FilePath {
    pub(super) expected: &'static str,
}

impl Describe for FilePath {
    fn expected(&self) -> String {
        self.expected.to_owned()
    }
}

impl Scalar for FilePath {
    type Value = PathBuf;

    fn take(&self, value: &Value) -> Result<PathBuf, Refusal> {
        let Value::Text(text) = value else { return Err(Refusal::Unexpected) };
        if text.is_empty() || text.contains('\0') { Err(Refusal::Unexpected) } else { Ok(PathBuf::from(text)) }
    }
}

impl Override {
    /// `--origin`: makes `url` the origin of the group `default`.
    ///
    /// | form | origin |
    /// |---|---|
    /// | `http://HOST/PATH/{key}`, `https://…` | a web server |
    /// | `sqlite:FILE?select=STATEMENT` | an SQLite database; the statement stands as it is, `$1` in it is the key |
    /// | `postgres://USER@HOST/DATABASE?select=STATEMENT` | a PostgreSQL database; the statement comes last and stands as it is |
    /// | `redis://HOST:PORT/DATABASE` | a Redis server |
    /// | `directory:PATH`, or a path with a `/` in it, or `.` | a folder |
    ///
    /// # Errors
    ///
    /// A sentence that names the forms that there are.
    pub fn origin(url: &str) -> Result<Self, String> {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let table = if url.starts_with("http://") || url.starts_with("https://") {
            format!("{{ kind = \"http\", url = {} }}", quoted(url))
        } else if let Some((file, select)) = url.strip_prefix("sqlite:").and_then(|rest| rest.split_once("?select=")) {
            format!("{{ kind = \"sqlite\", url = {}, select = {} }}", quoted(file), quoted(select))
        } else if let Some((database, select)) = postgres(url) {
            format!("{{ kind = \"postgres\", url = {}, select = {} }}", quoted(database), quoted(select))
        } else if url.starts_with("redis://") {
            format!("{{ kind = \"redis\", url = {} }}", quoted(url))
        } else if let Some(path) = directory(url) {
            format!("{{ kind = \"directory\", path = {} }}", quoted(path))
        } else {
            return Err(format!(
                "expected http://HOST/PATH/{{key}}, sqlite:FILE?select=STATEMENT, postgres://USER@HOST/DATABASE?select=STATEMENT, \
                 redis://HOST:PORT/DATABASE or directory:PATH, but found {}",
                // What stands before an `@` may be a password.
                if url.contains('@') { "something else".to_owned() } else { format!("{url:?}") }
            ));
        };
        Ok(Self::new("--origin", format!("groups.{DEFAULT_GROUP}.origin"), table))
    }
}

/// The database and the statement, which has no parameter of the URL behind it.
fn postgres(url: &str) -> Option<(&str, &str)> {
    let has_scheme = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    let (at, name) = url.match_indices("select=").find(|(at, _)| url[..*at].ends_with(['?', '&']))?;
    has_scheme.then(|| (&url[..at - 1], &url[at + name.len()..]))
}

fn directory(url: &str) -> Option<&str> {
    let scheme = url.split_once(':').is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    url.strip_prefix("directory:").or_else(|| (!scheme && (url.contains('/') || url == ".")).then_some(url))
}
