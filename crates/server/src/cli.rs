//! The command line: what can be asked, and how a command's end becomes the process's.
//!
//! What the commands do is in [`commands`].

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, builder::TypedValueParser};
use larder_bench::{CALLERS_MAX, Distribution};
use larder_core::{
    Key,
    lock::{LOCK_TTL_MIN, LockName, LockRequest},
};

use crate::{
    commands::{self, NodeUrl},
    config::{Config, Mistakes, Override},
    logging::LogFormat,
};

/// A distributed read-through cache: one load of a key serves every caller on every node.
#[derive(Parser, Debug)]
#[command(name = "larder", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 key not found, 4 could not reach a node, 5 lock not acquired; \
    lock otherwise exits as its command does.";

/// What `larder` can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Runs a node until it is told to stop.
    Serve(ServeArgs),
    /// Runs a whole cluster, an origin and a load on this machine.
    Demo(DemoArgs),
    /// Validates a configuration and prints every mistake with its line.
    Check(CheckArgs),
    /// Writes a key's value to stdout.
    Get(KeyArgs),
    /// Sets a key's value.
    Set(SetArgs),
    /// Removes a key.
    Rm(KeyArgs),
    /// Drops what is cached of keys, of tags or of a group, on every node; the origin is left alone.
    Invalidate(InvalidateArgs),
    /// Says which node owns a key.
    Owner(OwnerArgs),
    /// Runs a command while a lock is held.
    Lock(LockArgs),
    /// Shows the cluster, its groups and the locks that are held.
    Status(StatusArgs),
    /// Measures how many gets a node answers, and how long they take.
    Bench(BenchArgs),
    /// Looks at the write-behind journal of a node that does not run.
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Has a node go on without members that don't come back, and says which acknowledged writes that gives up.
    Takeover(TakeoverArgs),
    /// Looks at the writes that a node gave up, tries them again, drops them.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
        Command::Check(args) => commands::check::run(&args),
        Command::Get(args) => commands::get::run(&args),
        Command::Set(args) => commands::set::run(args),
        Command::Rm(args) => commands::rm::run(&args),
        Command::Invalidate(args) => commands::invalidate::run(&args),
        Command::Owner(args) => commands::owner::run(&args),
        Command::Lock(args) => match commands::lock::run(&args) {
            Ok(code) => return ExitCode::from(code),
            Err(failure) => Err(failure),
        },
        Command::Status(args) => commands::status::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Journal(JournalCommand::List(args)) => commands::journal::list(&args),
        Command::Journal(JournalCommand::Check(args)) => commands::journal::check(&args),
        Command::Takeover(args) => commands::takeover::run(&args),
        Command::DeadLetters(command) => match command {
            DeadLettersCommand::List(args) => commands::dead_letters::list(&args),
            DeadLettersCommand::Show(args) => commands::dead_letters::show(&args),
            DeadLettersCommand::Retry(args) => commands::dead_letters::retry(&args),
            DeadLettersCommand::Drop(args) => commands::dead_letters::drop_letter(&args),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What goes into the logs.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,larder_peer=debug.
    #[arg(long = "log", value_name = "LEVEL", env = "LARDER_LOG", default_value = "info")]
    pub level: String,
    /// How it looks.
    #[arg(long = "log-format", value_name = "FORMAT", value_enum, default_value_t)]
    pub format: LogFormat,
}

/// `larder serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The configuration; without one, there is one group `default` that holds what is set.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The origin of the group `default`: http://HOST/PATH/{key}, sqlite:FILE?select=STATEMENT or directory:PATH.
    #[arg(long, value_name = "URL", value_parser = Override::origin)]
    pub origin: Option<Override>,
    /// Where clients are served (node.listen).
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where other nodes are served (node.peer).
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,
    /// Where health and metrics are served (node.admin).
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Where a node of the cluster gossips that this one is to join (cluster.seeds, with discovery "gossip"). May be repeated.
    #[arg(long, value_name = "ADDR")]
    pub join: Vec<String>,
    /// Says that this cluster is new, or stood still for a minute: nobody can hold a lock that an earlier run granted. Without it a node that
    /// finds nobody who knows grants no cluster locks in its first minute.
    #[arg(long)]
    pub first_start: bool,
    /// Sets any key of the configuration by its dotted path. May be repeated; the last one counts.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<Override>,
    /// What goes into the logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl ServeArgs {
    /// The configuration that the file and the flags make.
    ///
    /// # Errors
    ///
    /// Every mistake in them.
    pub fn load(&self) -> Result<Config, Mistakes> {
        let flags = [
            ("--listen", "node.listen", &self.listen),
            ("--peer", "node.peer", &self.peer),
            ("--admin", "node.admin", &self.admin),
        ];
        let flags = flags.into_iter().filter_map(|(flag, key, value)| Some(Override::new(flag, key, value.as_ref()?)));
        let seeds = format!("{:?}", self.join);
        let join = [("cluster.discovery", "gossip"), ("cluster.seeds", &seeds)];
        let join = join.into_iter().filter(|_| !self.join.is_empty());
        let join = join.map(|(key, value)| Override::new("--join", key, value));
        let overrides: Vec<Override> =
            self.origin.iter().cloned().chain(flags).chain(join).chain(self.set.iter().cloned()).collect();
        Config::load(self.config.as_deref(), &overrides)
    }
}

/// `larder demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: u16,
    /// How long the load runs.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    pub duration: Duration,
    /// How many keys the load asks for.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub keys: u32,
    /// What goes into the logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `larder check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Sets any key of the configuration by its dotted path, as `serve` would.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<Override>,
}

/// The variable that names the node to ask, and which one it is without.
const NODE_ENV: &str = "LARDER_NODE";
const NODE_DEFAULT: &str = "http://127.0.0.1:5273";

/// Which node is asked.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// The node to ask: where it serves clients.
    #[arg(long = "node", value_name = "URL", env = NODE_ENV, default_value = NODE_DEFAULT)]
    pub url: NodeUrl,
}

/// A key of a group, at a node: `larder get`, `larder rm`.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// The group.
    #[arg(value_parser = group)]
    pub group: String,
    /// The key: any bytes, 1 to 1024 of them.
    #[arg(value_parser = key_parser())]
    pub key: Key,
    /// Which node is asked.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `larder set`.
#[derive(Args, Debug)]
pub struct SetArgs {
    /// Which key.
    #[command(flatten)]
    pub key: KeyArgs,
    /// The value; without one, or with -, it is read from stdin.
    pub value: Option<OsString>,
}

/// `larder invalidate`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").args(["keys", "tags", "all"]).required(true).multiple(true)))]
pub struct InvalidateArgs {
    /// The group.
    #[arg(value_parser = group)]
    pub group: String,
    /// The keys: any bytes, 1 to 1024 of them.
    #[arg(value_name = "KEY", value_parser = key_parser())]
    pub keys: Vec<Key>,
    /// A tag: whatever bears it goes. May be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// All of the group.
    #[arg(long)]
    pub all: bool,
    /// Which node is asked.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `larder owner`.
#[derive(Args, Debug)]
pub struct OwnerArgs {
    /// Which key.
    #[command(flatten)]
    pub key: KeyArgs,
    /// Prints the node's JSON.
    #[arg(long)]
    pub json: bool,
}

/// `larder lock`.
#[derive(Args, Debug)]
pub struct LockArgs {
    /// The lock's name: any bytes, 1 to 1024 of them.
    #[arg(value_parser = lock_name_parser())]
    pub name: LockName,
    /// How long the lock lasts if this command vanishes: 100ms to 60s. It is renewed three times within.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = lock_ttl)]
    pub ttl: Duration,
    /// How long the lock is waited for while another has it: up to 60s; 0s: not at all.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = lock_wait)]
    pub wait: Duration,
    /// Which node is asked.
    #[command(flatten)]
    pub node: NodeArgs,
    /// What is run while the lock is held, with its arguments. It finds the lock's number in LARDER_FENCE.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `larder status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Which node is asked.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Prints JSON: `{"cluster": …, "groups": …, "locks": …}`, as the node gave them.
    #[arg(long)]
    pub json: bool,
}

/// `larder journal`.
#[derive(Subcommand, Debug)]
pub enum JournalCommand {
    /// Lists the writes that are not at their origin, and those that were given up.
    List(JournalArgs),
    /// Reads all of it and says what is damaged.
    Check(JournalArgs),
}

/// Which journal.
#[derive(Args, Debug)]
pub struct JournalArgs {
    /// The node's data folder (node.data_dir).
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Prints JSON: an object a line.
    #[arg(long)]
    pub json: bool,
}

/// `larder dead-letters`.
#[derive(Subcommand, Debug)]
pub enum DeadLettersCommand {
    /// Lists them, the oldest first.
    List(DeadLettersArgs),
    /// Prints one as JSON, with its value in Base64.
    Show(DeadLetterArgs),
    /// Writes one anew, as any write of its key.
    Retry(DeadLetterArgs),
    /// Drops one for good.
    Drop(DeadLetterArgs),
}

/// Which node's operators are served where.
#[derive(Args, Clone, Debug)]
pub struct AdminArgs {
    /// The node to ask: where it serves operators (node.admin).
    #[arg(long = "admin", value_name = "URL", env = "LARDER_ADMIN", default_value = "http://127.0.0.1:5276")]
    pub url: NodeUrl,
}

/// `larder takeover`.
#[derive(Args, Debug)]
pub struct TakeoverArgs {
    /// Which node is asked.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// The dead letters of a node.
#[derive(Args, Debug)]
pub struct DeadLettersArgs {
    /// Which node is asked.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Prints JSON: an object a line.
    #[arg(long)]
    pub json: bool,
}

/// One of them.
#[derive(Args, Debug)]
pub struct DeadLetterArgs {
    /// Its number.
    #[arg(value_name = "ID")]
    pub id: u64,
    /// Which node is asked.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `larder bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// The node to ask as a client: where it serves clients [env: LARDER_NODE=] [default: http://127.0.0.1:5273].
    #[arg(long, value_name = "URL", conflicts_with = "peer")]
    pub node: Option<NodeUrl>,
    /// The node to ask as another node would, over gRPC: its node.peer. Of keys that other members own those are asked.
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,
    /// The group.
    #[arg(long, value_name = "G", value_parser = group)]
    pub group: String,
    /// How many keys are asked for: PREFIX0, PREFIX1 and so on.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// What the keys begin with.
    #[arg(long, value_name = "PREFIX", default_value = "key:")]
    pub prefix: String,
    /// How gets are spread over the keys: zipf:0.99 (a few are popular, PREFIX0 the most) or uniform.
    #[arg(long, value_name = "DIST", default_value = "zipf:0.99")]
    pub dist: Distribution,
    /// Writes all keys first, with values of so many bytes (100, 4KiB). Without it nothing is written.
    #[arg(long, value_name = "B", value_parser = value_len)]
    pub value_size: Option<usize>,
    /// How many gets are under way at most, each by a caller of its own.
    #[arg(long, value_name = "N", default_value = "64", value_parser = callers)]
    pub concurrency: usize,
    /// Starts so many gets a second, whatever became of those before, and counts how long they took from when they were due
    /// (an open loop). Without it each caller asks again as soon as it has its answer (a closed loop).
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// For how long.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    pub duration: Duration,
    /// Prints one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl BenchArgs {
    /// The node to ask as a client.
    ///
    /// # Errors
    ///
    /// If none is given, and `LARDER_NODE` is no node's address.
    pub fn node(&self) -> Result<NodeUrl, String> {
        match &self.node {
            Some(node) => Ok(node.clone()),
            // No NodeArgs: clap would have the variable conflict with --peer.
            None => env::var(NODE_ENV).as_deref().unwrap_or(NODE_DEFAULT).parse(),
        }
    }
}

fn group(text: &str) -> Result<String, larder_core::Error> {
    larder_core::check_group_name(text).map(|()| text.to_owned())
}

/// A key is bytes, and so is an argument.
fn key_parser() -> impl TypedValueParser<Value = Key> {
    clap::builder::OsStringValueParser::new().try_map(|text| Key::new(text.into_encoded_bytes()))
}

/// A lock's name is bytes too.
fn lock_name_parser() -> impl TypedValueParser<Value = LockName> {
    clap::builder::OsStringValueParser::new().try_map(|text| LockName::new(text.into_encoded_bytes()))
}

fn lock_ttl(text: &str) -> Result<Duration, String> {
    lock_time(text, |name, ttl| LockRequest::new(name, ttl, Duration::ZERO))
}

fn lock_wait(text: &str) -> Result<Duration, String> {
    lock_time(text, |name, wait| LockRequest::new(name, LOCK_TTL_MIN, wait))
}

fn lock_time(
    text: &str,
    request: impl FnOnce(LockName, Duration) -> Result<LockRequest, larder_core::Error>,
) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "expected a duration such as 500ms or 10s".to_owned())?;
    let checked = LockName::new("any").and_then(|name| request(name, time));
    checked.map(|_| time).map_err(|error| error.message().to_owned())
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > Duration::ZERO => Ok(duration),
        _ => Err("expected a duration such as 500ms or 10s".to_owned()),
    }
}

/// The longest values that are written for a benchmark: longer ones no group takes.
const VALUE_LEN_MAX: u64 = 1 << 30;

fn value_len(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytesize::ByteSize(len)) if len <= VALUE_LEN_MAX => usize::try_from(len).map_err(|error| error.to_string()),
        _ => Err("expected a size such as 100 or 4KiB, at most 1GiB".to_owned()),
    }
}

fn callers(text: &str) -> Result<usize, String> {
    let callers = text.parse().ok().filter(|callers| (1..=CALLERS_MAX).contains(callers));
    callers.ok_or_else(|| format!("expected a whole number from 1 to {CALLERS_MAX}"))
}

/// The most gets a second that are tried for: more than the machines there are can send.
const RATE_MAX: f64 = 1e8;

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
    rate.ok_or_else(|| format!("expected gets a second: more than 0, at most {RATE_MAX}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::config::OriginConfig;

    use super::*;

    #[test]
    fn set_counts_more_than_the_other_flags_and_they_more_than_nothing() {
        let line = "larder serve --listen 127.0.0.1:1 --peer [::1]:2 --admin localhost:3 --origin ./users --set node.listen=127.0.0.1:4";
        let Command::Serve(args) = Cli::parse_from(line.split(' ')).command else { panic!("not serve") };
        let config = args.load().unwrap();
        let node = &config.node;
        assert_eq!([node.listen, node.peer, node.admin].map(|address| address.port()), [4, 2, 3]);
        assert!(matches!(config.groups["default"].origin, OriginConfig::Directory(_)));
    }

    #[test]
    fn the_definitions_of_the_command_line_agree() {
        Cli::command().debug_assert();
    }
}
