//! [`Value`]: what is cached.

use std::{fmt, sync::Arc};

use bytes::Bytes;

/// A value: bytes, and what its origin or writer said about them. Cheap to clone; the bytes are never copied on their
/// way to a socket.
///
/// # Examples
///
/// ```
/// use larder_core::Value;
///
/// let value = Value::from("{}").with_content_type("application/json");
/// assert_eq!(&value[..], b"{}");
/// assert_eq!(value.content_type(), Some("application/json"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    bytes: Bytes,
    about: Option<Arc<About>>,
}

/// What is known of a value beside its bytes; most values have none of it.
#[derive(Clone, Default, PartialEq, Eq)]
struct About {
    content_type: Option<Box<str>>,
    validator: Option<Box<str>>,
}

impl Value {
    /// A value of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), about: None }
    }

    /// The same value with a media type (RFC 9110, section 8.3).
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<Box<str>>) -> Self {
        self.about_mut().content_type = Some(content_type.into());
        self
    }

    /// The same value with its origin's validator, such as an HTTP `ETag`: a later load hands it back to the origin,
    /// which may then say that nothing changed.
    #[must_use]
    pub fn with_validator(mut self, validator: impl Into<Box<str>>) -> Self {
        self.about_mut().validator = Some(validator.into());
        self
    }

    fn about_mut(&mut self) -> &mut About {
        Arc::make_mut(self.about.get_or_insert_default())
    }

    /// The media type, if the origin or the writer gave one.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.about.as_ref()?.content_type.as_deref()
    }

    /// The origin's validator, if it gave one.
    #[must_use]
    pub fn validator(&self) -> Option<&str> {
        self.about.as_ref()?.validator.as_deref()
    }

    /// The bytes, shared and not copied.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The bytes, shared and not copied.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// What the value costs in memory beside its bytes, in bytes; the store counts it.
    #[must_use]
    pub fn overhead(&self) -> usize {
        let of = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        self.about.as_ref().map_or(0, |about| {
            // The allocation holds two counters before the struct.
            size_of::<About>() + 16 + of(&about.content_type) + of(&about.validator)
        })
    }
}

impl std::ops::Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

macro_rules! value_from {
    ($($from:ty),*) => {$(
        impl From<$from> for Value {
            fn from(bytes: $from) -> Self {
                Self::new(bytes)
            }
        }
    )*};
}
value_from!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);

/// Values may be secrets: only the length is shown.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.bytes.len())
    }
}
