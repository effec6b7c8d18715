//! What every transport must do over which slots are passed on: a suite beside [`peer`](super::peer)'s.
//!
//! A transport's tests name their [`Bench`] to [`slots_transport_contract!`](crate::slots_transport_contract) too. Its
//! transport is introduced as that of a node `a` of incarnation 1.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, pending, ready};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::peer::{
    Answers, BRIEF, Bench, EchoNode, PATIENCE, RunningNode, a_version, deadline, error_of, link, question,
};
use crate::{
    Change, Error, ErrorKind, Key, Member, Members, PeerClient, PeerService, Value, Version,
    behind::{
        AboutRecords, After, Mark as RecordMark, PIECE_LEN, Place, RECORDS_MAX, Record, RecordsCall, RecordsReply,
        SentRecord,
    },
    claim::{
        Carried, ClaimAnswer, GivenUp, PUSH_ENTRIES_MAX, PUSH_LEN, PUSH_VALUE_LEN_MAX, PushedEntry, Remembered,
        SlotCall, SlotReply, SlotRequest, SlotsClaim,
    },
    lock::{CarriedLock, CarriedLocks, FENCE_MAX, Granted, LockCall, LockName, LockReply, LockToken},
    peer::{AskedAs, PeerAnswer, PeerError, PeerGet, PeerMeta, PeerQuestion, PeerWrite},
    placement::{Slot, SlotSet},
    store::{Mark, TAG_COUNT, Tag},
    version::Reading,
};

/// Makes a test of each behaviour, for the [`Bench`] that the expression makes.
#[macro_export]
macro_rules! slots_transport_contract {
    ($bench:expr) => {
        $crate::slots_transport_contract! { $bench;
            what_is_said_about_slots_arrives_as_it_is
            the_longest_push_arrives
            what_is_answered_about_slots_arrives_as_it_is
            an_error_about_slots_keeps_its_kind_and_message
            who_never_answers_about_slots_costs_the_deadline
            about_slots_nothing_is_said_twice
            to_who_is_gone_nothing_is_said_about_slots
            a_peek_arrives_with_its_term
            what_is_answered_without_a_value_arrives_as_it_is
        }
    };
    ($bench:expr; $($behaviour:ident)*) => {$(
        #[tokio::test]
        async fn $behaviour() {
            $crate::testing::slots::$behaviour(&$bench).await;
        }
    )*};
}

/// A node that takes what is said about slots as a closure says.
struct Takes<F>(F);

impl<F, Fut> PeerService for Takes<F>
where
    F: Fn(SlotRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<SlotReply, Error>> + Send + 'static,
{
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        EchoNode.answer(question)
    }

    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        EchoNode.write(write)
    }

    fn slots(&self, request: SlotRequest) -> BoxFuture<'_, Result<SlotReply, Error>> {
        Box::pin((self.0)(request))
    }
}

/// Takes down what is said to it, and answers in kind.
#[derive(Default)]
struct Hears(Mutex<Vec<SlotRequest>>);

impl Hears {
    fn node(self: &Arc<Self>) -> impl PeerService + use<> {
        let hears = self.clone();
        Takes(move |request: SlotRequest| {
            let reply = match request.call {
                SlotCall::Claim(_) => SlotReply::Claimed(Vec::new(), Carried::default()),
                SlotCall::Confirm { .. } => SlotReply::Confirmed,
                SlotCall::Recall { .. } => SlotReply::Recalled { member_for: None, slots: SlotSet::default() },
                SlotCall::Push { .. } => SlotReply::Pushed { wants_more: true },
                SlotCall::Revoke { .. } => SlotReply::Revoked,
                SlotCall::Clock => SlotReply::Clock { reading: a_version().reading() },
                SlotCall::Raise { .. } => SlotReply::Raised { known: Reading::default() },
                SlotCall::Marks { .. } => SlotReply::Marks { marks: Vec::new() },
                SlotCall::Records(_) => SlotReply::Records(RecordsReply::Done),
                SlotCall::Copies { .. } => SlotReply::Copies { slots: SlotSet::default() },
                SlotCall::Lock(LockCall::Acquire { .. }) => SlotReply::Lock(LockReply::Acquired(None)),
                SlotCall::Lock(LockCall::Renew { .. }) => SlotReply::Lock(LockReply::Renewed(None)),
                SlotCall::Lock(LockCall::Release { .. }) => SlotReply::Lock(LockReply::Released(false)),
            };
            hears.0.lock().push(request);
            ready(Ok(reply))
        })
    }
}

fn by_a(call: SlotCall) -> SlotRequest {
    SlotRequest { from: "a".into(), incarnation: 1, call }
}

async fn say(link: &Arc<dyn PeerClient>, call: SlotCall) -> Result<SlotReply, PeerError> {
    link.slots(by_a(call), deadline()).await
}

fn some_sets() -> [SlotSet; 3] {
    let some = [0, 63, 64, 9_999, 16_383].into_iter().filter_map(Slot::new);
    [SlotSet::default(), some.collect(), Slot::all().collect()]
}

fn some_of_them() -> SlotSet {
    let [_, some, _] = some_sets();
    some
}

fn claim(slots: SlotSet) -> SlotsClaim {
    SlotsClaim { term: a_version(), acted: Version::ZERO, gave_up: None, is_polite: false, slots }
}

fn some_marks() -> Vec<(Mark, Reading)> {
    let tags = [0, 7, 4_095].into_iter().filter_map(Tag::new).map(Mark::Tag);
    std::iter::once(Mark::All).chain(tags).map(|mark| (mark, a_version().reading())).collect()
}

fn a_key(key: &[u8]) -> Key {
    Key::copy_from(key).expect("1 to 1024 bytes")
}

fn a_name() -> LockName {
    LockName::new(&b"nightly/\xff"[..]).expect("1 to 1024 bytes")
}

fn a_token() -> LockToken {
    LockToken::new("0f3a-._").expect("it is a token")
}

/// One of each kind.
fn calls() -> [SlotCall; 13] {
    let (ttl, wait) = (Duration::from_millis(100), Duration::from_secs(60));
    [
        SlotCall::Claim(claim(some_of_them())),
        SlotCall::Confirm { term: a_version(), slots: some_of_them() },
        SlotCall::Recall { has_yours: true },
        SlotCall::Push { term: a_version(), group: "users".into(), entries: vec![entry("k", Some("v".into()), None)] },
        SlotCall::Revoke { group: "users".into(), key: a_key(b"k\xff/") },
        SlotCall::Clock,
        SlotCall::Raise { group: "users".into(), marks: vec![Mark::All], to: a_version().reading() },
        SlotCall::Marks { group: "users".into(), marks: some_marks() },
        of_records(AboutRecords::Forget { slots: some_of_them() }),
        SlotCall::Copies { view: u64::MAX, dropped: some_of_them() },
        SlotCall::Lock(LockCall::Acquire { name: a_name(), token: a_token(), ttl, wait }),
        SlotCall::Lock(LockCall::Renew { name: a_name(), token: a_token() }),
        SlotCall::Lock(LockCall::Release { name: a_name(), token: a_token() }),
    ]
}

fn of_records(about: AboutRecords) -> SlotCall {
    SlotCall::Records(RecordsCall { group: "users".into(), about })
}

fn a_place() -> Place {
    Place::new("users", a_key(b"k\xff"))
}

fn some_records() -> Vec<SentRecord> {
    let id = || a_place().at(a_version());
    let tags = ["de", "shoes"].map(|tag| Tag::of(tag.as_bytes())).into_iter().collect();
    let rich = Value::from("{}").with_content_type("application/json").with_tags(tags);
    let put = |value: Value| Record { written_ms: 7, ..Record::new(id(), Change::Put(value)) };
    let records = [
        Record::new(id(), Change::Delete).with_idempotency_key("0f3a"),
        put("".into()),
        put(rich).with_ttl(Some(Duration::from_millis(90_001))),
    ];
    let long = SentRecord { record: put(Value::from("").with_content_type("text/plain")), long_len: 1 << 40 };
    records.into_iter().map(|record| SentRecord { record, long_len: 0 }).chain([long]).collect()
}

fn some_record_marks() -> Vec<RecordMark> {
    vec![RecordMark { written_ms: 9, ..RecordMark::new(a_place(), a_version()) }]
}

/// Of records, one of each kind.
fn calls_of_records() -> Vec<SlotCall> {
    let (id, many) = (a_place().at(a_version()), vec![some_record_marks()[0].clone(); RECORDS_MAX]);
    let piece = vec![b'x'; PIECE_LEN];
    let tells = [After::Nothing, After::Record(id.clone()), After::Mark(a_place())]
        .map(|after| AboutRecords::Tell { slots: some_of_them(), after });
    let all = [
        AboutRecords::Keep { records: some_records(), marks: some_record_marks() },
        AboutRecords::Keep { records: Vec::new(), marks: many },
        AboutRecords::Piece { id: id.clone(), at: 1 << 33, bytes: piece.into() },
        AboutRecords::TellPiece { id: id.clone(), at: 7 },
        AboutRecords::Forget { slots: some_of_them() },
        AboutRecords::TakeBack { id },
    ];
    tells.into_iter().chain(all).map(of_records).collect()
}

fn entry(key: &str, value: Option<Value>, ttl_left: Option<Duration>) -> PushedEntry {
    let key = Key::copy_from(key.as_bytes()).expect("1 to 1024 bytes");
    PushedEntry { key, value, meta: PeerMeta { version: a_version(), age: Duration::from_millis(1_234), ttl_left } }
}

/// Who says it, and every word of it.
pub async fn what_is_said_about_slots_arrives_as_it_is(bench: &impl Bench) {
    assert!(bench.transport().carries_claims());
    let hears = Arc::new(Hears::default());
    let (_node, link) = link(bench, hears.node()).await;
    let earlier: Version = "0193a5c8e00000000000002a".parse().expect("24 hexadecimal digits");
    let gave_up = |until, acted| Some(("c d/ü".into(), GivenUp { until, acted }));
    let claims = some_sets().into_iter().flat_map(|slots| {
        let plain = claim(slots);
        let back = SlotsClaim { acted: earlier, is_polite: true, ..plain.clone() };
        let sent = SlotsClaim { gave_up: gave_up(a_version(), earlier), ..plain.clone() };
        let of_nothing = SlotsClaim { gave_up: gave_up(Version::ZERO, Version::ZERO), ..plain.clone() };
        [plain, back, sent, of_nothing].map(SlotCall::Claim)
    });
    let confirms = some_sets().map(|slots| SlotCall::Confirm { term: a_version(), slots });
    let json = Value::from("{}").with_content_type("application/json");
    let entries = vec![
        entry("plain", Some(Value::from("v")), None),
        entry("typed", Some(json.clone()), Some(Duration::from_secs(90))),
        entry("known again", Some(json.with_validator("\"e-1\"")), Some(Duration::ZERO)),
        entry("empty", Some(Value::from("").with_validator("W/\"\"")), Some(Duration::from_millis(1))),
        entry("not there", None, Some(Duration::from_millis(2_500))),
        entry(
            "tagged",
            Some(Value::from("v").with_tags(["de", "shoes"].map(|tag| Tag::of(tag.as_bytes())).into_iter().collect())),
            None,
        ),
    ];
    let pushes =
        [Vec::new(), entries].map(|entries| SlotCall::Push { term: a_version(), group: "users".into(), entries });
    let all: Vec<(Mark, Reading)> = std::iter::once(Mark::All)
        .chain((0..TAG_COUNT).filter_map(Tag::new).map(Mark::Tag))
        .map(|mark| (mark, a_version().reading()))
        .collect();
    let raise = SlotCall::Raise {
        group: "users".into(),
        marks: all.iter().map(|(mark, _)| *mark).collect(),
        to: a_version().reading(),
    };
    let marks = [Vec::new(), all].map(|marks| SlotCall::Marks { group: "users".into(), marks });
    for call in
        claims.chain(confirms).chain(pushes).chain([raise]).chain(marks).chain(calls()).chain(calls_of_records())
    {
        say(&link, call.clone()).await.expect("a reply");
        let heard = hears.0.lock().pop().expect("it was said");
        assert_eq!((&*heard.from, heard.incarnation, &heard.call), ("a", 1, &call));
    }
}

/// As a whole: it is no value that travels in pieces.
pub async fn the_longest_push_arrives(bench: &impl Bench) {
    let hears = Arc::new(Hears::default());
    let (_node, link) = link(bench, hears.node()).await;
    let value = |len: usize| Some(Value::new(vec![b'v'; len]).with_content_type("application/octet-stream"));
    let each = PUSH_LEN / PUSH_ENTRIES_MAX;
    let many = (0..PUSH_ENTRIES_MAX).map(|number| entry(&format!("{number:32}"), value(each - 32), None)).collect();
    let long = PUSH_VALUE_LEN_MAX;
    let few = (0..=PUSH_LEN / long).map(|number| entry(&format!("{number:1024}"), value(long), None)).collect();
    for entries in [many, few] {
        let call = SlotCall::Push { term: a_version(), group: "g".into(), entries };
        assert_eq!(say(&link, call.clone()).await.expect("a reply"), SlotReply::Pushed { wants_more: true });
        let heard = hears.0.lock().pop().expect("it was said").call;
        assert!(heard == call, "it is another push");
    }
}

/// To each kind of call, and what says the most.
pub async fn what_is_answered_about_slots_arrives_as_it_is(bench: &impl Bench) {
    let told = Arc::new(Mutex::new(SlotReply::Confirmed));
    let tells = told.clone();
    let (_node, link) = link(bench, Takes(move |_| ready(Ok(tells.lock().clone())))).await;
    let [claim, confirm, recall, push, revoke, clock, raise, marks, records, copies, acquire, renew, release] = calls();
    let given_up = GivenUp { until: a_version(), acted: Version::ZERO };
    let says = vec![
        (some_of_them(), ClaimAnswer::Released { had: true }),
        (SlotSet::default(), ClaimAnswer::Released { had: false }),
        (some_of_them(), ClaimAnswer::Refused { known: a_version() }),
        (some_of_them(), ClaimAnswer::Refused { known: Version::ZERO }),
        (some_of_them(), ClaimAnswer::Elsewhere { at: "c d/ü".into(), given_up }),
    ];
    let many = says.iter().cycle().take(1_000).cloned().collect();
    let remembered = |came_to| Remembered {
        group: "users".into(),
        key: a_key(b"k\xff"),
        idempotency_key: "0f3a".into(),
        came_to,
        age: Duration::from_millis(1_234),
    };
    let carried = Carried {
        vouched: Slot::all().collect(),
        leased: some_of_them(),
        leases_left: Duration::from_millis(999),
        guards: vec![("users".into(), a_key(b"k")), ("others".into(), a_key(b"\xff"))],
        remembered: vec![remembered(Some(a_version())), remembered(None)],
        locks: Some(CarriedLocks {
            floor: FENCE_MAX,
            quiet: some_of_them(),
            quiet_left: Duration::from_millis(59_999),
            held: vec![CarriedLock {
                name: a_name(),
                token: a_token(),
                fence: FENCE_MAX - 1,
                ttl: Duration::from_secs(10),
                left: Duration::from_millis(7),
                holder: "c d/ü".into(),
            }],
        }),
    };
    let no_locks = Carried { locks: Some(CarriedLocks::default()), ..Carried::default() };
    let granted = Granted { fence: FENCE_MAX, ttl: Duration::from_secs(60) };
    let recalled = |member_for, slots| SlotReply::Recalled { member_for, slots };
    let of_them = |records, marks, unheard| SlotReply::Records(RecordsReply::Told { records, marks, unheard });
    let replies = [
        (&claim, SlotReply::Claimed(Vec::new(), Carried::default())),
        (&claim, SlotReply::Claimed(says.clone(), Carried::default())),
        (&claim, SlotReply::Claimed(says.clone(), no_locks)),
        (&claim, SlotReply::Claimed(says, carried)),
        (&claim, SlotReply::Claimed(many, Carried::default())),
        (&confirm, SlotReply::Confirmed),
        (&recall, recalled(None, SlotSet::default())),
        (&recall, recalled(Some(Duration::ZERO), some_of_them())),
        (&recall, recalled(Some(Duration::from_millis(86_400_001)), Slot::all().collect())),
        (&push, SlotReply::Pushed { wants_more: true }),
        (&push, SlotReply::Pushed { wants_more: false }),
        (&revoke, SlotReply::Revoked),
        (&clock, SlotReply::Clock { reading: a_version().reading() }),
        (&clock, SlotReply::Clock { reading: Reading::default() }),
        (&raise, SlotReply::Raised { known: a_version().reading() }),
        (&marks, SlotReply::Marks { marks: Vec::new() }),
        (&marks, SlotReply::Marks { marks: some_marks() }),
        (&records, SlotReply::Records(RecordsReply::Done)),
        (&records, of_them(Vec::new(), Vec::new(), Vec::new())),
        (&records, of_them(some_records(), Vec::new(), vec!["c d/ü".into()])),
        (&records, of_them(Vec::new(), some_record_marks(), Vec::new())),
        (&records, SlotReply::Records(RecordsReply::Piece(vec![b'x'; PIECE_LEN].into()))),
        (&copies, SlotReply::Copies { slots: SlotSet::default() }),
        (&copies, SlotReply::Copies { slots: some_of_them() }),
        (&acquire, SlotReply::Lock(LockReply::Acquired(None))),
        (&acquire, SlotReply::Lock(LockReply::Acquired(Some(granted)))),
        (&renew, SlotReply::Lock(LockReply::Renewed(None))),
        (&renew, SlotReply::Lock(LockReply::Renewed(Some(Duration::from_millis(100))))),
        (&release, SlotReply::Lock(LockReply::Released(true))),
        (&release, SlotReply::Lock(LockReply::Released(false))),
    ];
    for (call, reply) in replies {
        *told.lock() = reply.clone();
        assert_eq!(say(&link, call.clone()).await.expect("a reply"), reply);
    }
}

/// As that of a get.
pub async fn an_error_about_slots_keeps_its_kind_and_message(bench: &impl Bench) {
    let fails = |_| ready(Err(Error::new(ErrorKind::Overloaded, "later").with_retry_after(Duration::from_secs(1))));
    let (_node, link) = link(bench, Takes(fails)).await;
    for call in calls() {
        let error = error_of(say(&link, call).await);
        assert_eq!((error.kind(), error.message()), (ErrorKind::Overloaded, "later"));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    }
}

/// And no more.
pub async fn who_never_answers_about_slots_costs_the_deadline(bench: &impl Bench) {
    let (_node, link) = link(bench, Takes(|_| pending())).await;
    for call in calls() {
        let asked = Instant::now();
        let reply = timeout(PATIENCE, link.slots(by_a(call), asked + BRIEF)).await.expect("it ends by its deadline");
        assert!(matches!(reply, Err(PeerError::TimedOut)), "{reply:?}");
        assert!(asked.elapsed() >= BRIEF);
    }
}

/// The caller says it again when the connection breaks, if it still means it.
pub async fn about_slots_nothing_is_said_twice(bench: &impl Bench) {
    for call in calls() {
        let (arrived, said) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (arrives, hears) = (arrived.clone(), said.clone());
        let silent = Takes(move |_| {
            hears.fetch_add(1, Ordering::SeqCst);
            arrives.notify_one();
            pending()
        });
        let (node, link) = link(bench, silent).await;
        let cut = async {
            arrived.notified().await;
            node.cut().await;
        };
        let both = async { tokio::join!(say(&link, call), cut).0 };
        let reply = timeout(PATIENCE, both).await.expect("no wait");
        assert!(matches!(reply, Err(PeerError::Unreachable { sent: true, .. })), "{reply:?}");
        link.probe(deadline()).await.expect("it is there again");
        assert_eq!(said.load(Ordering::SeqCst), 1);
    }
}

/// Which the caller hears.
pub async fn to_who_is_gone_nothing_is_said_about_slots(bench: &impl Bench) {
    let (node, link) = link(bench, Arc::new(Hears::default()).node()).await;
    link.probe(deadline()).await.expect("it is there");
    node.stop().await;
    for call in calls() {
        let reply = say(&link, call).await;
        assert!(matches!(reply, Err(PeerError::Unreachable { sent: false, .. })), "{reply:?}");
    }
}

/// Rule H1 hangs on it.
pub async fn a_peek_arrives_with_its_term(bench: &impl Bench) {
    let seen: Arc<Mutex<Option<PeerQuestion>>> = Arc::default();
    let sees = seen.clone();
    let peeked = Answers(move |question| {
        sees.lock().replace(question);
        ready(Ok(PeerAnswer::NotHeld))
    });
    let (_node, link) = link(bench, peeked).await;
    for term in [a_version(), Version::ZERO] {
        let peek = PeerGet { asked_as: AskedAs::Before(term), ..question("k") };
        assert_eq!(link.get(peek).await.expect("an answer"), PeerAnswer::NotHeld);
        assert_eq!(seen.lock().take().expect("it was asked").asked_as, AskedAs::Before(term));
    }
}

/// That nothing is held, or who may answer.
pub async fn what_is_answered_without_a_value_arrives_as_it_is(bench: &impl Bench) {
    let members =
        Members::new(["a", "b", "c d/ü"].map(|name| Member::new(name, "10.0.0.1:1"))).expect("they are valid");
    let not_owner = |to: Option<&str>| PeerAnswer::NotOwner { members: members.clone(), to: to.map(Into::into) };
    for answer in [PeerAnswer::NotHeld, not_owner(None), not_owner(Some("c d/ü"))] {
        let says = answer.clone();
        let (_node, link) = link(bench, Answers(move |_| ready(Ok(says.clone())))).await;
        assert_eq!(link.get(question("k")).await.expect("an answer"), answer);
    }
}
