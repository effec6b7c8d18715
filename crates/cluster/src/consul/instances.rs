//! What Consul's instances of a service say: which are members, and how one is registered. No I/O.

use std::{collections::BTreeMap, time::Duration};

use larder_core::Member;
use serde::Deserialize;
use serde_json::json;

use crate::registry::Facts;

/// An instance of the service that passes all its checks, those of its machine too.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) member: Member,
    /// Consul's index when it was registered.
    created: u64,
}

/// What a health query has of an instance, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    service: Service,
    checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    meta: BTreeMap<String, String>,
    #[serde(default)]
    create_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

/// Reads the answer to a health query. Instances that fail a check, or are no nodes, are left out.
pub(super) fn parse(body: &[u8]) -> Result<Vec<Instance>, serde_json::Error> {
    let shown: Vec<Health> = serde_json::from_slice(body)?;
    let is_well = |health: &Health| health.checks.iter().all(|check| check.status != "critical");
    let instances = shown.into_iter().filter(is_well).filter_map(|Health { service, .. }| {
        let Service { id, meta, create_index } = service;
        let member = member(&meta);
        if member.is_none() {
            tracing::debug!("the instance {id:?} in Consul can't be read");
        }
        Some(Instance { id, member: member?, created: create_index })
    });
    Ok(instances.collect())
}

fn member(meta: &BTreeMap<String, String>) -> Option<Member> {
    let fact = |name: &str| meta.get(name).cloned();
    let facts = Facts {
        incarnation: fact("incarnation")?.parse().ok()?,
        address: fact("address")?,
        http: fact("http")?,
        weight: fact("weight")?.parse().ok()?,
        zone: fact("zone")?,
        state: fact("state")?,
    };
    let name = fact("name").filter(|name| !name.is_empty())?;
    Some(facts.member(&name))
}

/// Who has a name: the first that took it, or a later run of the same node, known by its address. Every reader of the same
/// instances says the same.
pub(super) fn holder<'a>(instances: &'a [Instance], name: &str) -> Option<&'a Instance> {
    let mut named: Vec<&Instance> = instances.iter().filter(|instance| *instance.member.name == *name).collect();
    named.sort_by(|one, other| (one.created, &one.id).cmp(&(other.created, &other.id)));
    named.into_iter().reduce(|holder, later| {
        let is_same_node = later.member.address == holder.member.address;
        if is_same_node { later } else { holder }
    })
}

/// The members: of each name the one that has it.
pub(super) fn members(instances: &[Instance]) -> impl Iterator<Item = Member> {
    let is_holder =
        |instance: &&Instance| holder(instances, &instance.member.name).is_some_and(|holder| holder.id == instance.id);
    instances.iter().filter(is_holder).map(|instance| instance.member.clone())
}

/// What an agent is told to register an instance, with a check that passes for `ttl` from now.
pub(super) fn registration(id: &str, service: &str, me: &Member, ttl: Duration, remains: Duration) -> Vec<u8> {
    let Facts { incarnation, address, http, weight, zone, state } = Facts::from(me);
    let (host, port) = address.rsplit_once(':').unwrap_or((&address, ""));
    json!({
        "ID": id,
        "Name": service,
        // For those who look nodes up in Consul; nodes go by what the facts say.
        "Address": host.trim_matches(['[', ']']),
        "Port": port.parse::<u16>().unwrap_or_default(),
        "Meta": {
            "name": &*me.name,
            "incarnation": incarnation.to_string(),
            "address": &address,
            "http": http,
            "weight": weight.to_string(),
            "zone": zone,
            "state": state,
        },
        "Check": {
            "Name": "the node renews its entry",
            "TTL": format!("{}ms", ttl.as_millis()),
            "Status": "passing",
            "DeregisterCriticalServiceAfter": format!("{}s", remains.as_secs()),
        },
    })
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use larder_core::MemberState;

    use super::*;

    fn shown(id: &str, me: &Member, created: u64, statuses: &[&str]) -> serde_json::Value {
        let entry = registration(id, "larder", me, Duration::from_secs(5), Duration::from_secs(60));
        let entry: serde_json::Value = serde_json::from_slice(&entry).unwrap();
        json!({
            "Node": { "Node": "machine" },
            "Service": { "ID": id, "Service": "larder", "Meta": entry["Meta"], "CreateIndex": created },
            "Checks": statuses.iter().map(|status| json!({ "Status": status })).collect::<Vec<_>>(),
        })
    }

    fn named(name: &str, address: &str, incarnation: u32) -> Member {
        Member { incarnation, ..Member::new(name, address) }
    }

    fn read(shown: &[serde_json::Value]) -> Vec<Member> {
        let body = serde_json::to_vec(shown).unwrap();
        members(&parse(&body).unwrap()).collect()
    }

    #[test]
    fn a_member_comes_back_with_all_its_facts() {
        let member = Member {
            http: "10.0.0.1:5273".into(),
            weight: 0,
            zone: "eu west/1".into(),
            state: MemberState::Draining,
            ..named("a:[1]", "[::1]:5274", u32::MAX)
        };
        let read = read(&[shown("larder-a", &member, 7, &["passing", "passing"])]);
        assert_eq!(read.as_slice(), std::slice::from_ref(&member));
        let entry = registration("id", "larder", &member, Duration::from_millis(2500), Duration::from_secs(60));
        let entry: serde_json::Value = serde_json::from_slice(&entry).unwrap();
        assert_eq!((&entry["Address"], &entry["Port"]), (&json!("::1"), &json!(5274)));
        assert_eq!(entry["Check"]["TTL"], "2500ms");
    }

    #[test]
    fn who_is_critical_and_who_is_no_node_is_left_out() {
        let (a, b) = (named("a", "a:1", 1), named("b", "b:1", 2));
        let foreign = json!({ "Service": { "ID": "x", "Meta": { "name": "x" } }, "Checks": [] });
        let all = [
            shown("a", &a, 1, &["passing", "warning"]),
            shown("b", &b, 2, &["passing", "critical"]),
            foreign,
            json!({ "Service": { "ID": "y" }, "Checks": [] }),
        ];
        assert_eq!(read(&all), [a]);
        assert!(parse(b"{").is_err());
    }

    #[test]
    fn a_name_belongs_to_the_first_or_to_a_later_run_at_its_address() {
        let (first, other) = (named("a", "one:1", 1), named("a", "two:1", 2));
        let again = named("a", "one:1", 3);
        let [first_shown, other_shown, again_shown] =
            [("1", &first, 5), ("2", &other, 6), ("3", &again, 7)].map(|(id, me, at)| shown(id, me, at, &["passing"]));
        assert_eq!(read(&[other_shown.clone(), first_shown.clone()]), [first]);
        assert_eq!(read(&[again_shown, other_shown.clone(), first_shown]), [again]);
        assert_eq!(read(&[other_shown]), [other]);
    }
}
