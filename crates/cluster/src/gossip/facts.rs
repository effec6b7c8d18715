//! [`Facts`]: what a node tells of itself, as it stands in the gossip: one value, so that it changes as a whole.

use std::{net::SocketAddr, sync::Arc};

use larder_core::{Error, ErrorKind, Member, MemberState};
use serde::{Deserialize, Serialize};

/// Where a node's facts stand in what chitchat keeps for it.
pub(super) const KEY: &str = "facts";

/// The longest facts, in bytes: five texts of some 250 bytes, written with escapes.
const LEN_MAX: usize = 4096;

/// The longest name of a node, in bytes.
const NAME_LEN_MAX: usize = 512;

/// A [`Member`] but for its name, which chitchat keeps. A later version may add fields.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Facts {
    incarnation: u32,
    address: String,
    http: String,
    weight: u32,
    zone: String,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
enum State {
    Joining,
    Serving,
    Draining,
    /// The node is gone, or is about to be.
    Left,
}

/// What is known of a run of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Its name.
    pub(super) name: Arc<str>,
    /// When it started, in milliseconds since 1970 by its own clock.
    pub(super) started_ms: u64,
    /// Where it gossips.
    pub(super) gossips_at: SocketAddr,
}

/// The facts as they are told; `None` for the state is a node that leaves.
pub(super) fn write(me: &Member, state: Option<MemberState>) -> Result<String, Error> {
    let facts = Facts {
        incarnation: me.incarnation,
        address: me.address.to_string(),
        http: me.http.to_string(),
        weight: me.weight,
        zone: me.zone.to_string(),
        state: match state {
            Some(MemberState::Joining) => State::Joining,
            Some(MemberState::Serving) => State::Serving,
            Some(MemberState::Draining) => State::Draining,
            None => State::Left,
        },
    };
    let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
    let text = serde_json::to_string(&facts).map_err(|error| invalid(format!("facts can't be told: {error}")))?;
    if me.name.is_empty() || me.name.len() > NAME_LEN_MAX || text.len() > LEN_MAX {
        return Err(invalid(format!(
            "{:?} is too long to gossip: names have 1 to {NAME_LEN_MAX} bytes, and all facts together {LEN_MAX}",
            me.name
        )));
    }
    Ok(text)
}

/// What a node is said to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Said {
    /// A member.
    Member(Member),
    /// Gone, by its own words.
    Left,
    /// Nothing that could be read, or nothing yet.
    Nothing,
}

/// Reads facts. They come from outside: whatever is wrong with them is the sender's loss.
pub(super) fn read(name: &Arc<str>, text: Option<&str>) -> Said {
    let Some(text) = text else { return Said::Nothing };
    if name.is_empty() || name.len() > NAME_LEN_MAX || text.len() > LEN_MAX {
        return Said::Nothing;
    }
    let Ok(facts) = serde_json::from_str::<Facts>(text) else { return Said::Nothing };
    let state = match facts.state {
        State::Joining => MemberState::Joining,
        State::Serving => MemberState::Serving,
        State::Draining => MemberState::Draining,
        State::Left => return Said::Left,
    };
    Said::Member(Member {
        name: name.clone(),
        incarnation: facts.incarnation,
        address: facts.address.into(),
        http: facts.http.into(),
        weight: facts.weight,
        zone: facts.zone.into(),
        state,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Arc<str>> {
        "\\PC{0,80}".prop_map(Arc::from)
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_is_read(
            (name, address, http, zone) in ("\\PC{1,80}", text(), text(), text()),
            incarnation: u32,
            weight: u32,
            state in prop_oneof![Just(MemberState::Joining), Just(MemberState::Serving), Just(MemberState::Draining)],
        ) {
            let member = Member { name: name.into(), incarnation, address, http, weight, zone, state };
            let told = write(&member, Some(state)).unwrap();
            prop_assert_eq!(read(&member.name, Some(&told)), Said::Member(member.clone()));
            prop_assert_eq!(read(&member.name, Some(&write(&member, None).unwrap())), Said::Left);
        }

        #[test]
        fn whatever_else_is_said_says_nothing(said: String) {
            prop_assert_eq!(read(&"a".into(), Some(&said)), Said::Nothing);
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let told = write(&Member::new("a", "a:1"), Some(MemberState::Serving)).unwrap();
        let more = told.replacen('{', r#"{"colour":"blue","#, 1);
        assert_eq!(read(&"a".into(), Some(&more)), read(&"a".into(), Some(&told)));
        assert_eq!(read(&"a".into(), Some(&told.replace("serving", "pondering"))), Said::Nothing);
    }

    #[test]
    fn what_is_too_long_is_neither_told_nor_heard() {
        let long: Arc<str> = "x".repeat(LEN_MAX).into();
        assert!(write(&Member { zone: long.clone(), ..Member::new("a", "a:1") }, None).unwrap_err().is_invalid());
        assert!(write(&Member::new(long, "a:1"), None).is_err());
        assert!(write(&Member::new("", "a:1"), None).is_err());
        let told = write(&Member::new("a", "a:1"), Some(MemberState::Serving)).unwrap();
        let long = format!("{told}{}", " ".repeat(LEN_MAX));
        assert_eq!(read(&"a".into(), Some(&long)), Said::Nothing);
        assert_eq!(read(&"".into(), Some(&told)), Said::Nothing);
    }
}
