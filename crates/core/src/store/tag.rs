//! [`Tag`] and [`Tags`]: what groups of entries are invalidated by.

/// How many different tags are told apart: 32 KiB of marks a store.
pub const TAG_COUNT: u16 = 4_096;

/// The most tags an entry bears: with their number they fill four words beside the entry.
pub const TAGS_MAX: usize = 15;

/// A tag, hashed to one of [`TAG_COUNT`]. Two tags may share a number: what bears one then goes with the other, which
/// costs a load and breaks no promise.
///
/// # Examples
///
/// ```
/// use larder_core::store::Tag;
///
/// assert_eq!(Tag::of(b"country:de"), Tag::of(b"country:de"));
/// assert_eq!(Tag::new(4_096), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Tag(u16);

impl Tag {
    /// The tag of this name, the same on every node: the lowest bits of its CRC-32 (IEEE).
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        Self((crc32fast::hash(name) % u32::from(TAG_COUNT)) as u16)
    }

    /// The tag of this number, if there is one.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < TAG_COUNT { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// Up to [`TAGS_MAX`] tags of an entry.
///
/// # Examples
///
/// ```
/// use larder_core::store::{Tag, Tags};
///
/// let tags: Tags = ["de", "shoes"].iter().map(|name| Tag::of(name.as_bytes())).collect();
/// assert_eq!(tags.iter().count(), 2);
/// assert!(Tags::NONE.is_empty());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C, align(8))]
pub struct Tags {
    len: u16,
    tags: [Tag; TAGS_MAX],
}

impl Tags {
    /// No tags.
    pub const NONE: Self = Self { len: 0, tags: [Tag(0); TAGS_MAX] };

    /// Adds one; false, and nothing changed, if there are [`TAGS_MAX`] already.
    pub fn push(&mut self, tag: Tag) -> bool {
        let Some(free) = self.tags.get_mut(usize::from(self.len)) else { return false };
        *free = tag;
        self.len += 1;
        true
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tags.
    pub fn iter(&self) -> impl Iterator<Item = Tag> + '_ {
        self.tags[..usize::from(self.len)].iter().copied()
    }
}

/// Takes the first [`TAGS_MAX`] of them.
impl FromIterator<Tag> for Tags {
    fn from_iter<I: IntoIterator<Item = Tag>>(tags: I) -> Self {
        let mut all = Self::NONE;
        for tag in tags {
            if !all.push(tag) {
                break;
            }
        }
        all
    }
}
