//! What stands at the other end when it is no Larder node, or none that works: each written out byte for byte.

use std::{sync::Arc, time::Duration};

use larder_core::{
    ErrorKind, Member, PeerClient, Transport, Value,
    peer::{PeerAnswer, PeerError, PeerGet, WriteOp},
    testing::peer::{deadline, found, question, write},
};
use larder_peer::http::HttpTransport;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};

/// A program on a socket, which gets each connection that is made, and its number.
async fn program<Fut>(talk: impl Fn(TcpStream, usize) -> Fut + Send + Sync + 'static) -> String
where
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(talk(stream, number));
        }
    });
    format!("http://{address}")
}

fn link(address: &str) -> Arc<dyn PeerClient> {
    HttpTransport::new().link(&Member::new("b", address)).unwrap()
}

/// Reads one request's head; `None` at the end of the connection.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Answers every request of every connection with the same bytes, then goes on or hangs up.
async fn always(answer: &'static [u8], go_on: bool) -> String {
    program(move |mut stream, _| async move {
        while head(&mut stream).await.is_some() {
            stream.write_all(answer).await.unwrap();
            if !go_on {
                return;
            }
        }
    })
    .await
}

async fn get_from(answer: &'static [u8], go_on: bool) -> Result<PeerAnswer, PeerError> {
    link(&always(answer, go_on).await).get(question("k")).await
}

fn kind_and_message<T: std::fmt::Debug>(outcome: Result<T, PeerError>) -> (ErrorKind, String) {
    match outcome {
        Err(PeerError::Answered(error)) => (error.kind(), error.message().to_owned()),
        other => panic!("expected an answered error: {other:?}"),
    }
}

fn broke_off<T: std::fmt::Debug>(outcome: &Result<T, PeerError>) {
    assert!(matches!(outcome, Err(PeerError::Unreachable { sent: true, .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_question_is_what_a_go_node_expects() {
    let (told, mut heads) = mpsc::unbounded_channel();
    let address = program(move |mut stream, _| {
        let told = told.clone();
        async move {
            while let Some(head) = head(&mut stream).await {
                told.send(head).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x0a\x01v").await.unwrap();
            }
        }
    })
    .await;
    let at = address.strip_prefix("http://").unwrap();
    for (member, path) in [
        (address.clone(), "/_groupcache/g/a%20b%2F..%2F%2Bc"),
        (at.to_owned(), "/_groupcache/g/a%20b%2F..%2F%2Bc"),
        (format!("{address}/base"), "/base/_groupcache/g/a%20b%2F..%2F%2Bc"),
        (format!("{address}/"), "//_groupcache/g/a%20b%2F..%2F%2Bc"),
    ] {
        let answer = link(&member).get(question("a b/../+c")).await;
        assert_eq!(answer.unwrap(), found("v"));
        let head = heads.recv().await.unwrap().to_lowercase();
        assert!(head.starts_with(&format!("get {} http/1.1\r\n", path.to_lowercase())), "{head}");
        assert!(head.contains(&format!("\r\nhost: {at}\r\n")), "{head}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    }
}

#[test]
fn addresses_are_hosts_with_ports_or_urls() {
    let link = |address: &str| HttpTransport::new().link(&Member::new("b", address)).map(drop);
    for good in
        ["10.0.0.1:8080", "cache-1.local:80", "[::1]:5273", "http://10.0.0.1:8080", "http://cache", "http://h:1/x"]
    {
        assert!(link(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        ":80",
        "cache",
        "http://",
        "http://:80",
        "https://cache",
        "ftp://h:1",
        "h:99999",
        "http://h:99999",
        "h:x",
        "u@h:1",
        "http://u:p@h:1",
        "http://h:1/?q",
        "http://h:1/a b",
        "h h:1",
        "http://http://h:1",
    ] {
        assert!(link(bad).is_err_and(|error| error.is_invalid()), "{bad}");
    }
}

#[tokio::test]
async fn a_go_node_s_value_is_a_value_of_which_nothing_is_known() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nDate: Sat, 01 Jan 2022 00:00:00 GMT\r\n\
        Content-Length: 5\r\n\r\n\x0a\x03abc";
    assert_eq!(get_from(answer, true).await.unwrap(), found("abc"));
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\x0a\x03\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(get_from(chunked, true).await.unwrap(), found("abc"));
    let until_closed = b"HTTP/1.0 200 OK\r\n\r\n\x0a\x03abc";
    assert_eq!(get_from(until_closed, false).await.unwrap(), found("abc"));
    let nothing = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(get_from(nothing, true).await.unwrap(), found(Value::from("")));
}

#[tokio::test]
async fn a_go_node_s_errors_are_answers() {
    let failed = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 14\r\n\r\nno such table\n";
    assert_eq!(kind_and_message(get_from(failed, true).await), (ErrorKind::Origin, "no such table".into()));
    let no_group = b"HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\nno such group: g\n";
    assert_eq!(kind_and_message(get_from(no_group, true).await), (ErrorKind::UnknownGroup, "no such group: g".into()));
    let bad = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(kind_and_message(get_from(bad, true).await), (ErrorKind::Invalid, "400 Bad Request".into()));
    let long = b"HTTP/1.1 500 Oh\r\nContent-Length: 1000000000\r\n\r\n";
    assert_eq!(kind_and_message(get_from(long, true).await).0, ErrorKind::Origin, "and its text is not read");
}

#[tokio::test]
async fn what_no_node_answers_is_no_answer() {
    for foreign in [
        &b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 6\r\n\r\n<html>"[..],
        b"HTTP/1.1 301 Moved Permanently\r\nLocation: /_groupcache/g/x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n\x0a\x03abc",
    ] {
        broke_off(&get_from(foreign, true).await);
    }
}

#[tokio::test]
async fn an_answer_that_ends_too_early_is_no_answer() {
    for cut in [
        &b""[..],
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\x0a\x03a",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\x0a\x03\r\n3\r\na",
    ] {
        broke_off(&get_from(cut, false).await);
    }
}

#[tokio::test]
async fn a_long_answer_is_refused_before_it_is_read() {
    let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    assert_eq!(kind_and_message(get_from(announced, true).await).0, ErrorKind::TooLarge);
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut() {
    let address = program(|mut stream, _| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"10\r\n0123456789abcdef\r\n").await.is_ok() {}
    })
    .await;
    assert_eq!(kind_and_message(link(&address).get(question("k")).await).0, ErrorKind::TooLarge);
}

#[tokio::test]
async fn a_head_without_an_end_is_cut() {
    let address = program(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"x-more: and more\r\n").await.is_ok() {}
    })
    .await;
    broke_off(&link(&address).get(question("k")).await);
}

#[tokio::test]
async fn one_that_accepts_and_says_nothing_costs_the_deadline() {
    let address = program(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let link = link(&address);
    let soon = || Instant::now() + Duration::from_millis(50);
    let get = link.get(PeerGet { deadline: soon(), ..question("k") }).await;
    assert!(matches!(get, Err(PeerError::TimedOut)), "{get:?}");
    let mut put = write("k", WriteOp::Delete);
    put.deadline = soon();
    assert!(matches!(link.write(put).await, Err(PeerError::TimedOut)));
    assert!(matches!(link.probe(soon()).await, Err(PeerError::TimedOut)));
}

#[tokio::test]
async fn any_http_answer_is_a_sign_of_life() {
    let (told, mut heads) = mpsc::unbounded_channel();
    let address = program(move |mut stream, _| {
        let told = told.clone();
        async move {
            told.send(head(&mut stream).await.unwrap()).unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\n\r\nbad request\n").await.unwrap();
        }
    })
    .await;
    link(&address).probe(deadline()).await.unwrap();
    assert!(heads.recv().await.unwrap().starts_with("GET /_groupcache/ HTTP/1.1\r\n"));
}

#[tokio::test]
async fn one_connection_serves_one_question_after_the_other() {
    let address = program(|mut stream, number| async move {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x0a\x01{number}");
        while head(&mut stream).await.is_some() {
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let link = link(&address);
    for _ in 0..100 {
        assert_eq!(link.get(question("k")).await.unwrap(), found("0"));
    }
}

/// A node that closes its first connection when it has read a second request on it, as if for idleness.
async fn closes_as_we_write() -> (String, mpsc::UnboundedReceiver<String>) {
    let (told, heads) = mpsc::unbounded_channel();
    let address = program(move |mut stream, number| {
        let told = told.clone();
        async move {
            for turn in 0.. {
                let Some(head) = head(&mut stream).await else { return };
                told.send(head).unwrap();
                if (number, turn) == (0, 1) {
                    return;
                }
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x0a\x01{number}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (address, heads)
}

#[tokio::test]
async fn a_get_that_met_a_closing_connection_is_asked_again_on_a_new_one() {
    let (address, mut heads) = closes_as_we_write().await;
    let link = link(&address);
    assert_eq!(link.get(question("k")).await.unwrap(), found("0"));
    assert_eq!(link.get(question("k")).await.unwrap(), found("1"));
    drop(link);
    for _ in 0..3 {
        heads.recv().await.unwrap();
    }
    assert!(heads.try_recv().is_err());
}

#[tokio::test]
async fn a_write_that_met_a_closing_connection_is_not_sent_again() {
    let (address, mut heads) = closes_as_we_write().await;
    let link = link(&address);
    assert_eq!(link.get(question("k")).await.unwrap(), found("0"));
    broke_off(&link.write(write("k", WriteOp::Delete)).await);
    assert_eq!(link.get(question("k")).await.unwrap(), found("1"));
    let mut lines = Vec::new();
    while let Ok(head) = heads.try_recv() {
        lines.push(head.lines().next().unwrap().to_owned());
    }
    let get = "GET /_groupcache/g/k HTTP/1.1";
    assert_eq!(lines, [get, "DELETE /v1/groups/g/keys/k HTTP/1.1", get]);
}

#[tokio::test]
async fn a_node_that_takes_no_writes_says_so() {
    let go = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 19\r\n\r\n404 page not found\n";
    let outcome = link(&always(go, true).await).write(write("k", WriteOp::Delete)).await;
    assert_eq!(kind_and_message(outcome).0, ErrorKind::ReadOnly);
    let proxy = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>";
    broke_off(&link(&always(proxy, true).await).write(write("k", WriteOp::Delete)).await);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_not_asked_for_again() {
    let (told, mut heads) = mpsc::unbounded_channel();
    let address = program(move |mut stream, _| {
        let told = told.clone();
        async move {
            for answer in
                [&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x0a\x01v"[..], b"SSH-2.0-OpenSSH_9.2\r\n\r\n"]
            {
                told.send(head(&mut stream).await.unwrap()).unwrap();
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let link = link(&address);
    assert_eq!(link.get(question("k")).await.unwrap(), found("v"));
    broke_off(&link.get(question("k")).await);
    assert!(heads.try_recv().is_ok() && heads.try_recv().is_ok() && heads.try_recv().is_err());
}
