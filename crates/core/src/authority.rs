//! [`Authority`]: whether this node may answer as owner in groups with strong consistency (rules A2 and C6).
//!
//! A proof is a read of all members that no failure of the registry can have made stale. It counts for the view that it shows, and for
//! a slot only if it was read after whoever had the slot before had stopped: that one said so with a proof of its own, or what
//! proof it could have had has run out.
//!
//! Who releases a slot has most often heard of the view that takes it away, of which no proof may have come yet. What counts then is the last
//! proof from before: whoever owns the slot by a view that it didn't show waits for as long as it counts, or for this node's release.
//!
//! Who was without a proof for a moment may have been off the list meanwhile, and another in its place. It knows nothing any more, and
//! waits as if it had just received its view.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::{Group, Moment, Node, Proof, claim::Phase, lock::QUIET, placement::Slot};

/// A registry's lease is this many ninths of the time for which a proof counts.
const LEASE_NINTHS: u32 = 10;

/// A proof, of the view of this number.
#[derive(Clone, Copy, Debug)]
struct Proven {
    view: u64,
    sent: Moment,
    until: Moment,
    /// From when on there was no moment without one.
    since: Moment,
}

/// What the latest proof says.
#[derive(Default)]
pub(crate) struct Authority {
    proven: ArcSwapOption<Proven>,
    /// The membership gives proofs, so that who grants locks needs one.
    gives: AtomicBool,
    /// Told at each proof.
    changed: watch::Sender<()>,
}

impl Proven {
    /// For how long a node that is off the list may still have a proof.
    fn lease(&self) -> Duration {
        self.until.since(self.sent) * LEASE_NINTHS / 9
    }
}

impl Node {
    /// Whether this node has proof that it owns the slot, and that nobody else acts for it.
    pub(crate) fn has_authority(&self, slot: Slot) -> bool {
        let proven = self.authority().proven.load();
        let Some(proven) = &*proven else { return false };
        let is_current = proven.view == self.peek_view().number() && self.clock().now() < proven.until;
        if !is_current || self.tenure().phase(slot) != Phase::Acts {
            return false;
        }
        let (gained, vouched) = self.tenure().gained(slot);
        let free = vouched.unwrap_or(gained + proven.lease());
        proven.sent >= free.max(proven.since)
    }

    /// Until when it is known that nobody else acts for a slot for which this node does, whatever views there have been since.
    fn alone_until(&self, slot: Slot) -> Option<Moment> {
        let proven = self.authority().proven.load();
        let proven = (*proven).as_ref().filter(|_| self.tenure().phase(slot) == Phase::Acts)?;
        let (gained, vouched) = self.tenure().gained(slot);
        let free = vouched.unwrap_or(gained + proven.lease());
        // A proof of a view in which the slot was another's was sent before it was gained.
        (proven.sent >= free.max(proven.since)).then_some(proven.until)
    }

    /// Remembers what is known of the slots that this node is about to lose: proofs to come are of views in which they are another's.
    pub(crate) fn prove_lost(&self, is_lost: impl Fn(Slot) -> bool) {
        let Some(until) = self.authority().proven.load().as_ref().map(|proven| proven.until) else { return };
        let lost = Slot::all().filter(|slot| is_lost(*slot) && self.alone_until(*slot) == Some(until));
        self.tenure().prove(&lost.collect(), until);
    }

    /// Whether a release of a slot counts: this node acts for it, or did until its view gave it to another, and nobody else has.
    pub(crate) fn can_vouch(&self, slot: Slot, now: Moment) -> bool {
        let until = self.alone_until(slot).unwrap_or_else(|| self.tenure().proven_until(slot));
        now < until
    }

    /// Whether this node's membership gives proofs.
    pub(crate) fn gives_proofs(&self) -> bool {
        self.authority().gives.load(Ordering::Acquire)
    }

    /// Whether this node may grant locks of a slot as far as proofs go, and for how long who acted before may have had one. `None`: it
    /// may not. Without a membership that gives any, all may.
    pub(crate) fn lock_proof(&self, slot: Slot) -> Option<Duration> {
        if !self.gives_proofs() {
            return Some(Duration::ZERO);
        }
        let proven = self.authority().proven.load();
        let lease = (*proven).as_ref().map(|proven| proven.lease())?;
        self.has_authority(slot).then_some(lease)
    }

    /// Waits until a proof comes that this node does not have yet.
    pub(crate) async fn next_proof(&self) {
        let mut changed = self.authority().changed.subscribe();
        // The sender is a field of the node.
        drop(changed.changed().await);
    }

    /// Takes proofs as they come, for as long as the membership lasts.
    pub(crate) async fn follow_authority(self, mut proofs: watch::Receiver<Option<Proof>>) {
        self.authority().gives.store(true, Ordering::Release);
        loop {
            let proof = proofs.borrow_and_update().clone();
            if let Some(proof) = proof {
                self.take_proof(proof).await;
            }
            if proofs.changed().await.is_err() {
                return;
            }
        }
    }

    async fn take_proof(&self, proof: Proof) {
        // A later view that it shows is adopted first.
        let (node, members) = (self.clone(), proof.members.clone());
        let is_adopted = if *self.view().members() == members {
            true
        } else if members.rank() >= self.view().members().rank() {
            tokio::task::spawn_blocking(move || node.change_view(members)).await.is_ok_and(|changed| changed.is_ok())
        } else {
            false
        };
        let view = self.view();
        if !is_adopted || *view.members() != proof.members {
            return;
        }
        let before = self.authority().proven.load_full();
        let now = self.clock().now();
        // By when it is taken, not by when it was sent: a read that took long may have been done after another node acted.
        let is_unbroken = before.as_ref().is_some_and(|before| now < before.until);
        let lease = proof.until.since(proof.sent) * LEASE_NINTHS / 9;
        let since = match &before {
            Some(before) if is_unbroken => before.since,
            // Somebody else may have acted meanwhile, and may have a proof for as long.
            _ => now + lease,
        };
        if !is_unbroken {
            for group in self.groups().iter().filter(|group| group.is_strong()) {
                group.forget_all();
            }
        }
        if !is_unbroken && before.is_some_and(|before| now.since(before.sent) >= QUIET) {
            // Who took this node for gone may have granted its locks from then on, and tells nobody where this one has not heard of its view.
            self.tenure().keep_all_quiet(now + QUIET);
        }
        let Proof { sent, until, .. } = proof;
        self.authority().proven.store(Some(Arc::new(Proven { view: view.number(), sent, until, since })));
        self.authority().changed.send_replace(());
    }
}

impl Group {
    /// Nothing that is held or under way counts any more.
    fn forget_all(&self) {
        self.detach_everything();
        self.clear_store();
    }
}
