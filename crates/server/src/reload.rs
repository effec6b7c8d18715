//! [`Reload`]: reads the configuration anew, changes what can change while the node runs, and names the rest.
//!
//! Which keys those are is said where the keys are defined: `live` in `config/keys.rs`. Here is what a change of one means.

use std::sync::Arc;

use larder::cluster::Static;
use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    assemble::static_members,
    commands::Failure,
    config::{Config, Difference},
    http::Api,
};

/// What another list of members can only be taken up with: they say which entry is this node's own, and what an address is.
const MEMBERS_HANG_ON: [&str; 5] = ["cluster.discovery", "cluster.ring", "node.name", "node.peer", "node.transport"];

/// Reads the configuration as it was read at the start.
type Read = dyn Fn() -> Result<Config, Failure> + Send + Sync;

/// What came of reading the configuration anew.
///
/// ```
/// use larder_server::reload::Reloaded;
///
/// let reloaded = Reloaded { changed: vec!["cluster.members".into()], needs_restart: Vec::new() };
/// assert_eq!(serde_json::to_string(&reloaded).unwrap(), r#"{"changed":["cluster.members"],"needs_restart":[]}"#);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Reloaded {
    /// The keys that have changed and hold from now on.
    pub changed: Vec<String>,
    /// The keys that have changed and hold once the node is started again.
    pub needs_restart: Vec<String>,
}

/// Takes up what changes in the configuration. Clones are the same one.
///
/// # Examples
///
/// ```
/// use larder_server::{config::Config, http::{Api, ApiConfig}, reload::Reload};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = larder::Node::builder().name("a").start().await?;
/// let (_draining, watched) = tokio::sync::watch::channel(false);
/// let api = Api::new(ApiConfig { node: node.core().clone(), locks: node.locks().clone(), max_ages: Default::default(), draining: watched });
/// let config = Config::parse("", &[])?;
/// let reload = Reload::new(config, None, api).reading(|| Ok(Config::parse("node.zone = 'east'", &[]).unwrap()));
/// assert_eq!(reload.reload()?.needs_restart, ["node.zone"]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Reload {
    read: Arc<Read>,
    running: Arc<Mutex<Running>>,
}

/// What runs, and the configuration that it runs by.
struct Running {
    config: Config,
    /// The list of members, if it is a written one.
    list: Option<Static>,
    api: Api,
}

impl Reload {
    /// For what runs by `config`: a list of members, if somebody writes it, and the groups of an API. Until it is told how to read
    /// a configuration, the same is read again.
    #[must_use]
    pub fn new(config: Config, list: Option<Static>, api: Api) -> Self {
        let unchanged = config.clone();
        let running = Running { config, list, api };
        Self { read: Arc::new(move || Ok(unchanged.clone())), running: Arc::new(Mutex::new(running)) }
    }

    /// The same, with the configuration read in this way.
    #[must_use]
    pub fn reading(self, read: impl Fn() -> Result<Config, Failure> + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), ..self }
    }

    /// Reads the configuration and takes it up. It waits for files.
    ///
    /// # Errors
    ///
    /// All mistakes in it; nothing has changed then.
    pub fn reload(&self) -> Result<Reloaded, Failure> {
        // Held from here on: of two at once, the one that changes things later has read them later.
        let mut running = self.running.lock();
        running.take_up(&(self.read)()?)
    }
}

impl Running {
    fn take_up(&mut self, new: &Config) -> Result<Reloaded, Failure> {
        let mut config = self.config.clone();
        let mut differences = config.take_live(new);
        if differences.iter().any(|it| MEMBERS_HANG_ON.contains(&it.key.as_str())) || self.list.is_none() {
            config.cluster.members.clone_from(&self.config.cluster.members);
            differences.iter_mut().filter(|it| it.key == "cluster.members").for_each(|it| it.live = false);
        }
        if let Some(list) = &self.list {
            list.set(static_members(&config)).map_err(|error| Failure::failed(error.to_string()))?;
        }
        self.api.limit_handoffs(config.node.handoff);
        for (name, group) in &config.groups {
            let taken = self.api.set_group(name, group.settings(), group.downstream_max_age);
            taken.map_err(|error| Failure::failed(format!("groups.{name}: {error}")))?;
        }
        self.config = config;
        let (changed, needs_restart): (Vec<Difference>, Vec<Difference>) =
            differences.into_iter().partition(|difference| difference.live);
        let keys = |differences: Vec<Difference>| differences.into_iter().map(|difference| difference.key).collect();
        Ok(Reloaded { changed: keys(changed), needs_restart: keys(needs_restart) })
    }
}
