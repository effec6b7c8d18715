//! [`Flush`]: brings what is in the [journal](crate::journal) to its origin.
//!
//! [`Flusher`] decides, a state machine without I/O; [`Flush`] does, one for each group. The rules are B2, B5 and the
//! end of C2 of the protocol:
//!
//! - Changes of a key are gathered for `write_delay`. The newest goes to the origin and settles those before it.
//! - One flush of a key is under way at a time, in the order of versions, and the next begins when the one before is *marked*: only the
//!   ledger knows when that is, as marks may have to be on another node's disk too.
//! - Keys go in batches where the origin takes several. One that fails is tried again, with full jitter, while others go on.
//! - What the origin refuses for good becomes a dead letter.
//!
//! **It knows nothing of nodes**: who replicates marks, drops copies or shares an origin's limits stands behind [`Ledger`] and
//! [`FlushLimit`].

mod drive;
mod state;

pub use drive::{BATCHES_UNDER_WAY_MAX, Flush, FlushConfig, FlushLimit, FlushStats, Ledger};
pub use larder_core::behind::{Settled, Settlement};
pub use state::{Batch, Flusher, Outcome, RETRY_MAX, RETRY_MIN};
