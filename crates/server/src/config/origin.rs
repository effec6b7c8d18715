//! [`OriginConfig`]: where a group's values come from, and the short form of `--origin`.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::{
    difference::Differences,
    document::{Entry, Override, Value},
    kind::{Choice, Describe, Flag, Kind, Named, Refusal, Scalar, SubTable, Text, Word},
    mistake::Mistakes,
    section::{Absent, Default, Key, Presence, Reader, Required, Section, Status, section},
    shapes,
};

/// The most headers that are sent to an origin.
const HEADERS_MAX: usize = 64;

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
    /// A folder of files.
    Directory(DirectoryOriginConfig),
}

/// The kinds of origin; what a kind's table holds is in [`OriginTable::read`].
#[derive(Clone, Copy, PartialEq)]
enum OriginKind {
    None,
    Http,
    Sqlite,
    Directory,
}

const KIND: Choice<OriginKind> = Choice(&[
    Word::Works("none", OriginKind::None),
    Word::Works("http", OriginKind::Http),
    Word::Works("sqlite", OriginKind::Sqlite),
    Word::Works("directory", OriginKind::Directory),
    Word::Later("postgres"),
    Word::Later("object"),
    Word::Later("redis"),
]);

section! {
    /// A web server: GET of `url`. 200 is the value, 404 and 410 are "not found", anything else is a failure. Redirects are not followed.
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
    later {}
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
    }
    later {
        /// The statement that writes a value.
        upsert;
        /// The statement that writes many values.
        upsert_many;
        /// The statement that deletes a value.
        delete;
    }
}

section! {
    /// A folder with one file for each key; what lies outside it is "not found".
    pub struct DirectoryOriginConfig {
        /// The folder.
        path: PathBuf = FilePath { expected: "the path of a folder" }, Required;
    }
    later {}
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
            table::<DirectoryOriginConfig>("directory"),
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
            OriginKind::Directory => OriginConfig::Directory(Reader::section(path, place, &table, mistakes)?),
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
        } else if let Some(path) = directory(url) {
            format!("{{ kind = \"directory\", path = {} }}", quoted(path))
        } else {
            return Err(format!(
                "expected http://HOST/PATH/{{key}}, sqlite:FILE?select=STATEMENT or directory:PATH, but found {url:?}"
            ));
        };
        Ok(Self::new("--origin", format!("groups.{DEFAULT_GROUP}.origin"), table))
    }
}

fn directory(url: &str) -> Option<&str> {
    let scheme = url.split_once(':').is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    url.strip_prefix("directory:").or_else(|| (!scheme && (url.contains('/') || url == ".")).then_some(url))
}
