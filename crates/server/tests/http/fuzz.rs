//! Broken requests by the thousand, from a seed, over real sockets.
//!
//! `LARDER_FUZZ_ROUNDS` sets how many connections are tried.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use http::StatusCode;
use http_body_util::BodyExt;
use larder_server::http::{HttpLimits, Request, Response, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};

use crate::{
    broken::{Script, script},
    client::{Answer, get},
};

const ROUNDS: u64 = 2_000;

/// How many connections are open at once.
const AT_ONCE: usize = 128;

/// How long the handler waits for a body: to bound that is its own affair.
const BODY_TIME_MAX: Duration = Duration::from_secs(2);

/// In how many pieces a script is sent: so few that the listener's patience never ends while they are being sent.
const PIECES_MAX: usize = 20;

/// What no connection may take: far more than the listener's limits in this test.
const ROUND_TIME_MAX: Duration = Duration::from_secs(30);

/// Stands only where no program that reads the bytes rightly takes it for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

fn good(rng: &mut Rng, id: usize, body: &str) -> String {
    match rng.u8(..3) {
        0 => get(&format!("/{id}")),
        1 => format!("PUT /{id} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        _ => format!("\r\nHEAD /{id} HTTP/1.1\r\nX: {}\r\nhost:h\r\n\r\n", "y".repeat(rng.usize(..300))),
    }
}

/// Plays one script and judges what came back.
async fn round(seed: u64, address: std::net::SocketAddr) {
    let mut rng = Rng::with_seed(seed);
    let script = script(&mut rng, SMUGGLED, |id| format!("/{id}"), good);
    let mut stream = TcpStream::connect(address).await.expect("the server is there");
    stream.set_nodelay(true).unwrap();
    let (mut read, mut write) = stream.split();
    let pieces = if rng.bool() { 1 } else { rng.usize(2..PIECES_MAX) };
    let piece = script.bytes.len().div_ceil(pieces);
    let leaves = rng.u8(..20) == 0;
    let waits = rng.u8(..80) == 0;
    let writing = async {
        for piece in script.bytes.chunks(piece) {
            // An error says that the server has closed; what it answered is read below.
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if !waits {
            let _ = write.shutdown().await;
        }
    };
    if leaves {
        writing.await;
        return;
    }
    let mut bytes = Vec::new();
    let _ = tokio::join!(writing, read.read_to_end(&mut bytes));
    judge(seed, &script, bytes);
}

fn judge(seed: u64, script: &Script, mut bytes: Vec<u8>) {
    let sent = script.bytes.escape_ascii();
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut answered = Vec::new();
    let mut refused = None;
    while !bytes.is_empty() {
        assert!(refused.is_none(), "seed {seed}: something follows a refusal; sent {sent}");
        if bytes.starts_with(go_on) {
            bytes.drain(..go_on.len());
            continue;
        }
        let answer = Answer::parse(&mut bytes).unwrap_or_else(|| panic!("seed {seed}: half an answer; sent {sent}"));
        match answer.status {
            200 => answered.push(answer.id()),
            status @ (400 | 431) => refused = Some(status),
            status => panic!("seed {seed}: status {status}; sent {sent}"),
        }
    }
    assert!(answered.len() <= script.len, "seed {seed}: {} answers; sent {sent}", answered.len());
    let expected: Vec<_> = (0..script.good).map(|id| id.to_string()).collect();
    assert!(answered.starts_with(&expected), "seed {seed}: {answered:?} instead of {expected:?}; sent {sent}");
}

impl Answer {
    /// The request's number, which the handler sends back in a header, so that HEAD has it too.
    fn id(&self) -> String {
        let id = self.head.lines().find_map(|line| line.strip_prefix("id: "));
        id.expect("an answer of the handler has one").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_broken_connections_harm_nobody() {
    let rounds = std::env::var("LARDER_FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let seen = Arc::<Mutex<BTreeSet<String>>>::default();
    let handler = {
        let seen = seen.clone();
        move |request: Request| {
            let seen = seen.clone();
            async move {
                let path = request.uri().path().to_owned();
                let id = path.trim_start_matches('/').to_owned();
                seen.lock().unwrap().insert(path);
                if !matches!(timeout(BODY_TIME_MAX, request.into_body().collect()).await, Ok(Ok(_))) {
                    // Without a body, so that the answers to GET and to HEAD look alike.
                    let mut refusal = Response::default();
                    *refusal.status_mut() = StatusCode::BAD_REQUEST;
                    return refusal;
                }
                let mut response = Response::default();
                if let Ok(id) = id.parse() {
                    response.headers_mut().insert("id", id);
                }
                response
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let limits = HttpLimits {
        head_time_max: Duration::from_secs(2),
        idle_time_max: Duration::from_secs(2),
        ..HttpLimits::default()
    };
    let server = tokio::spawn(serve(listener, handler, limits, async {
        let _ = stopped.await;
    }));

    let mut running = JoinSet::new();
    for seed in 0..rounds {
        if running.len() == AT_ONCE {
            running.join_next().await.expect("some").expect("a good round");
        }
        running.spawn(async move {
            timeout(ROUND_TIME_MAX, round(seed, address)).await.unwrap_or_else(|_| panic!("seed {seed} hangs"));
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("a good round");
    }
    assert!(!seen.lock().unwrap().contains("/smuggled"));
    round_trip(address).await;
    stop.send(()).unwrap();
    assert_eq!(server.await.unwrap(), 0);
}

async fn round_trip(address: std::net::SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(get("/7").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(Answer::parse(&mut bytes).expect("an answer").id(), "7");
}
