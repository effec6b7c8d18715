//! How long clients may take, and how many there may be.

use std::{io, time::Duration};

use larder_server::http::HttpLimits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use crate::client::{BIG_LEN, Client, Server, get};

const SECOND: Duration = Duration::from_secs(1);

/// Timers ring on whole milliseconds.
fn assert_about(elapsed: Duration, expected: Duration) {
    assert!(elapsed.abs_diff(expected) < Duration::from_millis(5), "{elapsed:?} instead of {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed_after_ten_seconds() {
    let server = Server::start(HttpLimits::default());
    assert_about(server.connect().closed_after().await, 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_dribbles_in_is_cut_after_ten_seconds() {
    let server = Server::start(HttpLimits::default());
    let mut client = server.connect();
    let start = Instant::now();
    let head = get(&format!("/{}", "k".repeat(100)));
    for byte in head.bytes() {
        sleep(SECOND / 2).await;
        if client.0.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    assert_about(start.elapsed(), 10 * SECOND + SECOND / 2);
    assert!(server.seen.paths().is_empty());
}

#[tokio::test(start_paused = true)]
async fn between_requests_there_is_a_minute() {
    let server = Server::start(HttpLimits::default());
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(get("/again")).await;
        assert_eq!(client.answer().await.unwrap().text(), "/again");
        sleep(59 * SECOND).await;
    }
    assert_about(client.closed_after().await, SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_later_head_has_ten_seconds_from_its_first_byte() {
    let server = Server::start(HttpLimits::default());
    let mut client = server.connect();
    client.send(get("/first")).await;
    client.answer().await.unwrap();
    sleep(40 * SECOND).await;
    client.send("GET /half").await;
    sleep(9 * SECOND).await;
    client.send(" HTTP/1.1\r\n").await;
    assert_about(client.closed_after().await, SECOND);
    assert_eq!(server.seen.paths(), ["/first"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_worked_on_is_not_cut() {
    let server = Server::start(HttpLimits::default());
    let mut client = server.connect();
    client.send(get("/five-minutes") + "GET /next HTT").await;
    assert_eq!(client.answer().await.unwrap().text(), "done");
    sleep(9 * SECOND).await;
    client.send("P/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().text(), "/next");
    assert_about(client.closed_after().await, 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_after_a_minute() {
    for behind in ["", "GET /next HTTP/1.1\r\nHost: h\r\n\r\n"] {
        let server = Server::start(HttpLimits::default());
        let mut client = server.connect();
        client.send(get("/big") + behind).await;
        sleep(61 * SECOND).await;
        let mut bytes = Vec::new();
        client.0.read_to_end(&mut bytes).await.unwrap();
        assert!(bytes.len() < BIG_LEN / 2, "{} bytes were sent to nobody", bytes.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_all() {
    let server = Server::start(HttpLimits::default());
    let mut client = server.connect();
    client.send(get("/big")).await;
    let mut read = 0;
    while read < BIG_LEN {
        sleep(50 * SECOND).await;
        read += client.0.read(&mut vec![0; 1 << 20]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_over_the_limit_is_answered_431() {
    let server = Server::start(HttpLimits { head_len_max: 8 * 1024, ..HttpLimits::default() });
    let long = "x".repeat(9 * 1024);
    let many = "X: y\r\n".repeat(101);
    for headers in [format!("X: {long}\r\n"), format!("{long}: x\r\n"), many] {
        let answers = server.exchange(format!("GET /k HTTP/1.1\r\nHost: h\r\n{headers}\r\n")).await;
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [431], "{}", headers.len());
    }
    // One that never ends.
    let answers = server.exchange(format!("GET /{long}")).await;
    assert_eq!(answers[0].status, 431);
    assert!(server.seen.paths().is_empty());
    let fits = server.get(&format!("/{}", "k".repeat(8 * 1024 - 40))).await;
    assert_eq!(fits.status, 200);
}

#[tokio::test(start_paused = true)]
async fn connections_over_the_limit_are_told_so_and_closed() {
    let server = Server::start(HttpLimits { connections_max: 2, ..HttpLimits::default() });
    let mut first = server.connect();
    let mut second = server.connect();
    for client in [&mut first, &mut second] {
        client.send(get("/in")).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    let mut third = server.connect();
    third.send(get("/out")).await;
    let refused = third.answer().await.unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("\"overloaded\"") && refused.head.contains("retry-after: 1") && refused.is_last());
    assert!(third.answer().await.is_none());
    assert_eq!(server.seen.paths(), ["/in", "/in"]);

    drop(first);
    tokio::task::yield_now().await;
    let mut fourth = server.connect();
    fourth.send(get("/in-again")).await;
    assert_eq!(fourth.answer().await.unwrap().status, 200);
    second.send(get("/still-in")).await;
    assert_eq!(second.answer().await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn connections_far_over_the_limit_wait_to_be_taken() {
    let server = Server::start(HttpLimits { connections_max: 1, ..HttpLimits::default() });
    let mut silent: Vec<Client> = (0..65).map(|_| server.connect()).collect();
    let mut late = server.connect();
    late.send(get("/late")).await;
    let start = Instant::now();
    assert_eq!(late.answer().await.unwrap().status, 200, "taken once the silent ones are gone");
    assert_about(start.elapsed(), 10 * SECOND);
    assert_about(silent[0].closed_after().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_failing_accept_is_tried_again_after_a_while() {
    let server = Server::start(HttpLimits::default());
    let start = Instant::now();
    for _ in 0..4 {
        server.connect.send(Err(io::Error::from_raw_os_error(24))).unwrap();
    }
    assert_eq!(server.get("/after").await.text(), "/after");
    assert_about(start.elapsed(), Duration::from_millis(5 + 10 + 20 + 40));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_fails_while_it_is_accepted_delays_nobody() {
    let server = Server::start(HttpLimits::default());
    let start = Instant::now();
    for _ in 0..100 {
        server.connect.send(Err(io::ErrorKind::ConnectionAborted.into())).unwrap();
    }
    assert_eq!(server.get("/after").await.text(), "/after");
    assert_about(start.elapsed(), Duration::ZERO);
}
