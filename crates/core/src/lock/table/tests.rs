use super::*;

const TTL: Duration = Duration::from_secs(10);
const START_MS: u64 = 1_750_000_000_000;

fn tick(secs: u64) -> Tick {
    Tick { now: at(secs), clock_ms: START_MS + secs * 1_000 }
}

fn at(secs: u64) -> Moment {
    Moment::default() + Duration::from_secs(3_600 + secs)
}

fn named(name: &str) -> LockName {
    LockName::new(name.to_owned()).unwrap()
}

fn token(token: &str) -> LockToken {
    LockToken::new(token).unwrap()
}

fn slot() -> Slot {
    Slot::new(7).unwrap()
}

/// Wants lock `a` until a second of the clock.
fn want(by: &str, until_secs: u64) -> Want {
    Want { name: named("a"), slot: slot(), token: token(by), ttl: TTL, deadline: at(until_secs), from: "n0".into() }
}

/// A table, and what it told.
#[derive(Default)]
struct Bench {
    table: LockTable,
    told: Vec<Told>,
}

impl Bench {
    fn acquire(&mut self, want: Want, secs: u64) -> Took {
        self.table.acquire(want, Gate::Open, tick(secs), &mut self.told)
    }

    fn release(&mut self, by: &str, secs: u64) -> Holds {
        self.table.release(&named("a"), &token(by), Gate::Open, tick(secs), &mut self.told)
    }

    fn step(&mut self, secs: u64) {
        self.table.step(&named("a"), Gate::Open, tick(secs), &mut self.told);
    }

    fn renew(&mut self, by: &str, secs: u64) -> Holds {
        self.table.renew(&named("a"), &token(by), Gate::Open, at(secs)).0
    }

    /// Who was granted it, since this was last asked.
    fn granted(&mut self) -> Vec<Ticket> {
        let granted = |told: Told| if let Told::Granted { ticket, .. } = told { Some(ticket) } else { None };
        std::mem::take(&mut self.told).into_iter().filter_map(granted).collect()
    }
}

fn ticket(took: Took) -> Ticket {
    let Took::Waits(ticket) = took else { panic!("{took:?}") };
    ticket
}

fn fence(took: Took) -> u64 {
    let Took::Granted { fence, .. } = took else { panic!("{took:?}") };
    fence
}

#[test]
fn waiters_are_granted_in_order_of_arrival_with_growing_fences() {
    let mut bench = Bench::default();
    let first = fence(bench.acquire(want("x", 0), 0));
    assert_eq!(bench.acquire(want("nobody", 0), 0), Took::Held);
    let tickets: Vec<Ticket> = ["y", "z"].map(|by| ticket(bench.acquire(want(by, 60), 1))).into();
    assert_eq!(bench.release("x", 2), Holds::Yes);
    let Some(Told::Granted { ticket, fence: second, ttl: TTL }) = bench.told.iter().copied().find(is_grant) else {
        panic!("{:?}", bench.told)
    };
    assert!(ticket == tickets[0] && second > first);
    assert_eq!(bench.granted(), [tickets[0]]);
    assert_eq!(bench.acquire(want("w", 2), 2), Took::Held, "it is handed over without being free");
    bench.release("y", 3);
    assert_eq!(bench.granted(), [tickets[1]]);
    bench.release("z", 4);
    assert!(bench.table.locks.is_empty() && bench.table.waiters_len == 0);
}

fn is_grant(told: &Told) -> bool {
    matches!(told, Told::Granted { .. })
}

#[test]
fn a_lock_is_held_for_its_ttl_from_the_last_renewal_and_no_longer() {
    let mut bench = Bench::default();
    bench.acquire(want("x", 0), 0);
    assert_eq!(bench.renew("x", 5), Holds::Yes);
    let waits = ticket(bench.acquire(want("y", 60), 6));
    assert_eq!(bench.table.looks_at(&named("a"), waits, Gate::Open), Some(at(15)));
    bench.step(14);
    assert_eq!(bench.granted(), []);
    bench.step(15);
    assert_eq!(bench.granted(), [waits]);
    assert_eq!((bench.renew("x", 15), bench.release("x", 15)), (Holds::No, Holds::No));
    assert_eq!(bench.renew("y", 16), Holds::Yes);
    assert_eq!(bench.renew("y", 26), Holds::No, "it ran out though nobody else wants it");
}

#[test]
fn who_asks_again_with_its_token_has_what_it_has() {
    let mut bench = Bench::default();
    let first = fence(bench.acquire(want("x", 0), 0));
    assert_eq!(fence(bench.acquire(want("x", 0), 5)), first);
    let [y, z] = ["y", "z"].map(|by| ticket(bench.acquire(want(by, 60), 1)));
    let again = ticket(bench.acquire(want("y", 60), 2));
    assert_eq!(std::mem::take(&mut bench.told), [Told::Away(y)]);
    bench.release("x", 3);
    assert_eq!(bench.granted(), [again], "it kept its place before {z}");
    // The first call is dropped only now, and takes nothing back from who asked again and heard.
    bench.acquire(want("y", 60), 4);
    bench.table.take_back(&named("a"), again, Gate::Open, tick(4), &mut bench.told);
    assert_eq!(bench.renew("y", 4), Holds::Yes);
}

#[test]
fn who_goes_away_is_passed_over_and_takes_nothing_along() {
    let mut bench = Bench::default();
    bench.acquire(want("x", 0), 0);
    let [y, z] = ["y", "z"].map(|by| ticket(bench.acquire(want(by, 60), 1)));
    assert!(bench.table.leave(&named("a"), y, at(1), &mut bench.told) && bench.told == [Told::First(z)]);
    assert!(!bench.table.leave(&named("a"), y, at(1), &mut bench.told));
    bench.release("x", 2);
    assert_eq!(bench.granted(), [z]);
    // It went away before it heard.
    let w = ticket(bench.acquire(want("w", 60), 3));
    bench.table.take_back(&named("a"), z, Gate::Open, tick(3), &mut bench.told);
    assert_eq!(bench.granted(), [w]);
}

#[test]
fn what_was_given_up_before_it_came_is_not_granted() {
    let mut bench = Bench::default();
    assert_eq!(bench.release("x", 0), Holds::No);
    assert_eq!(bench.acquire(want("x", 60), 1), Took::GivenUp);
    assert!(matches!(bench.acquire(want("y", 60), 1), Took::Granted { .. }));
    // A wait that is given up is no token to be refused.
    bench.acquire(want("z", 60), 2);
    bench.release("z", 2);
    assert!(matches!(bench.acquire(want("z", 60), 2), Took::Waits(_)));
}

#[test]
fn who_has_waited_long_enough_is_not_granted_any_more() {
    let mut bench = Bench::default();
    bench.acquire(want("x", 0), 0);
    let [y, z] = [("y", 3), ("z", 60)].map(|(by, until)| ticket(bench.acquire(want(by, until), 1)));
    assert_eq!(bench.table.looks_at(&named("a"), y, Gate::Open), Some(at(3)));
    bench.release("x", 3);
    assert_eq!(bench.granted(), [z]);
}

#[test]
fn nothing_is_granted_while_it_is_not_known_who_holds_what() {
    let mut bench = Bench::default();
    let quiet = Gate::Quiet(at(60));
    let acquire = |bench: &mut Bench, want, secs| bench.table.acquire(want, quiet, tick(secs), &mut bench.told);
    assert_eq!(acquire(&mut bench, want("x", 0), 0), Took::Quiet(at(60)));
    assert_eq!(acquire(&mut bench, want("x", 59), 0), Took::Quiet(at(60)), "it can't be had in that time");
    let waits = ticket(acquire(&mut bench, want("x", 61), 1));
    assert_eq!(bench.table.looks_at(&named("a"), waits, quiet), Some(at(60)));
    bench.table.step(&named("a"), quiet, tick(59), &mut bench.told);
    assert_eq!(bench.granted(), []);
    // A token that is not known may hold a lock that is not known.
    assert_eq!(bench.table.renew(&named("b"), &token("b"), quiet, at(2)), (Holds::Unknown, None));
    assert_eq!(bench.table.release(&named("b"), &token("b"), quiet, tick(2), &mut bench.told), Holds::Unknown);
    bench.step(60);
    assert_eq!(bench.granted(), [waits]);
}

#[test]
fn what_goes_along_goes_on_with_holder_fence_and_end() {
    let (mut bench, mut next) = (Bench::default(), Bench::default());
    let first = fence(bench.acquire(want("x", 0), 0));
    bench.acquire(Want { name: named("b"), ..want("gone", 0) }, 0);
    bench.release("x", 0);
    let second = fence(bench.acquire(want("y", 0), 5));
    let slots: SlotSet = [slot()].into_iter().collect();
    let (carried, left_out, _) = bench.table.carry(&slots, at(12), 10, &mut 1_000);
    assert!(left_out.is_empty() && carried.len() == 1, "{carried:?}");
    next.table.take(slot(), &carried[0], at(12));
    assert_eq!(next.acquire(want("z", 12), 12), Took::Held);
    assert_eq!(next.renew("y", 12), Holds::Yes);
    let waits = ticket(next.acquire(want("z", 60), 13));
    assert_eq!(next.table.looks_at(&named("a"), waits, Gate::Open), Some(at(22)));
    next.step(22);
    let third =
        next.told.iter().find_map(|told| if let Told::Granted { fence, .. } = told { Some(*fence) } else { None });
    assert!(first < second && second < third.unwrap());
}

#[test]
fn what_there_is_no_room_for_is_told() {
    let mut bench = Bench::default();
    for name in ["a", "b", "c"] {
        bench.acquire(Want { name: named(name), ..want(name, 0) }, 0);
    }
    let slots: SlotSet = [slot()].into_iter().collect();
    for (len_max, mut room) in [(2, 1_000), (3, 9)] {
        let (carried, left_out, until) = bench.table.carry(&slots, at(1), len_max, &mut room);
        assert!(carried.len() == 2 && left_out == slots && until == at(10), "{carried:?}");
    }
    let none = bench.table.carry(&SlotSet::default(), at(1), 3, &mut 1_000);
    assert!(none.0.is_empty() && none.1.is_empty());
}

#[test]
fn of_two_grants_the_later_counts_and_nobody_else_has_it_before_the_others_end() {
    let (mut one, mut other) = (Bench::default(), Bench::default());
    let earlier = fence(one.acquire(want("x", 0), 0));
    other.table.fences().observe(earlier);
    let later = fence(other.acquire(want("y", 0), 4));
    let slots: SlotSet = [slot()].into_iter().collect();
    let (of_other, ..) = other.table.carry(&slots, at(5), 10, &mut 1_000);
    one.table.take(slot(), &of_other[0], at(5));
    assert_eq!((one.renew("x", 5), one.renew("y", 5)), (Holds::No, Holds::Yes));
    assert_eq!(one.table.held(at(5))[0].fence, later);
    one.release("y", 6);
    assert_eq!(one.acquire(want("z", 6), 6), Took::Held);
    let (held, quiet, until) = one.table.carry(&slots, at(6), 10, &mut 1_000);
    assert!(held.is_empty() && quiet == slots && until == at(10));
    let waits = ticket(one.acquire(want("z", 60), 6));
    assert_eq!(one.table.looks_at(&named("a"), waits, Gate::Open), Some(at(10)));
    one.granted();
    one.step(10);
    assert_eq!(one.granted(), [waits]);
}

#[test]
fn who_waits_for_locks_that_go_elsewhere_is_told() {
    let mut bench = Bench::default();
    bench.acquire(want("x", 0), 0);
    let waits = ticket(bench.acquire(want("y", 60), 1));
    bench.table.send_away(|_| false, &mut bench.told);
    assert_eq!(bench.told, []);
    bench.table.send_away(|of| of == slot(), &mut bench.told);
    assert_eq!(bench.told, [Told::Away(waits)]);
    assert_eq!(bench.renew("x", 1), Holds::Yes, "it is kept for who claims it");
    bench.table.forget(|of| of == slot(), &mut bench.told);
    assert!(bench.table.locks.is_empty() && bench.table.waiters_len == 0);
}

#[test]
fn a_table_is_full_at_its_limits_and_what_ran_out_makes_room() {
    let mut bench = Bench::default();
    bench.acquire(want("x", 0), 0);
    for number in 0..WAITERS_OF_A_LOCK_MAX {
        ticket(bench.acquire(want(&format!("w{number}"), 60), 0));
    }
    assert_eq!(bench.acquire(want("y", 60), 0), Took::Full);
    for number in bench.table.locks.len()..LOCKS_MAX {
        let name = named(&format!("n{number}"));
        let want = Want { name, ..want(&format!("t{number}"), 0) };
        assert!(matches!(bench.acquire(want, 1), Took::Granted { .. }));
    }
    let another = || Want { name: named("another"), ..want("z", 60) };
    assert_eq!(bench.acquire(another(), 1), Took::Full);
    assert!(matches!(bench.acquire(another(), 11), Took::Granted { .. }));
    assert!(bench.table.locks.len() < 10, "{}", bench.table.locks.len());
}
