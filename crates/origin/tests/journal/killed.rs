//! Processes that are killed for real, on a real disk.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use larder_origin::{
    journal::{Mark, path_in},
    storage::DiskStorage,
};

use super::*;

/// Names the folder of the journal, for the child, and the round.
const CHILD: &str = "LARDER_TEST_JOURNAL";
const ROUNDS: u64 = 20;
const CALLERS: u64 = 8;

/// Not a test by itself: what the next test kills.
#[tokio::test]
async fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (round, folder) = task.split_once(' ').unwrap();
    let round: u64 = round.parse().unwrap();
    let journal = open(DiskStorage::new(path_in(folder))).await.unwrap();
    let callers: Vec<_> = (0..CALLERS).map(|caller| tokio::spawn(call(journal.clone(), round, caller))).collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

async fn call(journal: Journal, round: u64, caller: u64) {
    for number in (round * 1_000_000).. {
        let key = format!("k{caller}");
        journal.append(record(&key, number)).await.unwrap();
        say(&format!("appended {caller} {number}"));
        if number % 10 == 9 {
            say(&format!("settling {caller} {}", number - 5));
            journal.settle(vec![Mark::new(place(&key), version(number - 5))]).await.unwrap();
            say(&format!("settled {caller} {}", number - 5));
        }
    }
}

/// To the parent, past the test's own capture of what it prints. Once that is gone nobody listens.
fn say(line: &str) {
    let _ = std::io::stdout().write_all(format!("@{line}\n").as_bytes());
}

/// What the children said.
#[derive(Default)]
struct Heard {
    appended: BTreeSet<(u64, u64)>,
    settling: [u64; CALLERS as usize],
    settled: [u64; CALLERS as usize],
}

impl Heard {
    fn hear(&mut self, line: &str) -> bool {
        let Some((_, said)) = line.split_once('@') else { return false };
        let words: Vec<&str> = said.split(' ').collect();
        let [what, caller, number] = words[..] else { return false };
        let (caller, number): (u64, u64) = (caller.parse().unwrap(), number.parse().unwrap());
        match what {
            "appended" => drop(self.appended.insert((caller, number))),
            "settling" => self.settling[usize::try_from(caller).unwrap()] = number,
            _ => self.settled[usize::try_from(caller).unwrap()] = number,
        }
        true
    }
}

/// Kills the child also if the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_a_killed_process_acknowledged_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut heard = Heard::default();
    for round in 1..=ROUNDS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["killed::child", "--exact", "--nocapture"]).stdout(Stdio::piped());
        command.env(CHILD, format!("{round} {}", folder.path().display()));
        let mut child = Killed(command.spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap());
        let mut left = random.u32(1..60);
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            // A line that was cut was not said.
            if !line.ends_with('\n') {
                break;
            }
            left = left.saturating_sub(u32::from(heard.hear(line.trim_end())));
            if left == 0 {
                child.0.kill().unwrap();
            }
        }
        assert_eq!(left, 0, "round {round}: the child ended by itself");
    }

    let journal = open(DiskStorage::new(path_in(folder.path()))).await.unwrap();
    let there: BTreeSet<RecordId> = ids(&journal).await.into_iter().collect();
    assert!(heard.appended.len() > 100, "{}", heard.appended.len());
    for (caller, number) in &heard.appended {
        let id = id(&format!("k{caller}"), *number);
        let settling = heard.settling[usize::try_from(*caller).unwrap()];
        assert!(there.contains(&id) || *number <= settling, "{id} was acknowledged and is lost");
    }
    for (caller, settled) in heard.settled.iter().enumerate() {
        let is_settled = |number: u64| there.contains(&id(&format!("k{caller}"), number));
        assert!((0..=*settled).rev().take(10).all(|number| !is_settled(number)), "what was flushed is back");
    }
}
