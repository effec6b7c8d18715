//! [`Key`]: what a value is found under.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

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
#[derive(Clone)]
pub struct Key(Held);

/// The longest key that is held in place: a UUID in text, and what most people put before a number. A key is on its way
/// through several tables while it is fetched, and each look at it would be at another line of memory.
const IN_PLACE_MAX: usize = 38;

#[derive(Clone)]
enum Held {
    InPlace { len: u8, bytes: [u8; IN_PLACE_MAX] },
    Shared(Bytes),
}

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
        Ok(Self::in_place(&bytes).unwrap_or(Self(Held::Shared(bytes))))
    }

    /// Copies `bytes` into a key; errors as [`Key::new`].
    pub fn copy_from(bytes: &[u8]) -> Result<Self, Error> {
        Self::check(bytes)?;
        Ok(Self::in_place(bytes).unwrap_or_else(|| Self(Held::Shared(Bytes::copy_from_slice(bytes)))))
    }

    /// A key that shares no memory with others: one that was cut out of a long message does not keep the whole of it.
    #[must_use]
    pub fn detached(self) -> Self {
        match self.0 {
            Held::InPlace { .. } => self,
            Held::Shared(bytes) => Self(Held::Shared(Bytes::copy_from_slice(&bytes))),
        }
    }

    fn in_place(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; IN_PLACE_MAX];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        let len = u8::try_from(key.len()).ok()?;
        Some(Self(Held::InPlace { len, bytes }))
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
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Held::InPlace { len, bytes } => &bytes[..usize::from(*len)],
            Held::Shared(bytes) => bytes,
        }
    }

    /// The key's bytes: those of a long one shared, those of a short one copied.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Held::InPlace { .. } => Bytes::copy_from_slice(self.as_bytes()),
            Held::Shared(bytes) => bytes.clone(),
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

/// As the bytes are hashed, so that they can stand for it in a map's look-up.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Keys may be secrets, so that only their length and first bytes are shown.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.as_bytes();
        let head = &bytes[..bytes.len().min(8)];
        let dots = if head.len() < bytes.len() { "…" } else { "" };
        write!(f, "Key({}{dots}, {} bytes)", head.escape_ascii(), bytes.len())
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
    fn short_and_long_keys_are_alike_however_they_were_made() {
        for len in [1, IN_PLACE_MAX - 1, IN_PLACE_MAX, IN_PLACE_MAX + 1, KEY_LEN_MAX] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let made = [Key::new(bytes.clone()), Key::copy_from(&bytes), Key::new(bytes.clone()).map(Key::detached)];
            for key in made.map(Result::unwrap) {
                assert_eq!((key.as_bytes(), &key.to_bytes()[..]), (&bytes[..], &bytes[..]));
            }
        }
        let keys =
            ["a", "ab", &"a".repeat(40), &"b".repeat(40), "b"].map(|key| Key::copy_from(key.as_bytes()).unwrap());
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!(sorted.map(|key| key.to_bytes()), ["a", &"a".repeat(40), "ab", "b", &"b".repeat(40)]);
        let found: std::collections::HashSet<Key> = keys.into();
        assert!(found.contains(&b"ab"[..]) && found.contains("b".repeat(40).as_bytes()) && !found.contains(&b"bb"[..]));
    }

    #[test]
    fn debug_shows_the_first_bytes_only() {
        let key = Key::new("session:very-secret").unwrap();
        assert_eq!(format!("{key:?}"), "Key(session:…, 19 bytes)");
    }
}
