//! Checks what others' packages we build: their licences, where they come from, one version of each, one TLS library.
//!
//! Not here: advisories, which would need a network at every run.

use std::collections::BTreeMap;

use spdx::{Expression, LicenseReq, ParseMode};

use crate::{
    Outcome,
    workspace::{Graph, Package, Workspace},
};

/// Licences that may end in a binary under MIT or Apache-2.0 without more than a notice.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
    "CC0-1.0",
];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Packages that may be linked in more than one version, and why.
const DOUBLED: &[(&str, &str)] = &[
    ("base64", "object_store takes version 0.23, tonic and tokio-postgres version 0.22"),
    ("crypto-common", "crc-fast of object_store takes version 0.1 through digest, tokio-postgres version 0.2"),
    ("digest", "crc-fast of object_store takes version 0.10, tokio-postgres version 0.11"),
    ("fallible-iterator", "tokio-postgres takes version 0.2, rusqlite version 0.3"),
    ("getrandom", "ring takes version 0.2, tempfile version 0.4"),
    ("itertools", "object_store takes version 0.15, chitchat and ratatui version 0.14"),
    ("lru", "chitchat takes version 0.17, ratatui version 0.18"),
    ("io-lifetimes", "cap-std 4 takes version 3 itself, and version 2 through fs-set-times"),
];

/// Packages that must not be built, and why.
const BANNED: &[(&str, &str)] = &[
    ("aws-lc-rs", TLS),
    ("aws-lc-sys", TLS),
    ("openssl", TLS),
    ("openssl-sys", TLS),
    ("native-tls", TLS),
    ("boring", TLS),
];

const TLS: &str = "TLS is rustls with its ring provider, everywhere the same one";

pub(crate) fn check(workspace: &Workspace) -> Outcome {
    let graph = &workspace.graph;
    let complaints: Vec<String> =
        [licences(graph), sources(graph), doubled(graph), banned(graph)].into_iter().flatten().collect();
    if complaints.is_empty() {
        println!("{} packages, {} of them linked.", graph.packages.len(), graph.linked().len());
        return Ok(());
    }
    Err(format!("Complaints: {}.\n{}", complaints.len(), complaints.join("\n")).into())
}

fn licences(graph: &Graph) -> Vec<String> {
    graph.packages.iter().filter_map(licence).collect()
}

fn licence(package: &Package) -> Option<String> {
    let Package { name, version, license, .. } = package;
    let Some(text) = license else {
        return Some(format!("{name} {version} names no licence."));
    };
    match Expression::parse_mode(text, ParseMode::LAX) {
        Ok(expression) if expression.evaluate(is_allowed) => None,
        Ok(_) => Some(format!("{name} {version} is under {text}, which LICENCES does not allow.")),
        Err(error) => Some(format!("{name} {version} has a licence that can't be read, {text}: {}.", error.reason)),
    }
}

fn is_allowed(licence: &LicenseReq) -> bool {
    LICENCES.contains(&licence.to_string().as_str())
}

fn sources(graph: &Graph) -> Vec<String> {
    let strange = |package: &&Package| package.source.as_deref().is_some_and(|source| source != REGISTRY);
    let complaint = |package: &Package| {
        let source = package.source.as_deref().unwrap_or_default();
        format!("{} {} comes from {source}; only crates.io is kept for ever.", package.name, package.version)
    };
    graph.packages.iter().filter(strange).map(complaint).collect()
}

fn doubled(graph: &Graph) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (package, asked_by) in graph.linked().into_values() {
        let asked_by = asked_by.join(", ");
        versions.entry(&package.name).or_default().push(format!("{} (for {asked_by})", package.version));
    }
    let excess = versions.iter().filter(|(name, versions)| versions.len() > 1 && !is_excused(name));
    let mut complaints: Vec<String> =
        excess.map(|(name, versions)| format!("{name} is linked more than once: {}.", versions.join(", "))).collect();
    let needless = DOUBLED.iter().filter(|(name, _)| versions.get(name).is_none_or(|versions| versions.len() < 2));
    complaints.extend(needless.map(|(name, _)| format!("{name} is linked once: take it out of DOUBLED.")));
    complaints
}

fn is_excused(name: &str) -> bool {
    DOUBLED.iter().any(|(excused, _)| *excused == name)
}

fn banned(graph: &Graph) -> Vec<String> {
    let reason = |package: &Package| BANNED.iter().find(|(name, _)| *name == package.name);
    let complaint = |(name, reason): &(&str, &str)| format!("{name} must not be built: {reason}.");
    graph.packages.iter().filter_map(reason).map(complaint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Edge, EdgeKind, Node, Resolve, Target};

    fn package(name: &str, version: &str) -> Package {
        Package {
            id: format!("{name}@{version}"),
            name: name.into(),
            version: version.into(),
            license: Some("MIT OR Apache-2.0".into()),
            source: Some(REGISTRY.into()),
            ..Package::default()
        }
    }

    /// `ours` depends on every other package in the way given.
    fn graph(others: Vec<(Package, Option<&str>)>) -> Graph {
        let edge = |(other, kind): &(Package, Option<&str>)| Edge {
            pkg: other.id.clone(),
            dep_kinds: vec![EdgeKind { kind: kind.map(str::to_owned) }],
        };
        let ours = package("ours", "0.1.0");
        let node = Node { id: ours.id.clone(), deps: others.iter().map(edge).collect() };
        Graph {
            workspace_members: vec![ours.id.clone()],
            packages: others.into_iter().map(|(other, _)| other).chain([ours]).collect(),
            resolve: Resolve { nodes: vec![node] },
        }
    }

    fn licence_of(text: Option<&str>) -> Option<String> {
        licence(&Package { license: text.map(str::to_owned), ..package("other", "1.0.0") })
    }

    #[test]
    fn a_licence_off_the_list_is_refused() {
        for good in ["MIT", "MIT/Apache-2.0", "(MIT OR GPL-3.0-only) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
        {
            assert_eq!(licence_of(Some(good)), None);
        }
        for bad in ["GPL-3.0-only", "MIT AND MPL-2.0", "Apache-2.0 WITH Classpath-exception-2.0", "Something"] {
            assert!(licence_of(Some(bad)).is_some(), "{bad}");
        }
        assert_eq!(licence_of(None).unwrap(), "other 1.0.0 names no licence.");
    }

    #[test]
    fn a_package_from_elsewhere_is_refused() {
        let git = Package { source: Some("git+https://example.org/x".into()), ..package("other", "1.0.0") };
        assert_eq!(sources(&graph(vec![(git, None)])).len(), 1);
        assert!(sources(&graph(vec![(package("other", "1.0.0"), None)])).is_empty());
    }

    #[test]
    fn two_linked_versions_are_refused_but_not_those_of_tests_and_macros() {
        let twice = |kind| graph(vec![(package("other", "1.0.0"), None), (package("other", "2.0.0"), kind)]);
        let about = |graph: &Graph| doubled(graph).into_iter().filter(|line| line.starts_with("other")).count();
        assert_eq!(about(&twice(None)), 1);
        assert_eq!(about(&twice(Some("dev"))), 0);
        let mut macros = twice(None);
        macros.packages[1].targets = vec![Target { kind: vec!["proc-macro".into()] }];
        assert_eq!(about(&macros), 0);
    }

    #[test]
    fn an_excuse_that_is_no_longer_needed_is_refused() {
        let (name, _) = DOUBLED[0];
        let line = format!("{name} is linked once: take it out of DOUBLED.");
        assert!(doubled(&graph(vec![(package(name, "1.0.0"), None)])).contains(&line));
        assert!(!doubled(&graph(vec![(package(name, "1.0.0"), None), (package(name, "2.0.0"), None)])).contains(&line));
    }

    #[test]
    fn a_second_tls_library_is_refused() {
        assert_eq!(banned(&graph(vec![(package("native-tls", "0.2.0"), Some("build"))])).len(), 1);
        assert!(banned(&graph(vec![(package("ring", "0.17.0"), None)])).is_empty());
    }
}
