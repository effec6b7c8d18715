//! Against real etcd servers.

use std::{net::SocketAddr, time::Duration};

use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
};
use larder_core::{
    MemberState, Membership, registered_membership_contract,
    testing::{membership::registered::Cluster, needs::needs},
};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

use super::*;
use crate::{
    registry::tests::{
        BootClock, Node, Registrar, SOON, each_scenario, leases_run_out, member, nodes, refusal, within,
    },
    testing::{EtcdServer, Server},
};

/// Short, and still longer than a busy machine stands still.
const TTL: Duration = Duration::from_secs(2);

impl Registrar for EtcdServer {
    const TTL: Duration = TTL;

    fn join(&self, me: Member, lease_ttl: Duration, by: Option<&str>) -> Arc<dyn Membership> {
        let config = EtcdConfig { lease_ttl, ..EtcdConfig::new([by.unwrap_or(&self.url())]) };
        let seed = u64::from(me.incarnation);
        Arc::new(Etcd::new(config, me, BootClock, seed).unwrap())
    }
}

impl Cluster for EtcdServer {
    async fn join(&self, me: Member) -> Result<Arc<dyn Membership>, Error> {
        Ok(Registrar::join(self, me, TTL, None))
    }

    fn crash_time_max(&self) -> Duration {
        // A lease, a second until etcd has noticed, and room for a busy machine.
        TTL + Duration::from_secs(6)
    }
}

fn etcd(urls: &[&str], me: Member) -> Etcd {
    let config = EtcdConfig { lease_ttl: TTL, ..EtcdConfig::new(urls.iter().copied()) };
    let seed = u64::from(me.incarnation);
    Etcd::new(config, me, BootClock, seed).unwrap()
}

async fn joined(membership: Etcd, me: Member) -> Node {
    Node::announce(Arc::new(membership), me).await
}

registered_membership_contract!(contract, {
    if !needs("etcd") {
        return;
    }
    EtcdServer::start()
});

each_scenario!(EtcdServer, "etcd");

#[tokio::test]
async fn an_entry_or_a_lease_that_somebody_deletes_is_made_anew() {
    if !needs("etcd") {
        return;
    }
    let server = EtcdServer::start();
    let mut nodes = nodes(&server, "ab").await;
    assert_eq!(server.ctl(&["del", "/larder/members/a"]).trim(), "1");
    while server.ctl(&["get", "/larder/members/a"]).is_empty() {
        // What the server is asked with keeps this thread from all else.
        sleep(Duration::from_millis(50)).await;
    }
    nodes[1].lists("ab").await;
    let leases = server.ctl(&["lease", "list"]);
    let lease = |leases: &str| leases.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    for lease in lease(&leases) {
        let _revoked = server.ctl(&["lease", "revoke", &lease]);
    }
    for node in &mut nodes {
        node.lists("ab").await;
        node.proves_anew().await;
    }
    assert!(lease(&server.ctl(&["lease", "list"])).iter().all(|new| !leases.contains(new)));
}

#[tokio::test]
async fn what_others_keep_under_the_prefix_harms_nobody() {
    if !needs("etcd") {
        return;
    }
    let server = EtcdServer::start();
    let mut nodes = nodes(&server, "ab").await;
    for key in ["/larder/members/odd", "/larder/members/", "/larder/members0", "/larder/other"] {
        let _put = server.ctl(&["put", key, "{\"not\": \"a member\"}"]);
    }
    nodes[0].membership.announce(MemberState::Draining).await.unwrap();
    within("the change", nodes[1].list.wait_for(|list| list[0].state == MemberState::Draining)).await.unwrap();
    nodes[1].lists("ab").await;
    let squatted = etcd(&[&server.url()], Member { incarnation: 9, ..Member::new("odd", "x:1") });
    let message = refusal(within("the refusal", squatted.announce(MemberState::Serving)).await);
    assert_eq!(message, "the key /larder/members/odd in etcd is not Larder's: delete it");
}

/// Whoever watches from a revision that etcd has compacted away looks at what there is.
#[tokio::test]
async fn a_history_that_was_compacted_is_a_change() {
    if !needs("etcd") {
        return;
    }
    let server = EtcdServer::start();
    let way = crate::testing::Proxy::to(server.address()).await;
    let mut away = joined(etcd(&[&way.url()], member("a")), member("a")).await;
    away.lists("a").await;
    let began = away.list.borrow().rank();
    way.cut();
    away.proves_nothing().await;
    let _others = nodes::<EtcdServer>(&server, "bc").await;
    let put = server.ctl(&["put", "elsewhere", "1", "-w", "json"]);
    let revision = serde_json::from_str::<serde_json::Value>(&put).unwrap()["header"]["revision"].to_string();
    let _compacted = server.ctl(&["compaction", &revision]);
    let registry = registry(&[server.url()], &TlsFiles::default());
    within("the word of the compaction", registry.changed(began)).await.unwrap();
    way.mend();
    away.lists("abc").await;
    away.proves_anew().await;
}

#[tokio::test]
async fn a_killed_leader_costs_nothing() {
    if !needs("etcd") {
        return;
    }
    let mut servers = EtcdServer::start_cluster::<3>();
    let urls: Vec<String> = servers.iter().map(EtcdServer::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    // Room for an election: the lease is what a crash takes to be noticed, and leases are longer with a new leader.
    let by_all = |name: &str| {
        let config = EtcdConfig { lease_ttl: 3 * TTL, ..EtcdConfig::new(urls.iter().copied()) };
        Etcd::new(config, member(name), BootClock, u64::from(name.as_bytes()[0])).unwrap()
    };
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(joined(by_all(name), member(name)).await);
    }
    for node in &mut nodes {
        node.lists("abc").await;
    }
    let records: Vec<_> = nodes.iter().map(Node::record).collect();
    servers.iter_mut().find(|server| server.is_leader()).unwrap().kill();
    for node in &nodes {
        node.proves_anew().await;
    }
    nodes.push(joined(by_all("d"), member("d")).await);
    for node in &mut nodes {
        node.lists("abcd").await;
    }
    drop(nodes);
    for record in records {
        assert_eq!(within("the end of a record", record).await.unwrap().len(), 2, "abc and abcd");
    }
}

#[tokio::test]
async fn of_several_endpoints_those_that_are_away_are_passed_over() {
    if !needs("etcd") {
        return;
    }
    let server = EtcdServer::start();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    for first in 0..3 {
        let mut urls = ["http://127.0.0.1:9", &silent, &server.url()];
        urls.rotate_left(first);
        let _node = joined(etcd(&urls, member("a")), member("a")).await;
    }
}

/// Changes are found by reads then, a second later.
#[tokio::test]
async fn a_watch_that_says_nothing_while_all_else_goes_on_costs_a_second() {
    if !needs("etcd") {
        return;
    }
    let server = EtcdServer::start();
    let way = WayWithoutWatches::to(server.address()).await;
    let mut nodes = vec![joined(etcd(&[&way.url], member("a")), member("a")).await];
    nodes.push(Node::join(&server, member("b"), None).await);
    nodes[0].lists("ab").await;
    let record = nodes[0].record();
    for state in [MemberState::Draining, MemberState::Serving, MemberState::Draining] {
        let start = BootClock.now();
        nodes[1].membership.announce(state).await.unwrap();
        within("the change", nodes[0].list.wait_for(|list| list[1].state == state)).await.unwrap();
        assert!(BootClock.now().since(start) < Duration::from_secs(5));
        nodes[0].proves_anew().await;
    }
    drop(nodes);
    assert_eq!(within("the record", record).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_user_has_a_password_and_tokens_that_are_renewed() {
    if !needs("etcd") {
        return;
    }
    let mut server = EtcdServer::start();
    for words in ["user add root:secret", "role add root", "user grant-role root root", "user add larder:pantry"] {
        let _done = server.ctl(&words.split(' ').collect::<Vec<_>>());
    }
    for words in [
        "role add members",
        "role grant-permission members --prefix=true readwrite /larder/",
        "user grant-role larder members",
        "auth enable",
    ] {
        let _done = server.ctl(&words.split(' ').collect::<Vec<_>>());
    }
    let by = |name: &str, password: &str, prefix: &str| {
        let user = Some((name.to_owned(), password.to_owned()));
        let config = EtcdConfig { user, lease_ttl: TTL, prefix: prefix.into(), ..EtcdConfig::new([server.url()]) };
        Etcd::new(config, member("a"), BootClock, 1).unwrap()
    };
    for (wrong, said) in [
        (by("larder", "larder", "/larder/"), "etcd takes neither the user \"larder\" nor its password"),
        (by("nobody", "x", "/larder/"), "etcd takes neither the user \"nobody\""),
        (by("larder", "pantry", "/elsewhere/"), "permission denied"),
        (etcd(&[&server.url()], member("a")), "user name is empty"),
    ] {
        let message = refusal(within("the refusal", wrong.announce(MemberState::Serving)).await);
        assert!(message.contains(said), "{message}");
    }
    let mut node = joined(by("larder", "pantry", "/larder/"), member("a")).await;
    node.lists("a").await;
    // Tokens don't outlive a server.
    server.stop();
    leases_run_out::<EtcdServer>(std::slice::from_ref(&node)).await;
    server.restart();
    node.proves_anew().await;
}

#[tokio::test]
async fn by_tls_both_ends_prove_who_they_are() {
    if !needs("etcd") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut authority = rcgen::CertificateParams::new([]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let ca = file("ca.pem", authority.self_signed(&authority_key).unwrap().pem());
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let issue = |name: &str, host: &str, usage| {
        let mut params = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap().pem();
        (file(&format!("{name}.pem"), cert), file(&format!("{name}-key.pem"), key.serialize_pem()))
    };
    let server = EtcdServer::start_secured(|address| {
        let (cert, key) = issue("server", &address.ip().to_string(), rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        [cert, key, ca.clone()]
    });
    let (cert, key) = issue("client", "a", rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let stranger = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let stranger = file("stranger.pem", stranger.cert.pem());
    let tls = TlsFiles { ca: Some(ca), cert: Some(cert), key: Some(key) };
    let config = EtcdConfig { tls: tls.clone(), lease_ttl: TTL, ..EtcdConfig::new([server.url()]) };
    let mut node = joined(Etcd::new(config, member("a"), BootClock, 1).unwrap(), member("a")).await;
    node.lists("a").await;
    node.proves_anew().await;
    for wrong in [TlsFiles { ca: Some(stranger), ..tls.clone() }, TlsFiles { cert: None, key: None, ..tls }] {
        let failure = registry(&[server.url()], &wrong).read().await.unwrap_err();
        assert!(matches!(failure, Failure::Away(_)), "{failure}");
    }
}

/// What a membership asks etcd, without the membership.
fn registry(urls: &[String], tls: &TlsFiles) -> EtcdRegistry {
    EtcdRegistry {
        client: Client::new(urls, 0, tls_config(is_https(urls), tls).unwrap(), None, SOON).unwrap(),
        members: b"/larder/members/".to_vec(),
        lease_ttl: TTL,
        lease: Mutex::default(),
    }
}

/// A way to etcd on which everything passes but what watches say.
struct WayWithoutWatches {
    url: String,
    _task: JoinSet<()>,
}

impl WayWithoutWatches {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client: legacy::Client<_, Incoming> =
            legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let client = client.clone();
                let pass = service_fn(move |mut request: Request<Incoming>| {
                    let client = client.clone();
                    let path = request.uri().path().to_owned();
                    *request.uri_mut() = format!("http://{server}{path}").parse().unwrap();
                    async move {
                        let answer = client.request(request).await?;
                        if path.contains("Watch") {
                            let (head, _silent) = answer.into_parts();
                            let silence = http_body_util::StreamBody::new(stream::pending());
                            return Ok(Response::from_parts(head, BoxBody::new(silence)));
                        }
                        Ok::<_, legacy::Error>(answer.map(BoxBody::new))
                    }
                });
                connections.spawn(async move {
                    let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ended = serve.serve_connection(TokioIo::new(stream), pass).await;
                });
            }
        });
        Self { url, _task: task }
    }
}
