//! What every [`LockService`] must do, as one suite.
//!
//! [`lock_contract!`](crate::lock_contract) turns each behaviour below into a test of its own. Time passes as the implementation
//! has it, for real with real servers: a behaviour waits for a ttl where that is what it is about, and otherwise takes ttls that
//! are longer than it runs, so that nothing comes of their end.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    Clock,
    lock::{
        Acquired, FENCE_MAX, Grant, LOCK_NAME_LEN_MAX, LOCK_TTL_MAX, LOCK_WAIT_MAX, LockName, LockRequest, LockService,
        LockToken,
    },
};

/// How long anything may take that takes milliseconds; long, because a busy machine must not fail a test, and shorter than
/// [`LOCK_TTL_MAX`], so that what waits for the end of such a ttl fails.
const SOON: Duration = Duration::from_secs(20);

/// How many take turns in the test of turns, and how many each has.
const CONTENDERS_LEN: u64 = 5;
const TURNS_LEN: u64 = 6;

/// How often a machine may stand still for longer than a ttl in the test of renewals.
const STALLS_MAX: usize = 5;

/// After how long waiters give up, in milliseconds: at each step of what a service does.
const GIVE_UP_MS: [u64; 8] = [0, 1, 2, 4, 8, 16, 50, 150];

/// What the suite is run over: the lock service of a cluster that nobody else uses.
pub trait LockBackend {
    /// The service, as one more node has it.
    fn service(&self) -> Arc<dyn LockService>;

    /// The clock that it counts on.
    fn clock(&self) -> Arc<dyn Clock>;

    /// A ttl that is granted as it is asked for, and as short as a busy machine allows.
    fn ttl(&self) -> Duration;

    /// The longest from the last renewal of a holder that vanished until another has its lock of [`ttl`](Self::ttl), with room for
    /// a busy machine.
    fn vanish_time_max(&self) -> Duration;
}

fn named(name: &[u8]) -> LockName {
    LockName::new(name.to_vec()).expect("the suite's names are sound")
}

fn asked(name: &LockName, ttl: Duration, wait: Duration) -> LockRequest {
    LockRequest::new(name.clone(), ttl, wait).expect("the suite's times are sound")
}

async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what} does not end in time"))
}

/// Asks without waiting, until the service has said what is true: one that has just been started may be away.
async fn attempt(service: &Arc<dyn LockService>, name: &LockName, ttl: Duration) -> Option<Grant> {
    granted_by(service, asked(name, ttl, Duration::ZERO)).await
}

async fn granted_by(service: &Arc<dyn LockService>, request: LockRequest) -> Option<Grant> {
    let deadline = Instant::now() + SOON + request.wait();
    loop {
        let answer = timeout_at(deadline, service.acquire(request.clone())).await.expect("acquiring ends in time");
        match answer {
            Ok(Acquired::Granted(grant)) => {
                assert!((1..=FENCE_MAX).contains(&grant.fence), "the fence is {}", grant.fence);
                assert!(grant.hold.ttl >= request.ttl(), "{:?} were granted", grant.hold.ttl);
                return Some(grant);
            }
            Ok(Acquired::Held) => return None,
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("a lock can't be acquired: {error}"),
        }
    }
}

/// A lock that is held for longer than a test runs.
async fn taken(service: &Arc<dyn LockService>, name: &LockName) -> Grant {
    attempt(service, name, LOCK_TTL_MAX).await.expect("nobody else has it")
}

async fn released(service: &Arc<dyn LockService>, name: &LockName, token: &LockToken) -> bool {
    soon("a release", service.release(name, token)).await.expect("the service is there")
}

async fn renewed(service: &Arc<dyn LockService>, name: &LockName, token: &LockToken) -> bool {
    soon("a renewal", service.renew(name, token)).await.expect("the service is there").is_some()
}

/// Never two holders, and each has a greater fence than the one before. Everybody gets all its turns.
pub async fn holders_exclude_each_other_and_fences_grow(backend: &impl LockBackend) {
    let (is_held, last_fence) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut contenders = JoinSet::new();
    for _ in 0..CONTENDERS_LEN {
        let (service, is_held, last_fence) = (backend.service(), is_held.clone(), last_fence.clone());
        contenders.spawn(async move {
            let name = named(b"contended");
            for _ in 0..TURNS_LEN {
                let request = asked(&name, LOCK_TTL_MAX, LOCK_WAIT_MAX);
                let grant = granted_by(&service, request).await.expect("everybody gets a turn");
                assert!(!is_held.swap(true, Ordering::SeqCst), "two hold it");
                let last = last_fence.swap(grant.fence, Ordering::SeqCst);
                assert!(last < grant.fence, "{} came after {last}", grant.fence);
                tokio::task::yield_now().await;
                is_held.store(false, Ordering::SeqCst);
                assert!(released(&service, &name, &grant.token).await);
            }
        });
    }
    while let Some(ended) = contenders.join_next().await {
        ended.expect("a contender does not fail");
    }
}

/// Who doesn't want to wait doesn't, and leaves nothing behind.
pub async fn a_wait_of_nothing_is_answered_at_once(backend: &impl LockBackend) {
    let (holder, other) = (backend.service(), backend.service());
    let name = named(b"held");
    let grant = taken(&holder, &name).await;
    for _ in 0..3 {
        assert_eq!(soon("an attempt", attempt(&other, &name, LOCK_TTL_MAX)).await, None);
    }
    assert!(released(&holder, &name, &grant.token).await);
    assert!(soon("an attempt", attempt(&other, &name, LOCK_TTL_MAX)).await.is_some());
}

/// Who waits gets the lock when it is released, long before its ttl is over.
pub async fn a_release_wakes_who_waits(backend: &impl LockBackend) {
    let (holder, other) = (backend.service(), backend.service());
    let name = named(b"handed over");
    let mut last = taken(&holder, &name).await;
    for pause_ms in [0, 20, 300] {
        let waits = granted_by(&other, asked(&name, LOCK_TTL_MAX, LOCK_WAIT_MAX));
        let (token, holder) = (last.token.clone(), holder.clone());
        let releases = async {
            // Whatever the waiter has done by then, it must not miss the release.
            sleep(Duration::from_millis(pause_ms)).await;
            assert!(released(&holder, &name, &token).await);
        };
        let (next, ()) = soon("a hand-over", futures_util::future::join(waits, releases)).await;
        let next = next.expect("the lock was released");
        assert!(next.fence > last.fence);
        last = next;
    }
}

/// A wait is neither shorter than asked for, nor does who has waited stand in anybody's way.
pub async fn a_wait_ends_when_it_is_over(backend: &impl LockBackend) {
    let (holder, other, third) = (backend.service(), backend.service(), backend.service());
    let name = named(b"waited for");
    let grant = taken(&holder, &name).await;
    let (began, wait) = (Instant::now(), Duration::from_millis(300));
    assert_eq!(granted_by(&other, asked(&name, LOCK_TTL_MAX, wait)).await, None);
    assert!(began.elapsed() >= wait, "it waited {:?}", began.elapsed());
    assert!(released(&holder, &name, &grant.token).await);
    assert!(soon("an attempt", attempt(&third, &name, LOCK_TTL_MAX)).await.is_some());
}

/// Neither another lock's token, nor a former one, nor one made up does anything, whoever shows it.
pub async fn a_wrong_token_changes_nothing(backend: &impl LockBackend) {
    let service = backend.service();
    let (name, other_name) = (named(b"guarded"), named(b"guarded too"));
    let former = taken(&service, &name).await;
    assert!(released(&service, &name, &former.token).await);
    let (grant, other) = (taken(&service, &name).await, taken(&service, &other_name).await);
    let made_up = LockToken::new("0123-abc._-").expect("it is a token");
    let longer = format!("{}0", grant.token.as_str());
    let longer = LockToken::new(longer).expect("it is a token");
    for wrong in [&former.token, &other.token, &made_up, &longer] {
        assert!(!renewed(&service, &name, wrong).await, "{}", wrong.as_str());
        assert!(!released(&service, &name, wrong).await, "{}", wrong.as_str());
    }
    assert!(!renewed(&service, &named(b"nobody's"), &grant.token).await);
    assert!(!released(&service, &named(b"nobody's"), &grant.token).await);
    assert!(renewed(&service, &name, &grant.token).await && renewed(&service, &other_name, &other.token).await);
    assert_eq!(attempt(&service, &name, LOCK_TTL_MAX).await, None);
}

/// A token is all that a node needs to know of a lock.
pub async fn a_token_is_good_at_every_node(backend: &impl LockBackend) {
    let (holder, other) = (backend.service(), backend.service());
    let name = named(b"passed on");
    let grant = taken(&holder, &name).await;
    drop(holder);
    let hold = soon("a renewal", other.renew(&name, &grant.token)).await.expect("the service is there");
    assert!(hold.is_some_and(|hold| hold.ttl >= LOCK_TTL_MAX && hold.sent > grant.hold.sent));
    assert!(released(&other, &name, &grant.token).await);
    assert!(!released(&other, &name, &grant.token).await, "it is free already");
}

/// A lock that is renewed is held beyond its ttl, and nobody else gets it meanwhile.
pub async fn renewing_extends(backend: &impl LockBackend) {
    let (holder, other) = (backend.service(), backend.service());
    let (ttl, clock) = (backend.ttl(), backend.clock());
    // Where the machine stood still for longer than a ttl, that says nothing, and is tried anew.
    for number in 0..STALLS_MAX {
        let name = named(format!("renewed {number}").as_bytes());
        let grant = attempt(&holder, &name, ttl).await.expect("nobody else has it");
        let end = grant.hold.sent + ttl * 2;
        let mut until = grant.hold.until();
        while clock.now() < end {
            sleep(ttl / 6).await;
            let hold = soon("a renewal", holder.renew(&name, &grant.token)).await.expect("the service is there");
            let other_has_it = attempt(&other, &name, ttl).await.is_some();
            if clock.now() >= until {
                break;
            }
            let hold = hold.expect("it is renewed in time");
            assert!(!other_has_it && hold.until() > until && hold.sent <= clock.now());
            until = hold.until();
        }
        if clock.now() < until {
            assert!(released(&holder, &name, &grant.token).await);
            return;
        }
    }
    panic!("the machine stands still all the time");
}

/// A holder that vanishes holds nobody up for ever, and has its lock for all its ttl.
pub async fn who_vanishes_is_freed_after_its_ttl_and_not_before(backend: &impl LockBackend) {
    let (holder, other) = (backend.service(), backend.service());
    let (name, ttl, clock) = (named(b"left behind"), backend.ttl(), backend.clock());
    let grant = attempt(&holder, &name, ttl).await.expect("nobody else has it");
    drop(holder);
    let waits = granted_by(&other, asked(&name, ttl, LOCK_WAIT_MAX));
    let next = timeout(backend.vanish_time_max(), waits).await.expect("it is freed in time");
    let next = next.expect("it was waited for");
    let passed = clock.now().since(grant.hold.sent);
    assert!(passed >= ttl, "it was another's after {passed:?}");
    assert!(next.fence > grant.fence);
    assert!(!renewed(&other, &name, &grant.token).await && !released(&other, &name, &grant.token).await);
    assert!(renewed(&other, &name, &next.token).await);
}

/// Locks of different names have nothing to do with each other, whatever the names are made of.
pub async fn names_are_any_bytes(backend: &impl LockBackend) {
    let service = backend.service();
    let longest = [0xff; LOCK_NAME_LEN_MAX];
    let mut almost_longest = longest;
    almost_longest[0] = b'a';
    let names: [&[u8]; 18] = [
        b"a",
        b"a/",
        b"a/b",
        b"A",
        b"/",
        b"//",
        b".",
        b"..",
        b"%",
        b"%2F",
        b"\0",
        b"\0\0",
        b"\r\n",
        b" ",
        b"{a}",
        "\u{fc}".as_bytes(),
        &longest,
        &almost_longest,
    ];
    let mut grants = Vec::with_capacity(names.len());
    for name in names {
        let name = named(name);
        let grant = attempt(&service, &name, LOCK_TTL_MAX).await;
        grants.push((grant.unwrap_or_else(|| panic!("{name:?} is not free")), name));
    }
    for (grant, name) in &grants {
        assert_eq!(attempt(&service, name, LOCK_TTL_MAX).await, None, "{name:?}");
        assert!(renewed(&service, name, &grant.token).await, "{name:?}");
        assert!(released(&service, name, &grant.token).await, "{name:?}");
    }
}

/// A waiter that gives up, at whichever step, is no longer waited for.
pub async fn who_gives_up_waiting_holds_nobody_up(backend: &impl LockBackend) {
    let (holder, quitter, other) = (backend.service(), backend.service(), backend.service());
    let name = named(b"given up");
    let mut grant = taken(&holder, &name).await;
    for after_ms in GIVE_UP_MS {
        let waits = quitter.acquire(asked(&name, LOCK_TTL_MAX, LOCK_WAIT_MAX));
        assert!(timeout(Duration::from_millis(after_ms), waits).await.is_err(), "it can't be had");
    }
    let waits = granted_by(&other, asked(&name, LOCK_TTL_MAX, LOCK_WAIT_MAX));
    let (next, freed) =
        soon("a hand-over", futures_util::future::join(waits, released(&holder, &name, &grant.token))).await;
    assert!(freed);
    // Now where the lock is free, or becomes free, while it is given up.
    grant = next.expect("it was released");
    for after_ms in GIVE_UP_MS {
        let (given_up, is_given_up) = watch::channel(());
        let mut quits = is_given_up.clone();
        let service = quitter.clone();
        let request = asked(&name, LOCK_TTL_MAX, LOCK_WAIT_MAX);
        let waits = tokio::spawn(async move {
            tokio::select! {
                got = service.acquire(request) => got.ok(),
                _ = quits.changed() => None,
            }
        });
        let releases = released(&other, &name, &grant.token);
        let quits = async {
            sleep(Duration::from_millis(after_ms)).await;
            given_up.send_replace(());
        };
        let (freed, ()) = futures_util::future::join(releases, quits).await;
        assert!(freed);
        if let Some(Acquired::Granted(got)) = soon("a wait that is given up", waits).await.expect("it does not fail") {
            assert!(released(&quitter, &name, &got.token).await);
        }
        let request = asked(&name, LOCK_TTL_MAX, LOCK_WAIT_MAX);
        let next = soon("a wait behind one that was given up", granted_by(&other, request)).await;
        grant = next.expect("nobody else has it");
    }
}

/// A holder is told where somebody else frees its lock, if the service tells at all.
pub async fn a_lock_that_is_held_is_not_told_to_be_gone(backend: &impl LockBackend) {
    let (service, other) = (backend.service(), backend.service());
    let name = named(b"watched");
    let grant = taken(&service, &name).await;
    let gone = service.gone(&name, &grant.token);
    let renewals = async {
        for _ in 0..5 {
            assert!(renewed(&service, &name, &grant.token).await);
            assert_eq!(attempt(&other, &name, LOCK_TTL_MAX).await, None);
        }
    };
    tokio::select! {
        () = gone => panic!("it is held"),
        () = renewals => {}
    }
    assert!(released(&service, &name, &grant.token).await);
}

/// Makes a module of tests, one for each behaviour of [`testing::lock`](crate::testing::lock); `$backend` makes the
/// [`LockBackend`](crate::testing::lock::LockBackend) of one test, in an async context. It needs `tokio` with `macros` and `rt`.
#[macro_export]
macro_rules! lock_contract {
    ($name:ident, $backend:expr) => {
        $crate::lock_contract!(
            @tests $name, $backend,
            holders_exclude_each_other_and_fences_grow
            a_wait_of_nothing_is_answered_at_once
            a_release_wakes_who_waits
            a_wait_ends_when_it_is_over
            a_wrong_token_changes_nothing
            a_token_is_good_at_every_node
            renewing_extends
            who_vanishes_is_freed_after_its_ttl_and_not_before
            names_are_any_bytes
            who_gives_up_waiting_holds_nobody_up
            a_lock_that_is_held_is_not_told_to_be_gone
        );
    };
    (@tests $name:ident, $backend:expr, $($behaviour:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test]
                async fn $behaviour() {
                    $crate::testing::lock::$behaviour(&$backend).await;
                }
            )*
        }
    };
}
