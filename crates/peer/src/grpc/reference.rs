//! The tables of `docs/grpc.md`, from what the code itself uses. Each stands below a line such as `<!-- errors -->`; the rest of
//! the page is written there.

use std::{fs, path::Path, time::Duration};

use larder_core::ErrorKind;
use tonic::Code;

use super::{limits, status};

/// The page with its tables as they should be.
fn with_tables(page: &str) -> String {
    let mut text = String::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        text += line;
        text.push('\n');
        let table = match line {
            "<!-- errors -->" => errors,
            "<!-- limits -->" => limits,
            _ => continue,
        };
        text.push('\n');
        table(&mut text);
        while lines.next_if(|line| line.is_empty() || line.starts_with('|')).is_some() {}
        if lines.peek().is_some() {
            text.push('\n');
        }
    }
    text
}

fn errors(text: &mut String) {
    let kinds = ErrorKind::ALL.into_iter().map(|kind| (status::code(kind), kind.slug()));
    let mut kinds: Vec<(Code, &str)> = kinds.chain(status::OF_CLIENTS).collect();
    kinds.sort_by_key(|(code, _)| *code as i32);
    table(text, ["code", "kind"], kinds.into_iter().map(|(code, kind)| [name(code), format!("`{kind}`")]));
}

/// As gRPC's documents write it.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    format!("`{name}` ({})", code as i32)
}

fn limits(text: &mut String) {
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let (kib, mib) = (|len: usize| format!("{} KiB", len >> 10), |len: usize| format!("{} MiB", len >> 20));
    let rows = [
        ("connections of clients", limits::CLIENT_CONNECTIONS_MAX.to_string(), "`overloaded`, and closed"),
        ("calls at once on a connection", limits::STREAMS_MAX.to_string(), "they wait in the client"),
        ("a call's headers", kib(limits::HEADERS_LEN_MAX as usize), "refused"),
        ("a request", kib(limits::MESSAGE_LEN_MAX), "`too-large`"),
        ("a request for several keys", mib(limits::GET_MANY_LEN_MAX), "`too-large`"),
        (
            "a request with a value",
            format!("the longest `max_value` of any group, and {}", kib(limits::PUT_HEAD_LEN_MAX)),
            "`too-large`",
        ),
        (
            "requests and answers over 8 KiB, of all calls and of one connection",
            format!("{} and {}", mib(limits::MESSAGES_LEN_MAX), mib(limits::CONNECTION_MESSAGES_LEN_MAX)),
            "they wait until their deadlines, then `overloaded`",
        ),
        ("from connecting to the first call", seconds(limits::FIRST_STREAM_TIMEOUT), "closed"),
        ("between two calls", seconds(limits::IDLE_TIMEOUT), "closed"),
        ("from a call's beginning until its answer was read", seconds(limits::CALL_TIME_MAX), "cut"),
    ];
    table(text, ["what", "limit", "beyond"], rows.map(|(what, limit, beyond)| [what.into(), limit, beyond.into()]));
}

fn table<const N: usize>(text: &mut String, head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    *text += &format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(N));
    for row in rows {
        *text += &format!("| {} |\n", row.join(" | "));
    }
}

/// `cargo xtask docs` writes them anew.
#[test]
fn the_committed_docs_have_the_tables_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/grpc.md");
    let committed = fs::read_to_string(&path).unwrap();
    let right = with_tables(&committed);
    assert!(right.contains("`UNAVAILABLE` (14)") && right.contains("connections of clients"), "the tables are there");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, right).unwrap();
    } else {
        assert!(committed == right, "docs/grpc.md is stale: run cargo xtask docs");
    }
}
