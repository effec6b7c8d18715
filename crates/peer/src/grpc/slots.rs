//! What is said about slots, copies and marks, as the peer protocol has it, and back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_core::{
    Error, ErrorKind, Key, Version,
    behind::RecordsCall,
    claim::{
        Carried, ClaimAnswer, GUARDS_MAX, GivenUp, MARKS_MAX, PUSH_ENTRIES_MAX, PUSH_VALUE_LEN_MAX, PushedEntry,
        REMEMBERED_MAX, Remembered, SlotCall, SlotReply, SlotsClaim,
    },
    lock::{CARRIED_LOCKS_MAX, LockCall, LockReply},
    peer::{IDEMPOTENCY_KEY_LEN_MAX, PeerMeta},
    placement::SlotSet,
    store::{Mark, Tag},
    version::Reading,
};
use prost::Message;

use super::{
    codec::count_fields,
    convert::{self, millis, parse_version, version},
    limits::CLAIM_ANSWERS_MAX,
    locks,
    proto::{self, answer::Outcome, claim_answer::Says, request::Op},
    records,
};

/// Whether a request is about slots. Who is claimed from stops acting whether it has heard of the view or not (rule C2), so
/// that these need no look at the membership.
pub(super) fn are_asked_for(op: Option<&Op>) -> bool {
    matches!(
        op,
        Some(
            Op::Claim(_)
                | Op::Push(_)
                | Op::Confirm(_)
                | Op::Recall(_)
                | Op::Revoke(_)
                | Op::Clock(_)
                | Op::Raise(_)
                | Op::Marks(_)
                | Op::KeepRecords(_)
                | Op::KeepPiece(_)
                | Op::TellRecords(_)
                | Op::TellPiece(_)
                | Op::ForgetRecords(_)
                | Op::TakeBackRecord(_)
                | Op::AskCopies(_)
        )
    )
}

/// Whether a request is about a lock. Whether this node keeps it depends on the view, which is looked for first (rule W1).
pub(super) fn are_locks_asked_for(op: Option<&Op>) -> bool {
    matches!(op, Some(Op::AcquireLock(_) | Op::RenewLock(_) | Op::ReleaseLock(_)))
}

/// What is said, and of which group and key it is.
pub(super) fn op(call: &SlotCall) -> (Option<Arc<str>>, Option<Key>, Op) {
    let (group, op) = match call {
        SlotCall::Claim(claim) => (None, Op::Claim(claim_op(claim))),
        SlotCall::Confirm { term, slots } => {
            (None, Op::Confirm(proto::Confirm { term: Some(version(*term)), slots: slots.to_bytes().into() }))
        }
        SlotCall::Recall { has_yours } => (None, Op::Recall(proto::Recall { has_yours: *has_yours })),
        SlotCall::Push { term, group, entries } => {
            let entries = proto::Entries { entries: entries.iter().map(entry).collect() };
            let entries = entries.encode_to_vec().into();
            (Some(group), Op::Push(proto::Push { term: Some(version(*term)), entries }))
        }
        SlotCall::Revoke { group, key } => {
            return (Some(group.clone()), Some(key.clone()), Op::Revoke(proto::Revoke {}));
        }
        SlotCall::Clock => (None, Op::Clock(proto::AskClock {})),
        // A lock's name is as long as a key may be.
        SlotCall::Lock(call) => {
            return (None, Key::copy_from(call.name().as_bytes()).ok(), locks::op(call));
        }
        SlotCall::Raise { group, marks, to } => {
            let marks = marks.iter().map(|mark| mark_number(*mark)).collect();
            (Some(group), Op::Raise(proto::Raise { marks, to: to.to_bits() }))
        }
        SlotCall::Marks { group, marks } => (Some(group), Op::Marks(marks_of(marks))),
        SlotCall::Records(call) => (Some(&call.group), records::op(call)),
        SlotCall::Copies { view, dropped } => {
            (None, Op::AskCopies(proto::AskCopies { view: *view, dropped: some_slots(dropped) }))
        }
    };
    (group.cloned(), None, op)
}

/// What another node says. Nothing in it keeps the frame that it came in.
pub(super) fn parse_op(op: Op, group: Option<&Arc<str>>, key: &[u8]) -> Result<SlotCall, Error> {
    let of_group = || group.cloned().ok_or_else(|| wrong("it is of no group"));
    match op {
        Op::Claim(claim) => parse_claim(claim).map(SlotCall::Claim),
        Op::Confirm(confirm) => {
            Ok(SlotCall::Confirm { term: parse_term(confirm.term)?, slots: parse_slots(&confirm.slots)? })
        }
        Op::Recall(recall) => Ok(SlotCall::Recall { has_yours: recall.has_yours }),
        Op::Push(push) => {
            let entries: proto::Entries = parse_counted(push.entries, PUSH_ENTRIES_MAX)?;
            let entries = entries.entries.into_iter().map(parse_entry).collect::<Result<Vec<_>, Error>>()?;
            if entries.len() > PUSH_ENTRIES_MAX {
                return Err(wrong("a push has too many entries"));
            }
            Ok(SlotCall::Push { term: parse_term(push.term)?, group: of_group()?, entries })
        }
        Op::Revoke(_) => Ok(SlotCall::Revoke { group: of_group()?, key: Key::copy_from(key)? }),
        Op::Clock(_) => Ok(SlotCall::Clock),
        Op::Raise(raise) => {
            if raise.marks.len() > MARKS_MAX {
                return Err(wrong("there are not so many marks"));
            }
            let marks = raise.marks.iter().map(|number| parse_mark(*number)).collect::<Result<_, Error>>()?;
            Ok(SlotCall::Raise { group: of_group()?, marks, to: Reading::from_bits(raise.to) })
        }
        Op::Marks(marks) => Ok(SlotCall::Marks { group: of_group()?, marks: parse_marks(&marks)? }),
        Op::AskCopies(ask) => Ok(SlotCall::Copies { view: ask.view, dropped: parse_some_slots(&ask.dropped)? }),
        Op::AcquireLock(_) | Op::RenewLock(_) | Op::ReleaseLock(_) => locks::parse_op(op, key).map(SlotCall::Lock),
        op => {
            let group = of_group()?;
            let about = records::parse_op(op, &group).ok_or_else(|| wrong("it is not about slots"))??;
            Ok(SlotCall::Records(RecordsCall { group, about }))
        }
    }
}

/// What this node answers.
pub(super) fn outcome(reply: SlotReply) -> Outcome {
    match reply {
        SlotReply::Claimed(answers, carried) => {
            let answers = answers.into_iter().take(CLAIM_ANSWERS_MAX).map(answer).collect();
            let carried = if carried == Carried::default() { Bytes::new() } else { carried_of(&carried) };
            Outcome::Claimed(proto::Claimed { answers: proto::Answers { answers }.encode_to_vec().into(), carried })
        }
        SlotReply::Confirmed => Outcome::Confirmed(proto::Confirmed {}),
        SlotReply::Recalled { member_for, slots } => {
            let member_for_ms = member_for.map(millis);
            Outcome::Recalled(proto::Recalled { member_for_ms, slots: slots.to_bytes().into() })
        }
        SlotReply::Pushed { wants_more } => Outcome::Pushed(proto::Pushed { wants_more }),
        SlotReply::Revoked => Outcome::Revoked(proto::Revoked {}),
        SlotReply::Clock { reading } => Outcome::Clock(proto::Clock { reading: reading.to_bits() }),
        SlotReply::Raised { known } => Outcome::Raised(proto::Raised { known: known.to_bits() }),
        SlotReply::Marks { marks } => Outcome::Marks(marks_of(&marks)),
        SlotReply::Records(reply) => records::outcome(&reply),
        SlotReply::Copies { slots } => Outcome::Copies(proto::Copies { slots: some_slots(&slots) }),
        SlotReply::Lock(reply) => locks::outcome(reply),
    }
}

/// What another node answers.
pub(super) fn parse_outcome(outcome: Outcome) -> Result<SlotReply, Error> {
    match outcome {
        Outcome::Claimed(claimed) => {
            let answers: proto::Answers = parse_counted(claimed.answers, CLAIM_ANSWERS_MAX)?;
            let parsed = answers.answers.into_iter().filter_map(|answer| parse_answer(answer).transpose());
            let parsed = parsed.collect::<Result<_, Error>>()?;
            Ok(SlotReply::Claimed(parsed, parse_carried(claimed.carried)?))
        }
        Outcome::Confirmed(_) => Ok(SlotReply::Confirmed),
        Outcome::Recalled(recalled) => {
            let member_for = recalled.member_for_ms.map(Duration::from_millis);
            Ok(SlotReply::Recalled { member_for, slots: parse_slots(&recalled.slots)? })
        }
        Outcome::Pushed(pushed) => Ok(SlotReply::Pushed { wants_more: pushed.wants_more }),
        Outcome::Revoked(_) => Ok(SlotReply::Revoked),
        Outcome::Clock(clock) => Ok(SlotReply::Clock { reading: Reading::from_bits(clock.reading) }),
        Outcome::Raised(raised) => Ok(SlotReply::Raised { known: Reading::from_bits(raised.known) }),
        Outcome::Marks(marks) => Ok(SlotReply::Marks { marks: parse_marks(&marks)? }),
        Outcome::Copies(copies) => Ok(SlotReply::Copies { slots: parse_some_slots(&copies.slots)? }),
        Outcome::LockAcquired(_) | Outcome::LockRenewed(_) | Outcome::LockReleased(_) => {
            locks::parse_outcome(&outcome).map(SlotReply::Lock)
        }
        outcome => {
            let reply = records::parse_outcome(outcome);
            Ok(SlotReply::Records(reply.ok_or_else(|| wrong("it is not about slots"))??))
        }
    }
}

/// Whether a reply is of the kind that this is answered with.
pub(super) fn is_reply(call: &SlotCall, reply: &SlotReply) -> bool {
    matches!(
        (call, reply),
        (SlotCall::Claim(_), SlotReply::Claimed(..))
            | (SlotCall::Confirm { .. }, SlotReply::Confirmed)
            | (SlotCall::Recall { .. }, SlotReply::Recalled { .. })
            | (SlotCall::Push { .. }, SlotReply::Pushed { .. })
            | (SlotCall::Revoke { .. }, SlotReply::Revoked)
            | (SlotCall::Clock, SlotReply::Clock { .. })
            | (SlotCall::Raise { .. }, SlotReply::Raised { .. })
            | (SlotCall::Marks { .. }, SlotReply::Marks { .. })
            | (SlotCall::Records(_), SlotReply::Records(_))
            | (SlotCall::Copies { .. }, SlotReply::Copies { .. })
            | (SlotCall::Lock(LockCall::Acquire { .. }), SlotReply::Lock(LockReply::Acquired(_)))
            | (SlotCall::Lock(LockCall::Renew { .. }), SlotReply::Lock(LockReply::Renewed(_)))
            | (SlotCall::Lock(LockCall::Release { .. }), SlotReply::Lock(LockReply::Released(_)))
    )
}

fn claim_op(claim: &SlotsClaim) -> proto::Claim {
    let SlotsClaim { term, acted, gave_up, is_polite, slots } = claim;
    proto::Claim {
        term: Some(version(*term)),
        acted: some_version(*acted),
        sent_by: gave_up.as_ref().map(|(name, _)| name.to_string()).unwrap_or_default(),
        given_up: gave_up.as_ref().map(|(_, given_up)| given_up_of(*given_up)),
        is_polite: *is_polite,
        slots: slots.to_bytes().into(),
    }
}

fn parse_claim(claim: proto::Claim) -> Result<SlotsClaim, Error> {
    let proto::Claim { term, acted, sent_by, given_up, is_polite, slots } = claim;
    let gave_up = match given_up {
        Some(given_up) if !sent_by.is_empty() => Some((sent_by.into(), parse_given_up(given_up))),
        None if sent_by.is_empty() => None,
        _ => return Err(wrong("who sent a claimer here stands with what it has given up")),
    };
    let acted = parse_some_version(acted);
    Ok(SlotsClaim { term: parse_term(term)?, acted, gave_up, is_polite, slots: parse_slots(&slots)? })
}

fn entry(entry: &PushedEntry) -> proto::Entry {
    let PushedEntry { key, value, meta: PeerMeta { version: of, age, ttl_left } } = entry;
    let text = |text: Option<&str>| text.map(str::to_owned).unwrap_or_default();
    proto::Entry {
        key: key.to_bytes(),
        value: value.as_ref().map(larder_core::Value::to_bytes),
        content_type: text(value.as_ref().and_then(larder_core::Value::content_type)),
        validator: text(value.as_ref().and_then(larder_core::Value::validator)),
        version: Some(version(*of)),
        age_ms: millis(*age),
        ttl_left_ms: ttl_left.map(millis),
        tags: value.as_ref().map(|value| convert::tags(value.tags())).unwrap_or_default(),
    }
}

fn parse_entry(entry: proto::Entry) -> Result<PushedEntry, Error> {
    let proto::Entry { key, value, content_type, validator, version, age_ms, ttl_left_ms, tags } = entry;
    let key = Key::copy_from(&key).map_err(|error| wrong(error.message()))?;
    if value.as_ref().is_some_and(|value| value.len() > PUSH_VALUE_LEN_MAX) {
        return Err(wrong("a pushed value is too long"));
    }
    let value = value.map(|bytes| {
        let value = convert::value(Bytes::copy_from_slice(&bytes), content_type).with_tags(convert::parse_tags(&tags));
        if validator.is_empty() { value } else { value.with_validator(validator) }
    });
    let version = parse_version(version.ok_or_else(|| wrong("a pushed entry has no version"))?);
    let meta =
        PeerMeta { version, age: Duration::from_millis(age_ms), ttl_left: ttl_left_ms.map(Duration::from_millis) };
    Ok(PushedEntry { key, value, meta })
}

fn answer((slots, answer): (SlotSet, ClaimAnswer)) -> proto::ClaimAnswer {
    let says = match answer {
        ClaimAnswer::Released { had } => Says::Released(proto::Released { had }),
        ClaimAnswer::Refused { known } => Says::Refused(proto::Refused { known: some_version(known) }),
        ClaimAnswer::Elsewhere { at, given_up } => {
            Says::Elsewhere(proto::Elsewhere { at: at.to_string(), given_up: Some(given_up_of(given_up)) })
        }
    };
    proto::ClaimAnswer { slots: slots.to_bytes().into(), says: Some(says) }
}

/// `Ok(None)`: something that only a newer node says.
fn parse_answer(answer: proto::ClaimAnswer) -> Result<Option<(SlotSet, ClaimAnswer)>, Error> {
    let Some(says) = answer.says else { return Ok(None) };
    let says = match says {
        Says::Released(released) => ClaimAnswer::Released { had: released.had },
        Says::Refused(refused) => ClaimAnswer::Refused { known: parse_some_version(refused.known) },
        Says::Elsewhere(proto::Elsewhere { at, given_up: Some(given_up) }) if !at.is_empty() => {
            ClaimAnswer::Elsewhere { at: at.into(), given_up: parse_given_up(given_up) }
        }
        Says::Elsewhere(_) => return Err(wrong("elsewhere is nowhere, or nothing is given up")),
    };
    Ok(Some((parse_slots(&answer.slots)?, says)))
}

/// A mark's number: 0 for the whole group's, else one more than its tag's.
fn mark_number(mark: Mark) -> u32 {
    match mark {
        Mark::All => 0,
        Mark::Tag(tag) => u32::from(tag.number()) + 1,
    }
}

fn parse_mark(number: u32) -> Result<Mark, Error> {
    let Some(tag) = number.checked_sub(1) else { return Ok(Mark::All) };
    let tag = u16::try_from(tag).ok().and_then(Tag::new).ok_or_else(|| wrong("there is no such mark"))?;
    Ok(Mark::Tag(tag))
}

fn marks_of(marks: &[(Mark, Reading)]) -> proto::Marks {
    proto::Marks {
        marks: marks.iter().map(|(mark, _)| mark_number(*mark)).collect(),
        readings: marks.iter().map(|(_, reading)| reading.to_bits()).collect(),
    }
}

fn parse_marks(marks: &proto::Marks) -> Result<Vec<(Mark, Reading)>, Error> {
    let proto::Marks { marks, readings } = marks;
    if marks.len() != readings.len() || marks.len() > MARKS_MAX {
        return Err(wrong("each mark has one reading, and there are not so many"));
    }
    let marks = marks.iter().zip(readings);
    marks.map(|(mark, reading)| Ok((parse_mark(*mark)?, Reading::from_bits(*reading)))).collect()
}

fn carried_of(carried: &Carried) -> Bytes {
    let Carried { vouched, leased, leases_left, guards, remembered, locks } = carried;
    let some_slots = |slots: &SlotSet| if slots.is_empty() { Bytes::new() } else { slots.to_bytes().into() };
    let group_key = |group: &Arc<str>, key: &Key| proto::GroupKey { group: group.to_string(), key: key.to_bytes() };
    let remembered =
        remembered.iter().map(|Remembered { group, key, idempotency_key, came_to, age }| proto::Remembered {
            of: Some(group_key(group, key)),
            idempotency_key: idempotency_key.to_string(),
            version: came_to.map(version),
            age_ms: millis(*age),
        });
    let carried = proto::Carried {
        vouched: some_slots(vouched),
        leased: some_slots(leased),
        leases_left_ms: millis(*leases_left),
        guards: guards.iter().map(|(group, key)| group_key(group, key)).collect(),
        remembered: remembered.collect(),
        locks: locks.as_ref().map(|carried| locks::carried(carried).encode_to_vec().into()),
    };
    carried.encode_to_vec().into()
}

fn parse_carried(carried: Bytes) -> Result<Carried, Error> {
    let carried: proto::Carried = parse_counted(carried, GUARDS_MAX + REMEMBERED_MAX)?;
    let proto::Carried { vouched, leased, leases_left_ms, guards, remembered, locks } = carried;
    let some_slots = |slots: &Bytes| if slots.is_empty() { Ok(SlotSet::default()) } else { parse_slots(slots) };
    if guards.len() > GUARDS_MAX || remembered.len() > REMEMBERED_MAX {
        return Err(wrong("too much goes with slots"));
    }
    let group_key = |of: proto::GroupKey| Ok::<_, Error>((Arc::from(of.group), Key::copy_from(&of.key)?));
    let remembered = remembered.into_iter().map(|proto::Remembered { of, idempotency_key, version, age_ms }| {
        let (group, key) = group_key(of.ok_or_else(|| wrong("what was written is missing"))?)?;
        if idempotency_key.len() > IDEMPOTENCY_KEY_LEN_MAX {
            return Err(wrong("an idempotency key is too long"));
        }
        let (came_to, age) = (version.map(parse_version), Duration::from_millis(age_ms));
        Ok(Remembered { group, key, idempotency_key: idempotency_key.into(), came_to, age })
    });
    Ok(Carried {
        vouched: some_slots(&vouched)?,
        leased: some_slots(&leased)?,
        leases_left: Duration::from_millis(leases_left_ms),
        guards: guards.into_iter().map(group_key).collect::<Result<_, Error>>()?,
        remembered: remembered.collect::<Result<_, Error>>()?,
        locks: locks.map(|locks| locks::parse_carried(parse_counted(locks, CARRIED_LOCKS_MAX)?)).transpose()?,
    })
}

fn given_up_of(GivenUp { until, acted }: GivenUp) -> proto::GivenUp {
    proto::GivenUp { until: some_version(until), acted: some_version(acted) }
}

fn parse_given_up(proto::GivenUp { until, acted }: proto::GivenUp) -> GivenUp {
    GivenUp { until: parse_some_version(until), acted: parse_some_version(acted) }
}

/// Nothing for the version before all others.
fn some_version(of: Version) -> Option<proto::Version> {
    (of != Version::ZERO).then(|| version(of))
}

fn parse_some_version(version: Option<proto::Version>) -> Version {
    version.map_or(Version::ZERO, parse_version)
}

fn parse_term(term: Option<proto::Version>) -> Result<Version, Error> {
    term.map(parse_version).ok_or_else(|| wrong("the term is missing"))
}

pub(super) fn parse_slots(bytes: &[u8]) -> Result<SlotSet, Error> {
    SlotSet::from_bytes(bytes).ok_or_else(|| wrong("that is no set of slots: it has another length"))
}

/// Slots that are none mostly.
fn some_slots(slots: &SlotSet) -> Bytes {
    if slots.is_empty() { Bytes::new() } else { slots.to_bytes().into() }
}

fn parse_some_slots(bytes: &[u8]) -> Result<SlotSet, Error> {
    if bytes.is_empty() { Ok(SlotSet::default()) } else { parse_slots(bytes) }
}

/// Reads a list of so many elements at most. Empty elements are small on the wire and large in memory: more of them than a
/// newer node may add fields beside are not read at all.
pub(super) fn parse_counted<T: Message + Default>(list: Bytes, max: usize) -> Result<T, Error> {
    if count_fields(&list) > 2 * max {
        return Err(wrong("a list is too long"));
    }
    T::decode(list).map_err(|error| wrong(&error.to_string()))
}

pub(super) fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}
