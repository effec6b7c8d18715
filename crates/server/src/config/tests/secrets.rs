//! What is read from files and the environment, and is never shown.

use super::*;

#[test]
fn a_file_holds_a_value_and_the_line_break_at_its_end_is_not_part_of_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "7\r\n").unwrap();
    let path = file.path().display();
    let config = Config::parse(&format!("node.workers = 'file:{path}'\nnode.zone = 'file:{path}'"), &[]).unwrap();
    assert_eq!((config.node.workers, config.node.zone.as_str()), (7, "7"));

    for text in ["7\n", "7"] {
        fs::write(file.path(), text).unwrap();
        assert_eq!(Config::parse(&format!("node.zone = 'file:{path}'"), &[]).unwrap().node.zone, "7");
    }
    fs::write(file.path(), "['b=x:1', 'a=x:2']\n").unwrap();
    let text = format!("node.name = 'a'\n[cluster]\ndiscovery = 'static'\nmembers = 'file:{path}'");
    assert_eq!(Config::parse(&text, &[]).unwrap().cluster.members[1].address, "x:2");

    fs::write(file.path(), "7".repeat(70_000)).unwrap();
    let expected = format!("line 1: node.zone: the file {path:?} is too long: 65536 bytes is the most");
    assert_eq!(mistakes(&format!("node.zone = 'file:{path}'")), expected);
}

#[test]
fn what_is_not_there_to_be_read_is_a_mistake_with_its_line() {
    let text = "[node]\nname = 'env:LARDER_TEST_NOT_SET'\nzone = 'file:/does/not/exist'\nworkers = 'env:'";
    let expected = "line 2: node.name: the environment variable LARDER_TEST_NOT_SET is not set: set it
line 3: node.zone: the file \"/does/not/exist\" can't be read: No such file or directory (os error 2)
line 4: node.workers: expected the name of an environment variable after \"env:\", but found \"\"";
    assert_eq!(mistakes(text), expected);
}

#[test]
fn what_a_file_held_is_never_repeated() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "hunter2\u{7}").unwrap();
    let path = file.path().display();
    for key in ["node.workers", "node.zone", "node.listen", "cluster.ring", "cluster.members"] {
        let text = format!("{key} = 'file:{path}'");
        let found = mistakes(&text);
        assert!(!found.contains("hunter2") && found.contains("but found something else in file:"), "{found}");
    }
    let config = format!("[groups.a.origin]\nkind='http'\nurl='http://x/{{key}}'\nheaders.a = 'file:{path}'");
    assert!(!mistakes(&config).contains("hunter2"));

    fs::write(file.path(), "['hunter2', 'a=x:1']").unwrap();
    let expected = format!(
        "line 3: cluster.members[0]: expected NAME=ADDRESS such as \"a=10.0.0.1:5274\", but found something else in file:{path}"
    );
    assert_eq!(mistakes(&format!("\n\ncluster.members = 'file:{path}'")), expected);
    fs::write(file.path(), "slotz").unwrap();
    assert!(!mistakes(&format!("cluster.ring = 'file:{path}'")).contains("slotz"));
}

#[test]
fn the_password_of_an_origin_is_not_shown() {
    let origin =
        |url: &str| format!("[groups.a.origin]\nkind = 'http'\nurl = '{url}'\nheaders = {{ token = 'hunter2' }}");
    let config = Config::parse(&origin("http://me:hunter2@x/{key}"), &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!mistakes(&origin("http://me:hunter2@x/")).contains("hunter2"));
}

#[test]
fn the_password_of_a_database_is_not_shown() {
    for (kind, url) in [("postgres", "postgres://me:hunter2@x/y"), ("redis", "redis://:hunter2@x")] {
        let origin = |url: &str| {
            format!(
                "[groups.a.origin]\nkind = '{kind}'\nurl = '{url}'\n{}",
                if kind == "redis" { "" } else { "select = '$1'" }
            )
        };
        let config = Config::parse(&origin(url), &[]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!mistakes(&origin("ftp://hunter2")).contains("hunter2"));
        assert!(!Override::origin("ftp://me:hunter2@x").unwrap_err().contains("hunter2"));
    }
}
