//! [`Kind`]: what a key may hold, how it is read, and how it is described to people.

use std::{
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{
    difference::Differences,
    document::{Entry, Value},
    indirect,
    mistake::{Mistakes, nearest},
    section::{Key, Reader, Section},
};

/// What messages and the reference say of a kind.
pub(super) trait Describe {
    /// The end of "expected …".
    fn expected(&self) -> String;

    /// The tables of keys below it, each with the rest of its path and its comment.
    fn tables(&self) -> Vec<SubTable> {
        Vec::new()
    }
}

/// A table of keys below a key.
pub(super) struct SubTable {
    /// What follows the key's path in the table's path.
    pub(super) suffix: &'static str,
    /// What tells it from other tables of the same path: the origin's kind.
    pub(super) variant: Option<&'static str>,
    pub(super) about: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

/// What a key may hold.
pub(super) trait Kind: Describe {
    /// What it is read into.
    type Output: PartialEq + Clone;

    /// Reads it, or names the mistakes.
    fn read(&self, path: &str, entry: &Entry, mistakes: &mut Mistakes) -> Option<Self::Output>;

    /// Notes where `new` differs from `old`, as a whole unless it has keys of its own, and takes over what may change while the
    /// node runs.
    fn take_live(&self, old: &mut Self::Output, new: &Self::Output, found: &mut Differences<'_>) {
        found.take_live(old, new);
    }
}

/// A kind that is one value: it may stand elsewhere (`env:`, `file:`).
pub(super) trait Scalar: Describe {
    /// What it is read into.
    type Value: PartialEq + Clone;

    /// Takes a value of TOML's own types.
    fn take(&self, value: &Value) -> Result<Self::Value, Refusal>;

    /// Whether this text is the value itself, though it begins as one that stands elsewhere.
    fn is_itself(&self, _text: &str) -> bool {
        false
    }
}

/// Why a value was not taken.
pub(super) enum Refusal {
    /// It is not what the kind describes.
    Unexpected,
    /// For the reason that the sentence gives.
    Because(String),
}

impl<S: Scalar> Kind for S {
    type Output = S::Value;

    fn read(&self, path: &str, entry: &Entry, mistakes: &mut Mistakes) -> Option<S::Value> {
        let followed = match &entry.value {
            Value::Text(text) | Value::Plain(text) if self.is_itself(text) => Ok(None),
            value => indirect::follow(value),
        };
        let fetched = match followed {
            Ok(fetched) => fetched,
            Err(message) => {
                mistakes.add(entry.place, path, message);
                return None;
            }
        };
        let value = fetched.as_ref().unwrap_or(&entry.value);
        let taken = match value {
            Value::Plain(text) | Value::Fetched { text, .. } => take_plain(self, text),
            value => self.take(value),
        };
        match taken {
            Ok(taken) => Some(taken),
            Err(Refusal::Because(reason)) if fetched.is_none() => {
                mistakes.add(entry.place, path, reason);
                None
            }
            // The reason may repeat the value, which may be a secret.
            Err(_) => {
                mistakes.expected(entry.place, path, &self.expected(), value);
                None
            }
        }
    }
}

/// Takes text without TOML's types as whichever of them the kind wants.
fn take_plain<S: Scalar>(kind: &S, text: &str) -> Result<S::Value, Refusal> {
    if let Some(typed) = Value::typed(text)
        && let Ok(taken) = kind.take(&typed)
    {
        return Ok(taken);
    }
    kind.take(&Value::Text(text.to_owned()))
}

/// `true` or `false`.
pub(super) struct Flag;

impl Describe for Flag {
    fn expected(&self) -> String {
        "true or false".to_owned()
    }
}

impl Scalar for Flag {
    type Value = bool;

    fn take(&self, value: &Value) -> Result<bool, Refusal> {
        match value {
            Value::Boolean(flag) => Ok(*flag),
            _ => Err(Refusal::Unexpected),
        }
    }
}

/// A whole number within limits.
pub(super) struct Whole<T> {
    pub(super) min: T,
    pub(super) max: T,
}

impl<T: fmt::Display> Describe for Whole<T> {
    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }
}

impl<T: Clone + TryFrom<i64> + PartialOrd + fmt::Display> Scalar for Whole<T> {
    type Value = T;

    fn take(&self, value: &Value) -> Result<T, Refusal> {
        let Value::Integer(number) = value else { return Err(Refusal::Unexpected) };
        let number = T::try_from(*number).map_err(|_| Refusal::Unexpected)?;
        if (&self.min..=&self.max).contains(&&number) { Ok(number) } else { Err(Refusal::Unexpected) }
    }
}

/// A share of the whole, from 0 to `max`.
pub(super) struct Fraction {
    pub(super) max: f64,
}

impl Describe for Fraction {
    fn expected(&self) -> String {
        format!("a number from 0.0 to {:?}", self.max)
    }
}

impl Scalar for Fraction {
    type Value = f64;

    fn take(&self, value: &Value) -> Result<f64, Refusal> {
        let number = match value {
            Value::Float(number) => *number,
            Value::Integer(0) => 0.0,
            Value::Integer(1) => 1.0,
            _ => return Err(Refusal::Unexpected),
        };
        if (0.0..=self.max).contains(&number) { Ok(number) } else { Err(Refusal::Unexpected) }
    }
}

/// A length of time within limits, written as people write it.
pub(super) struct Span {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

impl Describe for Span {
    fn expected(&self) -> String {
        let mut text = r#"a duration such as "250ms" or "5m""#.to_owned();
        if self.min > Duration::ZERO {
            text += &format!(", at least {}", humantime::format_duration(self.min));
        }
        if self.max < Duration::MAX {
            text += &format!(", at most {}", humantime::format_duration(self.max));
        }
        text
    }
}

impl Scalar for Span {
    type Value = Duration;

    fn take(&self, value: &Value) -> Result<Duration, Refusal> {
        let Value::Text(text) = value else { return Err(Refusal::Unexpected) };
        let span = humantime::parse_duration(text).map_err(|_| Refusal::Unexpected)?;
        if (self.min..=self.max).contains(&span) { Ok(span) } else { Err(Refusal::Unexpected) }
    }
}

/// A number of bytes within limits, written as people write it.
pub(super) struct Size<T> {
    pub(super) min: T,
    pub(super) max: T,
}

impl<T: Copy + TryInto<u64>> Describe for Size<T> {
    fn expected(&self) -> String {
        let shown = |bytes: T| bytesize::ByteSize(bytes.try_into().unwrap_or(u64::MAX));
        format!(r#"a size such as "64KiB" or "256MiB", from {} to {}"#, shown(self.min), shown(self.max))
    }
}

impl<T: Copy + PartialOrd + TryFrom<u64> + TryInto<u64>> Scalar for Size<T> {
    type Value = T;

    fn take(&self, value: &Value) -> Result<T, Refusal> {
        let Value::Text(text) = value else { return Err(Refusal::Unexpected) };
        let size: bytesize::ByteSize = text.parse().map_err(|_| Refusal::Unexpected)?;
        let size = T::try_from(size.0).map_err(|_| Refusal::Unexpected)?;
        if (self.min..=self.max).contains(&size) { Ok(size) } else { Err(Refusal::Unexpected) }
    }
}

/// Text of a certain shape.
pub(super) struct Text {
    pub(super) expected: &'static str,
    pub(super) fits: fn(&str) -> bool,
}

impl Describe for Text {
    fn expected(&self) -> String {
        self.expected.to_owned()
    }
}

impl Scalar for Text {
    type Value = String;

    fn take(&self, value: &Value) -> Result<String, Refusal> {
        match value {
            Value::Text(text) if (self.fits)(text) => Ok(text.clone()),
            _ => Err(Refusal::Unexpected),
        }
    }
}

/// The address of a listener.
pub(super) struct Listener;

impl Describe for Listener {
    fn expected(&self) -> String {
        r#"an IP address and a port such as "127.0.0.1:5273" or "[::1]:0""#.to_owned()
    }
}

impl Scalar for Listener {
    type Value = SocketAddr;

    fn take(&self, value: &Value) -> Result<SocketAddr, Refusal> {
        let Value::Text(text) = value else { return Err(Refusal::Unexpected) };
        match text.strip_prefix("localhost:") {
            Some(port) => port.parse().map(|port| (Ipv4Addr::LOCALHOST, port).into()).map_err(|_| Refusal::Unexpected),
            None => text.parse().map_err(|_| Refusal::Unexpected),
        }
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [Works<T>]);

/// A word of a [`Choice`], and what it stands for.
pub(super) struct Works<T>(pub(super) &'static str, pub(super) T);

impl<T> Choice<T> {
    fn working(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|Works(text, _)| *text)
    }
}

impl<T> Describe for Choice<T> {
    fn expected(&self) -> String {
        one_of(self.working())
    }
}

impl<T: Copy + PartialEq> Scalar for Choice<T> {
    type Value = T;

    fn take(&self, value: &Value) -> Result<T, Refusal> {
        let Value::Text(text) = value else { return Err(Refusal::Unexpected) };
        if let Some(Works(_, chosen)) = self.0.iter().find(|Works(name, _)| name == text) {
            return Ok(*chosen);
        }
        match nearest(text, self.working()) {
            Some(near) => {
                let expected = self.expected();
                Err(Refusal::Because(format!("expected {expected}, but found {value}; did you mean {near:?}?")))
            }
            None => Err(Refusal::Unexpected),
        }
    }
}

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`.
pub(super) fn one_of(words: impl Iterator<Item = &'static str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "nothing".to_owned(),
    }
}

/// An array, each element of one kind.
pub(super) struct List<K> {
    pub(super) of: K,
    pub(super) len_max: usize,
}

impl<K: Describe> Describe for List<K> {
    fn expected(&self) -> String {
        format!("an array, each element {}", self.of.expected())
    }
}

impl<K: Kind> Kind for List<K> {
    type Output = Vec<K::Output>;

    fn read(&self, path: &str, entry: &Entry, mistakes: &mut Mistakes) -> Option<Self::Output> {
        let fetched = match indirect::follow(&entry.value) {
            Ok(fetched) => fetched,
            Err(message) => {
                mistakes.add(entry.place, path, message);
                return None;
            }
        };
        let mut entry = Entry { place: entry.place, value: fetched.unwrap_or_else(|| entry.value.clone()) };
        if let Value::Plain(text) | Value::Fetched { text, .. } = &entry.value
            && let Some(Value::Array(mut elements)) = Value::typed(text)
        {
            elements.iter_mut().for_each(|element| element.came_with(&entry));
            entry.value = Value::Array(elements);
        }
        let Value::Array(entries) = &entry.value else {
            mistakes.expected(entry.place, path, &self.expected(), &entry.value);
            return None;
        };
        if entries.len() > self.len_max {
            let (len, len_max) = (entries.len(), self.len_max);
            mistakes.add(entry.place, path, format!("expected at most {len_max} elements, but found {len}"));
            return None;
        }
        let mut read = Vec::with_capacity(entries.len());
        for (index, element) in entries.iter().enumerate() {
            read.extend(self.of.read(&format!("{path}[{index}]"), element, mistakes));
        }
        (read.len() == entries.len()).then_some(read)
    }
}

/// A table of keys that make a [`Section`].
pub(super) struct Nested<S>(PhantomData<S>);

impl<S> Nested<S> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S: Section> Describe for Nested<S> {
    fn expected(&self) -> String {
        "a table".to_owned()
    }

    fn tables(&self) -> Vec<SubTable> {
        vec![SubTable { suffix: "", variant: None, about: S::ABOUT, keys: S::KEYS }]
    }
}

impl<S: Section> Kind for Nested<S> {
    type Output = S;

    fn read(&self, path: &str, entry: &Entry, mistakes: &mut Mistakes) -> Option<S> {
        let Value::Table(table) = &entry.value else {
            mistakes.expected(entry.place, path, &self.expected(), &entry.value);
            return None;
        };
        Reader::section(path, entry.place, table, mistakes)
    }

    fn take_live(&self, old: &mut S, new: &S, found: &mut Differences<'_>) {
        old.take_live(new, found);
    }
}

/// A table whose keys are names that the user gives, each with a value of one kind.
pub(super) struct Named<K> {
    /// What stands for the name in the reference.
    pub(super) suffix: &'static str,
    pub(super) names: Text,
    pub(super) of: K,
    pub(super) len_max: usize,
}

impl<K: Describe> Describe for Named<K> {
    fn expected(&self) -> String {
        format!("a table of names, each with {}", self.of.expected())
    }

    fn tables(&self) -> Vec<SubTable> {
        self.of.tables().into_iter().map(|table| SubTable { suffix: self.suffix, ..table }).collect()
    }
}

impl<K: Kind> Kind for Named<K> {
    type Output = BTreeMap<String, K::Output>;

    fn read(&self, path: &str, entry: &Entry, mistakes: &mut Mistakes) -> Option<Self::Output> {
        let Value::Table(table) = &entry.value else {
            mistakes.expected(entry.place, path, &self.expected(), &entry.value);
            return None;
        };
        if table.len() > self.len_max {
            let (len, len_max) = (table.len(), self.len_max);
            mistakes.add(entry.place, path, format!("expected at most {len_max} names, but found {len}"));
            return None;
        }
        let mut read = BTreeMap::new();
        for (name, entry) in table {
            let path = format!("{path}.{name}");
            if !(self.names.fits)(name) {
                let name = Value::Text(name.clone());
                mistakes.expected(entry.place, &path, self.names.expected, &name);
            }
            read.extend(self.of.read(&path, entry, mistakes).map(|value| (name.clone(), value)));
        }
        Some(read)
    }

    fn take_live(&self, old: &mut Self::Output, new: &Self::Output, found: &mut Differences<'_>) {
        for (name, old) in old.iter_mut() {
            let mut found = found.at(name, false);
            match new.get(name) {
                Some(new) => self.of.take_live(old, new, &mut found),
                None => found.note(),
            }
        }
        for name in new.keys().filter(|name| !old.contains_key(*name)) {
            found.at(name, false).note();
        }
    }
}
