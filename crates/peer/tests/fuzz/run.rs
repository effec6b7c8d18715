//! Runs cases, many at once, and says of one that fails how to see it again.

use std::{
    env,
    panic::{AssertUnwindSafe, resume_unwind, set_hook, take_hook},
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::FutureExt;
use tokio::{
    sync::{Mutex, MutexGuard},
    task::{JoinError, JoinSet},
    time::{Instant, timeout},
};

use crate::{mutate, script::Script};

/// How many cases are under way at once.
const AT_ONCE: usize = 32;

/// What no case may take.
const CASE_TIME_MAX: Duration = Duration::from_secs(30);

/// What one end sends, and whether the other did what it has to.
pub(crate) type Judged = Result<(), String>;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Keeps the other tests of this process away, as all are measured by its memory.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// A number that `cargo xtask fuzz` hands over.
fn set(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// The corpus of one side, and then `count` cases made of it, or those that fit into `LARDER_FUZZ_SECONDS`.
pub(crate) async fn run<F, Fut>(side: &'static str, count: u64, case: F)
where
    F: Fn(Script) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Judged> + Send,
{
    count_panics();
    let (corpus, case) = (Script::corpus(side), Arc::new(case));
    for (name, script) in &corpus {
        judge(&*case, script.clone()).await.unwrap_or_else(|reason| panic!("corpus/{side}/{name}: {reason}"));
    }
    let seconds = set("LARDER_FUZZ_SECONDS");
    let first = set("LARDER_FUZZ_SEED").unwrap_or(1);
    let (start, corpus) = (Instant::now(), Arc::new(corpus));
    let mut running = JoinSet::new();
    let mut cases = 0;
    for seed in first.. {
        let goes_on = match seconds {
            Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
            None => cases < count,
        };
        if !goes_on {
            break;
        }
        if running.len() == AT_ONCE
            && let Some(ended) = running.join_next().await
        {
            has_passed(ended);
        }
        let (corpus, case) = (corpus.clone(), case.clone());
        running.spawn(async move {
            let script = mutate::case(&corpus, &mut Rng::with_seed(seed));
            if let Err(reason) = judge(&*case, script.clone()).await {
                panic!(
                    "{side}, seed {seed}: {reason}\nOnce more: cargo xtask fuzz peer --seed {seed}\n\
                     To keep it, as a file of crates/peer/tests/fuzz/corpus/{side}:\n{}",
                    script.text()
                );
            }
        });
        cases += 1;
    }
    while let Some(ended) = running.join_next().await {
        has_passed(ended);
    }
    println!("{side}: {} scripts and {cases} cases from seed {first} in {:?}", corpus.len(), start.elapsed());
}

fn has_passed(ended: Result<(), JoinError>) {
    if let Err(failure) = ended {
        resume_unwind(failure.into_panic());
    }
}

async fn judge<Fut: Future<Output = Judged>>(case: &impl Fn(Script) -> Fut, script: Script) -> Judged {
    let before = PANICS.load(Ordering::Relaxed);
    let judged = timeout(CASE_TIME_MAX, AssertUnwindSafe(case(script)).catch_unwind()).await;
    let judged = judged.map_err(|_| format!("it takes more than {CASE_TIME_MAX:?}"))?;
    judged.map_err(|_| "the test itself panicked".to_owned())??;
    match PANICS.load(Ordering::Relaxed) - before {
        0 => Ok(()),
        _ => Err("something panicked: this case, or one that ran beside it".to_owned()),
    }
}

/// Panics of a node's own tasks end nothing else: they have to be looked for.
fn count_panics() {
    static COUNTS: Once = Once::new();
    COUNTS.call_once(|| {
        let report = take_hook();
        set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            report(panic);
        }));
    });
}
