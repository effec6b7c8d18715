//! What gossip costs and how soon it tells, by the number of members: all of them in one process, over UDP on loopback.
//!
//! `cargo xtask bench gossip`. A member's bandwidth is what it sends; it receives as much. The time to agree on a join counts
//! from when the last member announces itself until every member lists it; on a leave from when it says so; on a crash from when it is
//! gone, until nobody lists it.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::{
    env,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use larder_cluster::gossip::{Gossip, GossipConfig, GossipTraffic, KEY_LEN};
use larder_core::{Member, MemberState, Membership, testing::clock::TokioClock};
use rustix::time::{ClockId, clock_gettime};
use tokio::{net::UdpSocket, time::sleep};

const SIZES: [usize; 5] = [3, 10, 30, 60, 100];

/// How long traffic is counted while nothing happens.
const QUIET_TIME: Duration = Duration::from_secs(10);

/// How often each event is brought about.
const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!(
        "members | datagrams a s | KiB/s | mean B | longest B | cpu % of a core | flaps | join ms | leave ms | crash ms"
    );
    let asked: Vec<usize> = env::args().filter_map(|size| size.parse().ok()).collect();
    for size in if asked.is_empty() { SIZES.to_vec() } else { asked } {
        println!("{}", runtime.block_on(measure(size)));
    }
}

async fn measure(size: usize) -> String {
    let clock = Arc::new(TokioClock::new());
    let mut members = Members { nodes: Vec::new(), clock, next: 0 };
    for _ in 0..size {
        members.start().await;
    }
    members.all_list(size).await;
    let (lists, before, busy) = (members.lists(), members.traffic(), cpu_time());
    sleep(QUIET_TIME).await;
    let (after, busy) = (members.traffic(), cpu_time() - busy);
    let flaps = lists.iter().filter(|list| list.has_changed().unwrap()).count();
    let each = |read: fn(&GossipTraffic) -> u64| {
        let count = |traffic: &[GossipTraffic]| traffic.iter().map(read).sum::<u64>() as f64;
        (count(&after) - count(&before)) / size as f64 / QUIET_TIME.as_secs_f64()
    };
    let (datagrams, bytes) = (each(|traffic| traffic.sent), each(|traffic| traffic.sent_bytes));
    let longest = after.iter().map(|traffic| traffic.longest).max().unwrap();
    let cpu = 100.0 * busy.as_secs_f64() / QUIET_TIME.as_secs_f64() / size as f64;

    let (mut joins, mut leaves, mut crashes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        // Its own part: it finds the others before it announces itself.
        let took = members.start().await;
        members.all_list(size + 1).await;
        joins.push(start.elapsed().saturating_sub(took));
        let (start, leaving) = (Instant::now(), members.nodes.pop().unwrap());
        tokio::join!(leaving.leave(), members.all_list(size));
        leaves.push(start.elapsed());
        members.start().await;
        members.all_list(size + 1).await;
        let start = Instant::now();
        drop(members.nodes.pop());
        members.all_list(size).await;
        crashes.push(start.elapsed());
    }
    let spread = |mut times: Vec<Duration>| {
        times.sort();
        format!("{} to {}", times[0].as_millis(), times[times.len() - 1].as_millis())
    };
    format!(
        "{size} | {datagrams:.1} | {:.1} | {:.0} | {longest} | {cpu:.2} | {flaps} | {} | {} | {}",
        bytes / 1024.0,
        bytes / datagrams,
        spread(joins),
        spread(leaves),
        spread(crashes),
    )
}

struct Members {
    nodes: Vec<Gossip>,
    clock: Arc<TokioClock>,
    /// The number of the next one.
    next: u32,
}

impl Members {
    /// Starts one more, which joins the first two. Says how long it took until it began to announce itself.
    async fn start(&mut self) -> Duration {
        let start = Instant::now();
        self.next += 1;
        let name = format!("larder-{:04}.example", self.next);
        let me = Member {
            incarnation: self.next,
            http: format!("{name}:5273").into(),
            ..Member::new(name.as_str(), format!("{name}:5274"))
        };
        let seeds = self.nodes.iter().take(2).map(|node| node.address().to_string()).collect();
        let key = Some([1; KEY_LEN]);
        let config = GossipConfig { seeds, key, seed: self.next.into(), ..GossipConfig::new(me, self.clock.clone()) };
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let node = Gossip::start(config, socket).await.unwrap();
        node.announce(MemberState::Joining).await.unwrap();
        let took = start.elapsed();
        node.announce(MemberState::Serving).await.unwrap();
        self.nodes.push(node);
        took
    }

    /// Waits until each of them lists so many, all serving.
    async fn all_list(&self, count: usize) {
        join_all(self.nodes.iter().map(async |node| {
            let mut list = node.members();
            let all_serve = |list: &larder_core::Members| {
                list.len() == count && list.iter().all(|member| member.state == MemberState::Serving)
            };
            list.wait_for(all_serve).await.unwrap();
        }))
        .await;
    }

    fn lists(&self) -> Vec<tokio::sync::watch::Receiver<larder_core::Members>> {
        self.nodes.iter().map(Gossip::members).collect()
    }

    fn traffic(&self) -> Vec<GossipTraffic> {
        self.nodes.iter().map(Gossip::traffic).collect()
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.try_into().unwrap())
}
