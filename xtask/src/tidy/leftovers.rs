//! What is fine while one works and must not stay.

use super::Complaint;
use crate::workspace::Workspace;

/// Marks of work put off, written so that they are not found here.
const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("// XX", "X"), concat!("# XX", "X")];

/// Folders that exist on one machine only, written so that they are not found here.
const MACHINE_FOLDERS: &[&str] =
    &[concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];

pub(super) fn no_marks_of_unfinished_work(workspace: &Workspace) -> Vec<Complaint> {
    let marks = |line: &str| MARKS.iter().find(|mark| has_word(line, mark)).copied();
    each_line(workspace, |line| marks(line).map(|mark| format!("{mark}: do it, or leave it out")))
}

pub(super) fn no_paths_of_one_machine(workspace: &Workspace) -> Vec<Complaint> {
    let folder = |line: &str| MACHINE_FOLDERS.iter().find(|folder| has_absolute(line, folder)).copied();
    each_line(workspace, |line| {
        folder(line).map(|folder| format!("names {folder}…, which is elsewhere on others' machines"))
    })
}

fn each_line(workspace: &Workspace, complaint: impl Fn(&str) -> Option<String>) -> Vec<Complaint> {
    let ours = workspace.files.iter().filter(|file| !file.path.ends_with("Cargo.lock"));
    let lines = ours.flat_map(|file| file.text.lines().enumerate().map(move |(number, line)| (file, number + 1, line)));
    lines.filter_map(|(file, number, line)| Some(Complaint::on_line(&file.path, number, complaint(line)?))).collect()
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let joined = |c: char| c == '_' || c.is_alphanumeric();
        !line[..at].ends_with(joined) && !line[at + word.len()..].starts_with(joined)
    })
}

/// Whether `line` names the folder from the root on, rather than as a part of a longer path or a URL.
fn has_absolute(line: &str, folder: &str) -> bool {
    let longer = |c: char| c.is_alphanumeric() || "._-~/}".contains(c);
    line.match_indices(folder).any(|(at, _)| !line[..at].ends_with(longer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::testing::{places, with_file};

    #[test]
    fn a_mark_of_unfinished_work_is_found_in_any_file() {
        let text = format!("fine\n# {}: later\n", MARKS[0]);
        assert_eq!(places(&no_marks_of_unfinished_work(&with_file("Cargo.toml", &text))), ["Cargo.toml:2"]);
        let text = format!("fn f() {{}} {} later\n", MARKS[2]);
        assert_eq!(places(&no_marks_of_unfinished_work(&with_file("src/a.rs", &text))), ["src/a.rs:1"]);
        // Three of that letter are the ISO code for no currency, for one.
        let text = format!("{}S are no {}_mark, nor is {}\n", MARKS[0], MARKS[1], &MARKS[2][3..]);
        assert!(no_marks_of_unfinished_work(&with_file("README.md", &text)).is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_found_and_a_url_is_not() {
        let text = format!("x\n\"{}somebody/x\"\n", MACHINE_FOLDERS[0]);
        assert_eq!(
            places(&no_paths_of_one_machine(&with_file("crates/a/src/lib.rs", &text))),
            ["crates/a/src/lib.rs:2"]
        );
        let text = format!("https://example.org{}x and .{}x\n", MACHINE_FOLDERS[0], MACHINE_FOLDERS[3]);
        assert!(no_paths_of_one_machine(&with_file("README.md", &text)).is_empty());
    }
}
