//! What is said about locks, as the peer protocol has it, and back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_core::{
    Error,
    lock::{
        CARRIED_LOCKS_MAX, CarriedLock, CarriedLocks, FENCE_MAX, Granted, LOCK_TTL_MAX, LockCall, LockName, LockReply,
        LockRequest, LockToken,
    },
    placement::SlotSet,
};

use super::{
    convert::millis,
    proto::{self, answer::Outcome, request::Op},
    slots::{parse_slots, wrong},
};

/// What is asked about a lock. Its name stands beside it.
pub(super) fn op(call: &LockCall) -> Op {
    let text = |token: &LockToken| token.as_str().to_owned();
    match call {
        LockCall::Acquire { token, ttl, wait, .. } => {
            let (ttl_ms, wait_ms) = (millis(*ttl), millis(*wait));
            Op::AcquireLock(proto::AcquireLock { token: text(token), ttl_ms, wait_ms })
        }
        LockCall::Renew { token, .. } => Op::RenewLock(proto::RenewLock { token: text(token) }),
        LockCall::Release { token, .. } => Op::ReleaseLock(proto::ReleaseLock { token: text(token) }),
    }
}

/// What another node asks. Nothing in it keeps the frame that it came in.
pub(super) fn parse_op(op: Op, name: &[u8]) -> Result<LockCall, Error> {
    let name = LockName::new(Bytes::copy_from_slice(name))?;
    match op {
        Op::AcquireLock(proto::AcquireLock { token, ttl_ms, wait_ms }) => {
            let (ttl, wait) = (Duration::from_millis(ttl_ms), Duration::from_millis(wait_ms));
            LockRequest::new(name.clone(), ttl, wait)?;
            Ok(LockCall::Acquire { name, token: LockToken::new(token)?, ttl, wait })
        }
        Op::RenewLock(renew) => Ok(LockCall::Renew { name, token: LockToken::new(renew.token)? }),
        Op::ReleaseLock(release) => Ok(LockCall::Release { name, token: LockToken::new(release.token)? }),
        _ => Err(wrong("it is not about a lock")),
    }
}

/// What this node answers.
pub(super) fn outcome(reply: LockReply) -> Outcome {
    match reply {
        LockReply::Acquired(granted) => {
            let granted = granted.map(|Granted { fence, ttl }| proto::GrantedLock { fence, ttl_ms: millis(ttl) });
            Outcome::LockAcquired(proto::LockAcquired { granted })
        }
        LockReply::Renewed(ttl) => Outcome::LockRenewed(proto::LockRenewed { ttl_ms: ttl.map(millis) }),
        LockReply::Released(was_held) => Outcome::LockReleased(proto::LockReleased { was_held }),
    }
}

/// What another node answers.
pub(super) fn parse_outcome(outcome: &Outcome) -> Result<LockReply, Error> {
    match outcome {
        Outcome::LockAcquired(proto::LockAcquired { granted }) => {
            let granted = granted.map(|proto::GrantedLock { fence, ttl_ms }| {
                Ok::<_, Error>(Granted { fence: parse_fence(fence)?, ttl: parse_ttl(ttl_ms)? })
            });
            Ok(LockReply::Acquired(granted.transpose()?))
        }
        Outcome::LockRenewed(proto::LockRenewed { ttl_ms }) => {
            Ok(LockReply::Renewed(ttl_ms.map(parse_ttl).transpose()?))
        }
        Outcome::LockReleased(proto::LockReleased { was_held }) => Ok(LockReply::Released(*was_held)),
        _ => Err(wrong("it is not about a lock")),
    }
}

/// What goes with slots of their locks.
pub(super) fn carried(carried: &CarriedLocks) -> proto::CarriedLocks {
    let CarriedLocks { floor, quiet, quiet_left, held } = carried;
    let held = held.iter().map(|CarriedLock { name, token, fence, ttl, left, holder }| proto::CarriedLock {
        name: Bytes::copy_from_slice(name.as_bytes()),
        token: token.as_str().to_owned(),
        fence: *fence,
        ttl_ms: millis(*ttl),
        left_ms: millis(*left),
        holder: holder.to_string(),
    });
    proto::CarriedLocks {
        floor: *floor,
        quiet: if quiet.is_empty() { Bytes::new() } else { quiet.to_bytes().into() },
        quiet_left_ms: millis(*quiet_left),
        held: held.collect(),
    }
}

pub(super) fn parse_carried(carried: proto::CarriedLocks) -> Result<CarriedLocks, Error> {
    let proto::CarriedLocks { floor, quiet, quiet_left_ms, held } = carried;
    if held.len() > CARRIED_LOCKS_MAX {
        return Err(wrong("too many locks go with slots"));
    }
    let held = held.into_iter().map(|proto::CarriedLock { name, token, fence, ttl_ms, left_ms, holder }| {
        Ok(CarriedLock {
            name: LockName::new(Bytes::copy_from_slice(&name))?,
            token: LockToken::new(token)?,
            fence: parse_fence(fence)?,
            ttl: parse_ttl(ttl_ms)?,
            left: parse_ttl(left_ms)?,
            holder: Arc::from(holder),
        })
    });
    Ok(CarriedLocks {
        floor,
        quiet: if quiet.is_empty() { SlotSet::default() } else { parse_slots(&quiet)? },
        quiet_left: Duration::from_millis(quiet_left_ms),
        held: held.collect::<Result<_, Error>>()?,
    })
}

fn parse_fence(fence: u64) -> Result<u64, Error> {
    if (1..=FENCE_MAX).contains(&fence) { Ok(fence) } else { Err(wrong("that is no lock's fence")) }
}

fn parse_ttl(ttl_ms: u64) -> Result<Duration, Error> {
    let ttl = Duration::from_millis(ttl_ms);
    if ttl <= LOCK_TTL_MAX { Ok(ttl) } else { Err(wrong("no lock lasts so long")) }
}
