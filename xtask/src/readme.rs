//! Runs the README's commands as they are written.
//!
//! Every block fenced as `sh` is run, in order, from the project's root, each by a shell that stops at the first
//! failure; a block that is not meant to be run there carries another word, such as `console` or `text`. So a command
//! that a reader can copy is a command that works. Commands have to end by themselves.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{Outcome, RUNNING, workspace};

/// How long one block may take. The first builds the daemon on a fresh machine, which takes minutes on two cores.
const BLOCK_TIME_MAX: Duration = Duration::from_secs(25 * 60);

/// How long what was killed may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn check(readme: &Path) -> Outcome {
    let text = fs::read_to_string(readme).map_err(|error| format!("README.md can't be read: {error}."))?;
    let blocks = blocks(&text);
    if blocks.is_empty() {
        return Err("README.md has no block fenced as `sh`, so there is no command to run.".into());
    }
    blocks.iter().try_for_each(|block| run(block, BLOCK_TIME_MAX))
}

/// The content of each block fenced as exactly `sh`.
fn blocks(markdown: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let block = lines.by_ref().take_while(|line| !line.starts_with("```"));
        let block = block.flat_map(|line| [line, "\n"]).collect::<String>();
        if language.trim() == "sh" {
            blocks.push(block);
        }
    }
    blocks
}

/// Runs one block in a process group of its own, so that all of it can be ended when its time is over. A group of its
/// own may not touch the terminal, which is why its output comes through a pipe.
fn run(block: &str, time_max: Duration) -> Outcome {
    print!("$ {}", block.trim_end().replace('\n', "\n$ ") + "\n");
    let mut child = Command::new("bash")
        .args(["-euo", "pipefail", "-c", block])
        .current_dir(workspace::root())
        .env(RUNNING, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("bash could not be started: {error}."))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let copies = [
        thread::spawn(move || stdout.map(|mut pipe| io::copy(&mut pipe, &mut io::stdout()))),
        thread::spawn(move || stderr.map(|mut pipe| io::copy(&mut pipe, &mut io::stderr()))),
    ];
    let group = child.id();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait()));
    let Ok(status) = end.recv_timeout(time_max) else {
        let seconds = time_max.as_secs_f64();
        // Not the shell's own kill: dash's knows no groups after `--`.
        let killed = Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status();
        let is_gone = killed.is_ok_and(|killed| killed.success()) && end.recv_timeout(KILL_TIMEOUT).is_ok();
        let left = if is_gone { "" } else { ", and could not be ended" };
        return Err(format!("A README block did not end within {seconds} s{left}:\n{block}").into());
    };
    for copy in copies {
        drop(copy.join());
    }
    let status = status?;
    if status.success() { Ok(()) } else { Err(format!("A README block failed ({status}):\n{block}").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn blocks_fenced_as_sh_are_run_and_no_others() {
        let markdown = "a\n```sh\necho one\necho two\n```\n```toml\nx = 1\n```\n```\nplain\n```\n```sh\ntrue\n```\n";
        assert_eq!(blocks(markdown), ["echo one\necho two\n", "true\n"]);
        assert!(blocks("```shell\nfalse\n```\n```console\n$ false\n```\n").is_empty());
    }

    #[test]
    fn a_readme_without_commands_or_absent_fails() {
        let missing = check(Path::new("no/such/README.md")).unwrap_err().to_string();
        assert!(missing.starts_with("README.md can't be read"), "{missing}");
        assert!(check(&workspace::root().join("LICENSE-MIT")).unwrap_err().to_string().contains("no block"));
    }

    #[test]
    fn a_block_fails_at_its_first_failing_command() {
        assert!(run("true\n", LONG).is_ok());
        let failure = run("false\ntrue\n", LONG).unwrap_err().to_string();
        assert!(failure.contains("failed") && failure.contains("false"), "{failure}");
        assert!(run("false | true\n", LONG).is_err());
    }

    #[test]
    fn a_block_that_does_not_end_is_ended_with_all_it_started() {
        let failure = run("sleep 1000 & wait\n", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(failure.contains("did not end within 0.05 s:"), "{failure}");
    }

    #[test]
    fn the_project_can_name_its_own_test_command() {
        assert!(run(&format!("test \"${RUNNING}\" = 1\n"), LONG).is_ok());
    }
}
