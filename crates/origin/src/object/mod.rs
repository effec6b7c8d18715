//! [`ObjectOrigin`]: an object a key, in S3 and what speaks like it, in Google's and Microsoft's stores, behind WebDAV, or in files.

mod open;
mod store;
mod wire;

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::BoxStream};
use larder_core::{Error, Found, Key, LoadError, LoadRequest, Loaded, Loader, Value};
use object_store::{
    Attribute, GetOptions, ObjectStore,
    path::{Path, PathPart},
};

use self::{open::Opened, wire::Answered};
use crate::{ConfigError, too_large};

/// The longest name of an object, in bytes: that of S3, and of the others.
const NAME_LEN_MAX: usize = 1024;

/// Where an [`ObjectOrigin`] looks.
///
/// # Examples
///
/// ```
/// use larder_origin::{ObjectConfig, ObjectOrigin};
///
/// let config = ObjectConfig::new("s3://pictures/thumbnails")
///     .option("aws_endpoint", "http://127.0.0.1:9000")
///     .option("aws_access_key_id", "larder")
///     .option("aws_secret_access_key", "secret");
/// let origin = ObjectOrigin::open(config)?;
/// # Ok::<(), larder_origin::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct ObjectConfig {
    url: String,
    options: Vec<(String, String)>,
    ca_file: Option<PathBuf>,
}

impl ObjectConfig {
    /// `url` is one that the crate `object_store` knows: `s3://bucket/path`, `gs://bucket/path`, `az://container/path`,
    /// `https://host/path` (WebDAV, or one of the former by its host), `file:///path` or `memory:///`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), options: Vec::new(), ca_file: None }
    }

    /// Sets an option of the store by the name that it has in `object_store`, such as `aws_region`. Nothing is taken from the environment.
    #[must_use]
    pub fn option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((name.into(), value.into()));
        self
    }

    /// A PEM file with the certificates that the store is trusted by, in place of the system's.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }
}

/// Options hold secrets, and URLs may: neither is shown.
impl std::fmt::Debug for ObjectConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectConfig").field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

/// An object store that is asked for each key as the name of an object, below the path of its URL.
///
/// A key that no object can have as its name is nothing: one that is not UTF-8, is too long, or has control characters, an empty part
/// (`/a`, `a//b`), or a part `.` or `..`. A bucket or a folder that isn't there is a failure. What was loaded is asked for again by its ETag.
///
/// As a [`Store`](larder_core::Store) it puts and deletes objects, and never sends again what may have been sent. Where the store keeps
/// metadata and knows conditions (S3, `gs`, `az`, `memory`), an object bears the version that it was put under, as `larderversion`. A
/// put then looks first: it is a conflict if the object is of a later version, and is done only if the object is still the same by its
/// ETag. A delete looks too, but no store deletes on a condition: of a delete by a node that stood still just then, a later put may fall
/// victim. Nor does what was deleted leave a version behind. So it doesn't [fence](larder_core::Store::fences). `file` and WebDAV
/// compare nothing: of two nodes that write the later one wins.
///
/// Tests hold that for S3, WebDAV, files and memory. What is said of Google's and Microsoft's stores follows from the crate `object_store`, and
/// was not tried.
///
/// Needs a tokio runtime with time and I/O.
///
/// # Examples
///
/// ```
/// use larder_core::{Change, Found, Key, LoadRequest, Loader, Store, Update, Version};
/// use larder_origin::{ObjectConfig, ObjectOrigin};
/// use tokio::time::{Duration, Instant};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let origin = ObjectOrigin::open(ObjectConfig::new("memory:///"))?;
/// let (key, deadline) = (Key::new("greeting")?, Instant::now() + Duration::from_secs(10));
/// let change = Change::Put("hello".into());
/// origin.update(Update { key: key.clone(), change, version: Version::ZERO, idempotency_key: None, deadline }).await?;
/// let loaded = origin.load(LoadRequest { key, previous: None, value_len_max: 1024, deadline }).await?;
/// assert!(matches!(loaded.found, Found::Value(value) if &value[..] == b"hello"));
/// # Ok(())
/// # }
/// ```
pub struct ObjectOrigin {
    store: Arc<dyn ObjectStore>,
    /// What all names begin with.
    base: Path,
    /// The folder, where objects are files.
    folder: Option<Arc<std::path::Path>>,
    /// Whether it keeps versions and puts on conditions.
    compares: bool,
}

impl ObjectOrigin {
    /// Sets the origin up, without asking it anything yet. Looks at the folder if it is one, and blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// Of the settings `url`, `options` and `ca_file`.
    pub fn open(config: ObjectConfig) -> Result<Self, ConfigError> {
        let ObjectConfig { url, options, ca_file } = config;
        let Opened { store, base, folder, compares } = open::open(&url, &options, ca_file.as_deref())?;
        Ok(Self { store, base, folder, compares })
    }

    /// The name of a key's object, if there can be one.
    fn name_of(&self, key: &Key) -> Option<Path> {
        let text = str::from_utf8(key.as_bytes()).ok()?;
        // An empty part would be left out of the name, which is that of another key.
        let is_name = |part: &str| !part.is_empty() && PathPart::parse(part).is_ok();
        if !text.split('/').all(is_name) {
            return None;
        }
        let name = if self.base.as_ref().is_empty() { text.to_owned() } else { format!("{}/{text}", self.base) };
        Path::parse(name).ok().filter(|name| name.as_ref().len() <= NAME_LEN_MAX)
    }

    async fn get(&self, request: LoadRequest) -> Result<Loaded, Error> {
        let Some(name) = self.name_of(&request.key) else { return Ok(Loaded::nothing()) };
        // A validator that is none of an ETag's characters can't have come from here.
        let validator = request.previous.as_ref().and_then(Value::validator).filter(|text| is_header(text));
        let validator = validator.map(str::to_owned);
        let may_be_unchanged = validator.is_some();
        let options = GetOptions { if_none_match: validator, ..GetOptions::default() };
        let found = match self.store.get_opts(&name, options).await {
            Ok(found) => found,
            Err(object_store::Error::NotModified { .. }) if may_be_unchanged => {
                return Ok(Loaded { found: Found::Unchanged, ttl: None });
            }
            Err(error) if self.is_nothing(&error).await => return Ok(Loaded::nothing()),
            Err(error) => return Err(failed("answered with an error", &error)),
        };
        if found.meta.size > request.value_len_max as u64 {
            return Err(too_large(request.value_len_max));
        }
        let (etag, content_type) = (
            found.meta.e_tag.clone(),
            found.attributes.get(&Attribute::ContentType).map(|text| text.as_ref().to_owned()),
        );
        let len = usize::try_from(found.meta.size).unwrap_or(request.value_len_max);
        let mut value = Value::new(read(found.into_stream(), len, request.value_len_max).await?);
        if let Some(content_type) = content_type {
            value = value.with_content_type(content_type);
        }
        if let Some(etag) = etag {
            value = value.with_validator(etag);
        }
        Ok(Loaded { found: Found::Value(value), ttl: None })
    }

    /// Whether an error says that there is no such object, and no more than that.
    async fn is_nothing(&self, error: &object_store::Error) -> bool {
        match error {
            object_store::Error::NotFound { .. } => {}
            // A name that no file can have, or a folder's.
            object_store::Error::InvalidPath { .. } => return true,
            error => match io_kind(error) {
                Some(kind) if is_no_files(kind) => {}
                _ => return false,
            },
        }
        match &self.folder {
            Some(folder) => {
                let folder = Arc::clone(folder);
                tokio::task::spawn_blocking(move || folder.is_dir()).await.unwrap_or(false)
            }
            None => true,
        }
    }
}

impl std::fmt::Debug for ObjectOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectOrigin").field("base", &self.base.as_ref()).finish_non_exhaustive()
    }
}

impl Loader for ObjectOrigin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move { Ok(self.get(request).await?) })
    }
}

/// Whether text can be sent as the value of a header.
fn is_header(text: &str) -> bool {
    http::HeaderValue::from_str(text).is_ok()
}

/// Reads an object of presumably `len` bytes, into a buffer of its own.
async fn read(
    mut stream: BoxStream<'static, object_store::Result<Bytes>>,
    len: usize,
    len_max: usize,
) -> Result<Bytes, Error> {
    let mut bytes = Vec::with_capacity(len);
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| failed("broke off its answer", &error))?;
        if part.len() > len_max - bytes.len() {
            return Err(too_large(len_max));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.into_boxed_slice().into())
}

/// An error of the store, without its own words: those have names and URLs in them.
fn failed(how: &str, error: &object_store::Error) -> Error {
    Error::origin(format_args!("the object store {how} ({}): see its log", reason(error)))
}

/// What lies behind an error, in few words.
fn reason(error: &object_store::Error) -> String {
    if let Some(Answered { status, .. }) = find(error) {
        return status.to_string();
    }
    if let Some(kind) = io_kind(error) {
        return kind.to_string();
    }
    match error {
        object_store::Error::NotFound { .. } => "it has no such bucket or folder".to_owned(),
        object_store::Error::PermissionDenied { .. } => "it does not allow it".to_owned(),
        object_store::Error::Unauthenticated { .. } => "it does not know us".to_owned(),
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            "it can't do that".to_owned()
        }
        _ => "it says no more".to_owned(),
    }
}

/// The error in the chain of another that is of this type.
fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    find::<io::Error>(error).map(io::Error::kind)
}

/// Whether no file can be there by the rules of the file system.
fn is_no_files(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as E;
    matches!(kind, E::InvalidFilename | E::InvalidInput | E::IsADirectory | E::NotADirectory)
}
