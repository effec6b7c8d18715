//! [`Standing`]: who a node is and how far it has come: what it tells in every exchange with another.
//!
//! The node moves it on, the transports read it and tell it what they hear. It knows neither of them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    Clock, Error, ErrorKind, Member, Members, Version,
    heard_views::HeardViews,
    reserve::ClockReserve,
    version::{HybridClock, Reading},
};

/// How far another node's wall clock may be off this one's, in milliseconds (rule V2).
pub const WALL_APART_MS_MAX: u64 = 10_000;

/// How far a reading may be ahead of this node's wall clock, in milliseconds (rule V2).
pub const READING_AHEAD_MS_MAX: u64 = 60_000;

/// The longest text that is taken for where a member's HTTP API is, in bytes: a DNS name and a port, with room.
const HTTP_LEN_MAX: usize = 512;

/// A node's name, incarnation, clock reading and view digest; and where its HTTP API is, and that of each other member which
/// has said so.
///
/// The latter is for people and for clients. It is no part of a view: nodes that have heard less agree with the others on
/// who owns what all the same.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use std::sync::Arc;
/// use larder_core::{standing::Standing, testing::clock::TokioClock};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let standing = Standing::new("a", 1, Arc::new(TokioClock::new()));
/// let earlier = standing.next_version();
/// assert!(standing.next_version() > earlier);
/// assert!(standing.check_wall(standing.wall_ms() + 11_000).is_err());
/// # });
/// # }
/// ```
pub struct Standing {
    name: Arc<str>,
    incarnation: u32,
    clock: Arc<dyn Clock>,
    versions: HybridClock,
    reserve: ClockReserve,
    view_digest: AtomicU64,
    views: HeardViews,
    http: Arc<str>,
    /// The other members of the present view, and where their HTTP APIs are, empty until they have said so.
    others: Mutex<HashMap<Arc<str>, Arc<str>>>,
}

impl Standing {
    /// A node that has no view yet.
    pub fn new(name: impl Into<Arc<str>>, incarnation: u32, clock: Arc<dyn Clock>) -> Self {
        let versions = HybridClock::new(incarnation);
        Self {
            name: name.into(),
            incarnation,
            clock,
            versions,
            reserve: ClockReserve::default(),
            view_digest: AtomicU64::new(0),
            views: HeardViews::default(),
            http: Arc::from(""),
            others: Mutex::default(),
        }
    }

    /// The same node, whose HTTP API clients reach at `http`, `host:port`.
    #[must_use]
    pub fn with_http(self, http: impl Into<Arc<str>>) -> Self {
        Self { http: http.into(), ..self }
    }

    /// The node's name among the members.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Tells this run of the node from its earlier ones.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Its wall clock: milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// Its clock reading.
    #[must_use]
    pub fn reading(&self) -> Reading {
        self.versions.latest()
    }

    /// The next version.
    pub fn next_version(&self) -> Version {
        self.versions.next(self.wall_ms())
    }

    /// How far its clock is reserved on a disk, if one is kept for it (rule V2).
    #[must_use]
    pub fn reserve(&self) -> &ClockReserve {
        &self.reserve
    }

    /// The digest of its view; 0 before the first.
    #[must_use]
    pub fn view_digest(&self) -> u64 {
        self.view_digest.load(Ordering::Relaxed)
    }

    pub(crate) fn set_view(&self, digest: u64, members: &Members) {
        self.view_digest.store(digest, Ordering::Relaxed);
        self.views.adopt(digest);
        let mut others = self.others.lock();
        let known = std::mem::take(&mut *others);
        let others_now = members.iter().filter(|member| member.name != self.name);
        others.extend(others_now.map(|member| {
            let http = known.get(&member.name).cloned().unwrap_or_default();
            (member.name.clone(), http)
        }));
    }

    /// Another node has the view of this digest; 0: none. One that this node doesn't know is looked for in its membership.
    /// Whether it can judge already what the other asks: the view is known, or was looked for (rule W1).
    pub fn hear_view(&self, digest: u64) -> bool {
        digest == 0 || digest == self.view_digest() || self.views.hear(digest)
    }

    /// Waits until this node can judge what a node of this view asks. That takes
    /// [`LOOK_TIME_MAX`](crate::membership::LOOK_TIME_MAX) at most, and the second time nothing.
    pub async fn meet_view(&self, digest: u64) {
        self.views.meet(digest).await;
    }

    /// The views that others have been heard to have.
    pub(crate) fn heard_views(&self) -> &HeardViews {
        &self.views
    }

    /// Where clients reach its HTTP API, `host:port`; empty if it has none.
    #[must_use]
    pub fn http(&self) -> &Arc<str> {
        &self.http
    }

    /// Takes down where another node says that its HTTP API is. Passed over is what no member of the view says, and what can't
    /// be an address.
    pub fn hear_http(&self, name: &str, http: &str) {
        let can_be = (1..=HTTP_LEN_MAX).contains(&http.len()) && http.bytes().all(|byte| byte.is_ascii_graphic());
        if can_be && let Some(known) = self.others.lock().get_mut(name) {
            *known = http.into();
        }
    }

    /// Where clients reach a member's HTTP API, `host:port`: as the membership has it, else as the member itself has said;
    /// empty if neither is known.
    #[must_use]
    pub fn http_of(&self, member: &Member) -> Arc<str> {
        if !member.http.is_empty() {
            return member.http.clone();
        }
        if member.name == self.name {
            return self.http.clone();
        }
        self.others.lock().get(&member.name).cloned().unwrap_or_default()
    }

    /// Moves the clock past what another node's reading is (rule V1).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is more than [`READING_AHEAD_MS_MAX`] ahead of this node's wall clock (rule V2); the clock
    /// then stays.
    pub fn observe(&self, reading: Reading) -> Result<(), Error> {
        // Readings that are behind are most of them, and the wall clock need not be asked for those.
        if reading <= self.reading() {
            return Ok(());
        }
        let ahead_ms = reading.wall_ms().saturating_sub(self.wall_ms());
        if ahead_ms > READING_AHEAD_MS_MAX {
            let message = format!("a clock reading is {ahead_ms} ms ahead of this node's wall clock");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.versions.observe(reading);
        Ok(())
    }

    /// Goes on above a reading of an earlier run of this node, however far ahead of its wall clock that is (rule V2).
    pub fn start_above(&self, reading: Reading) {
        self.versions.observe(reading);
    }

    /// Whether another node's wall clock is near enough to this one's (rule V2).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is more than [`WALL_APART_MS_MAX`] off.
    pub fn check_wall(&self, other_ms: u64) -> Result<(), Error> {
        let apart_ms = self.wall_ms().abs_diff(other_ms);
        if apart_ms > WALL_APART_MS_MAX {
            let message = format!(
                "the nodes' wall clocks are {apart_ms} ms apart, and {WALL_APART_MS_MAX} is the most: set the clocks"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standing").field("name", &self.name).field("incarnation", &self.incarnation).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Moment;

    struct Stands;

    impl Clock for Stands {
        fn now(&self) -> Moment {
            Moment::default()
        }

        fn wall_ms(&self) -> u64 {
            0
        }
    }

    fn view(standing: &Standing, names: &[&str]) {
        standing.set_view(1, &Members::new(names.iter().map(|name| member(name))).unwrap());
    }

    fn member(name: &str) -> Member {
        Member::new(name, format!("{name}:5274"))
    }

    #[test]
    fn what_members_say_of_themselves_is_taken_down_and_what_strangers_say_is_not() {
        let standing = Standing::new("a", 1, Arc::new(Stands)).with_http("a:5273");
        view(&standing, &["a", "b"]);
        let http_of = |name| standing.http_of(&member(name));
        assert_eq!((&*http_of("a"), &*http_of("b")), ("a:5273", ""));
        for (name, http) in [("b", "b:1"), ("b", "b:5273"), ("c", "c:5273"), ("a", "elsewhere:1")] {
            standing.hear_http(name, http);
        }
        assert_eq!([&*http_of("a"), &*http_of("b"), &*http_of("c")], ["a:5273", "b:5273", ""]);
        for wrong in ["", "b 1", "b\n", "b\u{7f}", "ä:1", &"b".repeat(HTTP_LEN_MAX + 1)] {
            standing.hear_http("b", wrong);
        }
        assert_eq!(&*http_of("b"), "b:5273");
        let told = Member { http: "told:1".into(), ..member("b") };
        assert_eq!(&*standing.http_of(&told), "told:1", "the membership knows better");
    }

    #[test]
    fn it_is_known_for_as_long_as_who_said_it_is_a_member() {
        let standing = Standing::new("a", 1, Arc::new(Stands));
        view(&standing, &["a", "b"]);
        standing.hear_http("b", "b:5273");
        view(&standing, &["a", "b", "c"]);
        assert_eq!(&*standing.http_of(&member("b")), "b:5273");
        view(&standing, &["a", "c"]);
        view(&standing, &["a", "b", "c"]);
        assert_eq!(&*standing.http_of(&member("b")), "");
    }
}
