//! `larder lock`: runs a command while a lock is held.
//!
//! The lock is held as programs hold theirs, by a guard; what keeps it is a node, over HTTP (`by_http.rs`). Who loses it has little
//! time: the command has to have ended before another can have the lock. So it is given up a while before the ttl can have run out.

mod by_http;
mod child;

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use larder::SystemClock;
use larder_core::{Clock, ErrorKind, Locks, Moment, lock::LockGuard};
use rustix::process::Signal;
use tokio::{
    signal::unix::{self, SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

use self::{
    by_http::ByHttp,
    child::{BY_SIGNAL, Child},
};
use super::{Exit, Failure, wait_for};
use crate::cli::LockArgs;

/// How long a command may take to end once its lock was lost, at most: as long as it takes to put a few things away. Where the ttl runs
/// out before, it has until then.
const GRACE_MAX: Duration = Duration::from_secs(2);

/// How long it has all the same where the ttl may have run out already, because the service said so late or this process stood still.
const GRACE_MIN: Duration = Duration::from_millis(500);

/// How often the clock is looked at meanwhile, for timers stand still while the machine sleeps, and whether all that was started has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a shell ends a command that isn't there, and one that can't be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

/// The signals that are handed on to the command.
const FORWARDED: [(Signal, fn() -> SignalKind); 6] = [
    (Signal::HUP, SignalKind::hangup),
    (Signal::INT, SignalKind::interrupt),
    (Signal::QUIT, SignalKind::quit),
    (Signal::TERM, SignalKind::terminate),
    (Signal::USR1, SignalKind::user_defined1),
    (Signal::USR2, SignalKind::user_defined2),
];

/// How many signals may wait to be handed on: the system itself keeps one of a kind.
const SIGNALS_MAX: usize = 16;

/// Takes the lock, runs the command, and frees the lock. It answers with the command's exit code.
///
/// # Errors
///
/// If the lock was not to be had.
pub fn run(args: &LockArgs) -> Result<u8, Failure> {
    wait_for(hold(args))
}

async fn hold(args: &LockArgs) -> Result<u8, Failure> {
    let mut signals = Signals::listen().map_err(|error| Failure::failed(format!("signals can't be heard: {error}")))?;
    let node = Arc::new(ByHttp::new(args.node.url.clone(), args.ttl));
    let locks = Locks::new(node.clone(), SystemClock);
    let lock = locks.lock(args.name.as_bytes().to_vec()).ttl(args.ttl).wait(args.wait);
    let taken = tokio::select! {
        taken = lock.try_acquire() => taken,
        // Dropped, the request is taken back.
        signal = signals.next() => return Ok(by(signal)),
    };
    let name = &args.name;
    let Some(guard) = taken.map_err(|error| failure(&error))? else {
        let message = format!("another holds the lock {name:?}: wait longer with --wait, or try again later");
        return Err(Failure::new(Exit::NotAcquired, message));
    };
    let ended = match Child::start(&args.command, guard.fence()) {
        Ok(child) => under(&guard, &node, child, signals).await,
        Err(error) => {
            tell(&format!("{:?} can't be run: {error}", args.command[0]));
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
            Ok(Ended { code, was_lost: false })
        }
    };
    // Where this fails, the ttl frees it.
    let released = guard.release().await;
    let Ended { code, was_lost } =
        ended.map_err(|error| Failure::failed(format!("the command can't be waited for: {error}")))?;
    if matches!(released, Ok(false)) && !was_lost {
        tell(&format!("the lock {name:?} was lost by the time the command ended: check what it did"));
    }
    Ok(code)
}

/// How a command ended.
struct Ended {
    code: u8,
    was_lost: bool,
}

/// Waits for the command's end, and sees to that if the lock is lost.
async fn under(guard: &LockGuard, node: &ByHttp, mut child: Child, mut signals: Signals) -> io::Result<Ended> {
    loop {
        tokio::select! {
            // In this order: a command that has ended has not lost its lock.
            biased;
            code = child.ended() => return Ok(Ended { code: code?, was_lost: false }),
            signal = signals.next() => child.forward(signal),
            () = guard.lost() => break,
        }
    }
    tell(&format!("the lock {:?} is lost, or can't be renewed: the command is ended", guard.name()));
    child.signal(Signal::TERM);
    let now = SystemClock.now();
    let kill_at = node.sure_until().max(now + GRACE_MIN).min(now + GRACE_MAX);
    let code = tokio::select! {
        code = child.all_ended() => Some(code?),
        () = reached(kill_at) => None,
    };
    let code = match code {
        Some(code) => code,
        None => {
            child.signal(Signal::KILL);
            child.ended().await?
        }
    };
    // Nobody may take this for a command that did its work under the lock.
    Ok(Ended { code: code.max(1), was_lost: true })
}

/// Waits until the clock has come to this moment.
async fn reached(moment: Moment) {
    loop {
        let left = moment.since(SystemClock.now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(LOOK_EVERY)).await;
    }
}

/// The signals that this process is sent.
struct Signals(mpsc::Receiver<Signal>);

impl Signals {
    fn listen() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(SIGNALS_MAX);
        for (number, kind) in FORWARDED {
            tokio::spawn(listen(number, signal(kind())?, sender.clone()));
        }
        Ok(Self(receiver))
    }

    async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

async fn listen(number: Signal, mut signals: unix::Signal, sender: mpsc::Sender<Signal>) {
    while signals.recv().await.is_some() && sender.send(number).await.is_ok() {}
}

/// The exit code of who ends by this signal.
fn by(signal: Signal) -> u8 {
    u8::try_from(signal.as_raw()).map_or(1, |number| BY_SIGNAL | number)
}

fn failure(error: &larder_core::Error) -> Failure {
    let exit = match error.kind() {
        ErrorKind::OwnerUnreachable => Exit::Unreachable,
        ErrorKind::Invalid | ErrorKind::TooLarge => Exit::Usage,
        ErrorKind::Overloaded | ErrorKind::NoAuthority | ErrorKind::Draining | ErrorKind::TimedOut => Exit::NotAcquired,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.message())
}

/// Says a sentence on stderr, where whoever runs the command looks for what it says.
fn tell(sentence: &str) {
    // If stderr is closed, the exit code still tells.
    let _ = writeln!(io::stderr(), "larder: {sentence}");
}
