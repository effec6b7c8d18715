//! `larder status`: the cluster, its groups and the locks that are held, as one node sees them.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::{Failure, client::ask_json, print, wait_for};
use crate::cli::StatusArgs;

/// Prints the members, the groups' counters, and the locks if there are any.
///
/// # Errors
///
/// If the node can't be asked.
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let (cluster, groups, locks) = wait_for(async {
        let node = &args.node.url;
        tokio::try_join!(ask_json(node, "/v1/cluster"), ask_json(node, "/v1/groups"), ask_json(node, "/v1/locks"))
    })?;
    if args.json {
        return print(format!("{}\n", json!({ "cluster": cluster, "groups": groups, "locks": locks })).as_bytes());
    }
    let view = &cluster["view"];
    let settled = if view["settled"] == true { "settled" } else { "changing" };
    let head = format!("asked {}, view {} ({settled})", text(&cluster["self"]), text(&view["digest"]));
    let failure = match &cluster["journal_failure"] {
        Value::String(failure) => format!("the journal has failed: {failure}\n"),
        _ => String::new(),
    };
    let mut shown = format!("{head}\n{failure}\n{}\n\n{}\n", members(&cluster), counters(&groups));
    if let Some(held) = held(&locks) {
        shown += &format!("\n{held}\n");
    }
    print(shown.as_bytes())
}

fn members(cluster: &Value) -> Table {
    let columns = ["name", "state", "http", "peer", "slots", "weight", "zone"];
    let mut table = table(&["member", "state", "http", "peer", "slots", "weight", "zone"], &["slots", "weight"]);
    for member in cluster["members"].as_array().into_iter().flatten() {
        table.add_row(columns.map(|column| text(&member[column])));
    }
    table
}

/// A column of the groups' table and where its number stands in the node's answer.
const COUNTERS: [(&str, &str); 9] = [
    ("gets", "/counters/gets"),
    ("hits", "/counters/hits/main"),
    ("hot hits", "/counters/hits/hot"),
    ("stale hits", "/counters/stale_hits"),
    ("misses", "/counters/misses"),
    ("loads", "/counters/loads/origin"),
    ("deduped", "/counters/loads_deduped"),
    ("items", "/counters/cache_items/main"),
    ("bytes", "/counters/cache_bytes/main"),
];

fn counters(groups: &Value) -> Table {
    let names = COUNTERS.map(|(name, _)| name);
    let mut table = table(&[&["group"], names.as_slice()].concat(), &names);
    for group in groups["groups"].as_array().into_iter().flatten() {
        let counted = COUNTERS.map(|(_, place)| group.pointer(place).map_or("-".to_owned(), text));
        table.add_row(std::iter::once(text(&group["name"])).chain(counted));
    }
    table
}

/// The locks that are held.
fn held(locks: &Value) -> Option<Table> {
    let locks = locks["locks"].as_array().filter(|locks| !locks.is_empty())?;
    let mut table = table(&["lock", "node", "fence", "ttl left ms", "waiters"], &["fence", "ttl left ms", "waiters"]);
    for lock in locks {
        // A name may hold anything, and stands on a terminal here.
        let name = match &lock["name"] {
            Value::String(name) => name.escape_debug().to_string(),
            _ => format!("{} (Base64)", text(&lock["name_b64"])),
        };
        let rest = ["node", "fence", "ttl_left_ms", "waiters"].map(|column| text(&lock[column]));
        table.add_row(std::iter::once(name).chain(rest));
    }
    Some(table)
}

/// An empty table with these columns, those of numbers aligned to the right.
fn table(columns: &[&str], numbers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns);
    for (index, column) in columns.iter().enumerate() {
        if numbers.contains(column)
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A JSON value as people write it; nothing is a dash.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
