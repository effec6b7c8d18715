//! [`Version`]: which of two values of a key is the later one, and the hybrid clock that versions are read from.
//!
//! A hybrid logical clock (Kulkarni and others, "Logical Physical Clocks", OPODIS 2014) follows the wall clock and never
//! goes back: where the wall clock stands still or was turned back, it counts.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

/// A reading of a [`HybridClock`]: 48 bits of milliseconds since 1970 and 16 bits of counter.
///
/// ```
/// use larder_core::version::Reading;
///
/// assert_eq!(Reading::from_bits(5 << 16 | 1).wall_ms(), 5);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Reading(u64);

impl Reading {
    /// The reading with this bit pattern.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bit pattern, as it travels between nodes.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn wall_ms(self) -> u64 {
        self.0 >> 16
    }
}

/// The place of a value in the order of all values of its key: a clock reading and its node's incarnation (rule V1).
/// Written as 24 hexadecimal digits, later versions greater.
///
/// # Examples
///
/// ```
/// use larder_core::Version;
///
/// let version: Version = "0193a5c8e00000010000002a".parse()?;
/// assert_eq!(version.to_string(), "0193a5c8e00000010000002a");
/// assert!(version > Version::ZERO);
/// # Ok::<(), larder_core::version::ParseVersionError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    reading: Reading,
    incarnation: u32,
}

impl Version {
    /// Before every version that a clock gives.
    pub const ZERO: Self = Self { reading: Reading(0), incarnation: 0 };

    /// The version of this reading at the node of this incarnation.
    #[must_use]
    pub const fn new(reading: Reading, incarnation: u32) -> Self {
        Self { reading, incarnation }
    }

    /// The clock reading.
    #[must_use]
    pub const fn reading(self) -> Reading {
        self.reading
    }

    /// The incarnation of the node that gave it.
    #[must_use]
    pub const fn incarnation(self) -> u32 {
        self.incarnation
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:08x}", self.reading.0, self.incarnation)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

/// What was given for a version is not 24 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a version is 24 hexadecimal digits")]
pub struct ParseVersionError;

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        if text.len() != 24 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseVersionError);
        }
        let reading = u64::from_str_radix(&text[..16], 16).map_err(|_| ParseVersionError)?;
        let incarnation = u32::from_str_radix(&text[16..], 16).map_err(|_| ParseVersionError)?;
        Ok(Self::new(Reading(reading), incarnation))
    }
}

/// A clock that follows the wall clock, never goes back and never gives the same reading twice.
///
/// ```
/// use larder_core::HybridClock;
///
/// let clock = HybridClock::new(7);
/// let first = clock.next(1_750_000_000_000);
/// let second = clock.next(1_749_999_999_000); // The wall clock was turned back.
/// assert!(second > first);
/// ```
#[derive(Debug)]
pub struct HybridClock {
    last: AtomicU64,
    incarnation: u32,
}

impl HybridClock {
    /// A clock for the node of this incarnation, which no other node of the cluster may share.
    #[must_use]
    pub const fn new(incarnation: u32) -> Self {
        Self { last: AtomicU64::new(0), incarnation }
    }

    /// The next version, given the wall clock's milliseconds since 1970.
    pub fn next(&self, wall_ms: u64) -> Version {
        let wall = wall_ms << 16;
        let step = |last: u64| Some(wall.max(last + 1));
        let last = match self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, step) {
            Ok(last) | Err(last) => last,
        };
        Version::new(Reading(wall.max(last + 1)), self.incarnation)
    }

    /// Moves past a reading that another node sent, so that what happens here afterwards is ordered after it.
    pub fn observe(&self, reading: Reading) {
        self.last.fetch_max(reading.0, Ordering::AcqRel);
    }

    /// The latest reading given or observed.
    #[must_use]
    pub fn latest(&self) -> Reading {
        Reading(self.last.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_while_the_wall_clock_stands_or_goes_back() {
        let clock = HybridClock::new(7);
        let first = clock.next(1_000);
        let second = clock.next(1_000);
        let third = clock.next(400);
        let fourth = clock.next(2_000);
        assert!(first < second && second < third && third < fourth);
        assert_eq!(fourth.reading().wall_ms(), 2_000);
    }

    #[test]
    fn an_observed_reading_is_passed() {
        let clock = HybridClock::new(1);
        let other = HybridClock::new(2).next(9_000);
        clock.observe(other.reading());
        assert!(clock.next(1) > other);
    }

    #[test]
    fn text_keeps_the_order_and_comes_back() {
        let early = Version::new(Reading(5 << 16), u32::MAX);
        let late = Version::new(Reading((5 << 16) + 1), 0);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(late.to_string().parse(), Ok(late));
        for bad in ["", "12", "+193a5c8e00000010000002a", "0193a5c8e0000001000002ag", "é193a5c8e0000001000000aa"] {
            assert_eq!(bad.parse::<Version>(), Err(ParseVersionError), "{bad}");
        }
    }
}
