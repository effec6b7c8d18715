//! What neither the compiler nor clippy can see: layering, leftovers, sizes, links.
//!
//! A rule is a function from the project to its complaints; [`RULES`] names them all. What clippy can see stays with
//! clippy, in the lints table of the root manifest: unwrap and expect, dbg!, todo!, `allow` without a reason.

mod documents;
mod layering;
mod leftovers;
mod manifests;
mod rust;
mod sizes;

use crate::{Outcome, workspace::Workspace};

/// Something that has to change: where it is, as `path:line` or a package's name, and what is wrong with it.
#[derive(Debug, PartialEq)]
struct Complaint {
    at: String,
    what: String,
}

impl Complaint {
    fn new(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self { at: at.into(), what: what.into() }
    }

    /// Lines count from 1.
    fn on_line(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self::new(format!("{path}:{line}"), what)
    }
}

const RULES: &[fn(&Workspace) -> Vec<Complaint>] = &[
    layering::manifests_point_downwards,
    layering::core_takes_no_sockets_or_files_from_tokio,
    layering::paths_stay_within_their_layer,
    manifests::members_inherit_lints_and_licence,
    leftovers::no_marks_of_unfinished_work,
    leftovers::no_paths_of_one_machine,
    rust::modules_open_with_what_they_are,
    rust::libraries_print_nothing,
    sizes::no_file_outgrows_its_limit,
    documents::links_lead_somewhere,
];

pub(crate) fn check(workspace: &Workspace) -> Outcome {
    let complaints: Vec<Complaint> = RULES.iter().flat_map(|rule| rule(workspace)).collect();
    if complaints.is_empty() {
        println!("{} files, {} rules.", workspace.files.len(), RULES.len());
        return Ok(());
    }
    let lines: Vec<String> =
        complaints.iter().map(|complaint| format!("{}: {}", complaint.at, complaint.what)).collect();
    Err(format!("Complaints: {}.\n{}", lines.len(), lines.join("\n")).into())
}

#[cfg(test)]
mod testing {
    //! Small projects to try rules on.

    use super::*;
    use crate::workspace::{Dependency, File, Graph, Package};

    pub(super) fn with_file(path: &str, text: &str) -> Workspace {
        Workspace { files: vec![File { path: path.into(), text: text.into() }], ..Workspace::default() }
    }

    /// A member `name` that depends on `dependencies` in the ordinary way.
    pub(super) fn with_member(name: &str, dependencies: Vec<Dependency>) -> Workspace {
        let package = Package { id: name.into(), name: name.into(), dependencies, ..Package::default() };
        let graph = Graph { workspace_members: vec![name.into()], packages: vec![package], ..Graph::default() };
        Workspace { graph, ..Workspace::default() }
    }

    pub(super) fn places(complaints: &[Complaint]) -> Vec<&str> {
        complaints.iter().map(|complaint| complaint.at.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::with_file, *};

    #[test]
    fn complaints_of_all_rules_fail_the_check_together() {
        let text = format!("fn f() {{}} // {}\n", concat!("TO", "DO"));
        let failure = check(&with_file("crates/core/src/x.rs", &text)).unwrap_err().to_string();
        assert!(failure.starts_with("Complaints: 2.\n"), "{failure}");
        assert!(check(&Workspace::default()).is_ok());
    }
}
