//! How long a file may be before it wants to be two.

use super::Complaint;
use crate::workspace::{File, Workspace};

/// Lines of a source file, its tests apart: beyond that it is about more than one thing.
const SOURCE_LINES_MAX: usize = 600;
/// Lines of an example: it is read in one go.
const EXAMPLE_LINES_MAX: usize = 79;
/// Lines of ARCHITECTURE.md: it is read before one starts.
const ARCHITECTURE_LINES_MAX: usize = 250;

pub(super) fn no_file_outgrows_its_limit(workspace: &Workspace) -> Vec<Complaint> {
    let complaint = |file: &File| {
        let (lines, lines_max) = size(file)?;
        let what = format!("has {lines} lines, at most {lines_max} are allowed");
        (lines > lines_max).then(|| Complaint::new(&file.path, what))
    };
    workspace.files.iter().filter_map(complaint).collect()
}

/// A file's lines and their limit, if it has one.
fn size(file: &File) -> Option<(usize, usize)> {
    if file.path == "ARCHITECTURE.md" {
        Some((file.text.lines().count(), ARCHITECTURE_LINES_MAX))
    } else if file.is_rust() && format!("/{}", file.path).contains("/examples/") {
        Some((file.text.lines().count(), EXAMPLE_LINES_MAX))
    } else if file.is_rust_source() {
        Some((lines_without_tests(&file.text), SOURCE_LINES_MAX))
    } else {
        None
    }
}

/// Tests stand in a module at the end of a file.
fn lines_without_tests(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::testing::{places, with_file};

    fn refused(path: &str, lines: usize) -> bool {
        let complaints = no_file_outgrows_its_limit(&with_file(path, &"x\n".repeat(lines)));
        places(&complaints) == [path]
    }

    #[test]
    fn a_file_is_refused_from_one_line_over_its_limit() {
        for (path, lines_max) in [
            ("crates/core/src/group.rs", 600),
            ("crates/larder/examples/typed.rs", 79),
            ("examples/x.rs", 79),
            ("ARCHITECTURE.md", 250),
        ] {
            assert!(!refused(path, lines_max), "{path}");
            assert!(refused(path, lines_max + 1), "{path}");
        }
        assert!(!refused("crates/core/tests/group.rs", 5000));
        assert!(!refused("README.md", 5000));
    }

    #[test]
    fn the_tests_at_the_end_of_a_file_do_not_count() {
        let text = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(600), "y\n".repeat(600));
        assert!(no_file_outgrows_its_limit(&with_file("crates/core/src/group.rs", &text)).is_empty());
    }
}
