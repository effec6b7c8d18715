//! A server that shows a request as it came over the wire, and answers with whatever bytes a test wants.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// A request, byte for byte.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    head: String,
    body: Vec<u8>,
}

impl Asked {
    /// What stands before the target.
    pub(crate) fn method(&self) -> &str {
        self.line().0
    }

    /// What stands between the method and ` HTTP/1.1`.
    pub(crate) fn target(&self) -> &str {
        self.line().1
    }

    fn line(&self) -> (&str, &str) {
        let line = self.head.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap();
        line.split_once(' ').unwrap()
    }

    /// What came after the head, as long as `Content-Length` says.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The values of a header, in the order in which they came.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// What becomes of a request.
pub(crate) enum Answer {
    /// These bytes; the connection lives on.
    Keep(Vec<u8>),
    /// The first bytes; the second ones when the client has had time to work on them.
    Late(Vec<u8>, Vec<u8>),
    /// These bytes, then the end of the connection.
    Close(Vec<u8>),
    /// These bytes, then the second ones until the client goes.
    Repeat(Vec<u8>, &'static [u8]),
    /// These bytes, then nothing until the client goes.
    Hang(Vec<u8>),
}

impl Answer {
    /// A response with a `Content-Length`, and a connection that lives on; `head` is a status and headers.
    pub(crate) fn new(head: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Self::Keep(bytes)
    }

    /// The same, with a body that comes some time after the head.
    pub(crate) fn late(self) -> Self {
        let Self::Keep(mut head) = self else { panic!("it has no body to be late") };
        let end = head.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let body = head.split_off(end);
        Self::Late(head, body)
    }
}

#[derive(Default)]
struct Seen {
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
}

/// A server on a free port of this machine, until it is dropped.
pub(crate) struct Server {
    addr: SocketAddr,
    seen: Arc<Seen>,
    gone: Arc<Semaphore>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer).await
    }

    pub(crate) async fn start_with(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let gone = Arc::new(Semaphore::new(0));
        let (seen_here, gone_here, answer) = (Arc::clone(&seen), Arc::clone(&gone), Arc::new(answer));
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen_here.connections.fetch_add(1, SeqCst);
                let (seen, gone, answer, tls) =
                    (Arc::clone(&seen_here), Arc::clone(&gone_here), Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => _ = serve(stream, &seen, &*answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let _ = serve(stream, &seen, &*answer).await;
                            }
                        }
                    }
                    gone.add_permits(1);
                });
            }
        });
        Self { addr, seen, gone, accepting }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The requests that came, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.seen.asked.lock().unwrap().clone()
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    /// Waits until a connection has ended.
    pub(crate) async fn until_one_is_gone(&self) {
        self.gone.acquire().await.unwrap().forget();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: &Seen,
    answer: &(dyn Fn(&Asked) -> Answer + Send + Sync),
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let mut asked = Asked { head: String::from_utf8(head).unwrap(), body: Vec::new() };
        if let [len] = asked.header("Content-Length")[..] {
            asked.body = vec![0; len.parse().unwrap()];
            stream.read_exact(&mut asked.body).await?;
        }
        seen.asked.lock().unwrap().push(asked.clone());
        match answer(&asked) {
            Answer::Keep(bytes) => stream.write_all(&bytes).await?,
            Answer::Late(head, body) => {
                stream.write_all(&head).await?;
                // On a runtime of one thread the client runs in between.
                for _ in 0..1_000 {
                    tokio::task::yield_now().await;
                }
                stream.write_all(&body).await?;
            }
            Answer::Close(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Answer::Repeat(bytes, again) => {
                stream.write_all(&bytes).await?;
                loop {
                    stream.write_all(again).await?;
                }
            }
            Answer::Hang(bytes) => {
                stream.write_all(&bytes).await?;
                // The client asks nothing further: this ends when it is gone.
                stream.read_u8().await?;
            }
        }
    }
}
