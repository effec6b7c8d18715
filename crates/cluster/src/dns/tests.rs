use std::collections::HashMap;

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        DNSClass, Name, Record, RecordType,
        rdata::{A, AAAA, SRV},
    },
    serialize::binary::{BinDecodable, BinEncodable},
};
use parking_lot::Mutex;
use tokio::net::UdpSocket;

use super::*;

/// How long an answer may take to show on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a name server says to a question.
#[derive(Clone)]
enum Says {
    Records(Vec<RData>),
    Code(ResponseCode),
    Nothing,
    Garbage,
}

/// A name server, which knows what a test has told it. Of everything else it says that there is no such name.
#[derive(Clone)]
struct NameServer {
    address: SocketAddr,
    answers: Arc<Mutex<HashMap<RecordType, Says>>>,
    asked: watch::Sender<u64>,
}

impl NameServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server =
            Self { address: socket.local_addr().unwrap(), answers: Arc::default(), asked: watch::Sender::new(0) };
        tokio::spawn(server.clone().serve(socket));
        server
    }

    async fn serve(self, socket: UdpSocket) {
        let mut bytes = [0; 4096];
        loop {
            let (len, from) = socket.recv_from(&mut bytes).await.unwrap();
            let question = Message::from_bytes(&bytes[..len]).unwrap();
            let answer = self.answer(&question);
            self.asked.send_modify(|asked| *asked += 1);
            if let Some(answer) = answer {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    }

    fn answer(&self, question: &Message) -> Option<Vec<u8>> {
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.add_query(query.clone());
        match self.answers.lock().get(&query.query_type()).cloned() {
            Some(Says::Records(records)) => {
                answer.add_answers(records.into_iter().map(|data| {
                    let mut record = Record::from_rdata(query.name().clone(), 60, data);
                    record.dns_class = DNSClass::IN;
                    record
                }));
            }
            Some(Says::Code(code)) => answer.metadata.response_code = code,
            Some(Says::Nothing) => return None,
            Some(Says::Garbage) => return Some(vec![7; 40]),
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        Some(answer.to_bytes().unwrap())
    }

    fn says(&self, kind: RecordType, says: Says) {
        self.answers.lock().insert(kind, says);
    }

    fn addresses(&self, last: &[u8]) {
        self.says(RecordType::A, Says::Records(last.iter().map(|last| RData::A(A::new(10, 0, 0, *last))).collect()));
    }

    async fn look_up(&self, name: &str) -> Dns {
        let name = name.parse().unwrap();
        let every = Duration::from_millis(20);
        Dns::start(DnsConfig { every, server: Some(self.address), ..DnsConfig::new(name) }).await.unwrap()
    }

    /// Waits until it has been asked anew.
    async fn is_asked(&self) {
        let mut asked = self.asked.subscribe();
        let enough = *asked.borrow_and_update() + 2;
        timeout(PATIENCE, asked.wait_for(|asked| *asked >= enough)).await.expect("it is asked").unwrap();
    }
}

fn list(dns: &Dns) -> Vec<String> {
    dns.members().borrow().iter().map(|member| member.address.to_string()).collect()
}

async fn becomes(dns: &Dns, expected: &[&str]) {
    let mut members = dns.members();
    let same = |members: &Members| members.iter().map(|member| &*member.address).eq(expected.iter().copied());
    let arrived = timeout(PATIENCE, members.wait_for(same)).await.is_ok();
    assert!(arrived, "{expected:?} awaited, but {:?}", list(dns));
}

#[tokio::test]
async fn members_are_the_addresses_of_a_name_and_are_named_by_them() {
    let server = NameServer::start().await;
    server.addresses(&[2, 1]);
    let dns = server.look_up("larder.test:5274").await;
    let members = dns.members().borrow().clone();
    let named = [Member::new("10.0.0.1:5274", "10.0.0.1:5274"), Member::new("10.0.0.2:5274", "10.0.0.2:5274")];
    assert_eq!(members, Members::new(named).unwrap());
    server.addresses(&[3, 1, 2]);
    becomes(&dns, &["10.0.0.1:5274", "10.0.0.2:5274", "10.0.0.3:5274"]).await;
    server.addresses(&[3]);
    becomes(&dns, &["10.0.0.3:5274"]).await;
}

#[tokio::test]
async fn where_there_is_no_ipv4_address_those_of_ipv6_count() {
    let server = NameServer::start().await;
    server.says(RecordType::A, Says::Records(Vec::new()));
    let address = RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
    server.says(RecordType::AAAA, Says::Records(vec![address]));
    let dns = server.look_up("larder.test:5274").await;
    becomes(&dns, &["[fd00::1]:5274"]).await;
    // A node with both is one member.
    server.addresses(&[1]);
    becomes(&dns, &["10.0.0.1:5274"]).await;
    // A failure is no word that there is none.
    server.says(RecordType::A, Says::Code(ResponseCode::ServFail));
    server.is_asked().await;
    assert_eq!(list(&dns), ["10.0.0.1:5274"]);
}

#[tokio::test]
async fn members_are_the_targets_of_a_service_each_at_its_port() {
    let server = NameServer::start().await;
    let service = |host: &str, port| RData::SRV(SRV::new(1, 2, port, Name::from_ascii(host).unwrap()));
    server.says(RecordType::SRV, Says::Records(vec![service("b.test.", 2), service("a.test.", 1)]));
    let dns = server.look_up("_larder._tcp.test").await;
    becomes(&dns, &["a.test:1", "b.test:2"]).await;
    // RFC 2782: the service is decidedly not available, which is an empty answer.
    server.says(RecordType::SRV, Says::Records(vec![service(".", 0)]));
    server.is_asked().await;
    assert_eq!(list(&dns), ["a.test:1", "b.test:2"]);
}

#[tokio::test]
async fn an_answer_that_is_empty_or_fails_or_does_not_come_changes_nothing() {
    let server = NameServer::start().await;
    server.addresses(&[1, 2]);
    let dns = server.look_up("larder.test:5274").await;
    let mut members = dns.members();
    members.mark_unchanged();
    for says in [
        Says::Records(Vec::new()),
        Says::Code(ResponseCode::NXDomain),
        Says::Code(ResponseCode::ServFail),
        Says::Code(ResponseCode::Refused),
        Says::Garbage,
        Says::Nothing,
    ] {
        server.says(RecordType::A, says);
        server.is_asked().await;
        assert!(!members.has_changed().unwrap(), "now it is {:?}", list(&dns));
    }
    server.addresses(&[1, 2, 3]);
    becomes(&dns, &["10.0.0.1:5274", "10.0.0.2:5274", "10.0.0.3:5274"]).await;
}

#[tokio::test]
async fn the_same_answer_in_another_order_wakes_nobody() {
    let server = NameServer::start().await;
    server.addresses(&[1, 2, 3]);
    let dns = server.look_up("larder.test:5274").await;
    let mut members = dns.members();
    members.mark_unchanged();
    for order in [[3, 2, 1], [2, 1, 3]] {
        server.addresses(&order);
        server.is_asked().await;
        assert!(!members.has_changed().unwrap());
    }
}

#[tokio::test]
async fn a_look_asks_at_once_and_ends_in_time() {
    let server = NameServer::start().await;
    server.addresses(&[1]);
    let name = "larder.test:5274".parse().unwrap();
    let every = Duration::from_secs(3_600);
    let dns = Dns::start(DnsConfig { every, server: Some(server.address), ..DnsConfig::new(name) }).await.unwrap();
    server.addresses(&[1, 2]);
    dns.look().await;
    becomes(&dns, &["10.0.0.1:5274", "10.0.0.2:5274"]).await;
    server.says(RecordType::A, Says::Nothing);
    timeout(PATIENCE, dns.look()).await.unwrap();
}

#[tokio::test]
async fn a_node_starts_without_members_where_no_answer_comes_and_finds_them_later() {
    let server = NameServer::start().await;
    server.says(RecordType::A, Says::Code(ResponseCode::ServFail));
    let dns = server.look_up("larder.test:5274").await;
    assert_eq!(list(&dns), [""; 0]);
    server.addresses(&[1]);
    becomes(&dns, &["10.0.0.1:5274"]).await;
}

#[tokio::test]
async fn a_dropped_membership_asks_no_more() {
    let server = NameServer::start().await;
    server.addresses(&[1]);
    let dns = server.look_up("larder.test:5274").await;
    let mut members = dns.members();
    drop(dns);
    let ended = timeout(PATIENCE, async { while members.changed().await.is_ok() {} });
    assert!(ended.await.is_ok(), "it still looks names up");
}

#[test]
fn what_is_no_name_is_refused() {
    for text in ["", "larder", "larder:", "larder:0", "larder:x", ":5274", "_larder._tcp.x:y", "a b:1", "[::1]:1"] {
        let error = text.parse::<DnsName>().unwrap_err();
        assert!(error.is_invalid() && error.message().contains("HOST:PORT"), "{text}: {error}");
    }
    for text in ["larder.default.svc:5274", "_larder._tcp.example.com"] {
        assert_eq!(text.parse::<DnsName>().unwrap().to_string(), text);
    }
}
