//! Against real agents of Consul.

use std::time::Duration;

use larder_core::{
    MemberState, Membership, registered_membership_contract,
    testing::{membership::registered::Cluster, needs::needs},
};

use super::*;
use crate::{
    registry::tests::{BootClock, Node, Registrar, each_scenario, member, refusal, within},
    testing::{ConsulServer, Proxy, Server},
};

/// Short, and still longer than a busy machine stands still.
const TTL: Duration = Duration::from_secs(2);

impl Registrar for ConsulServer {
    const TTL: Duration = TTL;

    fn join(&self, me: Member, lease_ttl: Duration, by: Option<&str>) -> Arc<dyn Membership> {
        let config = ConsulConfig { lease_ttl, ..ConsulConfig::new(by.unwrap_or(&self.url())) };
        Arc::new(consul(config, me))
    }
}

impl Cluster for ConsulServer {
    async fn join(&self, me: Member) -> Result<Arc<dyn Membership>, Error> {
        Ok(Registrar::join(self, me, TTL, None))
    }

    fn crash_time_max(&self) -> Duration {
        // A lease, and room for a busy machine.
        TTL + Duration::from_secs(6)
    }
}

fn consul(config: ConsulConfig, me: Member) -> Consul {
    let seed = u64::from(me.incarnation);
    Consul::new(config, me, BootClock, seed).unwrap()
}

registered_membership_contract!(contract, {
    if !needs("consul") {
        return;
    }
    ConsulServer::start()
});

each_scenario!(ConsulServer, "consul");

/// Nodes by different agents are one cluster; what its agent can't tell the servers any more is out.
#[tokio::test]
async fn nodes_by_two_agents_are_one_cluster() {
    if !needs("consul") {
        return;
    }
    let server = ConsulServer::start();
    let neighbour = server.start_neighbour();
    let mut nodes = vec![Node::join(&server, member("a"), None).await];
    let url = neighbour.url();
    nodes.push(Node::join(&server, member("b"), Some(&url)).await);
    nodes.push(Node::join(&server, member("c"), Some(&url)).await);
    for node in &mut nodes {
        node.lists("abc").await;
        node.proves_anew().await;
    }
    let twin = Member { incarnation: 9, address: "10.0.9.9:1".into(), ..member("a") };
    let twin = Registrar::join(&server, twin, TTL, Some(&url));
    let message = refusal(within("the refusal", twin.announce(MemberState::Serving)).await);
    assert!(message.contains("is named \"a\" too"), "{message}");
    drop(nodes.remove(1));
    for node in &mut nodes {
        node.lists("ac").await;
    }
    nodes[1].membership.leave().await;
    nodes[0].lists("a").await;
}

/// Renewals reach the agent all the while: a check that passes there proves nothing.
#[tokio::test]
async fn an_agent_that_lost_its_servers_lets_nobody_prove_anything() {
    if !needs("consul") {
        return;
    }
    let server = ConsulServer::start();
    let neighbour = server.start_neighbour();
    let url = neighbour.url();
    let mut node = Node::join(&server, member("a"), Some(&url)).await;
    node.lists("a").await;
    node.proves_anew().await;
    let record = node.record();
    server.pause();
    node.proves_nothing().await;
    server.resume();
    node.proves_anew().await;
    drop(node);
    assert_eq!(within("the record", record).await.unwrap().len(), 1, "the last list stood");
}

#[tokio::test]
async fn without_a_token_that_may_nothing_is_done() {
    if !needs("consul") {
        return;
    }
    let master = "6d1a4c0e-53f6-4f0c-9a4e-0c6c1f3a8b11";
    let server = ConsulServer::start_with_master(master);
    let config = |token: Option<&str>| {
        let token = token.map(str::to_owned);
        ConsulConfig { token, lease_ttl: TTL, ..ConsulConfig::new(server.url()) }
    };
    let good = Arc::new(consul(config(Some(master)), member("a")));
    let mut node = Node::announce(good, member("a")).await;
    node.lists("a").await;
    node.proves_anew().await;
    for wrong in [None, Some("00000000-0000-0000-0000-000000000001")] {
        let stranger = consul(config(wrong), member("b"));
        let message = refusal(within("the refusal", stranger.announce(MemberState::Serving)).await);
        assert!(message.contains("403") || message.contains("ermission denied"), "{message}");
    }
}

/// Changes are found by reads then, a second later.
#[tokio::test]
async fn hints_that_never_come_cost_a_second() {
    if !needs("consul") {
        return;
    }
    let server = ConsulServer::start();
    let mut node = Node::join(&server, member("a"), None).await;
    node.lists("a").await;
    let rank = node.list.borrow().rank();
    let registry =
        ConsulRegistry::new(ConsulConfig { lease_ttl: TTL, ..ConsulConfig::new(server.url()) }, &member("b"));
    let registry = registry.unwrap();
    let hint = tokio::spawn(async move {
        // An index that is ahead of Consul's, as after its data was lost: nothing comes of it but the end of the wait.
        registry.changed(rank + 1_000_000).await
    });
    let _other = Node::join(&server, member("b"), None).await;
    node.lists("ab").await;
    assert_eq!(within("the end of the wait", hint).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_name_or_a_url_that_can_not_be_is_refused() {
    for (config, said) in [
        (ConsulConfig::new("127.0.0.1:8500"), "such as"),
        (ConsulConfig::new("http://127.0.0.1:8500/v1"), "such as"),
        (ConsulConfig { service: "a/b".into(), ..ConsulConfig::new("http://a:1") }, "letters, digits"),
        (ConsulConfig { token: Some("a\nb".into()), ..ConsulConfig::new("http://a:1") }, "token"),
    ] {
        let message = refusal(Consul::new(config, member("a"), BootClock, 1).map(|_| ()));
        assert!(message.contains(said), "{message}");
    }
    let way = Proxy::to("127.0.0.1:9".parse().unwrap()).await;
    let alone = consul(ConsulConfig { lease_ttl: TTL, ..ConsulConfig::new(way.url()) }, member("a"));
    assert_eq!(alone.members().borrow().len(), 1, "it needs nobody to be there");
    alone.leave().await;
}
