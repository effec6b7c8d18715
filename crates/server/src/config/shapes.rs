//! The shapes of text that keys ask for: names, hosts, members.

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

pub(super) const LABEL: Text =
    Text { expected: "a word of at most 253 bytes, without control characters", fits: is_label };

pub(super) const SQL: Text = Text { expected: "an SQL statement in which $1 stands for the key", fits: is_sql };

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

fn is_database(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

fn is_sql(text: &str) -> bool {
    text.match_indices("$1").any(|(at, _)| !text[at + 2..].starts_with(|next: char| next.is_ascii_digit()))
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
