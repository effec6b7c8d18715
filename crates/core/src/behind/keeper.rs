//! What is done about the records of a node: gathered where it gains slots, and brought onto as many disks as they have to be on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::Custody;
use crate::{Error, Node, Version, View, placement::Slot};

/// How often it is looked at whether there is something to do. Claims and views that change are heard of at once.
const STEP: Duration = Duration::from_millis(100);

/// The pause after the journal could not be written.
const PAUSE: Duration = Duration::from_secs(1);

impl Node {
    /// Keeps the records of groups whose writes are made behind: gathers those of slots that this node comes to act for, and sees to it
    /// that each is on two disks. To be polled for as long as the node is to take part; nothing where it keeps none.
    pub async fn keep_records(self) {
        let Some(custody) = self.custody() else { return };
        loop {
            let mut claims = self.tenure().changes();
            if let Err(error) = self.step_records(custody).await {
                tracing::warn!(%error, "records of writes can't be seen to: trying again");
                sleep(PAUSE).await;
                continue;
            }
            tokio::select! {
                () = sleep(STEP) => {}
                () = custody.work.notified() => {}
                // The sender is the node's.
                _ = claims.changed() => {}
            }
        }
    }

    async fn step_records(&self, custody: &Custody) -> Result<(), Error> {
        let view = self.view();
        let missing = self.slots_without_records();
        if !missing.is_empty() {
            self.gather(custody, &view, &missing).await?;
        }
        // Elsewhere there would be no second copy.
        let is_alone = view.peers().next().is_none();
        if is_alone && !custody.is_settled(view.number()) {
            let members = view.members().iter().map(|member| member.name.clone()).collect();
            custody.records.remember_members(members).await?;
            custody.settled(view.number());
        }
        Ok(())
    }

    /// Sees to it that this node has all records of these slots, as far as that can be.
    async fn gather(&self, custody: &Custody, view: &View, slots: &[(Slot, Version)]) -> Result<(), Error> {
        let remembered = custody.records.members().unwrap_or_default();
        let present = view.members().iter().map(|member| member.name.clone());
        let others: BTreeSet<Arc<str>> = present.chain(remembered).filter(|name| name != self.name()).collect();
        if !others.is_empty() && !custody.is_fixed {
            return Ok(());
        }
        let groups = custody.groups();
        let held = Arc::new(self.still_held(slots));
        custody.records.take_up(held.clone()).await?;
        custody.gathered(groups, slots.iter().filter(|(slot, _)| held.contains(*slot)).copied());
        Ok(())
    }
}
