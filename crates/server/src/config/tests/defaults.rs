//! Defaults, and the page that lists all keys.

use super::*;

#[test]
fn the_defaults_are_those_of_the_core() {
    let mut settings = Config::parse("", &[]).unwrap().groups["default"].settings();
    let core = larder_core::GroupConfig::default();
    // The core's default is the name of the policy to come, which is the same for now.
    settings.policy = core.policy;
    assert_eq!(format!("{settings:?}"), format!("{core:?}"));
}

#[test]
fn a_default_is_what_the_reference_says() {
    let mut text = String::new();
    for (path, key, default) in reference::defaults() {
        text += &format!("{}.{key} = {default}\n", path.replace("NAME", "default"));
    }
    assert!(text.contains("groups.default.max_value = \"8MiB\"\n"), "{text}");
    assert_eq!(Config::parse(&text, &[]), Config::parse("", &[]));
}

#[test]
fn the_reference_holds_every_key_and_its_examples_are_right() {
    let text = reference();
    for key in
        ["listen", "data_dir", "members", "insecure", "ttl_jitter", "consistency", "select_many", "path", "headers"]
    {
        assert!(text.contains(&format!("| `{key}` |")), "{key}");
    }
    let examples: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 3);
    for example in examples {
        let parsed = Config::parse(example, &[]);
        assert!(parsed.is_ok(), "{parsed:?} in:\n{example}");
    }
}

/// `UPDATE_DOCS=1 cargo test -p larder-server --lib` writes the file anew.
#[test]
fn the_committed_docs_are_those_of_the_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, reference()).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(
        committed == reference(),
        "docs/configuration.md is stale: run UPDATE_DOCS=1 cargo test -p larder-server --lib"
    );
}
