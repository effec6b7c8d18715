//! [`Value`]: what is cached.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::store::{Entry, Tags};

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
#[derive(Clone)]
pub struct Value(Held);

/// Where the bytes are.
#[derive(Clone)]
enum Held {
    /// As whoever made the value gave them.
    Bytes { bytes: Bytes, about: Option<Arc<About>> },
    /// In a store's entry, shared with it.
    Entry(Entry),
}

/// What is known of a value beside its bytes; most values have none of it.
#[derive(Clone, Default)]
pub(crate) struct About {
    content_type: Option<Box<str>>,
    validator: Option<Box<str>>,
    tags: Tags,
}

impl About {
    /// Whether there is more to it than tags.
    pub(crate) fn is_beyond_tags(&self) -> bool {
        self.content_type.is_some() || self.validator.is_some()
    }

    /// What it takes in memory, in bytes.
    pub(crate) fn cost(&self) -> usize {
        let of = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        // The allocation holds two counters before the struct.
        size_of::<Self>() + 16 + of(&self.content_type) + of(&self.validator)
    }
}

impl Value {
    /// A value of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(Held::Bytes { bytes: bytes.into(), about: None })
    }

    /// The value of an entry, shared with the store.
    pub(crate) const fn stored(entry: Entry) -> Self {
        Self(Held::Entry(entry))
    }

    /// The same value with a media type (RFC 9110, section 8.3).
    #[must_use]
    pub fn with_content_type(self, content_type: impl Into<Box<str>>) -> Self {
        self.with_about(|about| about.content_type = Some(content_type.into()))
    }

    /// The same value with its origin's validator, such as an HTTP `ETag`: a later load hands it back to the origin,
    /// which may then say that nothing changed.
    #[must_use]
    pub fn with_validator(self, validator: impl Into<Box<str>>) -> Self {
        self.with_about(|about| about.validator = Some(validator.into()))
    }

    /// The same value with tags, by which it can be invalidated together with others.
    #[must_use]
    pub fn with_tags(self, tags: Tags) -> Self {
        if tags.is_empty() && self.tags().is_empty() {
            return self;
        }
        self.with_about(|about| about.tags = tags)
    }

    fn with_about(self, change: impl FnOnce(&mut About)) -> Self {
        let (mut about, tags) = (self.about().cloned(), self.tags());
        let known = Arc::make_mut(about.get_or_insert_default());
        known.tags = tags;
        change(known);
        Self(Held::Bytes { bytes: self.into_bytes(), about })
    }

    pub(crate) fn about(&self) -> Option<&Arc<About>> {
        match &self.0 {
            Held::Bytes { about, .. } => about.as_ref(),
            Held::Entry(entry) => entry.about(),
        }
    }

    /// The media type, if the origin or the writer gave one.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.about()?.content_type.as_deref()
    }

    /// Its tags.
    #[must_use]
    pub fn tags(&self) -> Tags {
        match &self.0 {
            Held::Bytes { about, .. } => about.as_ref().map_or(Tags::NONE, |about| about.tags),
            Held::Entry(entry) => entry.tags().copied().unwrap_or_default(),
        }
    }

    /// The origin's validator, if it gave one.
    #[must_use]
    pub fn validator(&self) -> Option<&str> {
        self.about()?.validator.as_deref()
    }

    /// The bytes, shared and not copied.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.clone().into_bytes()
    }

    /// The bytes, shared and not copied.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Held::Bytes { bytes, .. } => bytes,
            Held::Entry(_) => Bytes::from_owner(self),
        }
    }

    /// What the value costs in memory beside its bytes, in bytes; the store counts it.
    #[must_use]
    pub fn overhead(&self) -> usize {
        self.about().map_or(0, |about| about.cost())
    }
}

impl std::ops::Deref for Value {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Bytes { bytes, .. } => bytes,
            Held::Entry(entry) => entry.value(),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
            && self.content_type() == other.content_type()
            && self.validator() == other.validator()
            && self.tags() == other.tags()
    }
}

impl Eq for Value {}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self
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
        write!(f, "Value({} bytes)", self.len())
    }
}
