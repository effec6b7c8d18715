//! What is done about the records of a node: gathered where it gains slots, brought onto as many disks as they have to be on, and
//! forgotten where they need not be any more.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{Custody, custody::Told, message::AboutRecords};
use crate::{
    Error, Node,
    rules::{Rule, keeps},
};

/// How often it is looked at whether there is something to do. Claims and views that change are heard of at once.
const STEP: Duration = Duration::from_millis(100);

/// The pause after the journal could not be written, or nobody could be reached who keeps copies.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a member may take to forget what it need not keep. If it does not, it keeps it for longer.
const FORGET_WAIT: Duration = Duration::from_secs(2);

impl Node {
    /// Keeps the records of groups whose writes are made behind: gathers those of slots that this node comes to act for, and sees to it
    /// that each is on two disks. To be polled for as long as the node is to take part; nothing where it keeps none.
    pub async fn keep_records(self) {
        let Some(custody) = self.custody() else { return };
        tokio::join!(self.see_to_records(custody), self.ask_for_copies(custody), self.complete_copies(custody));
    }

    async fn see_to_records(&self, custody: &Custody) {
        let (mut gathering, mut claims, mut is_new) = (JoinSet::new(), self.tenure().changes(), true);
        loop {
            if std::mem::take(&mut is_new)
                && let Some(gather) = self.begin_gathering(custody, &self.view())
            {
                gathering.spawn(gather);
            }
            let pause = match self.step_records(custody).await {
                Ok(()) => STEP,
                Err(error) => {
                    tracing::warn!(%error, "records of writes can't be seen to: trying again");
                    PAUSE
                }
            };
            // Slots that come are seen to also where nobody keeps second copies: what there is of them can be read.
            tokio::select! {
                () = sleep(pause) => {}
                () = custody.work.notified() => is_new = true,
                Some(_) = gathering.join_next() => {}
                // The sender is the node's.
                _ = claims.changed() => is_new = true,
            }
        }
    }

    async fn step_records(&self, custody: &Custody) -> Result<(), Error> {
        let (view, unsettled) = (self.view(), custody.unsettled());
        if custody.is_settled(view.number()) {
            return Ok(());
        }
        // Before anything is taken down under this view: who may have it has to be known after a start (rule B6). Those before are to be
        // asked about slots that are claimed still (rule B4).
        let mut members: BTreeSet<Arc<str>> = view.members().iter().map(|member| member.name.clone()).collect();
        let missing = custody.missing();
        let has_all = missing.is_empty() && self.has_all_records(&view);
        if !has_all || !custody.has_started.load(Ordering::Acquire) {
            members.extend(missing);
            members.extend(custody.records.members().into_iter().flatten());
        }
        let members: Vec<Arc<str>> = members.into_iter().collect();
        if custody.records.members().as_ref() != Some(&members) {
            custody.records.remember_members(members).await?;
        }
        if keeps(Rule::B1) {
            self.restore_copies(custody, &view).await?;
        }
        custody.settled(view.number(), unsettled);
        if custody.is_settled(view.number()) {
            self.have_forgotten(custody).await;
        }
        Ok(())
    }

    /// Everything is where it has to be: those who told need not keep it.
    async fn have_forgotten(&self, custody: &Custody) {
        let told = std::mem::take(&mut *custody.to_forget.lock());
        for Told { by: members, slots } in told {
            let slots = self.still_held(&slots);
            if slots.is_empty() {
                continue;
            }
            let forget = members.into_iter().map(|member| {
                let (node, slots) = (self.clone(), slots.clone());
                async move {
                    for group in node.groups_behind() {
                        let about = AboutRecords::Forget { slots: slots.clone() };
                        let deadline = Instant::now() + FORGET_WAIT;
                        if let Err(error) = node.say_of_records(&member, group.name(), about, deadline).await {
                            tracing::debug!(to = %member, %error, "a member keeps what it need not");
                        }
                    }
                }
            });
            join_all(forget).await;
        }
    }

    /// Flushes everything without waiting for more, then waits until others have what is left; until then at most. Gives back how many
    /// writes are only here (rule H3).
    pub async fn drain_records(&self, flushed_by: Instant, until: Instant) -> u64 {
        let Some(custody) = self.custody() else { return 0 };
        custody.records.drain(flushed_by).await;
        let left = || self.groups_behind().map(|group| custody.records.stats(group.name()).pending).sum::<u64>();
        let view = self.view();
        if !view.members().iter().any(|member| member.takes_keys() && member.name != *self.name()) {
            return left();
        }
        // Who takes the slots says when it has all of them.
        drop(timeout_at(until, self.until_records(|| left() == 0)).await);
        left()
    }
}
