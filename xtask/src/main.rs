//! The project's own commands, as `cargo xtask COMMAND`.
//!
//! `main` knows which steps each command takes; what a step does is in the module named for it. Nothing here is part
//! of the product, and nothing of the product is linked here, so that `cargo xtask` starts at once.

mod command;
mod compare;
mod dependencies;
mod fuzz;
mod needs;
mod older;
mod readme;
mod sanitize;
mod steps;
mod tidy;
mod torture;
mod workspace;

use std::{env, error::Error, process::ExitCode, thread};

use command::{cargo, run};
use steps::Steps;
use workspace::Workspace;

/// What went wrong, as a sentence for the person at the terminal.
type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const HELP: &str = "\
cargo xtask COMMAND

  test     everything a change must pass: format, tidy, dependencies, clippy, docs, all tests, the store's under the
           address sanitizer, all states of a slot, the README's commands
  quick    the inner loop: format, tidy, clippy, unit tests
  tidy     layering, leftovers, sizes, links
  deps     licences and sources of what others wrote, one version of each, one TLS library
  bench    group: a hit in process beside the bare store; http: one over HTTP beside a bare handler;
           gossip: what it costs and how soon it tells; view: owner tables of many members
           writes: puts beside gets, copies of hot keys, tags of many entries
           behind: puts that are acknowledged from disks, and how fast they go on to the origin
           locks: turns of a lock by each service, beside etcdctl lock and redis-cli
  docs     write the generated pages of docs/ anew
  readme   run the README's commands as written
  compare  store|memory|latency|hit-ratio [--trace FILE] [--capacity N] [--json]: the store beside the crates people use
           peer [--only SYSTEM] [--callers N] [--value-size B] [--rounds N] [--json]: gets that another process answers
           churn [--nodes N,…] [--events EVENT,…] [--only SYSTEM] [--json]: loads at the origin while nodes come and go
  fuzz     peer [--seconds N] [--seed S]: hostile frames, for longer than `test` has time for
  sanitize the tests of unsafe code under the address sanitizer
  torture  [--seconds N] [--seed S]: what clients of a cluster see while its nodes and links fail, for longer than `test` has
           time for
  outages  [--seconds N]: etcd, Consul and an origin away for a minute, where `test` has them away for seconds
  explore  every state that three nodes can bring a slot into, and every one that small scopes of writes reach
  help     this text
";

/// Set while `test` runs, for what it starts: the README's second command is `cargo xtask test` itself.
const RUNNING: &str = "LARDER_XTASK_RUNNING";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["test"] => test(),
        ["quick"] => quick(),
        ["tidy"] => Steps::new().step("tidy", check_tidy).sum_up(),
        ["deps"] => Steps::new().step("dependencies", check_dependencies).sum_up(),
        ["bench", "group"] => Steps::new().step("bench", || bench("larder", "group")).sum_up(),
        ["bench", "writes"] => Steps::new().step("bench", || bench("larder", "writes")).sum_up(),
        ["bench", "behind"] => {
            Steps::new().step("bench", || needs::POSTGRES.require().and_then(|()| bench("larder", "behind"))).sum_up()
        }
        ["bench", "locks"] => Steps::new().step("bench", bench_locks).sum_up(),
        ["bench", "gossip"] => Steps::new().step("bench", || bench("larder-cluster", "gossip")).sum_up(),
        ["bench", "view"] => Steps::new().step("bench", || bench("larder-core", "view")).sum_up(),
        ["bench", "http"] => {
            Steps::new().step("bench", || needs::WRK.require().and_then(|()| bench("larder-server", "http"))).sum_up()
        }
        ["docs"] => Steps::new().step("docs", write_docs).sum_up(),
        ["compare", arguments @ ..] => compare::compare(arguments),
        ["fuzz", "peer", arguments @ ..] => Steps::new().step("fuzz", || fuzz::peer(arguments)).sum_up(),
        ["sanitize"] => Steps::new().step("sanitize", sanitize::sanitize).sum_up(),
        ["torture", arguments @ ..] => Steps::new().step("torture", || torture::torture(arguments)).sum_up(),
        ["outages", arguments @ ..] => Steps::new().step("outages", || torture::outages(arguments)).sum_up(),
        ["explore"] => Steps::new().step("explore", explore).sum_up(),
        ["readme"] => Steps::new().step("README", check_readme).sum_up(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => {
            print!("There is no such command.\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn test() -> ExitCode {
    if env::var_os(RUNNING).is_some() {
        println!("cargo xtask test is under way already.");
        return ExitCode::SUCCESS;
    }
    let mut without = needs::Without::default();
    Steps::new()
        .step("real software", || needs::provide(&mut without))
        .step("format", check_format)
        .step("tidy", check_tidy)
        .step("dependencies", check_dependencies)
        .step("clippy", check_clippy)
        .step("docs", check_docs)
        .step("tests", || run_tests(&[], &without))
        .step("doc tests", run_doc_tests)
        .step("sanitizer", sanitize::sanitize)
        .step("explore", explore)
        .step("README", check_readme)
        .sum_up()
}

/// Goes through all states of a slot, and through those that small scopes of writes reach: minutes of work that is not optimized.
fn explore() -> Outcome {
    let tests = ["--package", "larder-core", "--lib", "--all-features", "--locked", "explore::", "--", "--nocapture"];
    run(&mut cargo(["test", "--release"].iter().chain(&tests)))
}

fn quick() -> ExitCode {
    Steps::new()
        .step("format", check_format)
        .step("tidy", check_tidy)
        .step("clippy", check_clippy)
        .step("unit tests", || run_tests(&["--lib", "--bins"], &needs::Without::asked_for()))
        .sum_up()
}

fn check_format() -> Outcome {
    run(&mut cargo(["fmt", "--all", "--check"])).map_err(|_| "Run `cargo fmt --all`.".into())
}

fn check_tidy() -> Outcome {
    tidy::check(&Workspace::read()?)
}

fn check_dependencies() -> Outcome {
    dependencies::check(&Workspace::read()?)
}

// The steps that build all take every feature of every crate, so that each finds what the one before has built.

fn check_clippy() -> Outcome {
    run(&mut cargo(["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"]))
}

fn check_docs() -> Outcome {
    run(cargo(["doc", "--workspace", "--all-features", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn run_tests(targets: &[&str], without: &needs::Without) -> Outcome {
    let places = (2 * thread::available_parallelism().map_or(1, usize::from)).to_string();
    let nextest = ["nextest", "run", "--profile", "all", "--test-threads", &places];
    let runner: &[&str] = if command::succeeds("cargo nextest --version") { &nextest } else { &["test"] };
    let common = ["--workspace", "--all-features", "--locked"];
    run(cargo(runner.iter().chain(&common).chain(targets)).env(needs::WITHOUT, without.to_string()))
}

fn run_doc_tests() -> Outcome {
    run(&mut cargo(["test", "--workspace", "--all-features", "--locked", "--doc"]))
}

fn write_docs() -> Outcome {
    run(cargo(["test", "--workspace", "--all-features", "--locked", "docs"]).env("UPDATE_DOCS", "1"))
}

fn bench(package: &str, name: &str) -> Outcome {
    run(&mut cargo(["bench", "--package", package, "--all-features", "--locked", "--bench", name]))
}

fn bench_locks() -> Outcome {
    needs::LOCK_KEEPERS.iter().try_for_each(needs::Need::require)?;
    bench("larder-server", "locks")
}

fn check_readme() -> Outcome {
    readme::check(&workspace::root().join("README.md"))
}
