//! The two processes of a system: the one that serves and the one that asks. Each is told what to do by lines of text.
//!
//! A *server* prints its address and the id of the process that serves there, once it holds every key; then it answers
//! each line with the number of gets it has answered so far. An *asker* answers each line, a [`Turn`], with a line that is a [`Measured`]. Both end when their input does.

use std::{
    fmt, fs,
    io::{BufRead, BufReader, Lines, Write},
    process::{self, ChildStdout, Command, Stdio},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Linux tells times in these, on every machine people have.
const TICKS_PER_SECOND: f64 = 100.0;

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

/// A program that takes and gives lines. Dropping this ends its input, and waits for its end.
pub(crate) struct Process {
    child: process::Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Outcome<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("{program} could not be started: {error}"))?;
        let stdout = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Self { child, stdout })
    }

    /// This program in another part.
    pub(crate) fn start_self(arguments: &[&str]) -> Outcome<Self> {
        Self::start(Command::new(std::env::current_exe()?).args(arguments))
    }

    pub(crate) fn say(&mut self, line: impl fmt::Display) -> Outcome<String> {
        writeln!(self.child.stdin.as_ref().ok_or("no input")?, "{line}")?;
        self.line()
    }

    pub(crate) fn line(&mut self) -> Outcome<String> {
        Ok(self.stdout.next().ok_or("a process ended early; see above")??)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // This closes its input, so that it ends in order, and what it has started with it.
        let _gone = self.child.wait();
    }
}

/// Processor time that all threads of a process have used, in and out of the kernel, as proc_pid_stat(5) has it.
pub(crate) fn cpu_seconds(process: u32) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The program's name stands in parentheses and may hold anything. Behind it, user and system time are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(')').ok_or("no such process")?;
    let times = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    Ok(times.iter().sum::<f64>() / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Stopwatch;

    #[test]
    fn a_process_is_charged_for_its_work() {
        let before = cpu_seconds(process::id()).unwrap();
        let watch = Stopwatch::start();
        while watch.elapsed() < Duration::from_millis(200) {}
        let used = cpu_seconds(process::id()).unwrap() - before;
        assert!((0.05..2.0).contains(&used), "{used}");
    }
}
