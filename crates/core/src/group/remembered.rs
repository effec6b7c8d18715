//! [`Memory`]: what came of writes with an idempotency key, so that a repetition is answered as the first was.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::{Key, Moment, Version};

/// For how long it is remembered: as long as people and programs try a request again.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// The most writes that a group remembers, the latest. One takes some 200 bytes: 3 MB.
const REMEMBERED_MAX: usize = 16_384;

/// What came of a write: its version, or that its condition was not met (`None`).
pub(super) type CameTo = Option<Version>;

/// A key and the idempotency key of a write to it.
type Id = (Key, Arc<str>);

#[derive(Default)]
pub(super) struct Memory(Mutex<Writes>);

#[derive(Default)]
struct Writes {
    came_to: HashMap<Id, (CameTo, Moment)>,
    /// In the order in which they came.
    order: VecDeque<(Id, Moment)>,
}

impl Memory {
    /// What came of this write, if it was done before.
    pub(super) fn of(&self, key: &Key, idempotency_key: &Arc<str>, now: Moment) -> Option<CameTo> {
        let writes = self.0.lock();
        let (came_to, at) = writes.came_to.get(&(key.clone(), idempotency_key.clone()))?;
        (now.since(*at) < REMEMBERED_FOR).then_some(*came_to)
    }

    /// Remembers what came of a write at that moment.
    pub(super) fn add(&self, key: &Key, idempotency_key: &Arc<str>, came_to: CameTo, at: Moment) {
        let id = (key.clone(), idempotency_key.clone());
        let mut writes = self.0.lock();
        writes.came_to.insert(id.clone(), (came_to, at));
        writes.order.push_back((id, at));
        while let Some((_, first)) = writes.order.front()
            && (writes.order.len() > REMEMBERED_MAX || at.since(*first) >= REMEMBERED_FOR)
        {
            let Some((id, first)) = writes.order.pop_front() else { break };
            // It may have been remembered anew since.
            if writes.came_to.get(&id).is_some_and(|(_, at)| *at == first) {
                writes.came_to.remove(&id);
            }
        }
    }

    /// Shows those of some keys, the latest first.
    pub(super) fn show(
        &self,
        chosen: impl Fn(&Key) -> bool,
        now: Moment,
        mut show: impl FnMut(&Key, &Arc<str>, CameTo, Duration) -> bool,
    ) {
        let writes = self.0.lock();
        for ((key, idempotency_key), at) in writes.order.iter().rev().filter(|((key, _), _)| chosen(key)) {
            let age = now.since(*at);
            let known = writes.came_to.get(&(key.clone(), idempotency_key.clone())).filter(|(_, known)| known == at);
            if let Some((came_to, _)) = known
                && age < REMEMBERED_FOR
                && !show(key, idempotency_key, *came_to, age)
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Reading;

    fn at(seconds: u64) -> Moment {
        Moment::default() + Duration::from_secs(seconds)
    }

    fn came_to(number: u64) -> CameTo {
        Some(Version::new(Reading::from_bits(number), 1))
    }

    #[test]
    fn a_repetition_gets_the_first_ones_answer_for_ten_minutes() {
        let (memory, key, first) = (Memory::default(), Key::new("k").unwrap(), Arc::from("first"));
        memory.add(&key, &first, came_to(1), at(0));
        memory.add(&key, &"other".into(), None, at(1));
        assert_eq!(memory.of(&key, &first, at(599)), Some(came_to(1)));
        assert_eq!(memory.of(&key, &"other".into(), at(2)), Some(None));
        assert_eq!(memory.of(&Key::new("l").unwrap(), &first, at(2)), None, "of another key");
        assert_eq!(memory.of(&key, &first, at(600)), None);
    }

    #[test]
    fn the_latest_are_remembered_and_shown_first() {
        let (memory, key) = (Memory::default(), Key::new("k").unwrap());
        for number in 0..=REMEMBERED_MAX {
            memory.add(&key, &number.to_string().into(), came_to(number as u64), at(0));
        }
        assert_eq!(memory.of(&key, &"0".into(), at(0)), None);
        assert_eq!(memory.0.lock().came_to.len(), REMEMBERED_MAX);
        let mut shown = Vec::new();
        memory.show(
            |_| true,
            at(5),
            |_, id, _, age| {
                shown.push((id.to_string(), age.as_secs()));
                shown.len() < 2
            },
        );
        assert_eq!(shown, [(REMEMBERED_MAX.to_string(), 5), ((REMEMBERED_MAX - 1).to_string(), 5)]);
    }
}
