//! Groups with strong consistency: nothing is answered without proof that this node has the key (rules A2 and C6).

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Group;
use crate::{Error, ErrorKind, placement::Slot, view::Place};

/// How long a node waits for a proof: those that come are a second apart.
const AUTHORITY_WAIT: Duration = Duration::from_secs(2);

impl Group {
    /// Whether it answers with nothing that it can't prove to be the latest.
    #[must_use]
    pub fn is_strong(&self) -> bool {
        self.0.is_strong
    }

    /// Detaches all that is under way.
    pub(crate) fn detach_everything(&self) {
        self.0.loads.detach_all(|_| true);
        self.0.asks.detach_all(|_| true);
    }

    /// Drops all that is held.
    pub(crate) fn clear_store(&self) {
        self.0.store.clear();
    }

    /// Whether this node can prove that it answers for a slot, where the group demands it. Asked after what is answered was read.
    #[inline]
    pub(super) fn is_proven(&self, slot: Slot) -> bool {
        !self.0.is_strong || self.0.node.has_authority(slot)
    }

    /// Who is to be asked for a key.
    pub(super) fn owner_place(&self, slot: Slot, key: &[u8]) -> Place {
        let node = &self.0.node;
        if self.0.is_strong { node.owner_place_by_view(slot, key) } else { node.owner_place(slot, key) }
    }

    /// Waits until that can be proved. Where it can't soon, nobody is answered.
    pub(super) async fn proven(&self, slot: Slot, key: &[u8], deadline: Instant) -> Result<(), Error> {
        if !self.0.is_strong {
            return Ok(());
        }
        let node = &self.0.node;
        let until = deadline.min(Instant::now() + AUTHORITY_WAIT);
        let proven = async {
            while node.acts(slot, key).await && !self.is_proven(slot) {
                node.next_proof().await;
            }
        };
        match timeout_at(until, proven).await {
            Ok(()) => Ok(()),
            Err(_) => Err(no_authority()),
        }
    }
}

pub(super) fn no_authority() -> Error {
    let message = "the node can't prove that it has the key: the registry of the members may be away, or the owner has just changed";
    Error::new(ErrorKind::NoAuthority, message).with_retry_after(Duration::from_secs(1))
}
