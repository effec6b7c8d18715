//! A server that answers as the path says, and a client that writes bytes and reads answers.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use larder_server::http::{Accept, Handler, HttpLimits, Problem, Request, Response, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

pub(crate) use crate::answer::Answer;

/// How many bytes the pipe between client and server holds, as a kernel's socket buffers would.
pub(crate) const PIPE_LEN: usize = 64 * 1024;

/// How large the body of `/big` is: more than pipe and buffers hold.
pub(crate) const BIG_LEN: usize = 4 * 1024 * 1024;

/// What the handler saw, and the gate at which `/gate` waits.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) paths: Mutex<Vec<String>>,
    pub(crate) gate: Notify,
    pub(crate) dropped: Notify,
}

impl Seen {
    pub(crate) fn paths(&self) -> Vec<String> {
        self.paths.lock().unwrap().clone()
    }
}

/// Answers with the path; but waits, panics, reads the body or says much where the path asks for it.
pub(crate) async fn answer(request: Request, seen: Arc<Seen>) -> Response {
    let path = request.uri().path().to_owned();
    seen.paths.lock().unwrap().push(path.clone());
    let body = match path.as_str() {
        "/gate" => {
            let cancelled = NotifyOnDrop(&seen.dropped);
            seen.gate.notified().await;
            std::mem::forget(cancelled);
            Bytes::from("open")
        }
        "/five-minutes" => {
            tokio::time::sleep(Duration::from_secs(300)).await;
            Bytes::from("done")
        }
        "/panic" => panic!("as asked"),
        "/big" => Bytes::from(vec![b'x'; BIG_LEN]),
        _ if path.starts_with("/body") => match request.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Problem::bad_request("The body broke off.").into(),
        },
        _ => Bytes::from(path),
    };
    Response::new(body.into())
}

struct NotifyOnDrop<'a>(&'a Notify);

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A listener whose connections, and failures, a test sends in.
pub(crate) struct Pipes(mpsc::UnboundedReceiver<io::Result<DuplexStream>>);

impl Accept for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<DuplexStream> {
        match self.0.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }
}

/// A server under test.
pub(crate) struct Server {
    /// What its handler saw, if that is [`answer`].
    pub(crate) seen: Arc<Seen>,
    pub(crate) connect: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) ended: JoinHandle<usize>,
}

impl Server {
    pub(crate) fn start(limits: HttpLimits) -> Self {
        let seen = Arc::<Seen>::default();
        let handler = {
            let seen = seen.clone();
            move |request| answer(request, seen.clone())
        };
        Self { seen, ..Self::with(handler, limits) }
    }

    pub(crate) fn with(handler: impl Handler, limits: HttpLimits) -> Self {
        let (connect, accepted) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let ended = tokio::spawn(serve(Pipes(accepted), handler, limits, shutdown));
        Self { seen: Arc::default(), connect, stop: Some(stop), ended }
    }

    pub(crate) fn connect(&self) -> Client {
        let (ours, theirs) = tokio::io::duplex(PIPE_LEN);
        self.connect.send(Ok(theirs)).unwrap();
        Client(ours)
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let mut client = self.connect();
        client.send(&get(path)).await;
        client.answer().await.expect("an answer")
    }

    /// Sends `bytes` and reads to the end.
    pub(crate) async fn exchange(&self, bytes: impl AsRef<[u8]>) -> Vec<Answer> {
        let mut client = self.connect();
        client.send(bytes).await;
        client.answers().await
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().expect("once").send(());
    }
}

/// A plain request for `path`.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// A client's end of a connection.
pub(crate) struct Client(pub(crate) DuplexStream);

impl Client {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("the server reads");
    }

    /// The next answer; `None` once the connection is closed.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        self.answer_to("GET").await
    }

    /// The same after a request of this method.
    pub(crate) async fn answer_to(&mut self, method: &str) -> Option<Answer> {
        // The head one byte at a time, so that nothing of the next answer is taken.
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            match self.0.read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(_) => {
                    assert!(bytes.is_empty(), "cut off within an answer");
                    return None;
                }
            }
        }
        let head_len = bytes.len();
        bytes.resize(head_len + Answer::length_of(method, &bytes), 0);
        self.0.read_exact(&mut bytes[head_len..]).await.expect("all of the body");
        Answer::parse_to(method, &mut bytes)
    }

    /// The next answer; `None` if the connection is closed or the server is still waiting a minute later.
    pub(crate) async fn answer_or_stall(&mut self) -> Option<Answer> {
        tokio::time::timeout(Duration::from_secs(60), self.answer()).await.ok().flatten()
    }

    /// All answers until the connection is closed.
    pub(crate) async fn answers(&mut self) -> Vec<Answer> {
        let mut bytes = Vec::new();
        let _ = self.0.read_to_end(&mut bytes).await;
        let answers = std::iter::from_fn(|| Answer::parse(&mut bytes)).collect();
        assert!(bytes.is_empty(), "{} bytes are no answer", bytes.len());
        answers
    }

    /// Waits for the end of the connection and says how long that took; nothing else may come.
    pub(crate) async fn closed_after(&mut self) -> Duration {
        let start = tokio::time::Instant::now();
        assert_eq!(self.0.read(&mut [0]).await.unwrap_or(0), 0, "something came instead of the end");
        start.elapsed()
    }
}
