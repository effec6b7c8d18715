//! [`Static`]: a list of members that somebody writes.

use std::collections::HashMap;

use larder_core::{Error, ErrorKind, Member, Members, Membership};
use tokio::sync::watch;

/// Membership by a written list, which may be replaced at any time, as with groupcache's `Set`.
///
/// Every node must be given the same members, in whatever order. While lists differ, nodes disagree on owners, and a key may
/// be loaded once for each opinion. Cheap to clone; the clones share the list.
///
/// # Examples
///
/// ```
/// use larder_cluster::{Static, parse_member};
/// use larder_core::Membership;
///
/// let membership = Static::new([parse_member("a=10.0.0.1:5274")?, parse_member("b=10.0.0.2:5274")?])?;
/// let list = membership.members();
/// membership.set([parse_member("a=10.0.0.1:5274")?])?;
/// assert_eq!(list.borrow().len(), 1);
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Static(watch::Sender<Members>);

impl Static {
    /// Membership by this list.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] as [`Members::new`] has it, and if two members have one address; members of which no address is
    /// known may have an empty one.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Result<Self, Error> {
        Ok(Self(watch::Sender::new(check(members)?)))
    }

    /// Puts this list in the place of the present one. The same members again are no change.
    ///
    /// # Errors
    ///
    /// As [`Static::new`]; the present list stays then.
    pub fn set(&self, members: impl IntoIterator<Item = Member>) -> Result<(), Error> {
        let members = check(members)?;
        self.0.send_if_modified(|present| {
            let is_change = *present != members;
            *present = members;
            is_change
        });
        Ok(())
    }
}

impl Membership for Static {
    fn members(&self) -> watch::Receiver<Members> {
        self.0.subscribe()
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

/// Two names for one address are one node that would own two shares, and be asked for keys that it takes for another's.
fn check(members: impl IntoIterator<Item = Member>) -> Result<Members, Error> {
    let members = Members::new(members)?;
    let mut names = HashMap::with_capacity(members.len());
    for member in members.iter().filter(|member| !member.address.is_empty()) {
        if let Some(first) = names.insert(&member.address, &member.name) {
            let (name, address) = (&member.name, &member.address);
            let message =
                format!("members {first:?} and {name:?} have the same address {address:?}: give each its own");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use larder_core::{membership_contract, testing::membership::written::Arrange};
    use proptest::{prelude::*, sample::subsequence};

    use super::*;

    impl Arrange for Static {
        fn membership(&self) -> &dyn Membership {
            self
        }

        async fn arrange(&self, members: Vec<Member>) {
            self.set(members).expect("the list is sound");
        }
    }

    membership_contract!(contract, Static::new([]).expect("an empty list is sound"));

    fn member(number: usize) -> Member {
        Member::new(format!("node-{number}"), format!("10.0.0.{number}:5274"))
    }

    fn present(membership: &Static) -> Members {
        membership.members().borrow().clone()
    }

    #[test]
    fn a_clone_has_the_same_list() {
        let one = Static::new([member(1)]).unwrap();
        let other = one.clone();
        other.set([member(2)]).unwrap();
        assert_eq!(present(&one), Members::new([member(2)]).unwrap());
    }

    #[test]
    fn an_error_says_who_shares_an_address() {
        let error =
            Static::new([Member::new("b", "x:1"), Member::new("c", "y:1"), Member::new("a", "x:1")]).unwrap_err();
        assert!(error.is_invalid());
        assert_eq!(error.message(), r#"members "a" and "b" have the same address "x:1": give each its own"#);
        assert!(Static::new([Member::new("a", ""), Member::new("b", "")]).is_ok());
    }

    /// Some members, in some order.
    fn some_members() -> impl Strategy<Value = Vec<Member>> {
        subsequence((0..40).map(member).collect::<Vec<_>>(), 0..=40).prop_shuffle()
    }

    proptest! {
        #[test]
        fn the_order_of_a_list_makes_no_difference(members in some_members(), seed: u64) {
            let mut shuffled = members.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            let (one, other) = (Static::new(members).unwrap(), Static::new(shuffled.clone()).unwrap());
            prop_assert_eq!(present(&one), present(&other));
            let mut list = one.members();
            list.mark_unchanged();
            one.set(shuffled).unwrap();
            prop_assert!(!list.has_changed().unwrap());
        }

        #[test]
        fn a_name_or_an_address_that_stands_twice_is_refused_and_the_list_stays(
            before in some_members(),
            mut members in some_members(),
            twin in 0..40_usize,
            places: (prop::sample::Index, prop::sample::Index),
            same_name: bool,
        ) {
            members.retain(|other| *other != member(twin));
            let second = match same_name {
                true => Member { address: "elsewhere:1".into(), ..member(twin) },
                false => Member { name: "another".into(), ..member(twin) },
            };
            members.insert(places.0.index(members.len() + 1), member(twin));
            members.insert(places.1.index(members.len() + 1), second);
            let membership = Static::new(before.clone()).unwrap();
            prop_assert!(membership.set(members.clone()).unwrap_err().is_invalid());
            prop_assert_eq!(present(&membership), Members::new(before).unwrap());
            prop_assert!(Static::new(members).is_err());
        }

        #[test]
        fn after_any_lists_the_last_sound_one_is_there(lists in prop::collection::vec(some_members(), 1..8)) {
            let membership = Static::new([]).unwrap();
            for members in &lists {
                membership.set(members.clone()).unwrap();
            }
            prop_assert_eq!(present(&membership), Members::new(lists.last().unwrap().clone()).unwrap());
        }
    }
}
