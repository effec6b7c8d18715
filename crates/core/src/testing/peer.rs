//! What every transport between nodes must do: one suite that [`Transport`]s pass, the fake one too.
//!
//! A transport's tests implement [`Bench`] and name it to [`peer_transport_contract!`](crate::peer_transport_contract).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all, pending};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{
    Error, ErrorKind, KEY_LEN_MAX, Key, Member, PeerClient, PeerService, Transport, Value, Version,
    peer::{
        AskedAs, Condition, Leave, PeerAnswer, PeerError, PeerGet, PeerMeta, PeerQuestion, PeerWrite, WriteOp, waiting,
    },
};

/// How long a test waits for what ought to happen at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// A deadline that is meant to pass.
pub(super) const BRIEF: Duration = Duration::from_millis(100);
/// The longest value in the suite, in bytes: more than a socket's buffers hold.
const VALUE_LEN_MAX: usize = 1 << 20;

/// What the suite needs to try a transport.
pub trait Bench: Sync {
    /// A node that it started.
    type Node: RunningNode;

    /// The transport.
    fn transport(&self) -> Arc<dyn Transport>;

    /// Starts a node that has its questions and writes answered by `service`.
    fn start(&self, service: Arc<dyn PeerService>) -> impl Future<Output = Self::Node> + Send;
}

/// A node that can be reached over the transport.
pub trait RunningNode: Send + Sync {
    /// Where.
    fn address(&self) -> String;

    /// Breaks all its connections. It still accepts new ones.
    fn cut(&self) -> impl Future<Output = ()> + Send;

    /// Breaks all its connections and accepts no more.
    fn stop(self) -> impl Future<Output = ()> + Send;
}

/// Makes a test of each behaviour, for the [`Bench`] that the expression makes.
#[macro_export]
macro_rules! peer_transport_contract {
    ($bench:expr) => {
        $crate::peer_transport_contract! { $bench;
            any_key_arrives_as_it_is
            what_is_known_of_a_value_comes_along
            not_found_is_an_answer
            an_error_keeps_its_kind_and_message
            a_value_over_the_limit_is_refused
            the_part_and_the_deadline_arrive
            leaving_is_said_once_and_before_the_question_arrives
            a_node_that_never_answers_costs_the_deadline
            a_node_that_is_gone_was_sent_nothing
            a_break_during_a_get_is_not_an_answer
            a_connection_that_broke_unused_is_replaced
            no_answer_goes_to_another_question
            a_caller_that_gives_up_harms_nobody
            a_write_arrives_as_it_is
            a_write_that_fails_keeps_its_kind
            a_write_is_never_done_twice
        }
    };
    ($bench:expr; $($behaviour:ident)*) => {$(
        #[tokio::test]
        async fn $behaviour() {
            $crate::testing::peer::$behaviour(&$bench).await;
        }
    )*};
}

/// A deadline that no test reaches.
#[must_use]
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// A question for a key of group `g`, to its owner.
///
/// # Panics
///
/// If `key` can't be one.
pub fn question(key: impl Into<Bytes>) -> PeerGet {
    let key = Key::new(key).expect("1 to 1024 bytes");
    PeerGet { group: "g".into(), key, asked_as: AskedAs::Owner, value_len_max: VALUE_LEN_MAX, deadline: deadline() }
}

/// Asks for a key; `leaves` is told when the question is about to leave, and what its deadline is.
pub fn get_leaving<L>(
    link: &Arc<dyn PeerClient>,
    question: PeerGet,
    mut leaves: L,
) -> impl Future<Output = Result<PeerAnswer, PeerError>> + use<L>
where
    L: FnMut(Instant) -> Leave + Send + 'static,
{
    let deadline = question.deadline;
    let (asker, answer) = waiting(question, move || leaves(deadline));
    link.clone().ask(Box::new(asker));
    answer
}

/// A write to a key of group `g`.
///
/// # Panics
///
/// If `key` can't be one.
pub fn write(key: &'static str, op: WriteOp) -> PeerWrite {
    let key = Key::new(key).expect("1 to 1024 bytes");
    PeerWrite { group: "g".into(), key, op, condition: Condition::Always, idempotency_key: None, deadline: deadline() }
}

/// An answer of which nothing is known.
pub fn found(value: impl Into<Value>) -> PeerAnswer {
    PeerAnswer::Found { value: Some(value.into()), meta: None, lease: None }
}

/// A node for which every key is its own value, and every write fails.
pub struct EchoNode;

impl PeerService for EchoNode {
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        Box::pin(async move { Ok(found(question.key.to_bytes())) })
    }

    fn write(&self, _: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        Box::pin(async { Err(Error::new(ErrorKind::ReadOnly, "an echo takes no writes")) })
    }
}

/// A node that answers as a closure says.
pub(super) struct Answers<F>(pub(super) F);

impl<F, Fut> PeerService for Answers<F>
where
    F: Fn(PeerQuestion) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<PeerAnswer, Error>> + Send + 'static,
{
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        Box::pin((self.0)(question))
    }

    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        EchoNode.write(write)
    }
}

/// A node that takes writes as a closure says.
struct Writes<F>(F);

impl<F, Fut> PeerService for Writes<F>
where
    F: Fn(PeerWrite) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Version>, Error>> + Send + 'static,
{
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        EchoNode.answer(question)
    }

    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        Box::pin((self.0)(write))
    }
}

pub(super) async fn link<B: Bench>(bench: &B, service: impl PeerService) -> (B::Node, Arc<dyn PeerClient>) {
    let node = bench.start(Arc::new(service)).await;
    let link = bench.transport().link(&Member::new("b", node.address())).expect("an address that was just bound");
    (node, link)
}

pub(super) fn a_version() -> Version {
    "0193a5c8e00000010000002a".parse().expect("24 hexadecimal digits")
}

fn value_of(answer: Result<PeerAnswer, PeerError>) -> Value {
    match answer {
        Ok(PeerAnswer::Found { value: Some(value), .. }) => value,
        other => panic!("expected a value: {other:?}"),
    }
}

pub(super) fn error_of<T: std::fmt::Debug>(outcome: Result<T, PeerError>) -> Error {
    match outcome {
        Err(PeerError::Answered(error)) => error,
        other => panic!("expected the other node's error: {other:?}"),
    }
}

/// Bytes that wires tend to change.
pub async fn any_key_arrives_as_it_is(bench: &impl Bench) {
    let (_node, link) = link(bench, EchoNode).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let odd: [&[u8]; 21] = [
        b" ",
        b"a b",
        b"a+b",
        b"%",
        b"%2F",
        b"%252F",
        b".",
        b"..",
        b"/",
        b"//",
        b"/x//y/",
        b"../../etc",
        b"./a",
        b"?q=1",
        b"#f",
        b"\0",
        b"\r\nHost: x",
        b"\xff\xfe",
        "größe".as_bytes(),
        &[0xff; KEY_LEN_MAX],
        &every_byte,
    ];
    for key in odd {
        let answer = link.get(question(key.to_vec())).await;
        assert_eq!(value_of(answer)[..], *key, "{}", key.escape_ascii());
    }
}

/// Its media type, version, age, and what is left of its ttl.
pub async fn what_is_known_of_a_value_comes_along(bench: &impl Bench) {
    let metas = [
        None,
        Some(PeerMeta { version: a_version(), age: Duration::from_millis(61_234), ttl_left: None }),
        Some(PeerMeta { version: Version::ZERO, age: Duration::ZERO, ttl_left: Some(Duration::ZERO) }),
        Some(PeerMeta { version: a_version(), age: Duration::ZERO, ttl_left: Some(Duration::from_millis(1_501)) }),
    ];
    for meta in metas {
        for value in [Value::from(""), Value::from("{}").with_content_type("application/json; charset=utf-8")] {
            let told = PeerAnswer::Found { value: Some(value), meta, lease: None };
            let answer = told.clone();
            let (_node, link) = link(bench, Answers(move |_| std::future::ready(Ok(answer.clone())))).await;
            assert_eq!(link.get(question("k")).await.expect("an answer"), told);
        }
    }
}

/// And no error; what is known of it comes along too.
pub async fn not_found_is_an_answer(bench: &impl Bench) {
    let meta = PeerMeta { version: a_version(), age: Duration::from_millis(7), ttl_left: Some(Duration::from_secs(5)) };
    for meta in [None, Some(meta)] {
        let told = PeerAnswer::Found { value: None, meta, lease: None };
        let answer = told.clone();
        let (_node, link) = link(bench, Answers(move |_| std::future::ready(Ok(answer.clone())))).await;
        assert_eq!(link.get(question("k")).await.expect("an answer"), told);
    }
}

/// Whatever the kind.
pub async fn an_error_keeps_its_kind_and_message(bench: &impl Bench) {
    for kind in ErrorKind::ALL {
        for retry_after in [None, Some(Duration::from_secs(3))] {
            let told = Error::new(kind, format!("it was {kind:?}: größer"));
            let told = retry_after.map_or(told.clone(), |after| told.with_retry_after(after));
            let error = told.clone();
            let (_node, link) = link(bench, Answers(move |_| std::future::ready(Err(error.clone())))).await;
            let error = error_of(link.get(question("k")).await);
            assert_eq!((error.kind(), error.message()), (kind, told.message()));
            assert_eq!(error.retry_after(), retry_after);
        }
    }
}

/// One of exactly the limit is not.
pub async fn a_value_over_the_limit_is_refused(bench: &impl Bench) {
    let long = |len: usize| Value::new(vec![b'v'; len]);
    let lens = Answers(move |question: PeerQuestion| {
        let over = usize::from(question.key.as_bytes() == b"over");
        std::future::ready(Ok(found(long(VALUE_LEN_MAX + over))))
    });
    let (_node, link) = link(bench, lens).await;
    assert_eq!(value_of(link.get(question("fits")).await), long(VALUE_LEN_MAX));
    assert!(error_of(link.get(question("over")).await).is_too_large());
    assert_eq!(value_of(link.get(question("fits")).await), long(VALUE_LEN_MAX));
}

/// As they were given; the deadline as far as it can.
pub async fn the_part_and_the_deadline_arrive(bench: &impl Bench) {
    let seen: Arc<Mutex<Option<PeerQuestion>>> = Arc::default();
    let sees = seen.clone();
    let (_node, link) = link(
        bench,
        Answers(move |question| {
            sees.lock().replace(question);
            std::future::ready(Ok(found("v")))
        }),
    )
    .await;
    for part in [AskedAs::Owner, AskedAs::StandIn, AskedAs::OwnerByStandIn] {
        let asked = Instant::now();
        let deadline = asked + Duration::from_secs(5);
        let key = Key::new("k").expect("a key");
        let question = PeerGet { group: "users".into(), asked_as: part, key, deadline, value_len_max: VALUE_LEN_MAX };
        link.get(question).await.expect("an answer");
        let took = asked.elapsed() + Duration::from_millis(1);
        let question = seen.lock().take().expect("it was asked");
        assert_eq!((question.asked_as, &*question.group), (part, "users"));
        assert!(question.deadline <= deadline + took && question.deadline + took >= deadline);
    }
}

/// Rule G2 hangs on it.
pub async fn leaving_is_said_once_and_before_the_question_arrives(bench: &impl Bench) {
    let said = Arc::new(AtomicUsize::new(0));
    let hears = said.clone();
    let (_node, link) = link(
        bench,
        Answers(move |_| {
            let said = hears.load(Ordering::SeqCst);
            std::future::ready(Ok(found(said.to_string())))
        }),
    )
    .await;
    for asked in 1..=20 {
        let says = said.clone();
        let get = get_leaving(&link, question("k"), move |until| {
            says.fetch_add(1, Ordering::SeqCst);
            Leave::Until(until)
        });
        assert_eq!(value_of(get.await)[..], *asked.to_string().as_bytes());
        assert_eq!(said.load(Ordering::SeqCst), asked);
    }
}

/// For a get, a write and whoever asks after it.
pub async fn a_node_that_never_answers_costs_the_deadline(bench: &impl Bench) {
    let (_node, silent) = link(bench, Answers(|_| pending())).await;
    let asked = Instant::now();
    let mut get = question("k");
    get.deadline = asked + BRIEF;
    let answer = timeout(PATIENCE, silent.get(get)).await.expect("it ends by its deadline");
    assert!(matches!(answer, Err(PeerError::TimedOut)), "{answer:?}");
    assert!(asked.elapsed() >= BRIEF);

    let (_node, silent) = link(bench, Writes(|_| pending())).await;
    let mut put = write("k", WriteOp::Delete);
    put.deadline = Instant::now() + BRIEF;
    let outcome = timeout(PATIENCE, silent.write(put)).await.expect("it ends by its deadline");
    assert!(matches!(outcome, Err(PeerError::TimedOut)), "{outcome:?}");
}

/// So that a write can be tried elsewhere.
pub async fn a_node_that_is_gone_was_sent_nothing(bench: &impl Bench) {
    fn nothing_sent<T: std::fmt::Debug>(outcome: &Result<T, PeerError>) {
        assert!(matches!(outcome, Err(PeerError::Unreachable { sent: false, .. })), "{outcome:?}");
    }
    let (node, link) = link(bench, EchoNode).await;
    link.probe(deadline()).await.expect("it is there");
    node.stop().await;
    nothing_sent(&link.get(question("k")).await);
    nothing_sent(&link.write(write("k", WriteOp::Delete)).await);
    nothing_sent(&link.probe(deadline()).await);
}

/// The question may have been repeated, and answered then.
pub async fn a_break_during_a_get_is_not_an_answer(bench: &impl Bench) {
    let arrived = Arc::new(Notify::new());
    let arrives = arrived.clone();
    let asked = AtomicUsize::new(0);
    let (node, link) = link(
        bench,
        Answers(move |_| {
            let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            let arrives = arrives.clone();
            async move {
                if first {
                    arrives.notify_one();
                    pending::<()>().await;
                }
                Ok(found("again"))
            }
        }),
    )
    .await;
    let cut = async {
        arrived.notified().await;
        node.cut().await;
    };
    match timeout(PATIENCE, async { tokio::join!(link.get(question("k")), cut).0 }).await.expect("no wait") {
        Err(PeerError::Unreachable { sent: true, .. }) => {}
        answer => assert_eq!(value_of(answer)[..], *b"again"),
    }
}

/// Without a word to whoever asks next.
pub async fn a_connection_that_broke_unused_is_replaced(bench: &impl Bench) {
    let (node, link) = link(bench, EchoNode).await;
    for _ in 0..20 {
        value_of(link.get(question("k")).await);
        node.cut().await;
    }
    value_of(link.get(question("k")).await);
}

/// Nor does one go missing, when a thousand are under way.
pub async fn no_answer_goes_to_another_question(bench: &impl Bench) {
    let (_node, link) = link(
        bench,
        Answers(|question: PeerQuestion| async move {
            let key = question.key.to_bytes();
            for _ in 0..key.iter().map(|&byte| usize::from(byte)).sum::<usize>() % 7 {
                tokio::task::yield_now().await;
            }
            Ok(found(key))
        }),
    )
    .await;
    let ask = |number: usize| {
        let link = link.clone();
        async move {
            let key = format!("key {number}");
            assert_eq!(value_of(link.get(question(key.clone())).await)[..], *key.as_bytes());
        }
    };
    join_all((0..1_000).map(ask)).await;
}

/// Others get their own answers, before and after.
pub async fn a_caller_that_gives_up_harms_nobody(bench: &impl Bench) {
    let arrived = Arc::new(Notify::new());
    let arrives = arrived.clone();
    let (_node, link) = link(
        bench,
        Answers(move |question: PeerQuestion| {
            let arrives = arrives.clone();
            async move {
                if question.key.as_bytes() == b"slow" {
                    arrives.notify_one();
                    pending::<()>().await;
                }
                Ok(found(question.key.to_bytes()))
            }
        }),
    )
    .await;
    for round in 0..20 {
        let key = format!("key {round}");
        tokio::select! {
            _ = link.get(question("slow")) => panic!("it is never answered"),
            () = arrived.notified() => {}
        }
        assert_eq!(value_of(link.get(question(key.clone())).await)[..], *key.as_bytes());
    }
}

/// With its condition, ttl and media type; and its version comes back.
pub async fn a_write_arrives_as_it_is(bench: &impl Bench) {
    let seen: Arc<Mutex<Option<PeerWrite>>> = Arc::default();
    let sees = seen.clone();
    let (_node, link) = link(
        bench,
        Writes(move |write| {
            sees.lock().replace(write);
            std::future::ready(Ok(Some(a_version())))
        }),
    )
    .await;
    let put = |value: Value, ttl| WriteOp::Put { value, ttl };
    let json = Value::from("{}").with_content_type("application/json");
    let ops = [
        put(json, None),
        put(Value::from("v").with_content_type("text/plain"), Some(Duration::from_secs(90))),
        put(Value::new(vec![7; VALUE_LEN_MAX]).with_content_type("x/y"), Some(Duration::from_millis(1_250))),
        put(Value::from("").with_content_type("x/y"), Some(Duration::from_millis(3))),
        WriteOp::Delete,
    ];
    for op in ops {
        for condition in [Condition::Always, Condition::IfVersion(a_version()), Condition::IfAbsent] {
            let told = PeerWrite { condition, ..write("a b/%2F", op.clone()) };
            assert_eq!(link.write(told.clone()).await.expect("it is done"), Some(a_version()));
            let came = seen.lock().take().expect("it arrived");
            assert_eq!((came.op, came.condition), (told.op, told.condition));
            assert_eq!((came.group, came.key), (told.group, told.key));
        }
    }
}

/// As a get that fails.
pub async fn a_write_that_fails_keeps_its_kind(bench: &impl Bench) {
    for kind in ErrorKind::ALL {
        let (_node, link) = link(
            bench,
            Writes(move |_| {
                std::future::ready(Err(Error::new(kind, "it failed").with_retry_after(Duration::from_secs(1))))
            }),
        )
        .await;
        let error = error_of(link.write(write("k", WriteOp::Delete)).await);
        assert_eq!((error.kind(), error.message()), (kind, "it failed"));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    }
}

/// Not when the connection breaks while it is done, and not on one that had broken before.
pub async fn a_write_is_never_done_twice(bench: &impl Bench) {
    let arrived = Arc::new(Notify::new());
    let arrives = arrived.clone();
    let done = Arc::new(AtomicUsize::new(0));
    let doing = done.clone();
    let (node, link) = link(
        bench,
        Writes(move |write: PeerWrite| {
            doing.fetch_add(1, Ordering::SeqCst);
            let arrives = arrives.clone();
            async move {
                if write.key.as_bytes() == b"slow" {
                    arrives.notify_one();
                    pending::<()>().await;
                }
                Ok(Some(a_version()))
            }
        }),
    )
    .await;
    for used_before in [false, true] {
        if used_before {
            link.write(write("quick", WriteOp::Delete)).await.expect("it is done");
        }
        done.store(0, Ordering::SeqCst);
        let cut = async {
            arrived.notified().await;
            node.cut().await;
        };
        let (outcome, ()) = tokio::join!(link.write(write("slow", WriteOp::Delete)), cut);
        assert!(matches!(outcome, Err(PeerError::Unreachable { sent: true, .. })), "{outcome:?}");
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }
    for _ in 0..20 {
        done.store(0, Ordering::SeqCst);
        let outcome = link.write(write("quick", WriteOp::Delete)).await;
        assert!(done.load(Ordering::SeqCst) <= 1);
        assert!(outcome.is_err() || done.load(Ordering::SeqCst) == 1, "{outcome:?}");
        if let Err(PeerError::Unreachable { sent: false, .. }) = outcome {
            assert_eq!(done.load(Ordering::SeqCst), 0);
        }
        node.cut().await;
    }
}
