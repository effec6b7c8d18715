//! What every member's manifest takes over from the root's.

use super::Complaint;
use crate::workspace::Workspace;

/// Tables and keys, as they stand in each member's manifest.
const INHERITED: &[(&str, &str)] = &[
    ("[lints]", "workspace = true"),
    ("[package]", "license.workspace = true"),
    ("[package]", "edition.workspace = true"),
    ("[package]", "rust-version.workspace = true"),
];

pub(super) fn members_inherit_lints_and_licence(workspace: &Workspace) -> Vec<Complaint> {
    // What is a workspace of its own is no member, such as a comparison with other systems.
    let manifests = workspace.files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    let members = manifests.filter(|file| !file.text.lines().any(|line| line == "[workspace]"));
    let missing = members.flat_map(|file| {
        let missing = INHERITED.iter().filter(|(table, key)| !has(&file.text, table, key));
        missing.map(|(table, key)| Complaint::new(&file.path, format!("lacks `{key}` under {table}")))
    });
    missing.collect()
}

fn has(manifest: &str, table: &str, key: &str) -> bool {
    let lines = manifest.lines().map(str::trim).skip_while(|line| *line != table).skip(1);
    lines.take_while(|line| !line.starts_with('[')).any(|line| line == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::testing::with_file;

    #[test]
    fn a_member_with_lints_or_a_licence_of_its_own_is_refused() {
        let complaints = |text: &str| members_inherit_lints_and_licence(&with_file("crates/a/Cargo.toml", text)).len();
        let package = "[package]\nlicense.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n";
        assert_eq!(complaints(&format!("{package}\n[lints]\nworkspace = true\n")), 0);
        assert_eq!(complaints(package), 1);
        assert_eq!(complaints(&format!("{package}\n[lints]\n[dependencies]\nworkspace = true\n")), 1);
        assert_eq!(complaints("[package]\n[workspace]\n"), 0);
        assert_eq!(complaints("[package]\nlicense = \"MIT\"\n\n[lints]\nworkspace = true\n"), 3);
    }
}
