//! As much of Rust's grammar as the rules need: what is code and what is not, and which paths it names.

use super::Complaint;
use crate::workspace::Workspace;

pub(super) fn modules_open_with_what_they_are(workspace: &Workspace) -> Vec<Complaint> {
    let silent = workspace.files.iter().filter(|file| file.is_rust_source() && !file.text.starts_with("//!"));
    silent.map(|file| Complaint::new(&file.path, "must open with `//!`: what it is and why")).collect()
}

/// Folders whose code may print: it is no library's, or a test's.
const MAY_PRINT: &[&str] = &["crates/bench/compare/", "crates/core/src/testing/", "crates/server/", "xtask/"];

/// Clippy could tell too, but then every example would have to say that it prints.
pub(super) fn libraries_print_nothing(workspace: &Workspace) -> Vec<Complaint> {
    let may_print = |path: &str| MAY_PRINT.iter().any(|folder| path.starts_with(folder));
    let mut complaints = Vec::new();
    for file in workspace.files.iter().filter(|file| file.is_rust_source() && !may_print(&file.path)) {
        let code = code(&file.text);
        for pair in tokens(&code).windows(2) {
            if let [(line, name @ ("print" | "println" | "eprint" | "eprintln")), (_, "!")] = pair {
                let what = format!("{name}! in a library: use tracing, or give the text back");
                complaints.push(Complaint::on_line(&file.path, *line, what));
            }
        }
    }
    complaints
}

/// Every path that code names, with its line, with the groups of `use` spelt out: `use a::{b, c::d}` is `a::b` and
/// `a::c::d`. A leading `::` is left away. Names without `::` are paths too.
pub(super) fn paths(text: &str) -> Vec<(usize, String)> {
    let code = code(text);
    let tokens = tokens(&code);
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = path(&tokens, at, "", &mut paths);
    }
    paths
}

/// Reads the path that starts at token `at`, below `prefix`; gives back the token after it.
fn path(tokens: &[(usize, &str)], mut at: usize, prefix: &str, paths: &mut Vec<(usize, String)>) -> usize {
    let (line, name) = tokens[at];
    at += 1;
    if !name.starts_with(is_name) {
        return at;
    }
    let path_so_far = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    let next = |at: usize| tokens.get(at).map_or("", |(_, token)| token);
    if next(at) != "::" {
        paths.push((line, path_so_far));
        return at;
    }
    at += 1;
    if next(at) == "{" {
        at += 1;
        while at < tokens.len() && next(at) != "}" {
            at = path(tokens, at, &path_so_far, paths);
        }
        return at + 1;
    }
    if next(at).starts_with(is_name) {
        return path(tokens, at, &path_so_far, paths);
    }
    // A glob, or the generic arguments of an expression.
    paths.push((line, path_so_far));
    at
}

/// Names, `::`, and every other sign by itself, with their lines. A `::` after a space opens a path and is left away.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                _ if is_name(first) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            let (token, after) = rest.split_at(length);
            let spaced = line[..line.len() - rest.len()].chars().next_back().is_none_or(char::is_whitespace);
            if token != "::" || !spaced {
                tokens.push((number + 1, token));
            }
            rest = after.trim_start();
        }
    }
    tokens
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The text with comments, strings and characters blanked out; lines stay where they are.
pub(super) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = foreign_len(rest, code.chars().next_back().is_some_and(is_name));
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    code
}

/// The length of the comment or literal that `rest` starts with, or 0. In the middle of a name no literal starts.
fn foreign_len(rest: &str, in_name: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_len(rest);
    }
    if let Some(quoted) = rest.strip_prefix('"') {
        return 1 + quoted_len(quoted);
    }
    if rest.starts_with('\'') {
        return character_len(rest);
    }
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')).filter(|_| !in_name);
    let Some(raw) = raw else { return 0 };
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if !raw[hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let opened = rest.len() - raw.len() + hashes + 1;
    rest[opened..].find(&end).map_or(rest.len(), |at| opened + at + end.len())
}

fn block_comment_len(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length up to and with the closing quote.
fn quoted_len(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// A character literal; a lifetime or label is none.
fn character_len(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            let from = escaped + rest[escaped..].chars().next().map_or(0, char::len_utf8);
            rest[from..].find('\'').map_or(rest.len(), |at| from + at + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::testing::{places, with_file};

    fn names(text: &str) -> Vec<String> {
        paths(text).into_iter().map(|(_, path)| path).collect()
    }

    #[test]
    fn a_module_that_does_not_say_what_it_is_is_refused() {
        let silent = with_file("crates/core/src/key.rs", "use std::fmt;\n");
        assert_eq!(places(&modules_open_with_what_they_are(&silent)), ["crates/core/src/key.rs"]);
        assert!(modules_open_with_what_they_are(&with_file("crates/core/src/key.rs", "//! Keys.\n")).is_empty());
        assert!(modules_open_with_what_they_are(&with_file("crates/core/tests/key.rs", "fn f() {}\n")).is_empty());
    }

    #[test]
    fn a_library_that_prints_is_refused_and_a_program_is_not() {
        let complaints = |path| {
            let text = "/// println!(\"x\")\nfn f() {\n    println!(\"print!\");\n}\n";
            places(&libraries_print_nothing(&with_file(path, text))).join(" ")
        };
        assert_eq!(complaints("crates/core/src/key.rs"), "crates/core/src/key.rs:3");
        assert_eq!(complaints("crates/server/src/cli.rs"), "");
        assert_eq!(complaints("crates/larder/examples/embed.rs"), "");
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        for text in [
            "/* a /* b */ c */x",
            "\"a \\\" b\"x",
            "\"a \\\\\"x",
            "r#\"a \" b\"#x",
            "br\"\\\"x",
            "'\\''x",
            "'\"'x",
            "'\\u{22}'x",
            "b'\"'",
        ] {
            let left: String = code(text).chars().filter(|c| !c.is_whitespace()).collect();
            assert!(left == "x" || left == "b", "{text} leaves {left}");
        }
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
        assert_eq!(code("for\"x\""), "for   ");
    }

    #[test]
    fn groups_of_use_are_spelt_out() {
        assert_eq!(names("use a::{b, c::{d, e::*}, self};"), ["use", "a::b", "a::c::d", "a::c::e", "a::self"]);
        assert_eq!(names("::a::b::<C>()"), ["a::b", "C"]);
        assert_eq!(paths("x\n\n a::b"), [(1, "x".into()), (3, "a::b".into())]);
        assert_eq!(names("use a::{b"), ["use", "a::b"]);
    }
}
