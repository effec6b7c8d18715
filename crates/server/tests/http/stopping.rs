//! How requests and the listener end.

use std::time::Duration;

use larder_server::http::HttpLimits;
use tokio::{io::AsyncWriteExt, time::Instant};

use crate::client::{Server, get};

#[tokio::test(start_paused = true)]
async fn stopping_finishes_what_runs_and_closes_the_rest() {
    let mut server = Server::start(HttpLimits::default());
    let mut idle = server.connect();
    idle.send(get("/idle")).await;
    idle.answer().await.unwrap();
    let mut running = server.connect();
    running.send(get("/gate") + &get("/never")).await;
    let start = Instant::now();
    while server.seen.paths().len() < 2 {
        tokio::task::yield_now().await;
    }
    server.stop();
    assert!(idle.answer().await.is_none());
    server.seen.gate.notify_one();
    let answer = running.answer().await.unwrap();
    assert_eq!(answer.text(), "open");
    assert!(answer.is_last());
    assert!(running.answer().await.is_none());
    drop(running);
    assert_eq!(server.ended.await.unwrap(), 0);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(server.seen.paths(), ["/idle", "/gate"]);
}

#[tokio::test(start_paused = true)]
async fn stopping_cuts_off_what_takes_too_long() {
    let mut server = Server::start(HttpLimits { drain_time_max: Duration::from_secs(3), ..HttpLimits::default() });
    let mut running = server.connect();
    running.send(get("/gate")).await;
    while server.seen.paths().is_empty() {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    server.stop();
    assert_eq!(server.ended.await.unwrap(), 1);
    assert!(start.elapsed().abs_diff(Duration::from_secs(3)) < Duration::from_millis(5), "{:?}", start.elapsed());
    assert!(running.answer().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_has_its_request_dropped() {
    let server = Server::start(HttpLimits::default());
    let mut client = server.connect();
    client.send(get("/gate")).await;
    while server.seen.paths().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(client);
    server.seen.dropped.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_sending_half_has_a_second_for_its_answer() {
    let server = Server::start(HttpLimits::default());
    for (path, expected) in [("/at-once", Some("/at-once")), ("/gate", Some("open")), ("/five-minutes", None)] {
        let mut client = server.connect();
        client.send(get(path)).await;
        client.0.shutdown().await.unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
        server.seen.gate.notify_one();
        let start = Instant::now();
        let answers = client.answers().await;
        assert_eq!(answers.first().map(|answer| answer.text()), expected);
        let patience = if expected.is_some() { Duration::from_millis(5) } else { Duration::from_millis(105) };
        assert!(start.elapsed() < patience, "{path}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_costs_its_own_connection_only() {
    let server = Server::start(HttpLimits::default());
    let mut other = server.connect();
    other.send(get("/one")).await;
    other.answer().await.unwrap();
    assert!(server.exchange(get("/panic")).await.is_empty());
    other.send(get("/two")).await;
    assert_eq!(other.answer().await.unwrap().text(), "/two");
    assert_eq!(server.get("/three").await.text(), "/three");
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_that_goes_on_sending_is_read_for_a_second() {
    let server = Server::start(HttpLimits::default());
    let mut client = server.connect();
    let start = Instant::now();
    client.send("PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n").await;
    // More than the pipe holds: somebody has to read it.
    client.send(vec![b'x'; 1 << 20]).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(client.answer().await.is_none());
    while client.0.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(start.elapsed() < Duration::from_millis(1_100), "{:?}", start.elapsed());
}
