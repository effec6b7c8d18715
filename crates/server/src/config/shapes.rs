//! The shapes of text that keys ask for: names, hosts, members, keys.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use larder::cluster::{dns::DnsName, gossip::KEY_LEN};

use super::{
    document::Value,
    kind::{Describe, Refusal, Scalar, Text},
};

/// The longest node name, zone or host name, in bytes; a DNS name has at most 253.
const NAME_BYTES_MAX: usize = 253;

/// `[a-z0-9][a-z0-9_-]{0,63}`.
pub(super) const GROUP_NAME: Text = Text {
    expected: "a group's name: a lower-case letter or a digit first, then lower-case letters, digits, \"_\" and \"-\", 64 in all",
    fits: |text| larder_core::check_group_name(text).is_ok(),
};

pub(super) const NODE_NAME: Text =
    Text { expected: "a name of letters, digits, \".\", \"_\", \"-\", \":\", \"[\" and \"]\"", fits: is_node_name };

pub(super) const HOST: Text = Text { expected: "a host name or an IP address, without a port", fits: is_host };

pub(super) const SEED: Text = Text { expected: r#"a host and a port such as "10.0.0.1:5275""#, fits: is_host_and_port };

pub(super) const ETCD: Text =
    Text { expected: "the URL of a member of etcd such as \"http://127.0.0.1:2379\"", fits: is_bare_url };

pub(super) const ETCD_PREFIX: Text =
    Text { expected: "what keys begin with, such as \"/larder/\", at most 253 bytes", fits: is_label };

pub(super) const CONSUL: Text =
    Text { expected: "the URL of an agent of Consul such as \"http://127.0.0.1:8500\"", fits: is_bare_url };

pub(super) const CONSUL_SERVICE: Text =
    Text { expected: "the name of a service: letters, digits and \"-\", at most 63", fits: is_service_name };

pub(super) const LABEL: Text =
    Text { expected: "a word of at most 253 bytes, without control characters", fits: is_label };

pub(super) const SQL: Text = Text { expected: "an SQL statement in which $1 stands for the key", fits: is_sql };

pub(super) const UPSERT: Text = Text {
    expected: "an SQL statement in which $1 stands for the key, $2 for the value and, if it is there, $3 for the version",
    fits: is_upsert,
};

pub(super) const DELETE: Text = Text {
    expected: "an SQL statement in which $1 stands for the key and, if it is there, $3 for the version",
    fits: is_sql,
};

pub(super) const DATABASE: Text =
    Text { expected: "the path of a database file, such as \"users.db\"", fits: is_database };

/// Discovery by DNS names members by their addresses, hence the colon and the brackets.
fn is_node_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:[]".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

fn is_host(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.parse::<std::net::IpAddr>().is_ok() || ((1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits))
}

fn is_label(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}

/// A scheme, a host and most often a port, and nothing else.
fn is_bare_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        let is_bare = uri.path_and_query().is_none_or(|path| path == "/") && !text.contains('@');
        is_bare && uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
    })
}

fn is_service_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_database(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

fn is_sql(text: &str) -> bool {
    names(text, "$1")
}

fn is_upsert(text: &str) -> bool {
    names(text, "$1") && names(text, "$2")
}

fn names(sql: &str, parameter: &str) -> bool {
    let digit = |next: char| next.is_ascii_digit();
    sql.match_indices(parameter).any(|(at, _)| !sql[at + parameter.len()..].starts_with(digit))
}

/// Whether `text` is a host and a port that can be reached: `web1:5274`, `10.0.0.1:5274`, `[::1]:5274`.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host) && !host.contains(':'),
    };
    host && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A member of a static cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberConfig {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where it is reached, as it was written: `host:port`, or a URL with `ring = "groupcache"`.
    pub address: String,
}

/// `name=address`.
pub(super) struct MemberEntry;

impl Describe for MemberEntry {
    fn expected(&self) -> String {
        r#"NAME=ADDRESS such as "a=10.0.0.1:5274""#.to_owned()
    }
}

impl Scalar for MemberEntry {
    type Value = MemberConfig;

    fn take(&self, value: &Value) -> Result<MemberConfig, Refusal> {
        let Value::Text(text) = value else { return Err(Refusal::Unexpected) };
        match text.split_once('=') {
            // Which shape the address must have depends on the ring: see rules.rs.
            Some((name, address)) if is_node_name(name) && !address.is_empty() => {
                Ok(MemberConfig { name: name.to_owned(), address: address.to_owned() })
            }
            _ => Err(Refusal::Unexpected),
        }
    }
}

/// The secret of a cluster that gossips. It is never shown.
///
/// # Examples
///
/// ```
/// use larder_server::config::Config;
///
/// let key = "cluster.gossip_key='AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='".parse().unwrap();
/// let config = Config::parse("", &[key])?;
/// let key = config.cluster.gossip_key.unwrap();
/// assert_eq!(format!("{key:?}"), "GossipKey(…)");
/// assert_eq!(key.reveal()[..3], [0, 1, 2]);
/// # Ok::<(), larder_server::config::Mistakes>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct GossipKey([u8; KEY_LEN]);

impl GossipKey {
    /// The secret.
    #[must_use]
    pub fn reveal(&self) -> [u8; KEY_LEN] {
        self.0
    }
}

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GossipKey(…)")
    }
}

/// A [`GossipKey`] in base64.
pub(super) struct GossipKeyText;

impl Describe for GossipKeyText {
    fn expected(&self) -> String {
        format!("{KEY_LEN} bytes in base64")
    }
}

impl Scalar for GossipKeyText {
    type Value = GossipKey;

    fn take(&self, value: &Value) -> Result<GossipKey, Refusal> {
        // What is wrong with it may be one letter, so that it is not shown.
        let wrong = || Refusal::Because(format!("expected {}", self.expected()));
        let Value::Text(text) = value else { return Err(wrong()) };
        let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|_| wrong())?;
        bytes.try_into().map(GossipKey).map_err(|_| wrong())
    }
}

/// A [`DnsName`].
pub(super) struct DnsNameText;

impl Describe for DnsNameText {
    fn expected(&self) -> String {
        r#"HOST:PORT such as "larder.default.svc:5274", or the name of SRV records such as "_larder._tcp.example.com""#
            .to_owned()
    }
}

impl Scalar for DnsNameText {
    type Value = DnsName;

    fn take(&self, value: &Value) -> Result<DnsName, Refusal> {
        let Value::Text(text) = value else { return Err(Refusal::Unexpected) };
        text.parse().map_err(|_| Refusal::Unexpected)
    }
}
