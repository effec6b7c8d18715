//! `larder serve`: a node, until it is told to stop.

use std::{
    io::{self, Write},
    process,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::spawn_blocking,
};

use super::Failure;
use crate::{
    assemble::{Addresses, Listeners, assemble},
    cli::ServeArgs,
    config::Config,
    logging,
    reload::{Reload, Reloaded},
};

/// Runs a node.
///
/// # Errors
///
/// If its configuration has mistakes, or it can't start.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = read(args)?;
    logging::start(&args.log.level, args.log.format)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.node.workers > 0 {
        runtime.worker_threads(config.node.workers);
    }
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("threads can't be started: {error}")))?;
    runtime.block_on(serve(&config, args.clone()))
}

fn read(args: &ServeArgs) -> Result<Config, Failure> {
    args.load().map_err(|mistakes| Failure::mistaken(args.config.as_deref(), &mistakes))
}

async fn serve(config: &Config, args: ServeArgs) -> Result<(), Failure> {
    let unheard = |error: io::Error| Failure::failed(format!("signals can't be heard: {error}"));
    let signals = Signals::listen().map_err(unheard)?;
    let hangup = signal(SignalKind::hangup()).map_err(unheard)?;
    let daemon = assemble(config, Listeners::bind(config).await?, args.first_start, move || read(&args)).await?;
    announce(daemon.node().core().name(), daemon.addresses());
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(signals.attend(stop));
    tokio::spawn(reload_at(hangup, daemon.reload()));
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

/// Takes the configuration up anew at each signal. What signals can't be told is in the log.
async fn reload_at(mut hangup: Signal, reload: Reload) {
    while hangup.recv().await.is_some() {
        let reload = reload.clone();
        match spawn_blocking(move || reload.reload()).await {
            Ok(Ok(Reloaded { changed, needs_restart })) => {
                tracing::info!(?changed, ?needs_restart, "the configuration was read anew");
            }
            Ok(Err(failure)) => tracing::error!(%failure, "the configuration has mistakes; nothing was changed"),
            Err(error) => tracing::error!(%error, "the configuration can't be read anew"),
        }
    }
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
