//! [`Document`]: a configuration as it was written, each value with its place.
//!
//! It joins the file with what flags set, and knows nothing of the keys that exist.

use std::{collections::BTreeMap, fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::mistake::{Mistakes, Place};

/// How deep a document may go. The deepest key stands at depth 5 (`groups.users.origin.headers.accept`).
const DEPTH_MAX: usize = 8;

/// How many characters of a wrong value are shown.
const SHOWN_CHARS_MAX: usize = 60;

/// A table of values.
pub(super) type Table = BTreeMap<String, Entry>;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value as it was written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Table(Table),
    Array(Vec<Entry>),
    Text(String),
    /// Text without TOML's quotes: the key that it is for decides what it is.
    Plain(String),
    /// The same from an environment variable or a file, `source`; never shown.
    Fetched {
        text: String,
        source: String,
    },
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// What no key takes: a date, or an integer beyond 64 bits.
    Other(&'static str),
}

impl Value {
    /// Text that came without TOML's types, as TOML's scalar if it is one.
    pub(super) fn typed(text: &str) -> Option<Self> {
        let value = DeValue::parse(text).ok()?;
        Some(convert(value.get_ref(), &|_| Place::Unwritten, 0))
    }
}

/// What was found, in a message.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(_) => f.write_str("a table"),
            Self::Array(_) => f.write_str("an array"),
            Self::Text(text) | Self::Plain(text) => {
                let head: String = text.chars().take(SHOWN_CHARS_MAX).collect();
                let dots = if head.len() < text.len() { "…" } else { "" };
                write!(f, "{head:?}{dots}")
            }
            Self::Fetched { source, .. } => write!(f, "something else in {source}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Boolean(flag) => write!(f, "{flag}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// A value that a flag of the command line gives a key.
///
/// # Examples
///
/// ```
/// use larder_server::config::{Config, Override};
///
/// let flag: Override = "groups.users.ttl=5m".parse()?;
/// let config = Config::parse("[groups.users]\nttl = '1h'", &[flag]).unwrap();
/// assert_eq!(config.groups["users"].ttl.unwrap().as_secs(), 300);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Override {
    pub(super) flag: &'static str,
    pub(super) key: String,
    pub(super) value: String,
}

impl Override {
    /// Sets `key`, by its dotted path, to `value`, TOML or plain text. Mistakes in it name `flag`.
    pub fn new(flag: &'static str, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { flag, key: key.into(), value: value.into() }
    }
}

/// `KEY=VALUE` of `--set`.
impl std::str::FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok(Self::new("--set", key.trim(), value)),
            _ => Err(format!("expected KEY=VALUE, such as node.workers=2, but found {text:?}")),
        }
    }
}

/// A configuration as it was written.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) root: Entry,
}

impl Document {
    /// Reads TOML; of text that is broken, whatever can be made out.
    pub(super) fn parse(text: &str, mistakes: &mut Mistakes) -> Self {
        let lines = Lines::of(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            mistakes.broken(lines.line(error.span().map_or(0, |span| span.start)), error.message());
        }
        let place = |span: Range<usize>| Place::Line(lines.line(span.start));
        let root = Entry { place: Place::Unwritten, value: convert_table(table.get_ref(), &place, 0) };
        Self { root }
    }

    /// Sets what a flag gives.
    pub(super) fn set(&mut self, given: &Override, mistakes: &mut Mistakes) {
        let place = Place::Flag(given.flag);
        let names: Vec<&str> = given.key.split('.').collect();
        if names.len() > DEPTH_MAX || names.iter().any(|name| name.is_empty()) {
            mistakes.add(place, given.key.as_str(), "this is not a key: expected a dotted path such as node.workers");
            return;
        }
        let value = match Value::typed(&given.value) {
            Some(value @ (Value::Table(_) | Value::Array(_))) => value,
            _ => Value::Plain(given.value.clone()),
        };
        let mut entry = &mut self.root;
        for name in &names {
            if !matches!(entry.value, Value::Table(_)) {
                *entry = Entry { place, value: Value::Table(Table::new()) };
            }
            let Value::Table(table) = &mut entry.value else { return };
            let empty = || Entry { place, value: Value::Table(Table::new()) };
            entry = table.entry((*name).to_owned()).or_insert_with(empty);
        }
        *entry = Entry { place, value };
        entry.settle(place);
    }

    /// Makes the group `name`, unless there is a group.
    pub(super) fn add_group_if_none(&mut self, name: &str) {
        let empty = || Entry { place: Place::Unwritten, value: Value::Table(Table::new()) };
        if let Value::Table(root) = &mut self.root.value
            && let Value::Table(groups) = &mut root.entry("groups".to_owned()).or_insert_with(empty).value
            && groups.is_empty()
        {
            groups.insert(name.to_owned(), empty());
        }
    }

    /// What was written for `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        key.split('.').try_fold(&self.root, |entry, name| match &entry.value {
            Value::Table(table) => table.get(name),
            _ => None,
        })
    }

    /// Where `key` was written, or else the innermost table that it would stand in.
    pub(super) fn place(&self, key: &str) -> Place {
        match (self.get(key), key.rsplit_once('.')) {
            (Some(entry), _) => entry.place,
            (None, Some((outer, _))) => self.place(outer),
            (None, None) => Place::Unwritten,
        }
    }
}

impl Entry {
    /// Gives everything within the same place.
    pub(super) fn settle(&mut self, place: Place) {
        self.place = place;
        match &mut self.value {
            Value::Table(table) => table.values_mut().for_each(|entry| entry.settle(place)),
            Value::Array(entries) => entries.iter_mut().for_each(|entry| entry.settle(place)),
            _ => {}
        }
    }
}

impl Entry {
    /// Makes it an element of the array that was written as the text of `whole`.
    pub(super) fn came_with(&mut self, whole: &Self) {
        self.settle(whole.place);
        if let (Value::Text(text), Value::Fetched { source, .. }) = (&self.value, &whole.value) {
            self.value = Value::Fetched { text: text.clone(), source: source.clone() };
        }
    }
}

fn convert_table(table: &DeTable<'_>, place: &dyn Fn(Range<usize>) -> Place, depth: usize) -> Value {
    let convert_entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &Spanned<std::borrow::Cow<'_, str>> = key;
        // A table's own span may be that of another header; its key stands where it was first named.
        let entry = Entry { place: place(key.span()), value: convert(value.get_ref(), place, depth + 1) };
        (key.get_ref().to_string(), entry)
    };
    Value::Table(table.iter().map(convert_entry).collect())
}

fn convert(value: &DeValue<'_>, place: &dyn Fn(Range<usize>) -> Place, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Other("more nested tables or arrays than any key has");
    }
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("an integer beyond 64 bits"), Value::Integer),
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Other("not a number"), Value::Float),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(array) => {
            let convert_entry = |value: &Spanned<DeValue<'_>>| Entry {
                place: place(value.span()),
                value: convert(value.get_ref(), place, depth + 1),
            };
            Value::Array(array.iter().map(convert_entry).collect())
        }
        DeValue::Table(table) => convert_table(table, place, depth),
    }
}

/// Where each line of a text begins.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The line, counted from 1, of the byte at `offset`.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset).max(1)
    }
}
