//! What the core says, as the peer protocol has it, and back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_core::{
    Error, ErrorKind, Member, MemberState, Members, Standing, Value, Version,
    peer::{AskedAs, Condition, PeerAnswer, PeerMeta},
    store::{Tag, Tags},
    version::Reading,
};

use super::{
    pieces,
    proto::{self, Frame, answer::Outcome, condition::When},
};

/// A frame that says nothing yet but what every frame does.
pub(super) fn frame(standing: &Standing) -> Frame {
    Frame { clock: standing.reading().to_bits(), view: standing.view_digest(), ..Frame::default() }
}

/// The first frame.
pub(super) fn hello(standing: &Standing) -> Frame {
    let hello = proto::Hello {
        name: standing.name().to_string(),
        incarnation: standing.incarnation(),
        wall_ms: standing.wall_ms(),
        http: standing.http().to_string(),
    };
    Frame { hello: Some(hello), ..frame(standing) }
}

/// Judges the other's first frame (rule V2), and takes down what it says of itself.
pub(super) fn check_hello<'a>(standing: &Standing, first: &'a Frame) -> Result<&'a proto::Hello, Error> {
    let Some(hello) = &first.hello else {
        return Err(Error::new(ErrorKind::Invalid, "the first frame of an exchange must carry a hello"));
    };
    standing.check_wall(hello.wall_ms)?;
    check_frame(standing, first)?;
    standing.hear_http(&hello.name, &hello.http);
    Ok(hello)
}

/// Judges what every frame says. Whether what it asks can be judged: else the sender's view is to be met first (rule W1).
pub(super) fn check_frame(standing: &Standing, frame: &Frame) -> Result<bool, Error> {
    standing.observe(Reading::from_bits(frame.clock))?;
    Ok(standing.hear_view(frame.view))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn get(part: AskedAs, value_len_max: usize) -> proto::Get {
    let (asked_as, term) = match part {
        AskedAs::Owner => (proto::AskedAs::Owner, None),
        AskedAs::StandIn => (proto::AskedAs::StandIn, None),
        AskedAs::OwnerByStandIn => (proto::AskedAs::OwnerByStandIn, None),
        AskedAs::Before(term) => (proto::AskedAs::Before, Some(version(term))),
        AskedAs::Another => (proto::AskedAs::Another, None),
    };
    proto::Get { asked_as: asked_as.into(), value_len_max: value_len_max as u64, term }
}

/// `None`: a part that only a newer node knows, or one without what goes with it.
pub(super) fn parse_asked_as(get: &proto::Get) -> Option<AskedAs> {
    Some(match proto::AskedAs::try_from(get.asked_as).ok()? {
        proto::AskedAs::Owner => AskedAs::Owner,
        proto::AskedAs::StandIn => AskedAs::StandIn,
        proto::AskedAs::OwnerByStandIn => AskedAs::OwnerByStandIn,
        proto::AskedAs::Before => AskedAs::Before(parse_version(get.term?)),
        proto::AskedAs::Another => AskedAs::Another,
    })
}

pub(super) fn version(version: Version) -> proto::Version {
    proto::Version { reading: version.reading().to_bits(), incarnation: version.incarnation() }
}

pub(super) fn parse_version(version: proto::Version) -> Version {
    Version::new(Reading::from_bits(version.reading), version.incarnation)
}

pub(super) fn condition(condition: Condition) -> Option<proto::Condition> {
    let when = match condition {
        Condition::Always => return None,
        Condition::IfVersion(expected) => When::IfVersion(version(expected)),
        Condition::IfAbsent => When::IfAbsent(true),
    };
    Some(proto::Condition { when: Some(when) })
}

/// `None`: a condition that only a newer node knows. A write must not be done as if it had none.
pub(super) fn parse_condition(condition: Option<proto::Condition>) -> Option<Condition> {
    Some(match condition {
        None => Condition::Always,
        Some(condition) => match condition.when? {
            When::IfVersion(version) => Condition::IfVersion(parse_version(version)),
            When::IfAbsent(true) => Condition::IfAbsent,
            When::IfAbsent(false) => Condition::Always,
        },
    })
}

/// What an answer says, and the value that is to follow it in pieces.
pub(super) fn outcome(answer: PeerAnswer, value_len_max: usize) -> (Outcome, Option<Bytes>) {
    let (value, meta, lease) = match answer {
        PeerAnswer::NotOwner { members, to } => return (Outcome::NotOwner(not_owner(&members, to)), None),
        PeerAnswer::NotHeld => return (Outcome::NotHeld(proto::NotHeld {}), None),
        PeerAnswer::Found { value, meta, lease } => (value, meta, lease),
    };
    let mut found = proto::Found { lease_ms: lease.map(millis), ..proto::Found::default() };
    if let Some(PeerMeta { version: of, age, ttl_left }) = meta {
        found.version = Some(version(of));
        found.age_ms = millis(age);
        found.ttl_left_ms = ttl_left.map(millis);
    }
    let Some(value) = value else { return (Outcome::Found(found), None) };
    if value.len() > value_len_max {
        return (failed(&too_large(value_len_max)), None);
    }
    found.content_type = value.content_type().map(str::to_owned).unwrap_or_default();
    found.tags = tags(value.tags());
    let bytes = value.into_bytes();
    if pieces::is_long(bytes.len()) {
        found.chunked_len = bytes.len() as u64;
        return (Outcome::Found(found), Some(bytes));
    }
    found.value = Some(bytes);
    (Outcome::Found(found), None)
}

/// What an answer to a get says. Its value must be whole.
pub(super) fn parse_found(found: proto::Found) -> PeerAnswer {
    let meta = found.version.map(|version| PeerMeta {
        version: parse_version(version),
        age: Duration::from_millis(found.age_ms),
        ttl_left: found.ttl_left_ms.map(Duration::from_millis),
    });
    let lease = found.lease_ms.map(Duration::from_millis);
    let value = found.value.map(|bytes| value(bytes, found.content_type).with_tags(parse_tags(&found.tags)));
    PeerAnswer::Found { value, meta, lease }
}

/// A value with the media type that came with it, if one did.
pub(super) fn value(bytes: Bytes, content_type: String) -> Value {
    let value = Value::new(bytes);
    if content_type.is_empty() { value } else { value.with_content_type(content_type) }
}

/// The numbers of tags.
pub(super) fn tags(tags: Tags) -> Vec<u32> {
    tags.iter().map(|tag| u32::from(tag.number())).collect()
}

/// The tags of these numbers. Those that none has are passed over, and those beyond the most that a value bears.
pub(super) fn parse_tags(numbers: &[u32]) -> Tags {
    numbers.iter().filter_map(|number| Tag::new(u16::try_from(*number).ok()?)).collect()
}

/// The error of a value that is longer than the asker takes.
pub(super) fn too_large(value_len_max: usize) -> Error {
    let message = format!("the value is longer than the {value_len_max} bytes that the group allows");
    Error::new(ErrorKind::TooLarge, message)
}

pub(super) fn failed(error: &Error) -> Outcome {
    Outcome::Failed(proto::Failed {
        slug: error.kind().slug().to_owned(),
        message: error.message().to_owned(),
        retry_after_ms: error.retry_after().map(millis),
    })
}

/// An error of a kind that only a newer node knows counts as the origin's.
pub(super) fn parse_failed(failed: proto::Failed) -> Error {
    let kind = ErrorKind::from_slug(&failed.slug).unwrap_or(ErrorKind::Origin);
    let error = Error::new(kind, failed.message);
    match failed.retry_after_ms {
        Some(after) => error.with_retry_after(Duration::from_millis(after)),
        None => error,
    }
}

pub(super) fn written(new: Option<Version>) -> Outcome {
    Outcome::Written(proto::Written { version: new.map(version) })
}

pub(super) fn parse_written(written: proto::Written) -> Option<Version> {
    written.version.map(parse_version)
}

fn not_owner(members: &Members, to: Option<Arc<str>>) -> proto::NotOwner {
    let state = |state| match state {
        MemberState::Serving => proto::MemberState::Serving,
        MemberState::Joining => proto::MemberState::Joining,
        MemberState::Draining => proto::MemberState::Draining,
    };
    let members = members.iter().map(|member| proto::Member {
        name: member.name.to_string(),
        incarnation: member.incarnation,
        address: member.address.to_string(),
        http: member.http.to_string(),
        weight: member.weight,
        zone: member.zone.to_string(),
        state: state(member.state).into(),
    });
    proto::NotOwner { members: members.collect(), to: to.map(|to| to.to_string()).unwrap_or_default() }
}

/// The members as the other node sees them, and who may answer.
pub(super) fn parse_not_owner(not_owner: proto::NotOwner) -> Result<PeerAnswer, Error> {
    let members = not_owner.members.into_iter().map(|member| Member {
        state: match member.state() {
            proto::MemberState::Serving => MemberState::Serving,
            proto::MemberState::Joining => MemberState::Joining,
            proto::MemberState::Draining => MemberState::Draining,
        },
        name: member.name.into(),
        incarnation: member.incarnation,
        address: member.address.into(),
        http: member.http.into(),
        weight: member.weight,
        zone: member.zone.into(),
    });
    let to = (!not_owner.to.is_empty()).then(|| not_owner.to.into());
    Ok(PeerAnswer::NotOwner { members: Members::new(members)?, to })
}
