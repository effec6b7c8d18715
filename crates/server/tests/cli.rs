//! The commands as a shell sees them: what they ask of a node, what they print, and how they exit.

#![expect(clippy::unwrap_used, reason = "a test fails by its panic")]

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    os::unix::ffi::OsStrExt,
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
};

/// What a node was asked.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    line: String,
    body: Vec<u8>,
}

/// A node that gives each answer once, byte for byte, and then is gone.
struct FakeNode {
    address: SocketAddr,
    asked: JoinHandle<Vec<Asked>>,
}

impl FakeNode {
    fn with(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = thread::spawn(move || {
            let answer = |answer: Vec<u8>| {
                let (mut socket, _) = listener.accept().unwrap();
                let asked = read_request(&mut BufReader::new(&socket));
                socket.write_all(&answer).unwrap();
                asked
            };
            answers.into_iter().map(answer).collect()
        });
        Self { address, asked }
    }

    /// Gives one answer with this status, type and body.
    fn answering(status: u16, media_type: &str, body: &[u8]) -> Self {
        Self::with(vec![answer(status, media_type, body)])
    }

    /// Answers with the problem of this type.
    fn refusing(status: u16, problem: &str) -> Self {
        let body = format!(r#"{{"type":"{problem}","title":"The title.","detail":"The detail."}}"#);
        Self::answering(status, "application/problem+json", body.as_bytes())
    }

    fn asked(self) -> Vec<Asked> {
        self.asked.join().unwrap()
    }
}

fn answer(status: u16, media_type: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {status} x\r\nContent-Type: {media_type}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn read_request(stream: &mut impl BufRead) -> Asked {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let mut len = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).unwrap();
    Asked { line: line.trim_end().trim_end_matches(" HTTP/1.1").to_owned(), body }
}

fn larder() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.env_remove("LARDER_NODE").env_remove("LARDER_LOG").stdin(Stdio::null());
    command
}

/// Runs `larder` against a node.
fn ask(node: &FakeNode, args: &[&str]) -> Output {
    larder().args(args).env("LARDER_NODE", node.address.to_string()).output().unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, message: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr, message);
    assert_eq!(output.stdout, b"");
}

#[track_caller]
fn assert_prints(output: &Output, stdout: &str) {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout);
    assert_eq!(output.stderr, b"");
}

#[test]
fn get_writes_the_bytes_and_nothing_else() {
    let node = FakeNode::answering(200, "application/octet-stream", b"\0\xff\nx");
    let output = ask(&node, &["get", "users", "42"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"\0\xff\nx".as_slice()));
    assert_eq!(node.asked(), [Asked { line: "GET /v1/groups/users/keys/42".into(), body: vec![] }]);
}

#[test]
fn a_key_of_odd_bytes_is_encoded_once() {
    let cases: [(&[u8], &str); 6] = [
        (b"a b/c", "a%20b%2Fc"),
        (b"%2F+", "%252F%2B"),
        (b"..", "%2E%2E"),
        (b"a..b", "a..b"),
        ("\u{e9}".as_bytes(), "%C3%A9"),
        (b"\xff\x01", "%FF%01"),
    ];
    for (key, path) in cases {
        let node = FakeNode::answering(200, "x/y", b"");
        let url = format!("http://{}/", node.address);
        let output = larder().args(["get", "g", "--node", &url, "--"]).arg(OsStr::from_bytes(key)).output().unwrap();
        assert_prints(&output, "");
        assert_eq!(node.asked()[0].line, format!("GET /v1/groups/g/keys/{path}"));
    }
}

#[test]
fn each_refusal_has_its_exit_code() {
    let cases = [
        (404, "not-found", 3),
        (404, "unknown-group", 2),
        (404, "unknown-path", 1),
        (405, "read-only", 1),
        (502, "origin-failed", 1),
        (503, "overloaded", 1),
        (504, "timed-out", 1),
    ];
    for (status, problem, code) in cases {
        for args in [
            &["get", "users", "42"][..],
            &["set", "users", "42", "x"],
            &["rm", "users", "42"],
            &["owner", "users", "42"],
        ] {
            let output = ask(&FakeNode::refusing(status, problem), args);
            assert_fails(&output, code, "larder: The detail.\n");
        }
    }
}

#[test]
fn what_is_no_larder_node_is_a_failure() {
    let output = ask(&FakeNode::answering(404, "text/html", b"<h1>Not Found</h1>"), &["get", "users", "42"]);
    assert_fails(&output, 1, "larder: the node answered 404 Not Found, which no Larder node would: is it one?\n");
    let output = ask(&FakeNode::answering(200, "text/html", b"<h1>Hello</h1>"), &["owner", "users", "42"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_node_that_is_not_there_is_told_from_one_that_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for args in [&["get", "g", "k"][..], &["set", "g", "k", "v"], &["rm", "g", "k"], &["owner", "g", "k"], &["status"]]
    {
        let output = larder().args(args).args(["--node", &url]).output().unwrap();
        let message = format!(
            "larder: could not reach {url}: Connection refused (os error 111); start a node there or name another with --node\n"
        );
        assert_fails(&output, 4, &message);
    }
    // It hangs up instead of answering.
    assert_eq!(ask(&FakeNode::with(vec![vec![]]), &["get", "g", "k"]).status.code(), Some(4));
}

#[test]
fn a_value_that_breaks_off_is_a_failure() {
    let node = FakeNode::with(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()]);
    let output = ask(&node, &["get", "users", "42"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), b"half".as_slice()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("what was written is not all"));
}

#[test]
fn set_takes_its_value_from_the_command_line_or_from_stdin() {
    for (args, stdin, value) in [
        (&["set", "g", "k", "v"][..], &b""[..], &b"v"[..]),
        (&["set", "g", "k", ""], b"ignored", b""),
        (&["set", "g", "k", "-"], b"\0\xffx\n", b"\0\xffx\n"),
        (&["set", "g", "k"], b"y", b"y"),
    ] {
        let node = FakeNode::with(vec![b"HTTP/1.1 204 No Content\r\nETag: \"1\"\r\n\r\n".to_vec()]);
        let mut command = larder();
        command.args(args).env("LARDER_NODE", node.address.to_string()).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that takes its value from the command line may be gone before stdin is written.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        assert_prints(&child.wait_with_output().unwrap(), "");
        assert_eq!(node.asked(), [Asked { line: "PUT /v1/groups/g/keys/k".into(), body: value.to_vec() }]);
    }
}

#[test]
fn rm_deletes() {
    let node = FakeNode::with(vec![b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()]);
    assert_prints(&ask(&node, &["rm", "g", "k"]), "");
    assert_eq!(node.asked()[0].line, "DELETE /v1/groups/g/keys/k");
}

#[test]
fn owner_tells_who_owns_a_key_and_who_stands_in() {
    let json = br#"{"slot":123,"owner":"a","stand_in":"b"}"#;
    let node = FakeNode::answering(200, "application/json", json);
    assert_prints(&ask(&node, &["owner", "users", "a/b"]), "owner     a\nstand-in  b\nslot      123\n");
    assert_eq!(node.asked()[0].line, "GET /v1/cluster/owner/users/a%2Fb");

    let alone = FakeNode::answering(200, "application/json", br#"{"slot":0,"owner":"a","stand_in":null}"#);
    assert_prints(&ask(&alone, &["owner", "g", "k"]), "owner     a\nstand-in  -\nslot      0\n");

    let node = FakeNode::answering(200, "application/json", json);
    let output = ask(&node, &["owner", "g", "k", "--json"]);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["slot"], 123);
}

#[test]
fn wrong_usage_asks_nobody() {
    let long = "k".repeat(1025);
    let too_long = "k".repeat(1024);
    let cases: [&[&str]; 25] = [
        &[],
        &["fly"],
        &["get", "users"],
        &["get", "users", ""],
        &["get", "users", &long],
        &["get", "Users", "42"],
        &["get", "users", "42", "--node", "ftp://x"],
        &["demo", "--nodes", "0"],
        &["demo", "--duration", "soon"],
        &["serve", "--set", "node.workers"],
        &["serve", "--origin", "gopher://x/{key}"],
        &["check"],
        &["bench"],
        &["bench", "--group", "Users"],
        &["bench", "--group", "g", "--keys", "0"],
        &["bench", "--group", "g", "--prefix", &too_long],
        &["bench", "--group", "g", "--dist", "normal"],
        &["bench", "--group", "g", "--value-size", "2GiB"],
        &["bench", "--group", "g", "--concurrency", "0"],
        &["bench", "--group", "g", "--concurrency", "65537"],
        &["bench", "--group", "g", "--duration", "0s"],
        &["bench", "--group", "g", "--rate", "0"],
        &["bench", "--group", "g", "--rate", "nan"],
        &["bench", "--group", "g", "--peer", "nowhere"],
        &["bench", "--group", "g", "--peer", "127.0.0.1:1", "--node", "http://127.0.0.1:1"],
    ];
    for args in cases {
        let output = larder().args(args).env("LARDER_NODE", "http://127.0.0.1:1").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(larder().arg("--version").output().unwrap().status.code(), Some(0));
}

/// Writes a configuration into a folder of its own.
fn configuration(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("larder.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn check_names_every_mistake_with_its_line() {
    let (_folder, path) = configuration("[node]\nworker = 2\n[groups.users]\nttl = 5\n");
    let expected = format!(
        "larder: {path}, line 2: node.worker: there is no such key; did you mean node.workers?
larder: {path}, line 4: groups.users.ttl: expected a duration such as \"250ms\" or \"5m\", at least 1ms, at most 1year, but found 5
"
    );
    assert_fails(&larder().args(["check", "--config", &path]).output().unwrap(), 1, &expected);
    assert_fails(&larder().args(["serve", "--config", &path]).output().unwrap(), 1, &expected);
}

#[test]
fn check_says_what_a_right_configuration_makes() {
    let (_folder, path) = configuration("[groups.users]\nttl = 'env:LARDER_TEST_TTL'\n[groups.sessions]");
    let output = larder().args(["check", "--config", &path]).env("LARDER_TEST_TTL", "5m").output().unwrap();
    assert_prints(&output, &format!("{path} is right; its groups: sessions, users\n"));
    let output = larder().args(["check", "--config", &path]).env("LARDER_TEST_TTL", "hunter2").output().unwrap();
    let expected = format!(
        "larder: {path}, line 2: groups.users.ttl: expected a duration such as \"250ms\" or \"5m\", at least 1ms, at most 1year, but found something else in env:LARDER_TEST_TTL\n"
    );
    assert_fails(&output, 1, &expected);
}

#[test]
fn check_takes_what_serve_would_be_given() {
    let (_folder, path) = configuration("");
    let output = larder().args(["check", "--config", &path, "--set", "node.workers=x"]).output().unwrap();
    assert_fails(&output, 2, "larder: --set: node.workers: expected a whole number from 0 to 1024, but found \"x\"\n");
    let output = larder().args(["check", "--config", &format!("{path}.not")]).output().unwrap();
    let expected = format!("larder: {path}.not: the file can't be read: No such file or directory (os error 2)\n");
    assert_fails(&output, 1, &expected);
}

#[test]
fn serve_names_the_flag_that_is_wrong() {
    let output = larder().args(["serve", "--listen", "0.0.0.0:0", "--join", "x:1", "--join", "x"]).output().unwrap();
    assert_fails(
        &output,
        2,
        "larder: --join: cluster.seeds[1]: expected a host and a port such as \"10.0.0.1:5275\", but found \"x\"
larder: --listen: node.listen: 0.0.0.0:0 is beyond loopback, where anyone may reach it: set security.insecure = true if that is meant
",
    );
}

const CLUSTER: &str = r#"{"self":"a","view":{"digest":"00ff","settled":true},"members":[
    {"name":"a","state":"serving","http":"127.0.0.1:5273","peer":"127.0.0.1:5274","slots":8192,"weight":1,"zone":""},
    {"name":"b","state":"serving","http":"","peer":"127.0.0.1:5374","slots":8192,"weight":1,"zone":"west"}]}"#;

const GROUPS: &str =
    r#"{"groups":[{"name":"users","settings":{},"counters":{"gets":10,"hits":{"main":7,"hot":1},"misses":2}}]}"#;

const LOCKS: &str = r#"{"locks":[{"name":"nightly","node":"b","fence":7,"ttl_left_ms":9000,"waiters":2}]}"#;

/// A node that answers the questions of `status`, whichever comes first.
fn node_with_a_status() -> FakeNode {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = thread::spawn(move || {
        let serve = |_| {
            let (mut socket, _) = listener.accept().unwrap();
            let asked = read_request(&mut BufReader::new(&socket));
            let body = match asked.line.rsplit('/').next() {
                Some("cluster") => CLUSTER,
                Some("locks") => LOCKS,
                _ => GROUPS,
            };
            socket.write_all(&answer(200, "application/json", body.as_bytes())).unwrap();
            asked
        };
        (0..3).map(serve).collect()
    });
    FakeNode { address, asked }
}

#[test]
fn status_shows_the_members_and_the_groups() {
    let output = ask(&node_with_a_status(), &["status"]);
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["asked", "a,", "view", "00ff", "(settled)"]);
    assert!(rows.contains(&vec!["member", "state", "http", "peer", "slots", "weight", "zone"]), "{printed}");
    assert!(rows.contains(&vec!["b", "serving", "-", "127.0.0.1:5374", "8192", "1", "west"]), "{printed}");
    assert!(rows.contains(&vec!["users", "10", "7", "1", "-", "2", "-", "-", "-", "-"]), "{printed}");
    assert!(rows.contains(&vec!["nightly", "b", "7", "9000", "2"]), "{printed}");
}

#[test]
fn status_gives_the_nodes_own_json_when_asked() {
    let output = ask(&node_with_a_status(), &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["cluster"]["members"][1]["zone"], "west");
    assert_eq!(json["groups"]["groups"][0]["counters"]["gets"], 10);
    assert_eq!(json["locks"]["locks"][0]["fence"], 7);
}

/// A data folder with a journal: two records, a mark and a dead letter.
async fn with_a_journal(folder: &std::path::Path) {
    use larder::{
        core::{Change, version::Reading},
        origin::{
            journal::{Holder, Journal, JournalConfig, Mark, Place, Record, path_in},
            storage::DiskStorage,
        },
    };

    let clock = larder_core::testing::clock::TokioClock::new();
    let journal = Journal::open(DiskStorage::new(path_in(folder)), JournalConfig::default(), clock).await.unwrap();
    let record = |key: &'static [u8], number| {
        let id =
            Place::new("users", larder::Key::new(key).unwrap()).at(larder::Version::new(Reading::from_bits(number), 7));
        Record { written_ms: 1_750_000_000_000, ..Record::new(id, Change::Put("Zaphod".into())) }
    };
    let copy = Record { change: Change::Delete, ..record(b"\xff", 2).held_as(Holder::CopyFor("n2".into())) };
    journal.append_all(vec![record(b"42", 1), copy, record(b"bad", 3)]).await.unwrap();
    journal.bury(vec![(record(b"bad", 3).id, "no such table".into())]).await.unwrap();
    journal.settle(vec![Mark::new(record(b"done", 4).id.place, record(b"done", 4).id.version)]).await.unwrap();
    // Not closed: as a node that was killed leaves it.
    std::mem::forget(journal);
}

fn journal(folder: &std::path::Path, args: &[&str]) -> Output {
    larder().arg("journal").args(args).arg("--data-dir").arg(folder).output().unwrap()
}

#[tokio::test]
async fn journal_shows_what_is_in_a_journal_that_no_node_has_open() {
    let folder = tempfile::tempdir().unwrap();
    with_a_journal(folder.path()).await;
    let path = folder.path().join("journal.larder");
    let message =
        format!("larder: {} is open: end the node that runs on it, or ask it for its dead letters\n", path.display());
    assert_fails(&journal(folder.path(), &["check"]), 1, &message);

    // What a killed node leaves: the file as it is, and a lock that nobody holds.
    let copy = tempfile::tempdir().unwrap();
    let copied = copy.path().join("journal.larder");
    fs::copy(&path, &copied).unwrap();
    let before = fs::read(&copied).unwrap();
    let output = journal(copy.path(), &["check"]);
    assert_prints(&output, "commit 3: 2 records, 2 marks, 1 dead letters, 0 damaged\n");
    let output = journal(copy.path(), &["list"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    let wanted = "record         users/42  version 000000000000000100000007  put of 6 bytes  held as owner  written 2025-06-15T15:06:40.000Z\n";
    assert!(lines.contains(wanted), "{lines}");
    assert!(lines.contains("users/\\xff  version 000000000000000200000007  delete  held as copy for n2"), "{lines}");
    assert!(lines.contains("dead letter 1  users/bad") && lines.contains(": no such table\n"), "{lines}");

    let output = journal(copy.path(), &["list", "--json"]);
    let objects: Vec<serde_json::Value> =
        output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(objects.len(), 3);
    let deleted = objects.iter().map(|object| &object["record"]).find(|record| record["change"] == "delete").unwrap();
    assert!(deleted["key_b64"] == "/w==" && deleted["copy_for"] == "n2" && deleted["bytes"].is_null());
    assert_eq!(objects[2]["dead_letter"]["reason"], "no such table");
    assert_eq!(fs::read(&copied).unwrap(), before, "looking changes nothing");
}

#[tokio::test]
async fn journal_says_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.larder");
    let output = journal(folder.path(), &["check"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("can't be opened"), "{stderr}");
    fs::write(&path, "something else").unwrap();
    let message = format!(
        "larder: {} is damaged: it is cut short; see `larder journal check`, and take the file away only if what it holds may be lost\n",
        path.display()
    );
    assert_fails(&journal(folder.path(), &["check", "--json"]), 1, &message);
}
