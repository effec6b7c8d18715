//! Who may know whom: between crates by their manifests, within a crate by the paths it names.

use super::{Complaint, rust};
use crate::workspace::{Dependency, Package, Workspace};

/// Each member, and the members it may depend on, tests included. What isn't here may not be. Benchmarks may depend on
/// [`LOAD`] besides.
const LAYERS: &[(&str, &[&str])] = &[
    ("larder-core", &[]),
    ("larder-peer", &["larder-core"]),
    ("larder-cluster", &["larder-core"]),
    ("larder-origin", &["larder-core"]),
    ("larder", &["larder-core", "larder-peer", "larder-cluster", "larder-origin"]),
    ("larder-bench", &[]),
    ("larder-server", &["larder", "larder-core", "larder-bench"]),
    ("xtask", &[]),
];

/// The load generator, which depends on nothing of ours.
const LOAD: &str = "larder-bench";

/// Paths that the code of a folder must not name.
struct Fence {
    within: &'static str,
    paths: &'static [&'static str],
    because: &'static str,
}

const FENCES: &[Fence] = &[
    Fence {
        within: "crates/core/src/",
        paths: &[
            "std::env",
            "std::fs",
            "std::net",
            "std::os",
            "std::process",
            "tokio::fs",
            "tokio::io",
            "tokio::net",
            "tokio::process",
            "tokio::signal",
        ],
        because: "the core has no sockets, no files and no environment; they are handed in",
    },
    Fence {
        within: "crates/core/src/placement/",
        paths: &["crate::store", "crate::flight", "crate::group", "crate::loader", "crate::peer"],
        because: "placement is usable alone",
    },
    Fence {
        within: "crates/core/src/store/",
        paths: &["crate::flight", "crate::group", "crate::loader", "crate::membership", "crate::peer"],
        because: "the store is usable alone",
    },
    Fence {
        within: "crates/core/src/flight",
        paths: &["crate::store", "crate::group", "crate::loader", "crate::membership", "crate::peer"],
        because: "flights are usable alone",
    },
];

/// What tests share. It is no part of a node, so no fence is around it.
const TESTING: &str = "crates/core/src/testing/";

/// Features of tokio that bring sockets, files or processes.
const TOKIO_OUTSIDE: &[&str] = &["full", "fs", "io-std", "net", "process", "signal"];

pub(super) fn manifests_point_downwards(workspace: &Workspace) -> Vec<Complaint> {
    let members: Vec<&Package> = workspace.graph.members().collect();
    let mut complaints = Vec::new();
    for member in &members {
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == member.name) else {
            complaints.push(Complaint::new(&member.name, "has no place in LAYERS: say what it may depend on"));
            continue;
        };
        let ours = |name: &str| name == "larder" || name.starts_with("larder-") || name == "xtask";
        let known = |other: &Dependency| {
            let name = other.name.as_str();
            name == member.name || allowed.contains(&name) || name == LOAD && other.kind.as_deref() == Some("dev")
        };
        let wrong = member.dependencies.iter().filter(|other| ours(&other.name) && !known(other));
        complaints
            .extend(wrong.map(|other| Complaint::new(&member.name, format!("must not depend on {}", other.name))));
    }
    complaints
}

pub(super) fn core_takes_no_sockets_or_files_from_tokio(workspace: &Workspace) -> Vec<Complaint> {
    let core = workspace.graph.members().filter(|member| member.name == "larder-core");
    let tokio = core.flat_map(|core| &core.dependencies).filter(|other| other.name == "tokio" && other.kind.is_none());
    let outside = tokio.flat_map(|tokio| &tokio.features).filter(|feature| TOKIO_OUTSIDE.contains(&feature.as_str()));
    outside.map(|feature| Complaint::new("larder-core", format!("must not use tokio's feature `{feature}`"))).collect()
}

pub(super) fn paths_stay_within_their_layer(workspace: &Workspace) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in workspace.files.iter().filter(|file| file.is_rust() && !file.path.starts_with(TESTING)) {
        let fences: Vec<&Fence> = FENCES.iter().filter(|fence| file.path.starts_with(fence.within)).collect();
        if fences.is_empty() {
            continue;
        }
        for (line, path) in rust::paths(&file.text) {
            let crossed = fences.iter().filter(|fence| fence.paths.iter().any(|outside| is_within(&path, outside)));
            let complaint = |fence: &&Fence| format!("must not name {path}: {}", fence.because);
            complaints.extend(crossed.map(|fence| Complaint::on_line(&file.path, line, complaint(fence))));
        }
    }
    complaints
}

fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::testing::{places, with_file, with_member};

    fn on(name: &str, kind: Option<&str>, features: &[&str]) -> Dependency {
        let features = features.iter().map(|&feature| feature.to_owned()).collect();
        Dependency { name: name.into(), kind: kind.map(str::to_owned), features }
    }

    #[test]
    fn siblings_and_upper_layers_are_refused_in_tests_too() {
        let complaints = |name, other, kind| manifests_point_downwards(&with_member(name, vec![on(other, kind, &[])]));
        assert_eq!(complaints("larder-peer", "larder-core", None), []);
        assert_eq!(complaints("larder-peer", "tokio", None), []);
        assert_eq!(complaints("larder-core", "larder-core", Some("dev")), []);
        assert_eq!(complaints("larder", "larder-bench", Some("dev")), []);
        for (name, other) in [
            ("larder-peer", "larder-origin"),
            ("larder-core", "larder-peer"),
            ("larder", "larder-server"),
            ("larder-bench", "larder"),
            ("xtask", "larder-core"),
        ] {
            assert_eq!(places(&complaints(name, other, None)), [name], "{other}");
            assert_eq!(places(&complaints(name, other, Some("dev"))), [name], "{other}");
        }
        assert_eq!(places(&complaints("larder", "larder-bench", None)), ["larder"]);
    }

    #[test]
    fn a_member_without_a_place_is_refused() {
        assert_eq!(places(&manifests_point_downwards(&with_member("larder-new", vec![]))), ["larder-new"]);
    }

    #[test]
    fn core_may_take_time_from_tokio_but_no_sockets() {
        let complaints = |kind, features| {
            core_takes_no_sockets_or_files_from_tokio(&with_member("larder-core", vec![on("tokio", kind, features)]))
        };
        assert_eq!(complaints(None, &["rt", "time"]), []);
        assert_eq!(complaints(Some("dev"), &["net"]), []);
        assert_eq!(complaints(None, &["time", "net", "fs"]).len(), 2);
    }

    #[test]
    fn core_may_not_name_files_or_sockets_however_they_are_written() {
        let complaints = |text| paths_stay_within_their_layer(&with_file("crates/core/src/group.rs", text));
        assert_eq!(complaints("use std::{fmt, time::Duration};\nuse tokio::sync::Mutex; // not std::fs\n"), []);
        assert_eq!(complaints("use tokio::iota;"), []);
        for text in [
            "use std::fs;",
            "use std::{fmt, fs::File};",
            "use ::std::net::TcpStream;",
            "fn f() { std::fs::read(\"x\"); }",
            "use tokio::{sync, net::{TcpStream}};",
        ] {
            assert_eq!(places(&complaints(text)), ["crates/core/src/group.rs:1"], "{text}");
        }
    }

    #[test]
    fn what_tests_share_may_read_the_environment() {
        let text = "use std::env;";
        assert_eq!(paths_stay_within_their_layer(&with_file("crates/core/src/testing/needs.rs", text)), []);
        assert_eq!(paths_stay_within_their_layer(&with_file("crates/core/src/needs.rs", text)).len(), 1);
    }

    #[test]
    fn the_leaves_of_the_core_know_nothing_of_its_root() {
        let complaints = |path, text| paths_stay_within_their_layer(&with_file(path, text)).len();
        assert_eq!(complaints("crates/core/src/store/shard.rs", "use crate::{Key, group::Group};"), 1);
        assert_eq!(complaints("crates/core/src/flight.rs", "use crate::store::Store;"), 1);
        assert_eq!(complaints("crates/core/src/placement/slot.rs", "use crate::peer::PeerClient;"), 1);
        assert_eq!(complaints("crates/core/src/group.rs", "use crate::{store, flight, peer};"), 0);
    }
}
