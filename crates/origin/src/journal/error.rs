//! [`JournalError`]: why the journal did not do what it was asked.

use std::{sync::Arc, time::Duration};

use larder_core::{Error, ErrorKind};

/// How long a writer is asked to wait that found the journal busy: some commits.
const BUSY_RETRY: Duration = Duration::from_millis(100);

/// How long a writer is asked to wait that found no room: what takes up room has to be flushed, or an operator to act.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// Why the journal did not do what it was asked. Cheap to clone: all writers of a commit get the same one.
///
/// # Examples
///
/// ```
/// use larder_core::{Error, ErrorKind};
/// use larder_origin::journal::JournalError;
///
/// let error = Error::from(JournalError::Full { bytes_max: 1024 });
/// assert_eq!(error.kind(), ErrorKind::Overloaded);
/// assert!(error.retry_after().is_some());
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Too many writes wait for the disk. Nothing was written.
    #[error("the journal has too many writes waiting for the disk: try again")]
    Busy,
    /// As many bytes are unflushed as the journal may hold. Nothing was written.
    #[error("the journal holds its {bytes_max} bytes of unflushed writes: try again when the origin has taken some")]
    Full {
        /// The limit.
        bytes_max: u64,
    },
    /// The disk has no room for the write. Nothing was written.
    #[error("the disk of {file} is full: make room, then try again")]
    NoRoom {
        /// The journal's file.
        file: Arc<str>,
    },
    /// What was asked can't be: a record that is too long, a dead letter that isn't there.
    #[error("{0}")]
    Invalid(Arc<str>),
    /// The disk failed while this was written: nobody knows whether it is there. Nothing is written any more until the journal is
    /// opened anew.
    #[error("the disk failed under {file} ({cause}): whether this write is kept shows when the node is started again")]
    Unknown {
        /// The journal's file.
        file: Arc<str>,
        /// What the system said.
        cause: Arc<str>,
    },
    /// The disk failed earlier. Nothing was written now, and nothing will be until the journal is opened anew.
    #[error(
        "the disk failed under {file} ({cause}): this node takes no writes until its disk is seen to and it is started again"
    )]
    Failed {
        /// The journal's file.
        file: Arc<str>,
        /// What the system said.
        cause: Arc<str>,
    },
    /// Something in the file is not what was written.
    #[error(
        "{file} is damaged: {what}; see `larder journal check`, and take the file away only if what it holds may be lost"
    )]
    Damaged {
        /// The journal's file.
        file: Arc<str>,
        /// What is wrong, and with which record.
        what: Arc<str>,
    },
    /// Another process has it open.
    #[error("{file} is open in another process: end that one, or give this one a data_dir of its own")]
    Locked {
        /// The journal's file.
        file: Arc<str>,
    },
    /// The file is of another format.
    #[error("{file} has format {found}, and this version of Larder knows {known}: use the version that wrote it")]
    Format {
        /// The journal's file.
        file: Arc<str>,
        /// What it has.
        found: u32,
        /// What this version reads and writes.
        known: u32,
    },
    /// The file can't be opened.
    #[error("{file} can't be opened ({cause}): see that this process may read and write it")]
    Open {
        /// The journal's file.
        file: Arc<str>,
        /// What the system said.
        cause: Arc<str>,
    },
    /// The journal was closed.
    #[error("the journal is closed: this node is leaving")]
    Closed,
}

impl JournalError {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into().into())
    }

    /// Whether the same may succeed later, without anybody doing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::Full { .. } | Self::NoRoom { .. })
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        let message = error.to_string();
        match error {
            JournalError::Busy => Self::new(ErrorKind::Overloaded, message).with_retry_after(BUSY_RETRY),
            JournalError::Full { .. } | JournalError::NoRoom { .. } => {
                Self::new(ErrorKind::Overloaded, message).with_retry_after(FULL_RETRY)
            }
            JournalError::Invalid(_) => Self::new(ErrorKind::Invalid, message),
            JournalError::Unknown { .. } => Self::new(ErrorKind::Indeterminate, message),
            JournalError::Closed => Self::new(ErrorKind::Draining, message),
            // Writes have nowhere to go here: as if there were no room, and no word of when there will be.
            _ => Self::new(ErrorKind::Overloaded, message),
        }
    }
}
