//! [`Difference`]: a key that two configurations have different values for.

/// A key that two configurations have different values for. [`Config::take_live`](super::Config::take_live) finds them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The key by its dotted path; a group that only one of them has is named as a whole.
    pub key: String,
    /// Whether it may change while the node runs.
    pub live: bool,
}

/// The differences that are found, and the key that is being looked at.
pub(super) struct Differences<'a> {
    path: String,
    live: bool,
    found: &'a mut Vec<Difference>,
}

impl<'a> Differences<'a> {
    pub(super) fn new(found: &'a mut Vec<Difference>) -> Self {
        Self { path: String::new(), live: false, found }
    }

    /// Those at the key `name` below this one.
    pub(super) fn at(&mut self, name: &str, live: bool) -> Differences<'_> {
        let dot = if self.path.is_empty() { "" } else { "." };
        Differences { path: format!("{}{dot}{name}", self.path), live, found: self.found }
    }

    /// Notes this key, and takes its new value over where that may be, unless it has it.
    pub(super) fn take_live<T: PartialEq + Clone>(&mut self, old: &mut T, new: &T) {
        if old == new {
            return;
        }
        self.note();
        if self.live {
            old.clone_from(new);
        }
    }

    /// Notes this key.
    pub(super) fn note(&mut self) {
        self.found.push(Difference { key: self.path.clone(), live: self.live });
    }
}
