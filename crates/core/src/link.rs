//! [`Peer`]: another member as this node reaches it: the transport's link, what is known of its health, and counters.
//!
//! Two things keep a dead or silent member from costing each caller a deadline. After a few failures it is left alone
//! for a while ([`Health`]). And a request that takes long is accompanied by probes: a slow answer is waited for as long as
//! the member shows any sign of life, a member that shows none is given up within one and a half seconds, and then left
//! alone too.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::{
    Clock, Member, Version,
    health::{Admission, Health},
    peer::{PeerAnswer, PeerClient, PeerError, PeerGet, PeerWrite},
    stats::{Histogram, RequestResult, Results},
};

/// How long a request may go unanswered before the member is probed, and for how long a sign of life counts.
const PROBE_AFTER: Duration = Duration::from_millis(500);

/// How long a probe may take. A member that is this slow to say anything is taken for dead.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is counted of the requests to one member.
#[derive(Default, Debug)]
pub struct PeerStats {
    /// How they ended.
    pub results: Results,
    /// How long they took.
    pub duration: Histogram,
}

/// Another member, as this node reaches it.
pub struct Peer {
    member: Member,
    client: Arc<dyn PeerClient>,
    health: Health,
    last_probe: Mutex<Option<(Instant, bool)>>,
    clock: Arc<dyn Clock>,
    stats: PeerStats,
}

impl Peer {
    pub(crate) fn new(member: Member, client: Arc<dyn PeerClient>, clock: Arc<dyn Clock>, seed: u64) -> Self {
        let health = Health::new(seed);
        Self { member, client, health, last_probe: Mutex::new(None), clock, stats: PeerStats::default() }
    }

    /// Who it is.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// What is counted of the requests to it.
    #[must_use]
    pub fn stats(&self) -> &PeerStats {
        &self.stats
    }

    /// Whether requests are made of it, or it is left alone for a while after failures.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.health.is_admitting(Instant::now())
    }

    pub(crate) fn is_at(&self, member: &Member) -> bool {
        self.member.name == member.name && self.member.address == member.address
    }

    pub(crate) fn get(&self, request: PeerGet) -> impl Future<Output = Result<PeerAnswer, PeerError>> + Send {
        self.watched(request.deadline, self.client.get(request))
    }

    /// As [`get`](Self::get), but asks for a sign of life first: for an asker that has waited for a silent member already.
    pub(crate) fn get_if_alive(&self, request: PeerGet) -> impl Future<Output = Result<PeerAnswer, PeerError>> + Send {
        self.watched(request.deadline, async {
            if self.is_alive().await { self.client.get(request).await } else { Err(self.silent()) }
        })
    }

    pub(crate) fn write(&self, request: PeerWrite) -> impl Future<Output = Result<Option<Version>, PeerError>> + Send {
        self.watched(request.deadline, self.client.write(request))
    }

    async fn watched<T>(
        &self,
        deadline: Instant,
        call: impl Future<Output = Result<T, PeerError>> + Send,
    ) -> Result<T, PeerError> {
        let permit = match self.health.admit(Instant::now()) {
            Admission::Go(permit) => permit,
            Admission::BackOff { .. } => {
                return Err(PeerError::not_sent(format!("node {:?} is left alone after failures", self.member.name)));
            }
        };
        let start = self.clock.now();
        let timed = tokio::time::timeout_at(deadline, self.unless_silent(call));
        let result = timed.await.unwrap_or(Err(PeerError::TimedOut));
        self.stats.duration.observe(self.clock.now().since(start));
        let label = match &result {
            Ok(_) => RequestResult::Ok,
            Err(PeerError::TimedOut) => RequestResult::Timeout,
            Err(_) => RequestResult::Error,
        };
        self.stats.results.of(label).add(1);
        match &result {
            // A deadline that passes says something of the deadline, or of the origin; silence shows in probes.
            Err(PeerError::TimedOut) => drop(permit),
            Err(PeerError::Unreachable { message, .. }) => {
                tracing::debug!(peer = %self.member.name, %message, "peer request failed");
                permit.failed(Instant::now());
            }
            Ok(_) | Err(PeerError::Answered(_)) => permit.succeeded(),
        }
        result
    }

    /// Waits for `call` as long as the member shows signs of life.
    async fn unless_silent<T>(&self, call: impl Future<Output = Result<T, PeerError>>) -> Result<T, PeerError> {
        let mut call = std::pin::pin!(call);
        loop {
            if let Ok(result) = tokio::time::timeout(PROBE_AFTER, &mut call).await {
                return result;
            }
            tokio::select! {
                result = &mut call => return result,
                alive = self.is_alive() => if !alive {
                    return Err(self.silent());
                }
            }
        }
    }

    fn silent(&self) -> PeerError {
        PeerError::broke_off(format!("node {:?} gives no sign of life", self.member.name))
    }

    /// Probes the member, unless that was just done; all who wait for it share one probe.
    async fn is_alive(&self) -> bool {
        let mut last = self.last_probe.lock().await;
        let now = Instant::now();
        match *last {
            Some((at, alive)) if now < at + PROBE_AFTER => alive,
            _ => {
                let alive = self.client.probe(now + PROBE_TIMEOUT).await.is_ok();
                let now = Instant::now();
                if !alive {
                    self.health.silent(now);
                }
                *last = Some((now, alive));
                alive
            }
        }
    }
}
