//! [`Process`]: a program that is told what to do by lines of text, and answers by lines.

use std::{
    fmt, fs,
    io::{BufRead, BufReader, Lines, Write},
    process::{self, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Linux tells times in these, on every machine people have.
const TICKS_PER_SECOND: f64 = 100.0;

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

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) -> Outcome<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
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
    use std::time::Duration;

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
