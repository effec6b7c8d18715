//! The configuration: a TOML file and flags in, plain typed structs out, or every mistake by its key and line.
//!
//! `keys.rs` is the one definition of what a configuration may say; with `origin.rs` it feeds the parser, the defaults and
//! `docs/configuration.md`. What each key may hold is a kind (`kind.rs`), what several keys must agree on is a rule
//! (`rules.rs`). Nothing here knows what is done with the settings: that is the assembly's affair.

use std::{fs, io::Read, path::Path};

mod difference;
mod document;
mod indirect;
mod keys;
mod kind;
mod mistake;
mod name;
mod origin;
mod reference;
mod rules;
mod section;
mod shapes;

use difference::Differences;
use document::{Document, Entry, Lines, Value};
use origin::DEFAULT_GROUP;
use section::{Reader, Section};

pub use difference::Difference;
pub use document::Override;
pub(crate) use keys::DATA_DIR;
pub use keys::{
    ClusterConfig, Config, Discovery, GroupConfig, LockKeeper, NodeConfig, SecurityConfig, Transport, WriteMode,
};
pub use mistake::{MISTAKES_MAX, Mistake, Mistakes, Place};
pub use origin::{
    DirectoryOriginConfig, HttpOriginConfig, ObjectOriginConfig, OriginConfig, PostgresOriginConfig, RedisOriginConfig,
    Secret, SqliteOriginConfig,
};
pub use reference::reference;
pub use shapes::{GossipKey, MemberConfig};

/// The longest configuration: a thousand groups with every key written out fit.
const FILE_BYTES_MAX: u64 = 4 << 20;

impl Config {
    /// Reads the file at `path`, if there is one, and what flags override in it.
    ///
    /// # Errors
    ///
    /// Every mistake, in the file's order.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder_server::config::{Config, OriginConfig};
    ///
    /// let config = Config::load(None, &[])?;
    /// assert_eq!(config.groups["default"].origin, OriginConfig::None);
    /// # Ok::<(), larder_server::config::Mistakes>(())
    /// ```
    pub fn load(path: Option<&Path>, overrides: &[Override]) -> Result<Self, Mistakes> {
        let text = path.map_or(Ok(String::new()), read_file)?;
        Self::parse(&text, overrides)
    }

    /// Reads a configuration from its text, and what flags override in it.
    ///
    /// # Errors
    ///
    /// Every mistake, in the text's order.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder_server::config::Config;
    ///
    /// let config = Config::parse("[groups.users]\ncapacity = '64MiB'", &[])?;
    /// assert_eq!(config.groups["users"].capacity, 64 << 20);
    /// assert_eq!(config.node.listen.port(), 5273);
    /// # Ok::<(), larder_server::config::Mistakes>(())
    /// ```
    pub fn parse(text: &str, overrides: &[Override]) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let mut document = Document::parse(text, &mut mistakes);
        for given in overrides {
            document.set(given, &mut mistakes);
        }
        document.add_group_if_none(DEFAULT_GROUP);
        let config = read(&document.root, &mut mistakes);
        if let Some(config) = &config
            && !mistakes.have_broken_lines()
        {
            let broken = rules::check(config, &document, &mistakes);
            mistakes.append(broken);
        }
        mistakes.sort();
        config.filter(|_| mistakes.is_empty()).ok_or(mistakes)
    }

    /// Takes over what `new` has other values for and may change while the node runs. Names all keys that differ.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder_server::config::Config;
    ///
    /// let mut config = Config::parse("[groups.users]\nttl = '5m'", &[])?;
    /// let new = Config::parse("[groups.users]\nttl = '1h'\n[node]\nname = 'a'", &[])?;
    /// let differences = config.take_live(&new).into_iter().map(|difference| (difference.key, difference.live));
    /// assert!(differences.eq([("node.name".to_owned(), false), ("groups.users.ttl".to_owned(), true)]));
    /// assert_eq!(config.groups, new.groups);
    /// assert_eq!(config.node.name, None);
    /// # Ok::<(), larder_server::config::Mistakes>(())
    /// ```
    pub fn take_live(&mut self, new: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        Section::take_live(self, new, &mut Differences::new(&mut found));
        found
    }
}

fn read(root: &Entry, mistakes: &mut Mistakes) -> Option<Config> {
    let Value::Table(table) = &root.value else { return None };
    Reader::section("", root.place, table, mistakes)
}

fn read_file(path: &Path) -> Result<String, Mistakes> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Mistakes::whole(Place::Unwritten, format!("the file can't be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Mistakes::whole(
            Place::Unwritten,
            format!("the file is too long: {FILE_BYTES_MAX} bytes is the most"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        Mistakes::whole(Place::Line(Lines::of(&valid).line(valid.len())), "this is not TOML: expected UTF-8 text")
    })
}

#[cfg(test)]
mod tests;
