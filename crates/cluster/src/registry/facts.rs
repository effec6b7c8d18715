//! [`Facts`]: what a node says of itself in a registry. Its name is said by the entry's place.

use larder_core::{Member, MemberState};
use serde::{Deserialize, Serialize};

/// The states by the words that [`MemberState`] displays.
const STATES: [MemberState; 3] = [MemberState::Joining, MemberState::Serving, MemberState::Draining];

/// A member without its name, as registries keep it. Nodes of other versions may say more, which is passed over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) incarnation: u32,
    pub(crate) address: String,
    pub(crate) http: String,
    pub(crate) weight: u32,
    pub(crate) zone: String,
    pub(crate) state: String,
}

impl From<&Member> for Facts {
    fn from(member: &Member) -> Self {
        Self {
            incarnation: member.incarnation,
            address: member.address.as_ref().into(),
            http: member.http.as_ref().into(),
            weight: member.weight,
            zone: member.zone.as_ref().into(),
            state: member.state.to_string(),
        }
    }
}

impl Facts {
    /// The member of this name. A state that isn't known owns nothing here: who doesn't know what it means must not take
    /// it for an owner.
    pub(crate) fn member(self, name: &str) -> Member {
        let state = STATES.into_iter().find(|state| state.to_string() == self.state);
        Member {
            incarnation: self.incarnation,
            http: self.http.into(),
            weight: self.weight,
            zone: self.zone.into(),
            state: state.unwrap_or(MemberState::Joining),
            ..Member::new(name, self.address)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_comes_back() {
        for state in STATES {
            let member = Member {
                incarnation: u32::MAX,
                http: "h:1".into(),
                weight: 7,
                zone: "eu west/1".into(),
                state,
                ..Member::new("a", "p:1")
            };
            assert_eq!(Facts::from(&member).member("a"), member);
        }
        let unknown = Facts { state: "resting".into(), ..Facts::from(&Member::new("a", "p:1")) };
        assert_eq!(unknown.member("a").state, MemberState::Joining);
    }
}
