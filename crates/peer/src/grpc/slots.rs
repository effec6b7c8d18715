//! What is said about slots, as the peer protocol has it, and back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_core::{
    Error, ErrorKind, Key, Version,
    claim::{ClaimAnswer, GivenUp, PUSH_ENTRIES_MAX, PUSH_VALUE_LEN_MAX, PushedEntry, SlotCall, SlotReply, SlotsClaim},
    peer::PeerMeta,
    placement::SlotSet,
};
use prost::Message;

use super::{
    codec::count_fields,
    convert::{self, millis, parse_version, version},
    limits::CLAIM_ANSWERS_MAX,
    proto::{self, answer::Outcome, claim_answer::Says, request::Op},
};

/// Whether a request is about slots. Who is claimed from stops acting whether it has heard of the view or not (rule C2), so
/// that these need no look at the membership.
pub(super) fn are_asked_for(op: Option<&Op>) -> bool {
    matches!(op, Some(Op::Claim(_) | Op::Push(_) | Op::Confirm(_) | Op::Recall(_)))
}

/// What is said, and of which group it is.
pub(super) fn op(call: &SlotCall) -> (Option<Arc<str>>, Op) {
    match call {
        SlotCall::Claim(claim) => (None, Op::Claim(claim_op(claim))),
        SlotCall::Confirm { term, slots } => {
            (None, Op::Confirm(proto::Confirm { term: Some(version(*term)), slots: slots.to_bytes().into() }))
        }
        SlotCall::Recall => (None, Op::Recall(proto::Recall {})),
        SlotCall::Push { term, group, entries } => {
            let entries = proto::Entries { entries: entries.iter().map(entry).collect() };
            let entries = entries.encode_to_vec().into();
            (Some(group.clone()), Op::Push(proto::Push { term: Some(version(*term)), entries }))
        }
    }
}

/// What another node says. Nothing in it keeps the frame that it came in.
pub(super) fn parse_op(op: Op, group: Option<Arc<str>>) -> Result<SlotCall, Error> {
    match op {
        Op::Claim(claim) => parse_claim(claim).map(SlotCall::Claim),
        Op::Confirm(confirm) => {
            Ok(SlotCall::Confirm { term: parse_term(confirm.term)?, slots: parse_slots(&confirm.slots)? })
        }
        Op::Recall(_) => Ok(SlotCall::Recall),
        Op::Push(push) => {
            let entries: proto::Entries = parse_counted(push.entries, PUSH_ENTRIES_MAX)?;
            let entries = entries.entries.into_iter().map(parse_entry).collect::<Result<Vec<_>, Error>>()?;
            if entries.len() > PUSH_ENTRIES_MAX {
                return Err(wrong("a push has too many entries"));
            }
            let group = group.ok_or_else(|| wrong("a push is of no group"))?;
            Ok(SlotCall::Push { term: parse_term(push.term)?, group, entries })
        }
        Op::Get(_) | Op::Put(_) | Op::Delete(_) | Op::Ping(_) => Err(wrong("it is not about slots")),
    }
}

/// What this node answers.
pub(super) fn outcome(reply: SlotReply) -> Outcome {
    match reply {
        SlotReply::Claimed(answers) => {
            let answers = answers.into_iter().take(CLAIM_ANSWERS_MAX).map(answer).collect();
            Outcome::Claimed(proto::Claimed { answers: proto::Answers { answers }.encode_to_vec().into() })
        }
        SlotReply::Confirmed => Outcome::Confirmed(proto::Confirmed {}),
        SlotReply::Recalled { member_for, slots } => {
            let member_for_ms = member_for.map(millis);
            Outcome::Recalled(proto::Recalled { member_for_ms, slots: slots.to_bytes().into() })
        }
        SlotReply::Pushed { wants_more } => Outcome::Pushed(proto::Pushed { wants_more }),
    }
}

/// What another node answers.
pub(super) fn parse_outcome(outcome: Outcome) -> Result<SlotReply, Error> {
    match outcome {
        Outcome::Claimed(claimed) => {
            let answers: proto::Answers = parse_counted(claimed.answers, CLAIM_ANSWERS_MAX)?;
            let parsed = answers.answers.into_iter().filter_map(|answer| parse_answer(answer).transpose());
            parsed.collect::<Result<_, Error>>().map(SlotReply::Claimed)
        }
        Outcome::Confirmed(_) => Ok(SlotReply::Confirmed),
        Outcome::Recalled(recalled) => {
            let member_for = recalled.member_for_ms.map(Duration::from_millis);
            Ok(SlotReply::Recalled { member_for, slots: parse_slots(&recalled.slots)? })
        }
        Outcome::Pushed(pushed) => Ok(SlotReply::Pushed { wants_more: pushed.wants_more }),
        _ => Err(wrong("it is not about slots")),
    }
}

/// Whether a reply is of the kind that this is answered with.
pub(super) fn is_reply(call: &SlotCall, reply: &SlotReply) -> bool {
    matches!(
        (call, reply),
        (SlotCall::Claim(_), SlotReply::Claimed(_))
            | (SlotCall::Confirm { .. }, SlotReply::Confirmed)
            | (SlotCall::Recall, SlotReply::Recalled { .. })
            | (SlotCall::Push { .. }, SlotReply::Pushed { .. })
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
    }
}

fn parse_entry(entry: proto::Entry) -> Result<PushedEntry, Error> {
    let proto::Entry { key, value, content_type, validator, version, age_ms, ttl_left_ms } = entry;
    let key = Key::copy_from(&key).map_err(|error| wrong(error.message()))?;
    if value.as_ref().is_some_and(|value| value.len() > PUSH_VALUE_LEN_MAX) {
        return Err(wrong("a pushed value is too long"));
    }
    let value = value.map(|bytes| {
        let value = convert::value(Bytes::copy_from_slice(&bytes), content_type);
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

fn parse_slots(bytes: &[u8]) -> Result<SlotSet, Error> {
    SlotSet::from_bytes(bytes).ok_or_else(|| wrong("that is no set of slots: it has another length"))
}

/// Reads a list of so many elements at most. Empty elements are small on the wire and large in memory: more of them than a
/// newer node may add fields beside are not read at all.
fn parse_counted<T: Message + Default>(list: Bytes, max: usize) -> Result<T, Error> {
    if count_fields(&list) > 2 * max {
        return Err(wrong("a list is too long"));
    }
    T::decode(list).map_err(|error| wrong(&error.to_string()))
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}
