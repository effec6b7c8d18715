//! The metrics, as `/metrics` shows them.
//!
//! Nothing is counted here: all is read from the core's own counters when somebody asks. A registry a node, so that many nodes in one process can be told apart.

use std::{fmt, sync::Arc};

use larder_core::{
    Locks, MemberState, Node,
    behind::RecordStats,
    stats::{
        BOUNDS_SECONDS, Direction, GetOutcome, HistogramSnapshot, LoadErrorKind, LoadLockResult, LockResult,
        OriginStats, Protocol, RequestResult, SIZE_BOUNDS, SizesSnapshot, Source, WriteResult,
    },
    store::TierStats,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::api::Served;

/// The media type of what [`Metrics::text`] gives.
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The commit that this was built from: `LARDER_COMMIT` at build time.
const COMMIT: &str = match option_env!("LARDER_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// A metric: what it is called, and where its samples come from. The reference prints it.
pub(super) struct Family {
    /// Without the `_total` that counters end in.
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
    pub(super) about: &'static str,
    read: fn(&Sources, &mut Samples<'_>) -> fmt::Result,
}

/// Every metric.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "larder_gets",
        kind: MetricType::Counter,
        labels: &["group"],
        about: "Gets that clients and callers asked of this node",
        read: |sources, samples| sources.each_group(|name, served| samples.count(&[name], served.group.stats().gets())),
    },
    Family {
        name: "larder_hits",
        kind: MetricType::Counter,
        labels: &["group", "tier"],
        about: "Gets answered from the node's own store",
        read: |sources, samples| {
            sources.each_group(|name, served| {
                let stats = served.group.stats();
                samples.count(&[name, "main"], stats.hits_main.sum())?;
                samples.count(&[name, "hot"], stats.hits_hot.sum())
            })
        },
    },
    Family {
        name: "larder_misses",
        kind: MetricType::Counter,
        labels: &["group"],
        about: "Gets that the node's own store could not answer",
        read: |sources, samples| {
            sources.each_group(|name, served| samples.count(&[name], served.group.stats().misses.sum()))
        },
    },
    Family {
        name: "larder_stale_hits",
        kind: MetricType::Counter,
        labels: &["group"],
        about: "Gets answered with a value past its ttl, as the group allows",
        read: |sources, samples| {
            sources.each_group(|name, served| samples.count(&[name], served.group.stats().stale_hits.sum()))
        },
    },
    Family {
        name: "larder_loads",
        kind: MetricType::Counter,
        labels: &["group", "source"],
        about: "Keys loaded",
        read: |sources, samples| {
            sources.each_group(|name, served| {
                Source::ALL.iter().try_for_each(|source| {
                    samples.count(&[name, source.as_str()], served.group.stats().loads.of(*source).sum())
                })
            })
        },
    },
    Family {
        name: "larder_loads_deduped",
        kind: MetricType::Counter,
        labels: &["group"],
        about: "Gets that shared the load of another",
        read: |sources, samples| {
            sources.each_group(|name, served| samples.count(&[name], served.group.stats().loads_deduped.sum()))
        },
    },
    Family {
        name: "larder_load_errors",
        kind: MetricType::Counter,
        labels: &["group", "kind"],
        about: "Loads that failed",
        read: |sources, samples| {
            sources.each_group(|name, served| {
                LoadErrorKind::ALL.iter().try_for_each(|kind| {
                    samples.count(&[name, kind.as_str()], served.group.stats().load_errors.of(*kind).sum())
                })
            })
        },
    },
    Family {
        name: "larder_load_locks",
        kind: MetricType::Counter,
        labels: &["group", "result"],
        about: "Loads that were to be made under a lock; `bypassed` ones were made without",
        read: |sources, samples| {
            sources.each_group(|name, served| {
                LoadLockResult::ALL.iter().try_for_each(|result| {
                    samples.count(&[name, result.as_str()], served.group.stats().load_locks.of(*result).sum())
                })
            })
        },
    },
    Family {
        name: "larder_server_requests",
        kind: MetricType::Counter,
        labels: &["group", "transport"],
        about: "Requests that other nodes made of this one",
        read: |sources, samples| {
            sources.each_group(|name, served| {
                Protocol::ALL.iter().try_for_each(|over| {
                    samples.count(&[name, over.as_str()], served.group.stats().server_requests.of(*over).sum())
                })
            })
        },
    },
    Family {
        name: "larder_evictions",
        kind: MetricType::Counter,
        labels: &["group", "tier", "reason"],
        about: "Entries that left the store",
        read: |sources, samples| {
            sources.each_tier(|name, tier, stats| {
                let evictions = &stats.evictions;
                samples.count(&[name, tier, "capacity"], evictions.capacity)?;
                samples.count(&[name, tier, "expired"], evictions.expired)?;
                samples.count(&[name, tier, "invalidated"], evictions.invalidated)?;
                samples.count(&[name, tier, "moved"], evictions.moved)
            })
        },
    },
    Family {
        name: "larder_invalidations",
        kind: MetricType::Counter,
        labels: &["group"],
        about: "Deletes and invalidations carried out at this node",
        read: |sources, samples| {
            sources.each_group(|name, served| samples.count(&[name], served.group.stats().invalidations.sum()))
        },
    },
    Family {
        name: "larder_handoff_entries",
        kind: MetricType::Counter,
        labels: &["group", "direction"],
        about: "Entries that came with slots from other nodes, or went with slots to them",
        read: |sources, samples| {
            sources.each_group(|name, served| {
                let handoffs = &served.group.stats().handoffs;
                Direction::ALL
                    .iter()
                    .try_for_each(|label| samples.count(&[name, label.as_str()], handoffs.of(*label).sum()))
            })
        },
    },
    Family {
        name: "larder_peer_requests",
        kind: MetricType::Counter,
        labels: &["peer", "result"],
        about: "Requests that this node made of another",
        read: |sources, samples| {
            sources.node.view().peers().try_for_each(|peer| {
                RequestResult::ALL.iter().try_for_each(|result| {
                    samples.count(&[&peer.member().name, result.as_str()], peer.stats().results.of(*result).sum())
                })
            })
        },
    },
    Family {
        name: "larder_writes",
        kind: MetricType::Counter,
        labels: &["group", "mode", "result"],
        about: "Writes that this node carried out as the owner; mode is the group's `write`",
        read: |sources, samples| {
            sources.each_group(|name, served| {
                let mode = match (served.group.writes_through(), served.group.writes_behind()) {
                    (true, _) => "through",
                    (_, true) => "behind",
                    _ => "none",
                };
                WriteResult::ALL.iter().try_for_each(|result| {
                    samples.count(&[name, mode, result.as_str()], served.group.stats().writes.of(*result).sum())
                })
            })
        },
    },
    Family {
        name: "larder_dead_letters",
        kind: MetricType::Counter,
        labels: &["group"],
        about: "Writes that were acknowledged and that the origin refused for good",
        read: |sources, samples| {
            sources.each_group(|name, served| samples.count(&[name], served.group.stats().dead_letters.sum()))
        },
    },
    Family {
        name: "larder_view_changes",
        kind: MetricType::Counter,
        labels: &[],
        about: "How often the members changed",
        read: |sources, samples| samples.count(&[], sources.node.view_changes()),
    },
    Family {
        name: "larder_origin_requests",
        kind: MetricType::Counter,
        labels: &["group", "op", "result"],
        about: "Requests to the origin; summed over the nodes, what it saw",
        read: |sources, samples| {
            sources.each_origin(|name, op, stats| {
                RequestResult::ALL
                    .iter()
                    .try_for_each(|result| samples.count(&[name, op, result.as_str()], stats.results.of(*result).sum()))
            })
        },
    },
    Family {
        name: "larder_lock_acquisitions",
        kind: MetricType::Counter,
        labels: &["result"],
        about: "Locks that somebody wanted at this node",
        read: |sources, samples| {
            let acquisitions = &sources.locks.stats().acquisitions;
            LockResult::ALL
                .iter()
                .try_for_each(|result| samples.count(&[result.as_str()], acquisitions.of(*result).sum()))
        },
    },
    Family {
        name: "larder_locks_lost",
        kind: MetricType::Counter,
        labels: &[],
        about: "Locks that were had at this node and not freed: their ttl ran out, or they were taken away",
        read: |sources, samples| samples.count(&[], sources.locks.stats().lost.sum()),
    },
    Family {
        name: "larder_cache_bytes",
        kind: MetricType::Gauge,
        labels: &["group", "tier"],
        about: "Bytes of keys, values and bookkeeping",
        read: |sources, samples| sources.each_tier(|name, tier, stats| samples.gauge(&[name, tier], stats.bytes)),
    },
    Family {
        name: "larder_cache_items",
        kind: MetricType::Gauge,
        labels: &["group", "tier"],
        about: "Entries in the store",
        read: |sources, samples| sources.each_tier(|name, tier, stats| samples.gauge(&[name, tier], stats.items)),
    },
    Family {
        name: "larder_members",
        kind: MetricType::Gauge,
        labels: &["state"],
        about: "Members of the cluster as this node sees it",
        read: |sources, samples| {
            let view = sources.node.view();
            [MemberState::Joining, MemberState::Serving, MemberState::Draining].into_iter().try_for_each(|state| {
                let members = view.members().iter().filter(|member| member.state == state).count();
                samples.gauge(&[&state.to_string()], members as u64)
            })
        },
    },
    Family {
        name: "larder_owned_slots",
        kind: MetricType::Gauge,
        labels: &[],
        about: "Slots that this node owns, of 16,384",
        read: |sources, samples| samples.gauge(&[], sources.node.view().owned_slot_count() as u64),
    },
    Family {
        name: "larder_locks_held",
        kind: MetricType::Gauge,
        labels: &[],
        about: "Locks that were had at this node and are held",
        read: |sources, samples| samples.gauge(&[], sources.locks.held().len() as u64),
    },
    Family {
        name: "larder_origin_in_flight",
        kind: MetricType::Gauge,
        labels: &["group"],
        about: "Requests to the origin under way",
        read: |sources, samples| {
            sources.each_group(|name, served| samples.gauge(&[name], served.group.origin_in_flight() as u64))
        },
    },
    Family {
        name: "larder_write_behind_pending",
        kind: MetricType::Gauge,
        labels: &["group"],
        about: "Writes in this node's journal that it is to bring to the origin",
        read: |sources, samples| sources.each_behind(|name, stats| samples.gauge(&[name], stats.pending)),
    },
    Family {
        name: "larder_write_behind_oldest_seconds",
        kind: MetricType::Gauge,
        labels: &["group"],
        about: "How long ago the oldest of them was acknowledged; 0 if there is none",
        read: |sources, samples| {
            let now_ms = sources.node.clock().wall_ms();
            sources.each_behind(|name, stats| {
                let age_ms = stats.oldest_ms.map_or(0, |oldest| now_ms.saturating_sub(oldest));
                samples.gauge(&[name], age_ms / 1_000)
            })
        },
    },
    Family {
        name: "larder_write_behind_failed",
        kind: MetricType::Gauge,
        labels: &[],
        about: "1 once the journal's disk has failed: the node takes no writes that go behind until it is started again",
        read: |sources, samples| samples.gauge(&[], sources.node.records_failure().is_some().into()),
    },
    Family {
        name: "larder_build_info",
        kind: MetricType::Gauge,
        labels: &["version", "commit"],
        about: "Always 1",
        read: |_, samples| samples.gauge(&[env!("CARGO_PKG_VERSION"), COMMIT], 1),
    },
    Family {
        name: "larder_get_duration_seconds",
        kind: MetricType::Histogram,
        labels: &["group", "outcome"],
        about: "How long clients' gets of single keys took in this node",
        read: |sources, samples| {
            sources.each_group(|name, served| {
                let durations = &served.group.stats().get_durations;
                GetOutcome::ALL.iter().try_for_each(|outcome| {
                    samples.histogram(&[name, outcome.as_str()], &durations.of(*outcome).snapshot())
                })
            })
        },
    },
    Family {
        name: "larder_origin_duration_seconds",
        kind: MetricType::Histogram,
        labels: &["group", "op"],
        about: "How long requests to the origin took",
        read: |sources, samples| {
            sources.each_origin(|name, op, stats| samples.histogram(&[name, op], &stats.duration.snapshot()))
        },
    },
    Family {
        name: "larder_lock_wait_seconds",
        kind: MetricType::Histogram,
        labels: &[],
        about: "How long it took until a lock was had, or not",
        read: |sources, samples| samples.histogram(&[], &sources.locks.stats().waits.snapshot()),
    },
    Family {
        name: "larder_peer_duration_seconds",
        kind: MetricType::Histogram,
        labels: &["peer"],
        about: "How long requests to another node took",
        read: |sources, samples| {
            let view = sources.node.view();
            view.peers()
                .try_for_each(|peer| samples.histogram(&[&peer.member().name], &peer.stats().duration.snapshot()))
        },
    },
    Family {
        name: "larder_peer_batch_size",
        kind: MetricType::Histogram,
        labels: &["peer"],
        about: "Requests that went to another node in one frame; of gRPC between nodes",
        read: |sources, samples| {
            let view = sources.node.view();
            view.peers().try_for_each(|peer| {
                peer.batch_sizes().map_or(Ok(()), |sizes| samples.sizes(&[&peer.member().name], &sizes))
            })
        },
    },
];

/// Where the samples come from.
struct Sources {
    node: Node,
    groups: Arc<[Arc<Served>]>,
    locks: Locks,
}

impl Sources {
    fn each_group(&self, mut read: impl FnMut(&str, &Served) -> fmt::Result) -> fmt::Result {
        self.groups.iter().try_for_each(|served| read(served.group.name(), served))
    }

    fn each_behind(&self, mut read: impl FnMut(&str, &RecordStats) -> fmt::Result) -> fmt::Result {
        self.each_group(|name, served| served.group.record_stats().map_or(Ok(()), |stats| read(name, &stats)))
    }

    fn each_tier(&self, mut read: impl FnMut(&str, &str, &TierStats) -> fmt::Result) -> fmt::Result {
        self.each_group(|name, served| {
            let stats = served.group.store_stats();
            read(name, "main", &stats.main)?;
            read(name, "hot", &stats.hot)
        })
    }

    fn each_origin(&self, mut read: impl FnMut(&str, &str, &OriginStats) -> fmt::Result) -> fmt::Result {
        self.each_group(|name, served| {
            let stats = served.group.stats();
            read(name, "load", &stats.origin_load)?;
            read(name, "load_many", &stats.origin_load_many)?;
            read(name, "write", &stats.origin_write)
        })
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("node", self.node.name()).finish_non_exhaustive()
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        FAMILIES.iter().try_for_each(|family| {
            let encoder = encoder.encode_descriptor(family.name, family.about, None, family.kind)?;
            (family.read)(self, &mut Samples { encoder, labels: family.labels })
        })
    }
}

/// The samples of one metric, on their way out. Each is given the values of the metric's labels, in their order.
struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    labels: &'static [&'static str],
}

impl Samples<'_> {
    fn count(&mut self, values: &[&str], count: u64) -> fmt::Result {
        self.labelled(values, |encoder| encoder.encode_counter::<NoLabelSet, _, u64>(&count, None))
    }

    fn gauge(&mut self, values: &[&str], value: u64) -> fmt::Result {
        self.labelled(values, |encoder| encoder.encode_gauge(&value))
    }

    fn histogram(&mut self, values: &[&str], snapshot: &HistogramSnapshot) -> fmt::Result {
        let HistogramSnapshot { cumulative, count, sum_seconds } = snapshot;
        self.buckets(values, BOUNDS_SECONDS.into_iter(), cumulative, *count, *sum_seconds)
    }

    fn sizes(&mut self, values: &[&str], snapshot: &SizesSnapshot) -> fmt::Result {
        let SizesSnapshot { cumulative, count, sum } = snapshot;
        self.buckets(values, SIZE_BOUNDS.into_iter().map(|bound| bound as f64), cumulative, *count, *sum as f64)
    }

    fn buckets(
        &mut self,
        values: &[&str],
        bounds: impl Iterator<Item = f64>,
        cumulative: &[u64],
        count: u64,
        sum: f64,
    ) -> fmt::Result {
        // The encoder sums up by itself; its last bucket has no bound.
        let bounds = bounds.chain([f64::INFINITY]);
        let sums = cumulative.iter().chain([&count]);
        let below = [0].iter().chain(cumulative);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(sums.zip(below)).map(|(bound, (sum, below))| (bound, sum - below)).collect();
        self.labelled(values, |encoder| encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None))
    }

    fn labelled(&mut self, values: &[&str], encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result) -> fmt::Result {
        debug_assert_eq!(values.len(), self.labels.len());
        if values.is_empty() {
            return encode(&mut self.encoder);
        }
        let labels: Vec<(&str, &str)> = self.labels.iter().copied().zip(values.iter().copied()).collect();
        encode(&mut self.encoder.encode_family(&labels)?)
    }
}

/// A node's metrics.
#[derive(Debug)]
pub(super) struct Metrics(Registry);

impl Metrics {
    pub(super) fn new(node: Node, groups: Arc<[Arc<Served>]>, locks: Locks) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Sources { node, groups, locks }));
        Self(registry)
    }

    /// All of them as they are now, in OpenMetrics' text format.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}
