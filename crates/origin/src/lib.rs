//! The origins that come with Larder: [`HttpOrigin`], [`SqliteOrigin`], [`DirectoryOrigin`], `ObjectOrigin`, `PostgresOrigin` and `RedisOrigin`;
//! and the `journal` of writes that are on their way to an origin, with what flushes it.
//!
//! Each is a [`Loader`](larder_core::Loader) and a [`Store`](larder_core::Store), and nothing more. How many loads and changes of a
//! group are under way at once and how long each may take is up to the caller; an origin bounds only what one that was given up
//! may still hold. Dropping a load's future is safe at any point. So is dropping that of a change, of which nobody knows then
//! whether it was made.
//!
//! | origin | a change is made | it fences |
//! |---|---|---|
//! | `http` | by PUT or DELETE | if the server does |
//! | `sqlite`, `postgres` | by the statements `upsert` and `delete` | if they name `$3` |
//! | `directory` | by renaming a new file over the old one | no |
//! | `redis` | by SET and DEL | no |
//! | `object` | by PUT and DELETE, the former on a condition where the store knows any | puts, where the store does |
//!
//! Each is a feature of this crate, named like its module. All but `object`, `postgres` and `redis` are on unless turned off; the journal's is
//! `journal`.

#![forbid(unsafe_code)]

#[cfg(feature = "journal")]
pub mod behind;
#[cfg(any(feature = "directory", feature = "journal", feature = "sqlite"))]
mod blocking;
mod config_error;
#[cfg(feature = "directory")]
pub mod directory;
#[cfg(feature = "journal")]
pub mod flush;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod halves;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "journal")]
pub mod journal;
#[cfg(feature = "object")]
pub mod object;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "journal")]
pub mod storage;
#[cfg(any(feature = "http", feature = "postgres"))]
mod tls;

pub use config_error::ConfigError;
#[cfg(feature = "directory")]
pub use directory::DirectoryOrigin;
#[cfg(feature = "http")]
pub use http::{HttpConfig, HttpOrigin};
use larder_core::{Error, ErrorKind};
#[cfg(feature = "object")]
pub use object::{ObjectConfig, ObjectOrigin};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresConfig, PostgresOrigin};
#[cfg(feature = "redis")]
pub use redis::{RedisConfig, RedisOrigin};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteConfig, SqliteOrigin};

/// The answer to a value over the limit of its request, before it is read.
fn too_large(value_len_max: usize) -> Error {
    let message = format!("the value at the origin has more than {value_len_max} bytes, the group's limit");
    Error::new(ErrorKind::TooLarge, message)
}

#[cfg(any(feature = "http", feature = "postgres"))]
/// What lies at the bottom of an error, which says more than its top.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
