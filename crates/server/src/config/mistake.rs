//! [`Mistakes`]: everything that is wrong with a configuration, found in one pass.
//!
//! A mistake names its key, where it was written and what was expected. It never repeats what an environment variable
//! or a file held, since that may be a secret.

use std::{cmp::Ordering, fmt};

use super::document::Value;

/// The most mistakes that are kept: a file that isn't a configuration at all must not fill the memory or the screen.
pub const MISTAKES_MAX: usize = 200;

/// Where a value was written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// By a flag of the command line, such as `--set`.
    Flag(&'static str),
    /// In the configuration file, on this line, counted from 1.
    Line(usize),
    /// Nowhere: it is the default, or it concerns the file as a whole.
    Unwritten,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Line(line) => write!(f, "line {line}"),
            Self::Unwritten => Ok(()),
        }
    }
}

/// One mistake in a configuration.
///
/// # Examples
///
/// ```
/// use larder_server::config::Config;
///
/// let mistakes = Config::parse("[groups.users]\nttl = 5", &[]).unwrap_err();
/// assert_eq!(
///     mistakes.iter().next().unwrap().to_string(),
///     r#"line 2: groups.users.ttl: expected a duration such as "250ms" or "5m", at least 1ms, at most 1year, but found 5"#
/// );
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Where it was made.
    pub place: Place,
    /// The key by its dotted path; empty if it concerns no key.
    pub key: String,
    /// What was expected.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place != Place::Unwritten {
            write!(f, "{}: ", self.place)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// All mistakes of a configuration, flags first, then line by line. Never empty when it stands in an `Err`.
///
/// # Examples
///
/// ```
/// use larder_server::config::Config;
///
/// let mistakes = Config::parse("[node]\nport = 1\nworkers = -1", &[]).unwrap_err();
/// assert_eq!(mistakes.len(), 2);
/// assert!(!mistakes.are_all_in_flags());
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mistakes {
    found: Vec<Mistake>,
    /// The lines that TOML can't read. What stands there is half read at best, and what seems to be missing may stand there.
    broken: Vec<usize>,
}

impl Mistakes {
    /// The only mistake, one that concerns no key.
    pub(super) fn whole(place: Place, message: impl Into<String>) -> Self {
        let mut mistakes = Self::default();
        mistakes.push(place, String::new(), message.into());
        mistakes
    }

    /// Adds that a line is not TOML. One broken place often gives several errors; the first says it best.
    pub(super) fn broken(&mut self, line: usize, message: &str) {
        if !self.broken.contains(&line) && self.broken.len() < MISTAKES_MAX {
            self.broken.push(line);
            self.push(Place::Line(line), String::new(), format!("this is not TOML: {message}"));
        }
    }

    /// Whether there are lines that are not TOML.
    pub(super) fn have_broken_lines(&self) -> bool {
        !self.broken.is_empty()
    }

    pub(super) fn add(&mut self, place: Place, key: impl Into<String>, message: impl Into<String>) {
        if !matches!(place, Place::Line(line) if self.broken.contains(&line)) {
            self.push(place, key.into(), message.into());
        }
    }

    /// Adds that `key` is missing from the table at `place`.
    pub(super) fn missing(&mut self, place: Place, key: String, expected: &str) {
        if self.broken.is_empty() {
            self.push(place, key, format!("this key is missing: expected {expected}"));
        }
    }

    pub(super) fn append(&mut self, others: Self) {
        others.found.into_iter().for_each(|mistake| self.push(mistake.place, mistake.key, mistake.message));
    }

    fn push(&mut self, place: Place, key: String, message: String) {
        if self.found.len() < MISTAKES_MAX {
            self.found.push(Mistake { place, key, message });
        }
    }

    /// Adds that something else was expected at `key` than `found`.
    pub(super) fn expected(&mut self, place: Place, key: &str, expected: &str, found: &Value) {
        self.add(place, key, format!("expected {expected}, but found {found}"));
    }

    /// Says whether there is a mistake in `key` itself, in something below it or in something that it stands in.
    pub(super) fn concern(&self, key: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.found.iter().any(|mistake| within(&mistake.key, key) || within(key, &mistake.key))
    }

    pub(super) fn sort(&mut self) {
        self.found.sort_by(|one, other| match one.place.cmp(&other.place) {
            Ordering::Equal => one.key.cmp(&other.key),
            order => order,
        });
    }

    /// Each mistake.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.found.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether it is the command line that is wrong, and not the file.
    #[must_use]
    pub fn are_all_in_flags(&self) -> bool {
        self.found.iter().all(|mistake| matches!(mistake.place, Place::Flag(_)))
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.found.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The candidate that `name` was most likely meant to be: few letters differ, in relation to its length.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::osa_distance(&name.to_lowercase(), candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}
