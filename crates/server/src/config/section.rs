//! [`section!`]: one definition of a table of keys.
//!
//! A section is a struct whose fields are the keys. Of the one definition come the struct, its reading with every mistake
//! named, the defaults and the reference in `docs/configuration.md`. What a key may hold is a [`Kind`](super::kind::Kind).

use super::{
    difference::Differences,
    document::{Entry, Table, Value},
    kind::{Describe, Kind},
    mistake::{Mistakes, Place, nearest},
    reference,
};

/// What the reference and the messages need to know of a key.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The lines of its comment.
    pub(super) meaning: &'static [&'static str],
    pub(super) kind: &'static dyn Describe,
    pub(super) shown: Shown,
    /// Whether it may change while the node runs.
    pub(super) live: bool,
}

/// What holds when a key is absent, as the reference shows it.
#[derive(Clone, Copy)]
pub(super) enum Shown {
    Default(&'static str),
    Absent(&'static str),
    Required,
}

/// What holds when a key is absent.
pub(super) trait Presence<K: Kind> {
    /// What the section's field holds.
    type Field;

    /// The field, or nothing if there is none for want of a required key.
    fn take(&self, kind: &K, name: &str, reader: &mut Reader<'_>) -> Option<Self::Field>;

    /// Notes where `new` differs from `old`, and takes over what may change while the node runs.
    fn take_live(&self, kind: &K, old: &mut Self::Field, new: &Self::Field, found: &mut Differences<'_>);
}

/// If absent, this text, as `--set` would take it.
pub(super) struct Default(pub(super) &'static str);

impl Default {
    pub(super) const fn shown(&self) -> Shown {
        Shown::Default(self.0)
    }
}

impl<K: Kind> Presence<K> for Default {
    type Field = K::Output;

    fn take(&self, kind: &K, name: &str, reader: &mut Reader<'_>) -> Option<K::Output> {
        reader.read(kind, name).or_else(|| {
            let value = match Value::typed(self.0) {
                Some(value @ Value::Table(_)) => value,
                _ => Value::Plain(self.0.to_owned()),
            };
            kind.read(&reader.path_of(name), &Entry { place: Place::Unwritten, value }, reader.mistakes)
        })
    }

    fn take_live(&self, kind: &K, old: &mut K::Output, new: &K::Output, found: &mut Differences<'_>) {
        kind.take_live(old, new, found);
    }
}

/// May be absent, which means what the text says.
pub(super) struct Absent(pub(super) &'static str);

impl Absent {
    pub(super) const fn shown(&self) -> Shown {
        Shown::Absent(self.0)
    }
}

impl<K: Kind> Presence<K> for Absent {
    type Field = Option<K::Output>;

    fn take(&self, kind: &K, name: &str, reader: &mut Reader<'_>) -> Option<Self::Field> {
        Some(reader.read(kind, name))
    }

    fn take_live(&self, _kind: &K, old: &mut Self::Field, new: &Self::Field, found: &mut Differences<'_>) {
        found.take_live(old, new);
    }
}

/// Must be there.
pub(super) struct Required;

impl Required {
    pub(super) const fn shown(&self) -> Shown {
        Shown::Required
    }
}

impl<K: Kind> Presence<K> for Required {
    type Field = K::Output;

    fn take(&self, kind: &K, name: &str, reader: &mut Reader<'_>) -> Option<K::Output> {
        if !reader.table.contains_key(name) {
            let path = reader.path_of(name);
            reader.mistakes.missing(reader.place, path, &kind.expected());
        }
        reader.read(kind, name)
    }

    fn take_live(&self, kind: &K, old: &mut K::Output, new: &K::Output, found: &mut Differences<'_>) {
        kind.take_live(old, new, found);
    }
}

/// A table of keys, as a struct.
pub(super) trait Section: Clone + PartialEq {
    /// Its keys, in the order of the fields.
    const KEYS: &'static [Key];
    /// The lines of its comment.
    const ABOUT: &'static [&'static str];

    /// Reads each key. Nothing only if a required one can't be had.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;

    /// Notes where `new` differs, and takes over what may change while the node runs.
    fn take_live(&mut self, new: &Self, found: &mut Differences<'_>);
}

/// A table that is being read into a [`Section`].
pub(super) struct Reader<'a> {
    path: &'a str,
    place: Place,
    table: &'a Table,
    mistakes: &'a mut Mistakes,
}

impl<'a> Reader<'a> {
    /// Reads `table`, which was written at `place` as `path`, into a section.
    pub(super) fn section<S: Section>(
        path: &'a str,
        place: Place,
        table: &'a Table,
        mistakes: &'a mut Mistakes,
    ) -> Option<S> {
        let mut reader = Self { path, place, table, mistakes };
        reader.refuse_others(S::KEYS);
        S::read(&mut reader)
    }

    /// Checks that there is nothing in `table`.
    pub(super) fn empty(path: &'a str, place: Place, table: &'a Table, mistakes: &'a mut Mistakes) {
        Self { path, place, table, mistakes }.refuse_others(&[]);
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn read<K: Kind>(&mut self, kind: &K, name: &str) -> Option<K::Output> {
        let entry = self.table.get(name)?;
        kind.read(&self.path_of(name), entry, self.mistakes)
    }

    /// Names the keys that don't exist.
    fn refuse_others(&mut self, keys: &[Key]) {
        for (name, entry) in self.table {
            if !keys.iter().any(|key| key.name == name) {
                self.mistakes.add(entry.place, self.path_of(name), no_such_key(self.path, name, keys));
            }
        }
    }
}

fn no_such_key(path: &str, name: &str, keys: &[Key]) -> String {
    let meant = match nearest(name, keys.iter().map(|key| key.name)) {
        Some(near) if path.is_empty() => Some(near.to_owned()),
        Some(near) => Some(format!("{path}.{near}")),
        None => reference::path_of_key(name),
    };
    match meant {
        Some(meant) => format!("there is no such key; did you mean {meant}?"),
        None if keys.is_empty() => "there is no such key; this table has none".to_owned(),
        None => format!("there is no such key; see docs/configuration.md for those that {} has", whose(path)),
    }
}

fn whose(path: &str) -> String {
    if path.is_empty() { "the file".to_owned() } else { format!("[{path}]") }
}

/// Defines a [`Section`]: `/// meaning`, `key: Type = kind, presence;` for each key, with `, live` behind it if it may change while
/// the node runs.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $section:ident {
            $($(#[doc = $meaning:literal])+ $key:ident: $type:ty = $kind:expr, $presence:expr $(, $live:ident)?;)*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, PartialEq, Debug)]
        pub struct $section {
            $($(#[doc = $meaning])+ pub $key: $type,)*
        }

        impl Section for $section {
            const KEYS: &'static [Key] = &[
                $(Key {
                    name: stringify!($key),
                    meaning: &[$($meaning),+],
                    kind: &$kind,
                    shown: $presence.shown(),
                    live: section!(@live $($live)?),
                },)*
            ];
            const ABOUT: &'static [&'static str] = &[$($about),+];

            fn read(reader: &mut Reader<'_>) -> Option<Self> {
                // Every key is read before any that is missing ends it, so that every mistake is found.
                $(let $key = $presence.take(&$kind, stringify!($key), reader);)*
                Some(Self { $($key: $key?,)* })
            }

            fn take_live(&mut self, new: &Self, found: &mut Differences<'_>) {
                $($presence.take_live(&$kind, &mut self.$key, &new.$key, &mut found.at(stringify!($key), section!(@live $($live)?)));)*
            }
        }
    };
    (@live) => { false };
    (@live live) => { true };
}
pub(super) use section;
