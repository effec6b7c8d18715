//! [`Wire`]: everything that goes between nodes and to their origin waits here until the explorer lets it go on, loses it or
//! doubles it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::NODES;
use crate::{
    Change, Error, Found, LoadError, LoadRequest, Loaded, Loader, Member, PeerClient, PeerService, Standing, Store,
    Transport, Update, UpdateError, Value, Version,
    claim::{SlotCall, SlotReply, SlotRequest},
    peer::{Asker, Leave, PeerAnswer, PeerError, PeerQuestion, PeerWrite, WriteOp},
};

/// What waits to go on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// Where it came from.
    pub(super) from: usize,
    /// Where it goes on.
    pub(super) to: usize,
    /// What it says.
    pub(super) text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// A question is written to the link.
    Leave,
    /// A request reaches its node.
    Request,
    /// The same one, which reaches it once more if it comes twice.
    Repeatable,
    /// Once more.
    Again,
    /// An answer comes back.
    Answer,
    /// A load that has read its row ends.
    Load,
    /// A write changes its row.
    Write,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    GoesOn,
    GetsLost,
    ComesTwice,
}

struct Held {
    step: Step,
    number: u64,
    tell: oneshot::Sender<Fate>,
}

/// What a scope holds up. The rest goes on by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holds {
    pub(super) leaves: bool,
    pub(super) claims: bool,
}

pub(super) struct Wire {
    held: Mutex<Vec<Held>>,
    next: AtomicU64,
    services: Mutex<[Option<Arc<dyn PeerService>>; NODES]>,
    /// How often each node has started.
    runs: Mutex<[u64; NODES]>,
    /// `None`: everything goes on by itself.
    holds: Mutex<Option<Holds>>,
    /// What the row was, one after the other; the last is what it is.
    rows: Mutex<Vec<String>>,
    carries_claims: bool,
}

impl Wire {
    pub(super) fn new(carries_claims: bool) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            next: AtomicU64::new(0),
            services: Mutex::default(),
            runs: Mutex::default(),
            holds: Mutex::default(),
            rows: Mutex::default(),
            carries_claims,
        })
    }

    pub(super) fn hold(&self, holds: Holds) {
        *self.holds.lock() = Some(holds);
    }

    pub(super) fn serve(&self, place: usize, service: Arc<dyn PeerService>) {
        self.services.lock()[place] = Some(service);
    }

    /// Everything goes on by itself again.
    pub(super) fn release(&self) {
        *self.holds.lock() = None;
        for held in std::mem::take(&mut *self.held.lock()) {
            let _unheard = held.tell.send(Fate::GoesOn);
        }
    }

    /// Nobody is there any more.
    pub(super) fn close(&self) {
        *self.services.lock() = Default::default();
    }

    /// The row is as if nobody had ever written it.
    pub(super) fn forget_rows(&self) {
        self.rows.lock().clear();
    }

    /// The row changes; answers with its place in its history.
    pub(super) fn change_row(&self, value: &str) -> usize {
        let mut rows = self.rows.lock();
        rows.push(value.to_owned());
        rows.len() - 1
    }

    /// When the row had this value.
    pub(super) fn place_of(&self, value: &str) -> Option<usize> {
        self.rows.lock().iter().position(|row| row == value)
    }

    pub(super) fn rows(&self) -> Vec<String> {
        self.rows.lock().clone()
    }

    pub(super) fn run(&self, place: usize) -> u64 {
        self.runs.lock()[place]
    }

    /// A node is gone at once, and what it waited for, was answering or was loading with it. What it has sent is still under way.
    pub(super) fn crash(&self, place: usize) {
        self.runs.lock()[place] += 1;
        self.services.lock()[place] = None;
        let mut held = self.held.lock();
        let is_gone = |held: &Held| match held.step.kind {
            Kind::Leave | Kind::Load => held.step.from == place,
            Kind::Answer => held.step.from == place || held.step.to == place,
            Kind::Request | Kind::Repeatable | Kind::Again | Kind::Write => false,
        };
        for gone in held.extract_if(.., |held| is_gone(held)) {
            let _unheard = gone.tell.send(Fate::GetsLost);
        }
    }

    /// What waits, in one order whatever came first.
    pub(super) fn steps(&self) -> Vec<(u64, Step)> {
        let mut held = self.held.lock();
        held.retain(|held| !held.tell.is_closed());
        let mut steps: Vec<(Step, u64)> = held.iter().map(|held| (held.step.clone(), held.number)).collect();
        steps.sort();
        steps.into_iter().map(|(step, number)| (number, step)).collect()
    }

    pub(super) fn let_go(&self, number: u64, fate: Fate) {
        let mut held = self.held.lock();
        if let Some(at) = held.iter().position(|held| held.number == number) {
            let _unheard = held.remove(at).tell.send(fate);
        }
    }

    async fn pass(&self, run: u64, step: Step) -> Fate {
        if *self.runs.lock().get(step.from).unwrap_or(&run) != run {
            return Fate::GetsLost;
        }
        let holds = *self.holds.lock();
        let is_held = holds.is_some_and(|holds| match step.kind {
            Kind::Leave => holds.leaves,
            _ => holds.claims || !is_about_claims(&step.text),
        });
        if !is_held {
            return Fate::GoesOn;
        }
        let (tell, told) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.held.lock().push(Held { step, number, tell });
        // The explorer holds the other end for as long as there is anything to decide.
        told.await.unwrap_or(Fate::GetsLost)
    }
}

fn is_about_claims(text: &str) -> bool {
    text.starts_with("claim") || text.starts_with("confirm")
}

/// What one run of a node reaches others and its origin by.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) wire: Arc<Wire>,
    pub(super) place: usize,
    pub(super) run: u64,
}

impl Port {
    async fn pass(&self, kind: Kind, to: usize, text: String) -> Fate {
        self.wire.pass(self.run, Step { kind, from: self.place, to, text }).await
    }
}

impl Transport for Port {
    fn name(&self) -> &'static str {
        "wire"
    }

    fn carries_claims(&self) -> bool {
        self.wire.carries_claims
    }

    fn introduce(&self, _node: Arc<Standing>) {}

    fn link(&self, member: &Member) -> Result<Arc<dyn PeerClient>, Error> {
        Ok(Arc::new(Link { port: self.clone(), to: place(&member.name) }))
    }
}

pub(super) fn name(place: usize) -> Arc<str> {
    format!("n{place}").into()
}

fn place(name: &str) -> usize {
    (0..NODES).find(|place| *super::wire::name(*place) == *name).expect("one of the nodes")
}

struct Link {
    port: Port,
    to: usize,
}

type Served<T> = BoxFuture<'static, Result<T, Error>>;

impl Link {
    /// Makes a request, which goes on though its asker may not wait for it any more.
    async fn exchange<T: Send + 'static>(
        &self,
        deadline: Instant,
        text: Option<String>,
        kind: Kind,
        serve: impl Fn(Arc<dyn PeerService>) -> Served<T> + Send + Sync + 'static,
        describe: impl Fn(&Result<T, PeerError>) -> String + Send + 'static,
    ) -> Result<T, PeerError> {
        let (tell, told) = oneshot::channel();
        let (port, to) = (self.port.clone(), self.to);
        tokio::spawn(async move {
            let lost = || PeerError::broke_off("the link broke");
            let is_held = text.is_some();
            let text = text.unwrap_or_default();
            let serve = Arc::new(serve);
            if is_held {
                match port.pass(kind, to, text.clone()).await {
                    Fate::GoesOn => {}
                    Fate::GetsLost => return drop(tell.send(Err(lost()))),
                    Fate::ComesTwice => {
                        let (port, serve, text) = (port.clone(), serve.clone(), text.clone());
                        tokio::spawn(async move {
                            let fate = port.pass(Kind::Again, to, text).await;
                            let service = port.wire.services.lock()[to].clone();
                            if let Some(service) = service.filter(|_| fate == Fate::GoesOn) {
                                // Nobody waits for a second answer.
                                drop(serve(service).await);
                            }
                        });
                    }
                }
            }
            let (service, run) = (port.wire.services.lock()[to].clone(), port.wire.run(to));
            let Some(service) = service else { return drop(tell.send(Err(lost()))) };
            let answer = serve(service).await.map_err(PeerError::Answered);
            if is_held {
                let text = format!("{text}: {}", describe(&answer));
                let step = Step { kind: Kind::Answer, from: to, to: port.place, text };
                if port.wire.pass(run, step).await == Fate::GetsLost {
                    return drop(tell.send(Err(lost())));
                }
            }
            drop(tell.send(answer));
        });
        match timeout_at(deadline, told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(PeerError::broke_off("the link broke")),
            Err(_) => Err(PeerError::TimedOut),
        }
    }
}

impl PeerClient for Link {
    fn ask(self: Arc<Self>, mut asker: Box<dyn Asker>) {
        tokio::spawn(async move {
            let question = asker.question().clone();
            let text = format!("get {:?}", question.asked_as);
            if self.port.pass(Kind::Leave, self.port.place, text.clone()).await == Fate::GetsLost {
                return asker.answered(Err(PeerError::not_sent("the link broke")));
            }
            let Leave::Until(deadline) = asker.leaves() else { return };
            let (group, key, asked_as) = (question.group, question.key, question.asked_as);
            let name = Some(name(self.port.place));
            let serve = move |service: Arc<dyn PeerService>| -> Served<PeerAnswer> {
                let (asker, group, key) = (name.clone(), group.clone(), key.clone());
                let question = PeerQuestion { asker, group, key, asked_as, deadline };
                Box::pin(async move { service.answer(question).await })
            };
            let answer = self.exchange(deadline, Some(text), Kind::Request, serve, told).await;
            asker.answered(answer);
        });
    }

    fn write(&self, request: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, PeerError>> {
        let what = match &request.op {
            WriteOp::Put { value, .. } => text(Some(value)),
            WriteOp::Delete => "nothing".to_owned(),
            WriteOp::Invalidate { ends_guard } => format!("invalidate {ends_guard}"),
        };
        let deadline = request.deadline;
        let serve = move |service: Arc<dyn PeerService>| -> Served<Option<Version>> {
            let request = request.clone();
            Box::pin(async move { service.write(request).await })
        };
        let said = |said: &Result<Option<Version>, PeerError>| format!("{:?}", said.as_ref().map_err(kind));
        Box::pin(self.exchange(deadline, Some(format!("write {what}")), Kind::Request, serve, said))
    }

    fn slots(&self, request: SlotRequest, deadline: Instant) -> BoxFuture<'_, Result<SlotReply, PeerError>> {
        let text = match &request.call {
            SlotCall::Claim(claim) => Some(format!("claim {:?} {}", claim.term, claim.is_polite)),
            SlotCall::Confirm { term, .. } => Some(format!("confirm {term:?}")),
            SlotCall::Revoke { .. } => Some("revoke".to_owned()),
            // Nothing that is promised of a key hangs on when these come.
            _ => None,
        };
        let serve = move |service: Arc<dyn PeerService>| -> Served<SlotReply> {
            let request = request.clone();
            Box::pin(async move { service.slots(request).await })
        };
        let said = |said: &Result<SlotReply, PeerError>| match said {
            Ok(SlotReply::Claimed(answers, carried)) => {
                let answers: Vec<_> = answers.iter().map(|(_, answer)| answer).collect();
                format!("{answers:?} {} {}", carried.guards.len(), !carried.leases_left.is_zero())
            }
            Ok(_) => "done".to_owned(),
            Err(error) => kind(error),
        };
        Box::pin(self.exchange(deadline, text, Kind::Repeatable, serve, said))
    }

    fn probe(&self, _deadline: Instant) -> BoxFuture<'_, Result<(), PeerError>> {
        let is_there = self.port.wire.services.lock()[self.to].is_some();
        let probed = if is_there { Ok(()) } else { Err(PeerError::not_sent("nobody is there")) };
        Box::pin(std::future::ready(probed))
    }
}

impl Loader for Port {
    fn load(&self, _request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move {
            let row = self.wire.rows.lock().last().cloned().unwrap_or_default();
            match self.pass(Kind::Load, self.place, row.clone()).await {
                Fate::GetsLost => Err(Error::origin("the node is gone").into()),
                Fate::GoesOn | Fate::ComesTwice => Ok(Loaded { found: Found::Value(Value::from(row)), ttl: None }),
            }
        })
    }
}

impl Store for Port {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(async move {
            let Change::Put(value) = &update.change else { return Err(UpdateError::refused("only puts")) };
            let value = text(Some(value));
            self.pass(Kind::Write, self.place, value.clone()).await;
            self.wire.change_row(&value);
            Ok(())
        })
    }
}

pub(super) fn text(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| String::from_utf8_lossy(value).into_owned())
}

fn kind(error: &PeerError) -> String {
    match error {
        PeerError::Answered(error) => format!("{:?}", error.kind()),
        PeerError::TimedOut => "late".to_owned(),
        PeerError::Unreachable { .. } => "unreachable".to_owned(),
    }
}

fn told(answer: &Result<PeerAnswer, PeerError>) -> String {
    match answer {
        Ok(PeerAnswer::Found { value, meta, lease }) => {
            let version = meta.map(|meta| meta.version);
            format!("{} {version:?} {}", text(value.as_ref()), lease.is_some())
        }
        Ok(PeerAnswer::NotOwner { to, .. }) => format!("not me but {to:?}"),
        Ok(PeerAnswer::NotHeld) => "not held".to_owned(),
        Err(error) => kind(error),
    }
}
