//! Whole daemons that talk to each other over gRPC.

use std::time::Duration;

use larder::core::{peer::Condition, stats::Protocol};
use larder_server::{
    assemble::{Listeners, assemble},
    config::{Config, Discovery, MemberConfig},
};
use tokio::{sync::oneshot, task::JoinHandle};

#[tokio::test]
async fn daemons_answer_each_other_over_grpc_and_stop() {
    let text = "[node]\ntransport = 'grpc'\nlisten = '127.0.0.1:0'\npeer = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n[groups.plain]";
    let mut config = Config::parse(text, &[]).unwrap();
    let (mut listeners, mut members) = (Vec::new(), Vec::new());
    for name in ["a", "b"] {
        let bound = Listeners::bind(&config).await.unwrap();
        let address = bound.addresses().unwrap().peers.expect("a listener for peers").to_string();
        members.push(MemberConfig { name: name.into(), address });
        listeners.push(bound);
    }
    config.cluster.discovery = Discovery::Static;
    config.cluster.members = members;
    let mut groups = Vec::new();
    let mut running: Vec<(oneshot::Sender<()>, JoinHandle<usize>)> = Vec::new();
    for (name, listeners) in ["a", "b"].into_iter().zip(listeners) {
        config.node.name = Some(name.into());
        let same = config.clone();
        let daemon = assemble(&config, listeners, true, move || Ok(same.clone())).await.unwrap();
        groups.push(daemon.node().core().group("plain").unwrap());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        running.push((stop, tokio::spawn(daemon.run(shutdown))));
    }
    for number in 0..20 {
        let key = format!("key {number}");
        let timeout = Duration::from_secs(10);
        let value = larder::Value::from(format!("value {number}"));
        groups[0].put(&key, value.clone(), None, Condition::Always, timeout).await.unwrap();
        for group in &groups {
            assert_eq!(group.get(&key, timeout).await.unwrap().value, Some(value.clone()));
        }
    }
    let asked = |index: usize| groups[index].stats().server_requests.of(Protocol::Grpc).sum();
    assert!(asked(0) > 0 && asked(1) > 0, "each owns some of them");
    for (stop, daemon) in running {
        stop.send(()).unwrap();
        assert_eq!(daemon.await.unwrap(), 0);
    }
}
