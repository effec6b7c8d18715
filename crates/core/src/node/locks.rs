//! What a node has to do with locks beside asking for them: it keeps some, and takes others for its loads.

use bytes::Bytes;

use super::Node;
use crate::{LockService, Locks, group::load_lock_note, lock::Keeper};

impl Node {
    /// Has loads of groups with a [`load_lock`](crate::GroupConfig::load_lock) take their locks by this service. The first to say so is it.
    pub fn lock_loads_with(&self, service: impl LockService) {
        self.0.load_locks.get_or_init(|| Locks::new(service, self.0.config.clock.clone()));
    }

    pub(crate) fn load_locks(&self) -> Option<&Locks> {
        self.0.load_locks.get()
    }

    /// The locks that it keeps as their owner.
    pub(crate) fn keeper(&self) -> &Keeper {
        &self.0.keeper
    }

    /// What the next holder of a load's lock is told of this node.
    pub(crate) fn note(&self) -> Bytes {
        let view = self.peek_view();
        let me = view.members().position(self.name()).map(|me| &view.members()[me]);
        me.map_or_else(Bytes::new, |me| load_lock_note(self.name(), &me.address))
    }
}
