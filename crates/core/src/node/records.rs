//! A node that keeps records of writes that their origins do not have yet, and the groups that have it do so.

use std::{sync::Arc, time::Duration};

use super::Node;
use crate::{
    Error, ErrorKind, Loader, Ring, Store,
    behind::{Custody, Records},
    group::{Consistency, Group, GroupConfig, Writes},
};

impl Node {
    /// Has the node keep records of writes here, before any group is opened that makes its writes behind. `is_fixed`: nobody joins or
    /// leaves the cluster but by somebody's writing it into a list. [`keep_records`](Self::keep_records) is to be polled from then on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it keeps some already.
    pub fn set_records(&self, records: Arc<dyn Records>, is_fixed: bool) -> Result<(), Error> {
        self.0.standing.start_above(records.floor());
        let again = |_| Error::new(ErrorKind::Invalid, "the node has a journal already: it takes one");
        self.0.custody.set(Custody::new(records, is_fixed)).map_err(again)
    }

    /// Why the node takes down no more writes, if that is so: what keeps them has failed, and the node is to be started again once that
    /// was seen to (rule B7). Nothing where it keeps none.
    #[must_use]
    pub fn records_failure(&self) -> Option<Error> {
        self.custody()?.records().failure()
    }

    pub(crate) fn custody(&self) -> Option<&Custody> {
        self.0.custody.get()
    }

    /// Opens a group whose puts and deletes are acknowledged once they are [recorded](Self::set_records), and reach `store` later: the
    /// changes of a key are gathered for `write_delay`, and the newest is made.
    ///
    /// # Errors
    ///
    /// As for [`open_group`](Self::open_group); [`ErrorKind::Invalid`] also if the node keeps no records, or they could not be kept
    /// as they have to be: where consistency is strong, slots have no owners, or nodes can't pass them on.
    pub fn open_group_behind(
        &self,
        name: &str,
        config: GroupConfig,
        loader: Arc<dyn Loader>,
        store: Arc<dyn Store>,
        write_delay: Duration,
    ) -> Result<Group, Error> {
        let wrong = |message: &str| Err(Error::new(ErrorKind::Invalid, message));
        let Some(custody) = self.custody() else {
            return wrong("a group that writes behind needs a journal: give the node one");
        };
        if config.consistency == Consistency::Strong {
            return wrong(
                "a group that writes behind can't be strongly consistent: make its writes through, or leave it eventual",
            );
        }
        let is_alone = self.view().peers().next().is_none();
        if self.0.config.ring != Ring::Slots || !(is_alone || self.carries_claims()) {
            return wrong(
                "a group that writes behind needs nodes that pass slots on: use the ring of slots, and gRPC between nodes",
            );
        }
        let records = custody.records().clone();
        let group = self.open_group_over(name, config, Some(loader), Writes::Behind(records.clone()))?;
        records.open(&group, group.counted_store(store), write_delay);
        custody.opened();
        Ok(group)
    }
}
