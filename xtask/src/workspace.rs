//! The project as the checks see it: its text files, and its packages with all they depend on.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{Outcome, command::cargo};

/// Names, at any depth, of what is not the project's own.
const FOREIGN: &[&str] = &[".git", "target"];

/// Everything the checks look at, read once. Tests build small ones by hand.
#[derive(Default)]
pub(crate) struct Workspace {
    pub(crate) files: Vec<File>,
    pub(crate) graph: Graph,
}

/// A text file: its path from the root with `/`, and what is in it.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What `cargo metadata` tells of the packages, ours and others'.
#[derive(Default, Deserialize)]
pub(crate) struct Graph {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    pub(crate) resolve: Resolve,
}

#[derive(Clone, Default, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

#[derive(Clone, Default, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// None for an ordinary one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
    pub(crate) features: Vec<String>,
}

#[derive(Clone, Default, Deserialize)]
pub(crate) struct Target {
    pub(crate) kind: Vec<String>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<Edge>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Edge {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<EdgeKind>,
}

#[derive(Default, Deserialize)]
pub(crate) struct EdgeKind {
    pub(crate) kind: Option<String>,
}

/// The project's root, whatever folder we were started in.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

impl Workspace {
    pub(crate) fn read() -> Outcome<Self> {
        let root = root();
        let mut files = Vec::new();
        read_folder(&root, &root, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files, graph: Graph::read()? })
    }

    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

impl File {
    /// Whether this is Rust of ours that ends in a product or a tool, rather than in a test.
    pub(crate) fn is_rust_source(&self) -> bool {
        self.is_rust() && self.path.contains("src/") && !self.is_test()
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }
}

impl Graph {
    /// For the platform at hand only: what other platforms need is neither built nor fetched.
    fn read() -> Outcome<Self> {
        let version = cargo(["-vV"]).output()?;
        let version = String::from_utf8(version.stdout)?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("`cargo -vV` names no host.")?;
        let metadata =
            cargo(["metadata", "--format-version", "1", "--locked", "--all-features", "--filter-platform", host])
                .output()?;
        if !metadata.status.success() {
            return Err(String::from_utf8_lossy(&metadata.stderr).trim().to_owned().into());
        }
        Ok(serde_json::from_slice(&metadata.stdout)?)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// The packages that end in what we build: those reached by ordinary dependencies, without what only a procedural
    /// macro uses while compiling. Each with the names of the packages that ask for it.
    pub(crate) fn linked(&self) -> BTreeMap<&str, (&Package, Vec<&str>)> {
        let packages: BTreeMap<&str, &Package> = self.packages.iter().map(|p| (p.id.as_str(), p)).collect();
        let nodes: BTreeMap<&str, &Node> = self.resolve.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
        let mut linked: BTreeMap<&str, (&Package, Vec<&str>)> = BTreeMap::new();
        let mut waiting: Vec<(&str, &str)> = self.workspace_members.iter().map(|id| (id.as_str(), "")).collect();
        while let Some((id, asked_by)) = waiting.pop() {
            let Some(package) = packages.get(id).filter(|package| !package.is_procedural_macro()) else { continue };
            let known = linked.contains_key(id);
            linked.entry(id).or_insert((package, Vec::new())).1.push(asked_by);
            if known {
                continue;
            }
            let edges = nodes.get(id).map_or(&[][..], |node| &node.deps);
            let ordinary = edges.iter().filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            waiting.extend(ordinary.map(|edge| (edge.pkg.as_str(), package.name.as_str())));
        }
        linked
    }
}

impl Package {
    fn is_procedural_macro(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
    }
}

fn read_folder(root: &Path, folder: &Path, files: &mut Vec<File>) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if FOREIGN.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            read_folder(root, &path, files)?;
        } else if kind.is_file() {
            let name = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            // What isn't UTF-8 is no text of ours.
            if let Ok(text) = fs::read_to_string(&path) {
                files.push(File { path: name, text });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_itself_can_be_read() {
        let workspace = Workspace::read().unwrap();
        assert!(workspace.file("Cargo.lock").is_some());
        assert!(workspace.file("xtask/src/workspace.rs").is_some_and(File::is_rust_source));
        assert!(workspace.files.iter().all(|file| !file.path.starts_with("target/")));
        assert!(workspace.graph.members().any(|package| package.name == "larder-core"));
        assert!(workspace.graph.linked().values().any(|(package, _)| package.name == "tokio"));
    }
}
