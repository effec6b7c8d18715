//! Requests that are broken, or that two programs might read differently.

use larder_server::http::HttpLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Answer, Server, get};

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

/// Heads that are refused whatever follows; each is sent with a request behind it that must not be seen.
const REFUSED: &[&str] = &[
    // Framing that can be read in two ways.
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 0, 0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 0x0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 0 \x0b\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: \r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    // Header lines that can be read in two ways.
    "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length : 0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nX: y\r\n Content-Length: 44\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.1\r\n Host: h\r\n\r\n",
    "GET /k HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
    "GET /k HTTP/1.1\r\nHost: h\r\nX\0: a\r\n\r\n",
    "GET /k HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
    "GET /k HTTP/1.1\r\nHost: h\r\nX\r\n\r\n",
    "GET /k HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n",
    "GET /k HTTP/1.1\r\nHost: h\r\nX: a\n\r\n",
    "GET /k HTTP/1.1\nHost: h\n\n",
    "GET /k HTTP/1.1\r\nHost: h\r\n\n",
    "\n\nGET /k HTTP/1.1\r\nHost: h\r\n\r\n",
    // Hosts and targets.
    "GET /k HTTP/1.1\r\n\r\n",
    "GET /k HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
    "GET /k#/smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /k /l HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET  /k HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET\t/k HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /k\0 HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET  HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /k HTTP/1.1 \r\nHost: h\r\n\r\n",
    "GET /k HTTP/2.0\r\nHost: h\r\n\r\n",
    "GET /k HTTP/1.2\r\nHost: h\r\n\r\n",
    "GET /k http/1.1\r\nHost: h\r\n\r\n",
    "GET /k\r\nHost: h\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}\r\n\r\n",
];

#[tokio::test(start_paused = true)]
async fn what_is_broken_or_ambiguous_is_refused_once_and_the_connection_closed() {
    for head in REFUSED {
        let server = Server::start(HttpLimits::default());
        let answers = server.exchange(format!("{}{head}{}", get("/before"), get("/smuggled"))).await;
        assert_eq!(statuses(&answers), [200, 400], "{head:?}");
        assert!(answers[1].is_last() && answers[1].body.is_empty(), "{head:?}");
        assert_eq!(server.seen.paths(), ["/before"], "{head:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_in_broken_chunks_is_no_body_and_nothing_behind_it_is_a_request() {
    for chunks in [
        "5\r\nhello\r\n0\r\n",
        "ffffffffffffffff\r\nhello",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "g\r\nhello\r\n0\r\n\r\n",
    ] {
        let server = Server::start(HttpLimits::default());
        let head = "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut client = server.connect();
        client.send(format!("{head}{chunks}{}", get("/smuggled"))).await;
        if let Some(answer) = client.answer_or_stall().await {
            assert_eq!(answer.status, 400, "{chunks:?}: {}", answer.text());
            assert!(client.answer().await.is_none(), "{chunks:?}");
        }
        assert_eq!(server.seen.paths(), ["/body"], "{chunks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunked_request_is_read_and_is_the_last() {
    let server = Server::start(HttpLimits::default());
    let request = "POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n\
        5;ext=\"1\"\r\nhello\r\n001\r\n!\r\n0\r\nTrailer: t\r\n\r\n";
    let answers = server.exchange(format!("{request}{}", get("/behind"))).await;
    assert_eq!(statuses(&answers), [200]);
    assert_eq!(answers[0].text(), "hello!");
    assert!(answers[0].is_last());
    assert_eq!(server.seen.paths(), ["/body"]);
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order_with_their_own_bodies() {
    let server = Server::start(HttpLimits::default());
    let put = |body: &str| format!("PUT /body HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let smuggling = get("/smuggled");
    let requests = [
        "\r\n\r\n".to_owned(),
        get("/one"),
        put(&smuggling),
        get("/two"),
        put(""),
        "\r\n".to_owned(),
        put("three"),
        "GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_owned(),
        get("/never"),
    ]
    .concat();
    let expected = ["/one", &smuggling, "/two", "", "three", "/last"];
    for step in [1, 7, 61, requests.len()] {
        let mut client = server.connect();
        for piece in requests.as_bytes().chunks(step) {
            // The last of them go to a server that has closed.
            let _ = client.0.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let answers = client.answers().await;
        assert_eq!(answers.iter().map(Answer::text).collect::<Vec<_>>(), expected, "in steps of {step}");
    }
    assert!(!server.seen.paths().contains(&"/smuggled".to_owned()));
    assert!(!server.seen.paths().contains(&"/never".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_unread_body_that_is_at_hand_is_skipped() {
    let server = Server::start(HttpLimits::default());
    let unread = "GET /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
    let mut client = server.connect();
    client.send(format!("{unread}{}", get("/next"))).await;
    assert_eq!(client.answer().await.unwrap().text(), "/unread");
    assert_eq!(client.answer().await.unwrap().text(), "/next");
}

#[tokio::test(start_paused = true)]
async fn an_unread_body_ends_its_connection_and_is_never_a_request() {
    let server = Server::start(HttpLimits::default());
    let body = get("/smuggled").repeat(10_000);
    let head = format!("POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut client = server.connect();
    client.send(head + &body[..1000]).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    let _ = client.0.write_all(&body.as_bytes()[1000..]).await;
    assert!(client.answer().await.is_none());
    assert_eq!(server.seen.paths(), ["/unread"]);
}

#[tokio::test(start_paused = true)]
async fn half_a_request_is_not_answered() {
    let server = Server::start(HttpLimits::default());
    let whole = "PUT /body HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    for len in 1..whole.len() {
        let mut client = server.connect();
        client.send(&whole[..len]).await;
        client.0.shutdown().await.unwrap();
        let answers = client.answers().await;
        assert!(answers.iter().all(|answer| answer.status == 400), "{len}: {answers:?}");
    }
    assert_eq!(server.get("/alive").await.text(), "/alive");
}

#[tokio::test(start_paused = true)]
async fn an_expectation_is_met_once_the_body_is_wanted() {
    let server = Server::start(HttpLimits::default());
    let mut client = server.connect();
    client.send("PUT /body HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    let mut go_on = [0; 25];
    client.0.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello").await;
    assert_eq!(client.answer().await.unwrap().text(), "hello");
}
