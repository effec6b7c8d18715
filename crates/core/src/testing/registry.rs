//! [`Registry`]: a cluster in one process whose nodes register themselves, for tests of what a node does about it.

use std::{collections::BTreeMap, future::ready, sync::Arc};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Error, ErrorKind, Member, MemberState, Members, Membership};

/// Where nodes register. Everybody learns of everything at once, also of a crash: a [`Registered`] that is dropped is off.
/// Cheap to clone; the clones are one registry.
///
/// ```
/// use larder_core::{Member, MemberState, Membership, testing::registry::Registry};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let registry = Registry::default();
/// let (a, b) = (registry.join(Member::new("a", "a:1")), registry.join(Member::new("b", "b:1")));
/// a.announce(MemberState::Serving).await.unwrap();
/// b.announce(MemberState::Joining).await.unwrap();
/// assert_eq!(a.members().borrow().len(), 2);
/// drop(b);
/// assert_eq!(a.members().borrow().len(), 1);
/// # });
/// ```
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    revision: u64,
    runs: u64,
    /// Who is registered, by name, and with which run.
    members: BTreeMap<Arc<str>, (u64, Member)>,
    /// Whom to tell, by run.
    watchers: BTreeMap<u64, watch::Sender<Members>>,
}

impl Inner {
    fn list(&self) -> Members {
        let members = self.members.values().map(|(_, member)| member.clone());
        Members::new(members).expect("names are unique here").ranked(self.revision)
    }

    fn change(&mut self) {
        self.revision += 1;
        let list = self.list();
        for watcher in self.watchers.values() {
            watcher.send_replace(list.clone());
        }
    }

    fn take_off(&mut self, name: &str, run: u64) {
        if self.members.get(name).is_some_and(|(registered, _)| *registered == run) {
            self.members.remove(name);
            self.change();
        }
    }
}

impl Registry {
    /// A node's membership. It is on the list from its first announcement on.
    #[must_use]
    pub fn join(&self, me: Member) -> Registered {
        let mut inner = self.0.lock();
        inner.runs += 1;
        let run = inner.runs;
        let list = inner.list();
        inner.watchers.insert(run, watch::Sender::new(list));
        Registered { registry: self.clone(), run, me }
    }
}

/// The membership of one node in a [`Registry`].
pub struct Registered {
    registry: Registry,
    run: u64,
    me: Member,
}

impl Registered {
    fn register(&self, state: MemberState) -> Result<(), Error> {
        let Self { registry, run, me } = self;
        let mut inner = registry.0.lock();
        match inner.members.get(&me.name) {
            Some((other, _)) if other != run => {
                let message = format!("a live member is named {:?} already: give this one another name", me.name);
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            Some((_, known)) if known.state == state => return Ok(()),
            _ => {}
        }
        inner.members.insert(me.name.clone(), (*run, Member { state, ..me.clone() }));
        inner.change();
        Ok(())
    }
}

impl Membership for Registered {
    fn members(&self) -> watch::Receiver<Members> {
        self.registry.0.lock().watchers[&self.run].subscribe()
    }

    fn announce(&self, state: MemberState) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(ready(self.register(state)))
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        self.registry.0.lock().take_off(&self.me.name, self.run);
        Box::pin(ready(()))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut inner = self.registry.0.lock();
        inner.watchers.remove(&self.run);
        inner.take_off(&self.me.name, self.run);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{registered_membership_contract, testing::membership::registered::Cluster};

    impl Cluster for Registry {
        async fn join(&self, me: Member) -> Result<Arc<dyn Membership>, Error> {
            Ok(Arc::new(self.join(me)))
        }

        fn crash_time_max(&self) -> Duration {
            Duration::from_secs(1)
        }
    }

    registered_membership_contract!(contract, Registry::default());
}
