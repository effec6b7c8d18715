//! [`Child`]: the command that runs under a lock, and how signals reach it.
//!
//! Started from a shell, it stays in the shell's foreground: it reads the terminal, and Ctrl-C and Ctrl-Z reach it from there, and this
//! process too. Everywhere else it gets a process group of its own, so that what it starts is reached with it.
//!
//! What a signal kills this process with that can't be caught (SIGKILL) leaves the command running, and its lock to the ttl: that is
//! what fences are for.

use std::{ffi::OsString, fs::File, io, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::{
    process::{Pid, Signal, getpgrp, kill_process, kill_process_group, test_kill_process_group},
    termios::tcgetpgrp,
};
use tokio::{
    process::{self, Command},
    time::sleep,
};

use super::LOOK_EVERY;

/// What a shell adds to the number of a signal that ended a command.
pub(super) const BY_SIGNAL: u8 = 128;

/// A command that runs.
pub(super) struct Child {
    process: process::Child,
    pid: Pid,
    has_ended: bool,
    in_foreground: bool,
}

impl Child {
    /// Starts a command with the lock's number in `LARDER_FENCE`.
    pub(super) fn start(command: &[OsString], fence: u64) -> io::Result<Self> {
        let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let in_foreground = is_in_foreground();
        let mut command = Command::new(program);
        command.args(args).env("LARDER_FENCE", fence.to_string());
        if !in_foreground {
            command.process_group(0);
        }
        let process = command.spawn()?;
        // It has a number for as long as nobody has waited for it.
        let pid = process.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { process, pid, has_ended: false, in_foreground })
    }

    /// Waits for its end and gives its exit code, as a shell would. It may be dropped and called again.
    pub(super) async fn ended(&mut self) -> io::Result<u8> {
        let status = self.process.wait().await?;
        self.has_ended = true;
        Ok(code(status))
    }

    /// Waits until it has ended and what it started in its group.
    pub(super) async fn all_ended(&mut self) -> io::Result<u8> {
        let code = self.ended().await?;
        while !self.in_foreground && test_kill_process_group(self.pid).is_ok() {
            sleep(LOOK_EVERY).await;
        }
        Ok(code)
    }

    /// Hands on a signal that this process was sent.
    pub(super) fn forward(&self, signal: Signal) {
        // The terminal sends these to all of its foreground.
        if !(self.in_foreground && matches!(signal, Signal::INT | Signal::QUIT)) {
            self.signal(signal);
        }
    }

    /// Sends it a signal, and what it has started unless that is the shell's too.
    pub(super) fn signal(&self, signal: Signal) {
        // This fails only where there is nothing left to signal.
        let _gone = match self.in_foreground {
            false => kill_process_group(self.pid, signal),
            // Its number may be another's by now.
            true if self.has_ended => Ok(()),
            true => kill_process(self.pid, signal),
        };
    }
}

fn code(status: ExitStatus) -> u8 {
    // The system keeps eight bits of a code, and signals have small numbers.
    let code = status.code().or_else(|| Some(i32::from(BY_SIGNAL) + status.signal()?));
    code.and_then(|code| u8::try_from(code & 0xff).ok()).unwrap_or(1)
}

/// Whether this process belongs to the foreground of a terminal.
fn is_in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}
