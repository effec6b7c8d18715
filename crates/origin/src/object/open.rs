//! Which store a URL is of, and how it is set up.

use std::sync::Arc;

use object_store::{
    ClientConfigKey, ObjectStore, ObjectStoreScheme, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
    local::LocalFileSystem,
    memory::InMemory,
    path::Path,
};
use url::{Position, Url};

use super::wire::Wire;
use crate::{ConfigError, cause};

pub(super) struct Opened {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) base: Path,
    pub(super) folder: Option<Arc<std::path::Path>>,
    pub(super) compares: bool,
}

type Options = [(String, String)];

pub(super) fn open(url: &str, options: &Options, ca_file: Option<&std::path::Path>) -> Result<Opened, ConfigError> {
    let fail = |message: &str| ConfigError::new("url", message);
    let url = Url::parse(url)
        .map_err(|_| fail("must be the URL of an object store, such as s3://bucket/path or file:///path"))?;
    if url.password().is_some() {
        return Err(fail("has a password in it, which would not be used: set options"));
    }
    let (scheme, base) = ObjectStoreScheme::parse(&url)
        .map_err(|_| fail("is of no store that there is: use s3, gs, az, http, https, file or memory"))?;
    let takes_none = |store: Arc<dyn ObjectStore>, base, folder, compares| {
        let surplus = options.first();
        let Some((name, _)) = surplus else { return Ok(Opened { store, base, folder, compares }) };
        Err(ConfigError::new("options", format!("{name:?} is no option of this store: remove it")))
    };
    let remote = |store, compares| Opened { store, base: base.clone(), folder: None, compares };
    match scheme {
        ObjectStoreScheme::Memory => takes_none(Arc::new(InMemory::new()), base, None, true),
        ObjectStoreScheme::Local => {
            let path =
                url.to_file_path().map_err(|()| fail("must be that of a folder of this machine, file:///path"))?;
            let store = LocalFileSystem::new_with_prefix(&path)
                .map_err(|error| fail(&format!("{} can't be opened as a folder: {}", path.display(), cause(&error))))?;
            takes_none(Arc::new(store.with_fsync(true)), Path::default(), Some(path.into()), false)
        }
        ObjectStoreScheme::Http => {
            let wire = Wire::new(url.scheme() == "https", ca_file)?;
            let builder = HttpBuilder::new().with_url(&url[..Position::BeforePath]);
            let store = built(builder.with_http_connector(wire).with_retry(never()).build())?;
            takes_none(Arc::new(store), base, None, false)
        }
        ObjectStoreScheme::AmazonS3 => {
            let mut builder = AmazonS3Builder::new().with_url(url.as_str()).with_disable_bulk_delete(true);
            let mut compares = true;
            for (name, value) in options {
                let key: AmazonS3ConfigKey = known(name)?;
                match &key {
                    AmazonS3ConfigKey::Client(client) => ours(name, client)?,
                    AmazonS3ConfigKey::ConditionalPut => compares = value != "disabled",
                    _ => {}
                }
                builder = builder.with_config(key, value);
            }
            let builder = builder.with_http_connector(wire(options, ca_file)?).with_retry(never());
            Ok(remote(Arc::new(built(builder.build())?), compares))
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let mut builder = GoogleCloudStorageBuilder::new().with_url(url.as_str());
            for (name, value) in options {
                let key: GoogleConfigKey = known(name)?;
                if let GoogleConfigKey::Client(client) = &key {
                    ours(name, client)?;
                }
                builder = builder.with_config(key, value);
            }
            let builder = builder.with_http_connector(wire(options, ca_file)?).with_retry(never());
            Ok(remote(Arc::new(built(builder.build())?), true))
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let mut builder = MicrosoftAzureBuilder::new().with_url(url.as_str());
            for (name, value) in options {
                let key: AzureConfigKey = known(name)?;
                if let AzureConfigKey::Client(client) = &key {
                    ours(name, client)?;
                }
                builder = builder.with_config(key, value);
            }
            let builder = builder.with_http_connector(wire(options, ca_file)?).with_retry(never());
            Ok(remote(Arc::new(built(builder.build())?), true))
        }
        _ => Err(fail("is of a store that this version does not know")),
    }
}

/// What is sent again unasked may come late, and undo a newer write: whoever asks decides.
fn never() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// Connections to a store whose URL does not say by which means: TLS, unless an option names an endpoint without.
fn wire(options: &Options, ca_file: Option<&std::path::Path>) -> Result<Wire, ConfigError> {
    let is_plain = options.iter().any(|(name, value)| name.contains("endpoint") && value.starts_with("http://"));
    Wire::new(!is_plain, ca_file)
}

fn known<K: std::str::FromStr>(name: &str) -> Result<K, ConfigError> {
    let unknown =
        || ConfigError::new("options", format!("{name:?} is no option of this store: see the crate object_store"));
    name.to_ascii_lowercase().parse().map_err(|_| unknown())
}

/// Connections are Larder's own. That HTTP without TLS is allowed goes without saying where the endpoint is that.
fn ours(name: &str, key: &ClientConfigKey) -> Result<(), ConfigError> {
    match key {
        ClientConfigKey::AllowHttp => Ok(()),
        _ => Err(ConfigError::new("options", format!("{name:?} can't be set: connections are Larder's own"))),
    }
}

fn built<S>(built: object_store::Result<S>) -> Result<S, ConfigError> {
    // The innermost cause names an option that is missing or wrong, and no value of any.
    built.map_err(|error| ConfigError::new("options", format!("don't make a store: {}", cause(&error))))
}
