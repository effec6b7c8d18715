//! `larder serve`: a node, until it is told to stop.

use std::{
    io::{self, Write},
    process,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::Failure;
use crate::{
    assemble::{Addresses, Listeners, assemble},
    cli::ServeArgs,
    config::Config,
    logging,
};

/// Runs a node.
///
/// # Errors
///
/// If its configuration has mistakes, or it can't start.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = args.load().map_err(|mistakes| Failure::mistaken(args.config.as_deref(), &mistakes))?;
    logging::start(&args.log.level, args.log.format)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.node.workers > 0 {
        runtime.worker_threads(config.node.workers);
    }
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("threads can't be started: {error}")))?;
    runtime.block_on(serve(&config))
}

async fn serve(config: &Config) -> Result<(), Failure> {
    let signals = Signals::listen().map_err(|error| Failure::failed(format!("signals can't be heard: {error}")))?;
    let daemon = assemble(config, Listeners::bind(config).await?).await?;
    announce(daemon.node().core().name(), daemon.addresses());
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(signals.attend(stop));
    let cut_off = daemon
        .run(async {
            // The sender is only dropped with the runtime.
            let _asked = stopped.await;
        })
        .await;
    if cut_off > 0 {
        tracing::warn!(cut_off, "drain_timeout passed with requests under way; their connections were cut");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Says on stdout where the node is, a line each that a script can read: ports may have been chosen by the system.
fn announce(name: &str, Addresses { clients, peers, gossip, admin }: Addresses) {
    let mut text = format!("larder: node {name} is serving\n  clients  http://{clients}\n");
    if let Some(peers) = peers {
        text += &format!("  peers    {peers}\n");
    }
    if let Some(gossip) = gossip {
        text += &format!("  gossip   {gossip}\n");
    }
    text += &format!("  admin    http://{admin}\n");
    // Who closed stdout doesn't want to know.
    let _ = io::stdout().write_all(text.as_bytes());
    let _ = io::stdout().flush();
    tracing::info!(node = name, %clients, %admin, "serving");
}

/// What asks a process to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The first signal asks for a good end, the second one ends the process at once.
    async fn attend(mut self, stop: oneshot::Sender<()>) {
        self.next().await;
        tracing::info!("stopping; a second signal ends this at once");
        // If nobody listens any more, the end has come already.
        let _ = stop.send(());
        self.next().await;
        process::exit(1);
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
