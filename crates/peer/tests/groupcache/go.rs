//! Nodes of golang/groupcache, each a process of `node.go`.

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::OnceLock,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Where Debian puts the sources of Go packages.
const GOPATH: &str = "/usr/share/gocode";

/// A running node. It ends when this is dropped.
pub(crate) struct GoNode {
    /// What its peers know it by.
    pub(crate) url: String,
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl GoNode {
    /// Starts a node that loads from the URL that `origin` and an escaped key make. It serves nothing before it has
    /// [joined](Self::join).
    pub(crate) fn start(origin: &str) -> Self {
        let mut child = Command::new(program())
            .args(["-origin", origin])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was just built");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut node = Self { url: String::new(), child, stdin, stdout };
        node.url = node.line();
        node
    }

    /// Tells it the URLs of all peers, its own among them.
    pub(crate) fn join(&mut self, urls: &[&str]) {
        writeln!(self.stdin, "{}", urls.join(" ")).expect("it reads its peers");
        assert_eq!(self.line(), "ready");
    }

    fn line(&mut self) -> String {
        self.stdout.next().expect("it says more").expect("UTF-8")
    }

    /// A key's value as this node has it; `None` if it answers with an error.
    pub(crate) async fn get(&self, key: &str) -> Option<Bytes> {
        let (status, value) = fetch(&format!("{}/get?key={}", self.url, escaped(key))).await;
        (status == StatusCode::OK).then_some(value)
    }

    /// The URL of the peer that this node takes for a key's owner.
    pub(crate) async fn owner(&self, key: &str) -> String {
        let (status, url) = fetch(&format!("{}/owner?key={}", self.url, escaped(key))).await;
        assert_eq!(status, StatusCode::OK);
        String::from_utf8(url.to_vec()).expect("a URL")
    }
}

impl Drop for GoNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn escaped(key: &str) -> String {
    key.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Gets a URL over a connection of its own.
pub(crate) async fn fetch(url: &str) -> (StatusCode, Bytes) {
    let uri: Uri = url.parse().expect("a URL");
    let authority = uri.authority().expect("an authority").as_str().to_owned();
    let stream = TcpStream::connect(&authority).await.expect("it listens");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    tokio::spawn(connection);
    let path = uri.path_and_query().expect("a path").as_str();
    let request = Request::get(path).header("host", authority).body(Empty::<Bytes>::new()).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let status = response.status();
    (status, response.into_body().collect().await.expect("a body").to_bytes())
}

/// Builds `node.go`, once a test run.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let program = folder.join(format!("groupcache-node-{}", env!("CARGO_CRATE_NAME")));
        // Other processes may be building or running it.
        let built = program.with_extension(std::process::id().to_string());
        let build = Command::new("go")
            .args(["build", "-o"])
            .arg(&built)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../peer/tests/groupcache/node.go"))
            .env("GO111MODULE", "off")
            .env("GOPATH", GOPATH)
            .env("GOCACHE", folder.join("go-build"))
            .output();
        let how = "install Debian's golang-go and golang-github-golang-groupcache-dev, or set LARDER_WITHOUT=go";
        match build {
            Ok(output) if output.status.success() => {
                fs::rename(&built, &program).expect("both are in one folder");
                program
            }
            Ok(output) => panic!("node.go does not build: {how}\n{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => panic!("go does not run: {how}: {error}"),
        }
    })
}
