//! What the API answers where there are several nodes, over real sockets.

use std::{net::SocketAddr, sync::Arc};

use larder::{Member, Node, cluster::Static, loader_fn, peer::http::HttpTransport};
use larder_server::http::{Api, ApiConfig, HttpLimits, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::client::Answer;

struct Two {
    nodes: Vec<Node>,
    addresses: Vec<SocketAddr>,
    _servers: Vec<JoinHandle<usize>>,
}

impl Two {
    async fn start() -> Self {
        let mut listeners = Vec::new();
        for _ in 0..2 {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let (mut nodes, mut servers) = (Vec::new(), Vec::new());
        for (listener, name) in listeners.into_iter().zip(["a", "b"]) {
            let member = |(name, address): (&str, &SocketAddr)| Member::new(name, address.to_string());
            let members = Static::new(["a", "b"].into_iter().zip(&addresses).map(member)).unwrap();
            let node = Node::builder().name(name).membership(members).transport(HttpTransport::new());
            let node = node.start().await.unwrap();
            node.plain_group("plain").open().unwrap();
            let origin = loader_fn(|key: larder::Key| async move {
                Ok::<_, std::io::Error>(Some(larder::Value::from(key.as_bytes().to_vec())))
            });
            node.group("users", origin).open().unwrap();
            let (_, watched) = watch::channel(false);
            let api = Api::new(ApiConfig {
                node: node.core().clone(),
                locks: node.locks().clone(),
                max_ages: Default::default(),
                draining: watched,
            });
            servers.push(tokio::spawn(serve(listener, api.clients(), HttpLimits::default(), std::future::pending())));
            nodes.push(node);
        }
        Self { nodes, addresses, _servers: servers }
    }

    /// A key of `group` that this node owns.
    fn key_of(&self, node: usize, group: &str) -> String {
        let name = self.nodes[node].core().name();
        let owned = |key: &String| self.nodes[0].core().place(group, key.as_bytes()).owner.as_ref() == Some(name);
        (0..).map(|number| format!("key-{number}")).find(owned).unwrap()
    }

    async fn ask(&self, node: usize, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.addresses[node]).await.unwrap();
        let request = request.replacen(" HTTP/1.1\r\n", " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n", 1);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        Answer::parse(&mut bytes).expect("an answer")
    }
}

#[tokio::test]
async fn a_write_is_passed_on_to_its_owner_once() {
    let two = Arc::new(Two::start().await);
    let key = two.key_of(1, "plain");
    let path = format!("/v1/groups/plain/keys/{key}");
    let headers = "Content-Type: text/x\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n";
    let put = two.ask(0, &format!("PUT {path} HTTP/1.1\r\n{headers}\r\nhi")).await;
    assert_eq!((put.status, put.header("etag").len()), (204, 26), "{}", put.head);
    for node in [0, 1] {
        let got = two.ask(node, &format!("GET {path} HTTP/1.1\r\n\r\n")).await;
        assert_eq!((got.status, got.text(), got.header("content-type")), (200, "hi", "text/x"));
        assert_eq!(got.header("etag"), put.header("etag"));
        assert!((1..=60_000).contains(&got.header("larder-ttl-ms").parse::<u64>().unwrap()));
        let owner = two.ask(node, &format!("GET /v1/cluster/owner/plain/{key} HTTP/1.1\r\n\r\n")).await.json();
        assert_eq!((&owner["owner"], &owner["stand_in"]), (&"b".into(), &"a".into()));
    }
    let astray = format!("PUT {path} HTTP/1.1\r\nLarder-Passed-On: 1\r\nContent-Length: 2\r\n\r\nno");
    let refused = two.ask(0, &astray).await;
    assert_eq!((refused.status, &*refused.problem()), (503, "owner-unreachable"));

    let stale = format!("DELETE {path} HTTP/1.1\r\nIf-Match: \"000000000000000000000000\"\r\n\r\n");
    assert_eq!(two.ask(0, &stale).await.problem(), "version-mismatch");
    assert_eq!(two.ask(0, &format!("DELETE {path} HTTP/1.1\r\n\r\n")).await.status, 204);
    assert_eq!(two.ask(1, &format!("GET {path} HTTP/1.1\r\n\r\n")).await.status, 404);
}

#[tokio::test]
async fn other_nodes_are_answered_on_the_same_listener() {
    let two = Two::start().await;
    let key = two.key_of(1, "users");
    let from_other = two.ask(0, &format!("GET /v1/groups/users/keys/{key} HTTP/1.1\r\n\r\n")).await;
    assert_eq!(from_other.text(), key);
    assert_eq!(from_other.header("cache-status"), "larder; fwd=uri-miss");
    let stats = two.nodes[1].core().group("users").unwrap();
    assert_eq!(stats.stats().server_requests.of(larder_core::stats::Protocol::Http).sum(), 1);

    let as_go = two.ask(1, &format!("GET /_groupcache/users/{key} HTTP/1.1\r\n\r\n")).await;
    assert_eq!((as_go.status, as_go.header("content-type")), (200, "application/x-protobuf"));
    assert!(as_go.body.ends_with(key.as_bytes()));
    let unknown = two.ask(1, "GET /_groupcache/nobody/k HTTP/1.1\r\n\r\n").await;
    assert_eq!((unknown.status, unknown.header("content-type")), (404, "text/plain; charset=utf-8"));
}
