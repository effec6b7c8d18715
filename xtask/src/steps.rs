//! Steps of a command: each under a header and timed, all of them run, one summary at the end.
//!
//! A failed step does not stop the next ones: most fail for reasons of their own, and who waits for a whole run wants
//! to know all of them.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::Outcome;

struct Done {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
}

pub(crate) struct Steps {
    started: Instant,
    done: Vec<Done>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { started: now(), done: Vec::new() }
    }

    pub(crate) fn step(mut self, name: &'static str, work: impl FnOnce() -> Outcome) -> Self {
        println!("\n── {name} ──");
        let started = now();
        let failure = work().err().map(|error| error.to_string());
        if let Some(failure) = &failure {
            println!("{failure}");
        }
        self.done.push(Done { name, took: started.elapsed(), failure });
        self
    }

    /// Prints every step's outcome, and the sentences of those that failed.
    pub(crate) fn sum_up(self) -> ExitCode {
        println!("\n── summary ──\n{}", self.summary());
        if self.done.iter().all(|step| step.failure.is_none()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn summary(&self) -> String {
        let line = |step: &Done| {
            let word = if step.failure.is_some() { "FAILED" } else { "ok" };
            let first = step.failure.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
            format!("{:<14} {word:<6} {:>6.1} s  {first}", step.name, step.took.as_secs_f64()).trim_end().to_owned()
        };
        let failed = self.done.iter().filter(|step| step.failure.is_some()).count();
        let verdict = match failed {
            0 => "Everything passed".to_owned(),
            1 => "1 step failed".to_owned(),
            _ => format!("{failed} steps failed"),
        };
        let lines = self.done.iter().map(line).collect::<Vec<_>>().join("\n");
        format!("{lines}\n{verdict} in {:.0} s.", self.started.elapsed().as_secs_f64())
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a step takes on this machine is real time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named_with_its_sentence_and_the_others_still_run() {
        let steps = Steps::new()
            .step("one", || Ok(()))
            .step("two", || Err("The second thing is wrong.\nDetails.".into()))
            .step("three", || Ok(()));
        let summary = steps.summary();
        let lines: Vec<&str> = summary.lines().collect();
        assert!(lines[0].starts_with("one            ok"), "{summary}");
        assert!(lines[1].starts_with("two            FAILED") && lines[1].ends_with("The second thing is wrong."));
        assert!(lines[2].starts_with("three          ok"), "{summary}");
        assert!(lines[3].starts_with("1 step failed in "), "{summary}");
        assert_eq!(steps.sum_up(), ExitCode::FAILURE);
    }

    #[test]
    fn steps_that_all_pass_are_a_success() {
        assert_eq!(Steps::new().step("one", || Ok(())).sum_up(), ExitCode::SUCCESS);
    }
}
