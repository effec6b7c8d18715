//! `docs/configuration.md`, from the keys themselves: `reference.md` holds the prose, and a line `<!-- keys: PATH -->` in it
//! becomes the tables of that path.

use super::document::Value;
use super::{
    keys::Config,
    kind::SubTable,
    section::{Key, Section, Shown},
};

const PROSE: &str = include_str!("reference.md");

/// A table of keys with its path.
struct Table {
    path: String,
    table: SubTable,
}

/// The text of `docs/configuration.md`.
#[must_use]
pub fn reference() -> String {
    let tables = tables();
    let mut text = String::new();
    for line in PROSE.lines() {
        match line.strip_prefix("<!-- keys: ").and_then(|rest| rest.strip_suffix(" -->")) {
            Some(path) => tables.iter().filter(|table| table.path == path).for_each(|table| table.write(&mut text)),
            None => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

/// The path of a key that works, wherever it stands.
pub(super) fn path_of_key(name: &str) -> Option<String> {
    tables().iter().find_map(|Table { path, table }| {
        let found = table.keys.iter().any(|key| key.name == name);
        let of_kind = table.variant.map_or(String::new(), |kind| format!(" (of kind = {kind:?})"));
        found.then(|| format!("{path}.{name}{of_kind}"))
    })
}

/// Each key that has a default, with its table and the default in TOML, but for those of origins.
#[cfg(test)]
pub(super) fn defaults() -> Vec<(String, &'static str, String)> {
    let tables = tables().into_iter().filter(|table| table.table.variant.is_none());
    let keys = tables.flat_map(|table| table.table.keys.iter().map(move |key| (table.path.clone(), key)));
    keys.filter_map(|(path, key)| match key.shown {
        Shown::Default(text) => Some((path, key.name, in_toml(text))),
        _ => None,
    })
    .collect()
}

/// Every table of keys.
fn tables() -> Vec<Table> {
    let mut tables = Vec::new();
    below("", Config::KEYS, &mut tables);
    tables
}

fn below(path: &str, keys: &'static [Key], tables: &mut Vec<Table>) {
    for key in keys {
        for table in key.kind.tables() {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{}{}", key.name, table.suffix);
            let keys = table.keys;
            tables.push(Table { path: path.clone(), table });
            below(&path, keys, tables);
        }
    }
}

impl Table {
    fn write(&self, text: &mut String) {
        let SubTable { variant, about, keys, .. } = &self.table;
        if let Some(kind) = variant {
            *text += &format!("### `kind = \"{kind}\"`\n\n");
        }
        *text += &format!("{}\n", sentence(about));
        let mut rows = keys.iter().filter(|key| key.kind.tables().is_empty()).map(|key| {
            let meaning = sentence(key.meaning) + if key.live { " *Live.*" } else { "" };
            let expected = key.kind.expected();
            format!("| `{}` | {} | {} | {} |\n", key.name, key.shown.cell(), cell(&meaning), cell(&expected))
        });
        if let Some(first) = rows.next() {
            *text += "\n| key | default | meaning | expected |\n|---|---|---|---|\n";
            *text += &first;
            rows.for_each(|row| *text += &row);
        }
        text.push('\n');
    }
}

impl Shown {
    fn cell(self) -> String {
        match self {
            Self::Default(text) => format!("`{}`", in_toml(text)),
            Self::Absent(meaning) => format!("absent: {}", cell(meaning)),
            Self::Required => "required".to_owned(),
        }
    }
}

/// A default as one would write it.
fn in_toml(text: &str) -> String {
    if Value::typed(text).is_some() { text.to_owned() } else { format!("\"{text}\"") }
}

/// The lines of a comment as one.
fn sentence(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// Text that can stand in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
