//! [`Slot`]: one of the 16,384 shares that the keys are divided into.

use std::fmt;

/// How many slots there are: as many as in Redis Cluster, whose slot function this is.
pub const SLOT_COUNT: u16 = 16_384;

/// One of [`SLOT_COUNT`] shares of the keys. Every slot has one owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u16);

impl Slot {
    /// The slot of this number, if there is one.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOT_COUNT { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
