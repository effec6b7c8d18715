//! What the two processes of a system tell each other: the one that serves and the one that asks.
//!
//! A *server* prints its address and the id of the process that serves there, once it holds every key; then it answers
//! each line with the number of gets it has answered so far. An *asker* answers each line, a [`Turn`], with a line that is a [`Measured`]. Both end when their input does.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::process::Outcome;

/// What an asker is to do: `CALLERS MILLISECONDS SEED`.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) callers: usize,
    pub(crate) duration: Duration,
    pub(crate) seed: u64,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.callers, self.duration.as_millis(), self.seed)
    }
}

impl FromStr for Turn {
    type Err = Box<dyn std::error::Error>;

    fn from_str(line: &str) -> Outcome<Self> {
        let numbers = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let &[callers, millis, seed] = &numbers[..] else { return Err("a turn is three numbers".into()) };
        Ok(Self { callers: usize::try_from(callers)?, duration: Duration::from_millis(millis), seed })
    }
}

/// What an asker saw in its turn.
#[derive(Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) gets: u64,
    /// Of these, the ones that did not bring the right value.
    pub(crate) wrong: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}
