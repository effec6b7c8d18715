//! The origins that come with Larder: [`HttpOrigin`], [`SqliteOrigin`] and [`DirectoryOrigin`]; and the [`journal`] of writes that
//! are on their way to an origin, with what [flushes](flush) it.
//!
//! Each is a [`Loader`](larder_core::Loader) and nothing more. How many loads of a group are under way at once and how
//! long each may take is up to the caller; an origin bounds only what a load that was given up may still hold. Dropping
//! a load's future is safe at any point.
//!
//! Each origin is a feature of this crate, named like its module and on unless turned off; the journal's is `journal`.

#![forbid(unsafe_code)]

#[cfg(any(feature = "directory", feature = "journal", feature = "sqlite"))]
mod blocking;
mod config_error;
#[cfg(feature = "directory")]
pub mod directory;
#[cfg(feature = "journal")]
pub mod flush;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "journal")]
pub mod journal;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "journal")]
pub mod storage;

pub use config_error::ConfigError;
#[cfg(feature = "directory")]
pub use directory::DirectoryOrigin;
#[cfg(feature = "http")]
pub use http::{HttpConfig, HttpOrigin};
use larder_core::{Error, ErrorKind};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteConfig, SqliteOrigin};

/// The answer to a value over the limit of its request, before it is read.
fn too_large(value_len_max: usize) -> Error {
    let message = format!("the value at the origin has more than {value_len_max} bytes, the group's limit");
    Error::new(ErrorKind::TooLarge, message)
}
