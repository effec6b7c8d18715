//! `docs/http.md`, from the tables that the program itself uses: `reference.md` holds the prose, and a line such as
//! `<!-- errors -->` in it becomes a table.

use larder_core::ErrorKind;
use prometheus_client::metrics::MetricType;

use super::{
    HttpLimits,
    metrics::FAMILIES,
    problem::ProblemKind,
    route::{ADMIN_ROWS, CLIENT_ROWS, Row},
};

const PROSE: &str = include_str!("reference.md");

/// What a client may send.
const REQUEST_HEADERS: &[(&str, &str, &str)] = &[
    (
        "`Larder-Timeout-Ms`",
        "any",
        "How long the whole work may take, in milliseconds: 10,000 unless given, 60,000 at most.",
    ),
    ("`If-None-Match: \"<version>\"`", "GET, HEAD", "304 without the value if the client has it."),
    ("`If-Match: \"<version>\"`", "PUT, DELETE", "Only while the key has this version; else 412."),
    ("`If-None-Match: *`", "PUT, DELETE", "Only where a get would find nothing; else 412."),
    ("`Cache-Control: max-age=<seconds>`", "PUT", "The key's own ttl."),
    ("`Larder-Ttl-Ms`", "PUT", "The same in milliseconds; stands above `max-age`."),
    ("`Content-Type`", "PUT", "Kept, and told to whoever gets the value."),
    ("`Larder-Tags: <tag>, <tag>`", "PUT", "By which the value can be invalidated together with others: at most 15."),
    (
        "`Idempotency-Key`",
        "PUT, DELETE",
        "A repetition under the same key is answered as the first was, for 10 minutes, unless a crash of the key's owner makes it \
         forget. At most 256 characters.",
    ),
];

/// What comes with a value.
const ANSWER_HEADERS: &[(&str, &str)] = &[
    ("`ETag`", "The version in quotes: 24 hexadecimal digits, later versions greater. Also on the answer to a PUT."),
    ("`Age`", "Seconds since the value's load began."),
    ("`Larder-Ttl-Ms`", "What is left of its ttl, in milliseconds; absent if it has none."),
    ("`Cache-Control`", "`no-cache`, or `max-age` if the group has a `downstream_max_age`."),
    ("`Content-Type`", "As the origin or the writer gave it, else `application/octet-stream`."),
    ("`Cache-Status`", "How the value was come by, see below. Also on a 404."),
];

/// The text of `docs/http.md`.
#[must_use]
pub fn reference() -> String {
    let mut text = String::new();
    for line in PROSE.lines() {
        match line {
            "<!-- paths: clients -->" => paths(&mut text, &CLIENT_ROWS),
            "<!-- paths: operators -->" => paths(&mut text, &ADMIN_ROWS),
            "<!-- headers: requests -->" => {
                let rows =
                    REQUEST_HEADERS.iter().map(|(name, methods, about)| [*name, methods, about].map(String::from));
                table(&mut text, ["header", "methods", "meaning"], rows);
            }
            "<!-- headers: answers -->" => {
                let rows = ANSWER_HEADERS.iter().map(|(name, about)| [*name, about].map(String::from));
                table(&mut text, ["header", "meaning"], rows);
            }
            "<!-- errors -->" => errors(&mut text),
            "<!-- limits -->" => limits(&mut text),
            "<!-- metrics -->" => metrics(&mut text),
            prose => {
                text += prose;
                text.push('\n');
            }
        }
    }
    text
}

fn paths(text: &mut String, rows: &[&Row]) {
    let rows = rows.iter().map(|row| [format!("`{}`", row.path), row.methods.to_owned(), row.about.to_owned()]);
    table(text, ["path", "methods", "meaning"], rows);
}

fn errors(text: &mut String) {
    let mut kinds: Vec<ProblemKind> = ErrorKind::ALL.into_iter().map(ProblemKind::from).collect();
    kinds.extend(ProblemKind::OF_HTTP);
    kinds.sort_by_key(|kind| kind.status_and_title().0);
    let rows = kinds.into_iter().map(|kind| {
        let (status, title) = kind.status_and_title();
        [status.as_str().to_owned(), format!("`{}`", kind.slug()), title.to_owned()]
    });
    table(text, ["status", "type", "title"], rows);
}

fn limits(text: &mut String) {
    let limits = HttpLimits::default();
    let seconds = |duration: std::time::Duration| format!("{} s", duration.as_secs());
    let rows = [
        ("connections of a listener", limits.connections_max.to_string(), "the next are answered 503 and closed"),
        ("a request's head", format!("{} KiB, 100 headers", limits.head_len_max / 1024), "431"),
        ("from connecting, or from the first byte, to the end of a head", seconds(limits.head_time_max), "closed"),
        ("between two requests, and for a client that does not read", seconds(limits.idle_time_max), "closed"),
        ("a body", "the request's deadline".to_owned(), "504"),
        ("a value that is put", "`max_value` of its group".to_owned(), "413"),
    ];
    table(text, ["what", "limit", "beyond"], rows.map(|(what, limit, beyond)| [what.into(), limit, beyond.into()]));
}

fn metrics(text: &mut String) {
    let rows = FAMILIES.iter().map(|family| {
        let (kind, suffix) = match family.kind {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Histogram => ("histogram", ""),
            _ => ("gauge", ""),
        };
        let labels = family.labels.join(",");
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        [format!("`{}{suffix}{labels}`", family.name), kind.to_owned(), family.about.to_owned()]
    });
    table(text, ["metric", "kind", "meaning"], rows);
}

fn table<const N: usize>(text: &mut String, head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    *text += &format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(N));
    for row in rows {
        *text += &format!("| {} |\n", row.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// `UPDATE_DOCS=1 cargo test -p larder-server --lib docs` writes the file anew.
    #[test]
    fn the_committed_docs_are_those_of_the_tables() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/http.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, reference()).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == reference(),
            "docs/http.md is stale: run UPDATE_DOCS=1 cargo test -p larder-server --lib docs"
        );
    }
}
