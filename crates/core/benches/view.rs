//! What a view of many members costs: its owner table, the table of those who stand in for one of them, the whole change of a
//! node's view when one joins, and memory.
//!
//! `cargo xtask bench view`. Nodes compute views apart from the threads that serve; this measures on one thread.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::{fs, hint::black_box, sync::Arc, time::Instant};

use larder_core::{
    Member, Members, Node, NodeConfig, Ring,
    placement::{Slot, SlotTable},
    testing::{clock::TokioClock, fake_peer::FakeNetwork},
};

const SIZES: [usize; 5] = [3, 10, 100, 1_000, 4_000];
const ROUNDS: usize = 5;

/// How many views are held at once to see how much memory one takes.
const HELD_LEN: usize = 20;

fn main() {
    println!("medians of {ROUNDS} rounds, in ms; a view's memory in KiB");
    println!("members | owner table | stand-in table | change of view | memory of a view");
    for size in SIZES {
        let (before, after) = (members(size), members(size + 1));
        let named: Vec<(&str, u32)> = before.iter().map(|member| (&*member.name, member.weight)).collect();
        let table = median_ms(|| drop(black_box(SlotTable::new(&named))));
        let slot = Slot::new(7).unwrap();
        let mut tables: Vec<SlotTable> = (0..ROUNDS).map(|_| SlotTable::new(&named)).collect();
        let stand_in = median_ms(|| assert!(tables.pop().unwrap().stand_in(slot).is_some()));
        let mut nodes: Vec<Node> = (0..ROUNDS).map(|_| node(&before)).collect();
        let change = median_ms(|| nodes.pop().unwrap().change_view(after.clone()).unwrap());
        let resident = resident_bytes();
        let held: Vec<Node> = (0..HELD_LEN).map(|_| node(&before)).collect();
        let memory = resident_bytes().saturating_sub(resident) / HELD_LEN / 1024;
        drop(held);
        println!("{size} | {table:.1} | {stand_in:.1} | {change:.1} | {memory}");
    }
}

fn members(count: usize) -> Members {
    let name = |number| format!("larder-{number:04}.example");
    Members::new((0..count).map(|number| Member::new(name(number), format!("{}:5274", name(number))))).unwrap()
}

fn node(members: &Members) -> Node {
    let config = NodeConfig {
        name: members[0].name.clone(),
        http: "".into(),
        ring: Ring::Slots,
        incarnation: 1,
        seed: 42,
        clock: Arc::new(TokioClock::new()),
        transport: Arc::new(FakeNetwork::default()),
    };
    Node::new(config, members.clone()).unwrap()
}

fn median_ms(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}
