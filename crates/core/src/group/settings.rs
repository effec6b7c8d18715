//! [`Settings`]: a group's settings, of which some may change while it serves.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::GroupConfig;
use crate::Error;

pub(super) struct Settings {
    present: ArcSwap<GroupConfig>,
    /// Whether anything is loaded anew before it ends. It is all that a hit has to know of the settings, and a look at them
    /// would cost it more than it costs to look this up.
    refreshes_ahead: AtomicBool,
    changing: Mutex<()>,
}

impl Settings {
    pub(super) fn new(config: GroupConfig) -> Self {
        let refreshes_ahead = AtomicBool::new(config.refresh_ahead > 0.0);
        Self { present: ArcSwap::from_pointee(config), refreshes_ahead, changing: Mutex::new(()) }
    }

    /// The present settings, for as long as nothing is awaited.
    pub(super) fn get(&self) -> Guard<Arc<GroupConfig>> {
        self.present.load()
    }

    /// The present settings, to keep.
    pub(super) fn to_arc(&self) -> Arc<GroupConfig> {
        self.present.load_full()
    }

    #[inline]
    pub(super) fn refreshes_ahead(&self) -> bool {
        self.refreshes_ahead.load(Ordering::Relaxed)
    }

    /// Puts `config` in the place of the present settings, where it may be.
    pub(super) fn change(&self, config: GroupConfig) -> Result<(), Error> {
        config.check()?;
        let _changing = self.changing.lock();
        self.get().check_change(&config)?;
        self.refreshes_ahead.store(config.refresh_ahead > 0.0, Ordering::Relaxed);
        self.present.store(Arc::new(config));
        Ok(())
    }
}
