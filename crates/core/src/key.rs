//! [`Key`]: what a value is found under.

use std::{borrow::Borrow, fmt};

use bytes::Bytes;

use crate::Error;

/// The longest key, in bytes.
///
/// Long enough for a URL or a composed identifier, short enough that a thousand of them fit into one batch.
pub const KEY_LEN_MAX: usize = 1024;

/// A key: any bytes, 1 to [`KEY_LEN_MAX`] of them. Cheap to clone.
///
/// # Examples
///
/// ```
/// use larder_core::Key;
///
/// let key = Key::new("user:42")?;
/// assert_eq!(key.as_bytes(), b"user:42");
/// assert!(Key::new("").unwrap_err().is_invalid());
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

impl Key {
    /// Takes `bytes` as a key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if there are none, [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge)
    /// if there are more than [`KEY_LEN_MAX`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        let bytes = bytes.into();
        Self::check(&bytes)?;
        Ok(Self(bytes))
    }

    /// Copies `bytes` into a key; errors as [`Key::new`].
    pub fn copy_from(bytes: &[u8]) -> Result<Self, Error> {
        Self::check(bytes)?;
        Ok(Self(Bytes::copy_from_slice(bytes)))
    }

    /// Says whether `bytes` could be a key, without making one; errors as [`Key::new`].
    #[inline]
    pub fn check(bytes: &[u8]) -> Result<(), Error> {
        match bytes.len() {
            1..=KEY_LEN_MAX => Ok(()),
            len => Err(Error::invalid_key_len(len)),
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key's bytes, shared and not copied.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Keys may be secrets, so that only their length and first bytes are shown.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = &self.0[..self.0.len().min(8)];
        let dots = if head.len() < self.0.len() { "…" } else { "" };
        write!(f, "Key({}{dots}, {} bytes)", head.escape_ascii(), self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_1_to_1024_bytes() {
        assert!(Key::new(vec![]).is_err());
        assert!(Key::new(vec![0]).is_ok());
        assert!(Key::new(vec![0xff; KEY_LEN_MAX]).is_ok());
        assert!(Key::copy_from(&[7; KEY_LEN_MAX + 1]).unwrap_err().is_too_large());
    }

    #[test]
    fn debug_shows_the_first_bytes_only() {
        let key = Key::new("session:very-secret").unwrap();
        assert_eq!(format!("{key:?}"), "Key(session:…, 19 bytes)");
    }
}
