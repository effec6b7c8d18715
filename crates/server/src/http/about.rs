//! What a node tells of itself in JSON: its groups, its members, and where a key belongs.

use std::time::Duration;

use larder_core::{Group, KeyPlace, Node, stats::Source, store::Policy};
use serde_json::{Value, json};

/// `GET /v1/groups`.
pub(super) fn groups<'a>(groups: impl Iterator<Item = &'a Group>) -> Value {
    let mut groups: Vec<&Group> = groups.collect();
    groups.sort_by(|one, other| one.name().cmp(other.name()));
    json!({ "groups": groups.into_iter().map(group).collect::<Vec<_>>() })
}

fn group(group: &Group) -> Value {
    let (config, stats, store) = (group.config(), group.stats(), group.store_stats());
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let loads = |source| stats.loads.of(source).sum();
    json!({
        "name": **group.name(),
        "settings": {
            "has_origin": group.has_origin(),
            "capacity_bytes": config.capacity_bytes,
            "policy": policy(config.policy),
            "ttl_ms": config.ttl.map(ms),
            "ttl_jitter": config.ttl_jitter,
            "negative_ttl_ms": ms(config.negative_ttl),
            "stale_while_revalidate_ms": ms(config.stale_while_revalidate),
            "stale_if_error_ms": ms(config.stale_if_error),
            "refresh_ahead": config.refresh_ahead,
            "soft_timeout_ms": ms(config.soft_timeout),
            "hard_timeout_ms": ms(config.hard_timeout),
            "hot_lease_ms": ms(config.hot_lease),
            "max_value_bytes": config.value_len_max,
            "origin_concurrency": config.origin_concurrency,
            "origin_budget": config.origin_budget,
        },
        "counters": {
            "gets": stats.gets(),
            "hits": { "main": stats.hits_main.sum(), "hot": stats.hits_hot.sum() },
            "stale_hits": stats.stale_hits.sum(),
            "misses": stats.misses.sum(),
            "loads": {
                "origin": loads(Source::Origin),
                "peer": loads(Source::Peer),
                "stand_in": loads(Source::StandIn),
                "handoff": loads(Source::Handoff),
            },
            "loads_deduped": stats.loads_deduped.sum(),
            "cache_items": { "main": store.main.items, "hot": store.hot.items },
            "cache_bytes": { "main": store.main.bytes, "hot": store.hot.bytes },
        },
    })
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::S3Fifo => "s3-fifo",
        Policy::Lru => "lru",
    }
}

/// `GET /v1/cluster`.
pub(super) async fn cluster(node: &Node) -> Value {
    node.meet_members().await;
    let view = node.view();
    let members = view.members().iter().enumerate().map(|(index, member)| {
        json!({
            "name": *member.name,
            "state": member.state.to_string(),
            "http": *node.standing().http_of(member),
            "peer": *member.address,
            "slots": view.slot_count(index),
            "weight": member.weight,
            "zone": *member.zone,
        })
    });
    json!({
        "self": **node.name(),
        "view": { "digest": format!("{:016x}", view.digest()), "settled": view.is_serving() && node.is_settled() },
        "members": members.collect::<Vec<_>>(),
        "journal_failure": node.records_failure().map(|failure| failure.message().to_owned()),
    })
}

/// `GET /v1/cluster/owner/{group}/{key}`. golang/groupcache's ring has no slots.
pub(super) fn owner(node: &Node, place: &KeyPlace) -> Value {
    let slot = node.view().has_slots().then(|| place.slot.number());
    json!({ "slot": slot, "owner": place.owner.as_deref(), "stand_in": place.stand_in.as_deref() })
}
