//! Broken requests by the thousand, from a seed, to a daemon: it lives, answers nothing twice, and takes no body for a
//! request.
//!
//! `LARDER_FUZZ_ROUNDS` sets how many connections are tried.

use std::{net::SocketAddr, time::Duration};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    answer::Answer,
    broken::{Script, script},
    client::get,
    process::Daemon,
};

const ROUNDS: u64 = 600;

/// How many connections are open at once.
const AT_ONCE: usize = 64;

/// In how many pieces a script is sent.
const PIECES_MAX: usize = 20;

/// What no connection may take.
const ROUND_TIME_MAX: Duration = Duration::from_secs(20);

const SMUGGLED_PATH: &str = "/v1/groups/default/keys/smuggled";

/// Stands only where no program that reads the bytes rightly takes it for a request.
const SMUGGLED: &str = "PUT /v1/groups/default/keys/smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n";

/// Well-formed requests of clients: writes, and gets whose answers name them.
fn to_clients(rng: &mut Rng, id: usize, body: &str) -> String {
    if rng.bool() {
        return format!("\r\nGET {} HTTP/1.1\r\nX: {}\r\nhost:h\r\n\r\n", target(id), "y".repeat(rng.usize(..300)));
    }
    let len = body.len();
    format!("PUT /v1/groups/default/keys/{id} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n{body}")
}

/// Well-formed requests of operators. They have no bodies: one that is not read ends its connection.
fn to_admin(rng: &mut Rng, _: usize, _: &str) -> String {
    let path = rng.choice(["/healthz", "/readyz", "/metrics"]).expect("some");
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// A path that is there for no method, and whose problem names it.
fn target(id: usize) -> String {
    format!("/v1/groups/n{id}/keys/k")
}

/// Plays a script and gives what came back; `None` if the client left without waiting.
async fn play(rng: &mut Rng, script: &Script, address: SocketAddr) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.expect("the daemon is there");
    stream.set_nodelay(true).unwrap();
    let (mut read, mut write) = stream.split();
    let pieces = if rng.bool() { 1 } else { rng.usize(2..PIECES_MAX) };
    let piece = script.bytes.len().div_ceil(pieces);
    let writing = async {
        for piece in script.bytes.chunks(piece) {
            // An error says that the daemon has closed; what it answered is read below.
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = write.shutdown().await;
    };
    if rng.u8(..20) == 0 {
        writing.await;
        return None;
    }
    let mut bytes = Vec::new();
    let _ = tokio::join!(writing, read.read_to_end(&mut bytes));
    Some(bytes)
}

fn judge(seed: u64, script: &Script, mut bytes: Vec<u8>, is_right: fn(usize, &Answer) -> bool) {
    let sent = script.bytes.escape_ascii();
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut answers: Vec<Answer> = Vec::new();
    while !bytes.is_empty() {
        if bytes.starts_with(go_on) {
            bytes.drain(..go_on.len());
            continue;
        }
        let after_last = answers.last().is_some_and(Answer::is_last);
        assert!(!after_last, "seed {seed}: something follows the last answer; sent {sent}");
        let answer = Answer::parse(&mut bytes).unwrap_or_else(|| panic!("seed {seed}: half an answer; sent {sent}"));
        assert!(answer.status < 500, "seed {seed}: {answer:?}; sent {sent}");
        answers.push(answer);
    }
    assert!(answers.len() <= script.len, "seed {seed}: {} answers; sent {sent}", answers.len());
    assert!(answers.len() >= script.good, "seed {seed}: only {} answers; sent {sent}", answers.len());
    for (id, answer) in answers.iter().take(script.good).enumerate() {
        assert!(is_right(id, answer), "seed {seed}, request {id}: {answer:?}; sent {sent}");
    }
}

async fn fuzz(
    daemon: &Daemon,
    address: SocketAddr,
    good: fn(&mut Rng, usize, &str) -> String,
    is_right: fn(usize, &Answer) -> bool,
) {
    let rounds = std::env::var("LARDER_FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let mut running = JoinSet::new();
    for seed in 0..rounds {
        if running.len() == AT_ONCE {
            running.join_next().await.expect("some").expect("a good round");
        }
        running.spawn(async move {
            let mut rng = Rng::with_seed(seed);
            let script = script(&mut rng, SMUGGLED, target, good);
            let played = timeout(ROUND_TIME_MAX, play(&mut rng, &script, address)).await;
            if let Some(bytes) = played.unwrap_or_else(|_| panic!("seed {seed} hangs")) {
                judge(seed, &script, bytes, is_right);
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("a good round");
    }
    assert_eq!(daemon.ask(get(SMUGGLED_PATH)).await.status, 404, "a body was taken for a request");
    assert_eq!(daemon.ready().await, 200);
    assert!(!daemon.stderr().contains("panicked"), "{}", daemon.stderr());
}

#[tokio::test]
async fn broken_requests_of_clients_harm_nobody() {
    let daemon = Daemon::plain().await;
    fuzz(&daemon, daemon.clients, to_clients, |id, answer| match answer.status {
        204 => true,
        404 => answer.text().contains(&format!("n{id}")),
        _ => false,
    })
    .await;
}

#[tokio::test]
async fn broken_requests_of_operators_harm_nobody() {
    let daemon = Daemon::plain().await;
    fuzz(&daemon, daemon.admin, to_admin, |_, answer| answer.status == 200).await;
}
