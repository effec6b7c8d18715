//! Whether the links between the project's own documents lead somewhere.

use super::Complaint;
use crate::workspace::Workspace;

pub(super) fn links_lead_somewhere(workspace: &Workspace) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in workspace.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, link) in links(&file.text) {
            if let Some(what) = broken(workspace, &file.path, link) {
                complaints.push(Complaint::on_line(&file.path, line, format!("links to {link}: {what}")));
            }
        }
    }
    complaints
}

/// Targets of `[text](target)` and of `[name]: target`, outside fenced blocks, with their lines.
fn links(markdown: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose(markdown) {
        let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let definition =
            line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target.trim());
        links.extend(inline.chain(definition).map(|link| (number, link)));
    }
    links
}

/// The lines outside fenced blocks, numbered from 1.
fn prose(markdown: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    markdown.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((number + 1, line))
    })
}

/// What is wrong with a link in the document `from`. Links out of the project are not followed.
fn broken(workspace: &Workspace, from: &str, link: &str) -> Option<&'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let Some(path) = resolved(from, path) else { return Some("that is outside the project") };
    let target = workspace.file(&path);
    let folder = format!("{path}/");
    let is_folder = path.is_empty() || workspace.files.iter().any(|file| file.path.starts_with(&folder));
    if target.is_none() && !is_folder {
        return Some("there is no such file");
    }
    let markdown = target.filter(|file| file.path.ends_with(".md") && !heading.is_empty())?;
    let found = prose(&markdown.text).any(|(_, line)| line.starts_with('#') && anchor(line) == heading);
    (!found).then_some("there is no such heading")
}

/// The path from the root of `link` in `from`, if it stays below the root.
fn resolved(from: &str, link: &str) -> Option<String> {
    if link.is_empty() {
        return Some(from.to_owned());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::File;

    fn complaints(link: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let files = vec![
            file("docs/http.md", &format!("x\n\nsee [it]({link}).\n")),
            file("docs/config.md", "# The `[node]` table\n```\n# no heading\n```\n"),
            file("README.md", "# Larder\n"),
        ];
        let complaints = links_lead_somewhere(&Workspace { files, ..Workspace::default() });
        complaints.into_iter().map(|complaint| format!("{} {}", complaint.at, complaint.what)).collect()
    }

    #[test]
    fn a_link_to_a_file_or_heading_that_is_there_is_fine() {
        for link in [
            "config.md",
            "../README.md#larder",
            "./config.md#the-node-table",
            "..",
            "../docs",
            "https://example.org/no",
            "#",
        ] {
            assert!(complaints(link).is_empty(), "{link}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_refused_with_its_line() {
        assert_eq!(complaints("no.md"), ["docs/http.md:3 links to no.md: there is no such file"]);
        assert_eq!(complaints("#no"), ["docs/http.md:3 links to #no: there is no such heading"]);
        assert_eq!(complaints("config.md#no-heading").len(), 1);
        assert_eq!(complaints("../../README.md").len(), 1);
        assert_eq!(complaints("config.md#no").len(), 1);
    }

    #[test]
    fn links_are_found_in_text_and_definitions_but_not_in_blocks() {
        let markdown = "[a](b) and [c](d \"title\")\n[e]: f\n```sh\n[g](h)\n```\n";
        assert_eq!(links(markdown), [(1, "b"), (1, "d"), (2, "f")]);
    }
}
