//! What a node is called and where others reach it, when the configuration leaves it open.

use std::net::SocketAddr;

use super::keys::NodeConfig;

impl NodeConfig {
    /// The node's name: as configured, else the host's name and `peer_port`, the port that the peer listener has (or would have).
    ///
    /// # Examples
    ///
    /// ```
    /// use larder_server::config::Config;
    ///
    /// let config = Config::parse("[node]\nname = 'a'", &[])?;
    /// assert_eq!(config.node.name(5274), "a");
    /// assert!(Config::parse("", &[])?.node.name(5274).ends_with("-5274"));
    /// # Ok::<(), larder_server::config::Mistakes>(())
    /// ```
    #[must_use]
    pub fn name(&self, peer_port: u16) -> String {
        self.name.clone().unwrap_or_else(|| format!("{}-{peer_port}", host_name()))
    }

    /// Where others reach the listener that was bound to `bound`: `host:port`.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder_server::config::Config;
    ///
    /// let config = Config::parse("[node]\nadvertise = 'web1'", &[])?;
    /// assert_eq!(config.node.advertised("127.0.0.1:5273".parse().unwrap()), "web1:5273");
    /// # Ok::<(), larder_server::config::Mistakes>(())
    /// ```
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr) -> String {
        let port = bound.port();
        match &self.advertise {
            Some(host) if host.contains(':') => format!("[{host}]:{port}"),
            Some(host) => format!("{host}:{port}"),
            None if bound.ip().is_unspecified() => format!("{}:{port}", host_name()),
            None => bound.to_string(),
        }
    }
}

/// The host's name, as far as it can stand in a node's name.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    let name: String = name.chars().map(|letter| if fits(letter) { letter } else { '-' }).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}
