//! What every [`Membership`] whose list somebody writes must do, as one suite.
//!
//! [`membership_contract!`](crate::membership_contract) turns each behaviour below into a test of its own. The suite steers
//! a cluster through its [`Arrange`] and looks at it through its [`Membership`]; how the one gets to the other, and how long
//! that takes, it doesn't ask.

use std::future::Future;

use tokio::{sync::watch, time::timeout};

use super::{ARRIVAL_TIME, arrives, sorted};
use crate::{Member, MemberState, Members, Membership};

/// Changes made without waiting for any of them to arrive.
const CHANGES_LEN: usize = 50;

/// How the suite arranges who is in a cluster, from outside of the [`Membership`].
pub trait Arrange {
    /// The membership under test, as the node `self` has it.
    fn membership(&self) -> &dyn Membership;

    /// Makes the cluster consist of just these members. One of them is always `self`, and always the same.
    fn arrange(&self, members: Vec<Member>) -> impl Future<Output = ()>;
}

fn me() -> Member {
    Member::new("self", "10.0.0.1:5274")
}

fn other(number: usize) -> Member {
    Member::new(format!("other-{number}"), format!("10.0.1.{number}:5274"))
}

fn list(others: impl IntoIterator<Item = Member>) -> Vec<Member> {
    std::iter::once(me()).chain(others).collect()
}

/// Waits until the receiver is woken by this list, which must not be the one that it knows.
async fn wakes(receiver: &mut watch::Receiver<Members>, expected: &[Member]) {
    let expected = sorted(expected);
    let woken = timeout(ARRIVAL_TIME, async {
        while {
            receiver.changed().await.expect("the membership has not ended");
            *receiver.borrow_and_update() != expected
        } {}
    });
    assert!(woken.await.is_ok(), "{expected:?} wakes nobody, and {:?} is there", *receiver.borrow());
}

/// A receiver that was taken earlier and one that is taken later have the same list.
pub async fn everybody_gets_the_list(cluster: &impl Arrange) {
    let mut early = cluster.membership().members();
    let members = list([other(1), other(2)]);
    cluster.arrange(members.clone()).await;
    arrives(&mut early, &members).await;
    let late = cluster.membership().members();
    assert_eq!(*late.borrow(), *early.borrow());
}

/// Nothing of what a member says about itself is lost.
pub async fn members_come_with_all_their_facts(cluster: &impl Arrange) {
    let member = Member {
        incarnation: 42,
        http: "10.0.1.1:5273".into(),
        weight: 7,
        zone: "eu west/1".into(),
        state: MemberState::Draining,
        ..other(1)
    };
    let joining = Member { weight: 0, state: MemberState::Joining, ..other(2) };
    let members = list([member, joining]);
    cluster.arrange(members.clone()).await;
    arrives(&mut cluster.membership().members(), &members).await;
}

/// Whoever waits is woken when a member joins, leaves or changes.
pub async fn a_change_wakes_who_waits(cluster: &impl Arrange) {
    let mut receivers = [cluster.membership().members(), cluster.membership().members()];
    cluster.arrange(list([])).await;
    for receiver in &mut receivers {
        arrives(receiver, &list([])).await;
    }
    let draining = Member { state: MemberState::Draining, ..other(2) };
    let moved = Member::new("other-1", "10.0.2.1:5274");
    for members in [
        list([other(1)]),
        list([other(1), other(2)]),
        list([other(1), draining]),
        list([moved.clone()]),
        list([moved, other(3)]),
        list([]),
    ] {
        cluster.arrange(members.clone()).await;
        for receiver in &mut receivers {
            wakes(receiver, &members).await;
        }
    }
}

/// However fast lists follow one another, the last is the one that stays.
pub async fn the_last_of_many_changes_stays(cluster: &impl Arrange) {
    let mut receiver = cluster.membership().members();
    for number in 0..CHANGES_LEN {
        cluster.arrange(list([other(number)])).await;
    }
    let last = list([other(CHANGES_LEN)]);
    cluster.arrange(last.clone()).await;
    arrives(&mut receiver, &last).await;
    tokio::task::yield_now().await;
    assert_eq!(*receiver.borrow(), sorted(&last));
}

/// The same members in another order are no change: each change costs every node a new view.
pub async fn the_same_members_again_wake_nobody(cluster: &impl Arrange) {
    let mut receiver = cluster.membership().members();
    let mut members = list([other(1), other(2), other(3)]);
    cluster.arrange(members.clone()).await;
    arrives(&mut receiver, &members).await;
    receiver.mark_unchanged();
    members.reverse();
    cluster.arrange(members.clone()).await;
    cluster.arrange(members).await;
    tokio::task::yield_now().await;
    assert!(!receiver.has_changed().expect("the membership has not ended"));
}

/// Lists go on arriving whoever has stopped to look.
pub async fn who_stops_looking_takes_nobody_along(cluster: &impl Arrange) {
    let mut stays = cluster.membership().members();
    drop(cluster.membership().members());
    let members = list([other(1)]);
    cluster.arrange(members.clone()).await;
    arrives(&mut stays, &members).await;
    drop(stays);
    let members = list([other(2)]);
    cluster.arrange(members.clone()).await;
    arrives(&mut cluster.membership().members(), &members).await;
}

/// Makes a module of tests, one for each behaviour of [`testing::membership`](crate::testing::membership::written); `$arrange` makes
/// the [`Arrange`](crate::testing::membership::written::Arrange) of one test. It needs `tokio` with `macros` and `rt`.
#[macro_export]
macro_rules! membership_contract {
    ($name:ident, $arrange:expr) => {
        $crate::membership_contract!(
            @tests $name, $arrange,
            everybody_gets_the_list
            members_come_with_all_their_facts
            a_change_wakes_who_waits
            the_last_of_many_changes_stays
            the_same_members_again_wake_nobody
            who_stops_looking_takes_nobody_along
        );
    };
    (@tests $name:ident, $arrange:expr, $($behaviour:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test]
                async fn $behaviour() {
                    $crate::testing::membership::written::$behaviour(&$arrange).await;
                }
            )*
        }
    };
}
