//! What is compared, and one of these systems at work.

use std::error::Error;

use larder_core::stats::Protocol;

use super::{
    go, larder, petroniuss,
    sides::{Ended, on_one_thread},
    turn::{Measured, Turn},
    unary,
    wire::{self, Wire},
};
use crate::{
    needs,
    process::{Process, cpu_seconds},
};

/// Of the gets that an asker counts, so many the server must have seen. The others are callers that asked for the same
/// key at the same moment, and shared one answer: at 512 callers and 100,000 keys some five in a thousand.
const REMOTE_PART: f64 = 0.98;

/// Callers of a system that asks for many keys at once; there may be fewer.
const PIPELINES_MAX: usize = 64;

#[derive(Clone, Copy)]
enum Kind {
    Larder(Protocol),
    /// Over gRPC, so many keys at once.
    LarderMany(usize),
    Unary,
    /// golang/groupcache.
    Go,
    Petroniuss,
    Wire(Wire, usize),
}

const SYSTEMS: [(&str, Kind); 10] = [
    ("larder grpc", Kind::Larder(Protocol::Grpc)),
    ("larder grpc get_many 64", Kind::LarderMany(64)),
    ("larder http", Kind::Larder(Protocol::Http)),
    ("unary grpc", Kind::Unary),
    ("golang/groupcache", Kind::Go),
    ("groupcache (Petroniuss)", Kind::Petroniuss),
    ("redis pipeline 1", Kind::Wire(Wire::Redis, 1)),
    ("redis pipeline 16", Kind::Wire(Wire::Redis, 16)),
    ("redis pipeline 64", Kind::Wire(Wire::Redis, 64)),
    ("memcached", Kind::Wire(Wire::Memcached, 1)),
];

pub(crate) const NAMES: [&str; SYSTEMS.len()] = {
    let mut names = [""; SYSTEMS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = SYSTEMS[at].0;
        at += 1;
    }
    names
};

impl Kind {
    fn named(name: &str) -> Result<Self, Box<dyn Error>> {
        let found = SYSTEMS.into_iter().find(|(its, _)| *its == name);
        found.map(|(_, kind)| kind).ok_or_else(|| format!("there is no system {name}").into())
    }

    /// What has to be installed for it, as [`needs`] calls it.
    fn need(self) -> Option<&'static str> {
        match self {
            Self::Larder(_) | Self::LarderMany(_) | Self::Unary | Self::Petroniuss => None,
            Self::Go => Some("go"),
            Self::Wire(Wire::Redis, _) => Some("redis"),
            Self::Wire(Wire::Memcached, _) => Some("memcached"),
        }
    }

    fn is_there(self) -> bool {
        self.need().is_none_or(needs::is_there)
    }
}

/// One side of a system, which this program starts itself as.
#[derive(clap::Args)]
pub(crate) struct Side {
    system: String,
    /// Serves unless it is told whom to ask.
    #[arg(long)]
    ask: Option<String>,
    #[arg(long)]
    value_len: usize,
}

/// The process of one side.
pub(crate) fn side(options: &Side) -> Ended {
    let value_len = options.value_len;
    match (Kind::named(&options.system)?, &options.ask) {
        (Kind::Larder(protocol), None) => on_one_thread(larder::serve(protocol, value_len)),
        (Kind::LarderMany(_), None) => on_one_thread(larder::serve(Protocol::Grpc, value_len)),
        (Kind::LarderMany(keys_len), Some(address)) => on_one_thread(larder::ask_many(keys_len, address, value_len)),
        (Kind::Larder(protocol), Some(address)) => on_one_thread(larder::ask(protocol, address, value_len)),
        (Kind::Unary, None) => on_one_thread(unary::serve(value_len)),
        (Kind::Unary, Some(address)) => on_one_thread(unary::ask(address, value_len)),
        (Kind::Petroniuss, None) => on_one_thread(petroniuss::serve(value_len)),
        (Kind::Petroniuss, Some(address)) => on_one_thread(petroniuss::ask(address, value_len)),
        (Kind::Wire(wire, _), None) => wire::serve(wire, value_len),
        (Kind::Wire(wire, pipeline), Some(address)) => on_one_thread(wire::ask(wire, pipeline, address, value_len)),
        (Kind::Go, _) => Err("that one is a program of its own".into()),
    }
}

/// A system at work: two processes, and what they are up to.
pub(crate) struct System {
    name: &'static str,
    kind: Kind,
    // Ends before the one that it asks.
    asker: Process,
    server: Process,
    /// The process that serves, which `server` may only speak for.
    serving: u32,
}

/// What a turn came to.
pub(crate) struct Cost {
    pub(crate) measured: Measured,
    pub(crate) asking_cpu_seconds: f64,
    pub(crate) serving_cpu_seconds: f64,
}

impl Cost {
    pub(crate) fn gets_per_second(&self) -> f64 {
        self.measured.gets as f64 / self.measured.seconds
    }
}

impl System {
    /// `None` if there is to do without.
    pub(crate) fn start(name: &'static str, value_len: usize) -> Result<Option<Self>, Box<dyn Error>> {
        let kind = Kind::named(name)?;
        if !kind.is_there() {
            return Ok(None);
        }
        let start = |ask: &[&str]| match kind {
            Kind::Go => go::start(ask, value_len),
            _ => Process::start_self(&[&["peer-side", name, "--value-len", &value_len.to_string()], ask].concat()),
        };
        let mut server = start(&[])?;
        let line = server.line()?;
        let (address, serving) = line.split_once(' ').ok_or("a server tells its address and its process")?;
        Ok(Some(Self { name, kind, asker: start(&["--ask", address])?, server, serving: serving.parse()? }))
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Has the asker ask for a while, and sees to it that the server answered, and rightly.
    pub(crate) fn turn(&mut self, mut turn: Turn) -> Result<Cost, Box<dyn Error>> {
        if let Kind::Wire(_, 2..) | Kind::LarderMany(_) = self.kind {
            turn.callers = turn.callers.min(PIPELINES_MAX);
        }
        let answered: u64 = self.server.say("")?.parse()?;
        let (asking, serving) = (self.asker.id(), self.serving);
        let cpu_seconds = || Ok::<_, Box<dyn Error>>((cpu_seconds(asking)?, cpu_seconds(serving)?));
        let before = cpu_seconds()?;
        let measured = self.asker.say(turn)?;
        let after = cpu_seconds()?;
        let measured: Measured = serde_json::from_str(&measured)?;
        let Measured { gets, wrong, .. } = measured;
        let answered = self.server.say("")?.parse::<u64>()? - answered;
        if gets == 0 || wrong > 0 {
            return Err(format!("{}: of {gets} gets {wrong} did not bring the right value", self.name).into());
        }
        if (answered as f64) < gets as f64 * REMOTE_PART {
            return Err(format!("{}: of {gets} gets the server saw {answered}", self.name).into());
        }
        Ok(Cost { measured, asking_cpu_seconds: after.0 - before.0, serving_cpu_seconds: after.1 - before.1 })
    }
}
