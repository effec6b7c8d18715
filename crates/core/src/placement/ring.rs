//! [`GroupcacheRing`]: the hash ring of golang/groupcache, to the letter.
//!
//! Go's `consistenthash.Map` with 50 replicas and CRC-32 (IEEE), as `HTTPPool` uses it. Karger and others, "Consistent
//! Hashing and Random Trees", STOC 1997. It divides the keys unevenly (the fullest of three nodes gets about 1.15 times its
//! share, of a hundred 1.7 times): [`SlotTable`](super::SlotTable) is for clusters without Go nodes.

/// Points of each peer on the ring: groupcache's `defaultReplicas`.
pub const RING_POINTS: u16 = 50;

/// The hash ring of golang/groupcache.
///
/// A peer is its base URL, exactly as the Go nodes write it in `HTTPPool.Set`. Where points of two peers coincide, the one
/// later in the list has them, as in Go.
///
/// # Examples
///
/// ```
/// use larder_core::placement::GroupcacheRing;
///
/// let ring = GroupcacheRing::new(&["http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://10.0.0.3:8080"]);
/// assert_eq!(ring.owner(b"user:1"), Some(1));
/// assert_eq!(ring.owner(b"user:42"), Some(0));
/// ```
#[derive(Clone, Debug)]
pub struct GroupcacheRing {
    /// Sorted by hash; among equals the peer that was added last is first.
    points: Box<[Point]>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    hash: u32,
    peer: usize,
}

impl GroupcacheRing {
    /// The ring of these peers, each URL given once.
    #[must_use]
    pub fn new(urls: &[&str]) -> Self {
        let of_peer = |(peer, url): (usize, &&str)| {
            let url = url.to_string();
            (0..RING_POINTS).map(move |i| Point { hash: crc32fast::hash(format!("{i}{url}").as_bytes()), peer })
        };
        let mut points: Vec<Point> = urls.iter().enumerate().flat_map(of_peer).collect();
        points.sort_by_key(|point| (point.hash, std::cmp::Reverse(point.peer)));
        Self { points: points.into() }
    }

    /// The owner of a key, as a place in the list of URLs; `None` if the list is empty.
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> Option<usize> {
        self.peers_from(key).next()
    }

    /// Who owns the key in the ring without its owner; `None` if there is nobody else.
    #[must_use]
    pub fn stand_in(&self, key: &[u8]) -> Option<usize> {
        // Without the owner's points, the key falls to the first of another's.
        let mut peers = self.peers_from(key);
        let owner = peers.next()?;
        peers.find(|&peer| peer != owner)
    }

    /// The peers of all points, once around the ring, from the first at or after the key.
    fn peers_from(&self, key: &[u8]) -> impl Iterator<Item = usize> {
        let hash = crc32fast::hash(key);
        let first = self.points.partition_point(|point| point.hash < hash);
        let (before, after) = self.points.split_at(first);
        after.iter().chain(before).map(|point| point.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URLS: [&str; 3] = ["http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://10.0.0.3:8080"];

    /// What golang/groupcache's `consistenthash` answers for these peers.
    const GOLDEN: [(&str, usize); 9] = [
        ("user:1", 1),
        ("user:2", 0),
        ("user:42", 0),
        ("foo", 0),
        ("bar", 1),
        ("a b", 1),
        ("a+b", 0),
        ("", 0),
        ("/x/y", 1),
    ];

    #[test]
    fn keys_fall_where_go_has_them() {
        assert_eq!(crc32fast::hash(b"0http://10.0.0.1:8080"), 0x7c95_9a77);
        let ring = GroupcacheRing::new(&URLS);
        for (key, owner) in GOLDEN {
            assert_eq!(ring.owner(key.as_bytes()), Some(owner), "{key:?}");
        }
    }

    #[test]
    fn each_peer_has_the_points_0_to_49() {
        let ring = GroupcacheRing::new(&URLS);
        // A key that is a point's text falls on that point.
        let is_own = |i: u16| (0..3).all(|peer| ring.owner(format!("{i}{}", URLS[peer]).as_bytes()) == Some(peer));
        assert!((0..50).all(is_own));
        assert!(!is_own(50));
    }

    #[test]
    fn the_stand_in_is_the_owner_in_the_ring_without_the_owner() {
        let ring = GroupcacheRing::new(&URLS);
        for key in 0..2_000 {
            let key = format!("key:{key}");
            let owner = ring.owner(key.as_bytes()).unwrap();
            let others: Vec<usize> = (0..URLS.len()).filter(|&peer| peer != owner).collect();
            let urls: Vec<&str> = others.iter().map(|&peer| URLS[peer]).collect();
            let expected = GroupcacheRing::new(&urls).owner(key.as_bytes()).map(|place| others[place]);
            assert_eq!(ring.stand_in(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn a_point_of_two_peers_belongs_to_the_one_added_last_and_the_other_stands_in() {
        let twins = ["http://10.0.32.9:8080", "http://10.0.60.20:8080"];
        let key = b"1http://10.0.32.9:8080";
        assert_eq!(crc32fast::hash(key), crc32fast::hash(b"38http://10.0.60.20:8080"));
        for urls in [twins, [twins[1], twins[0]]] {
            let ring = GroupcacheRing::new(&urls);
            assert_eq!(ring.owner(key), Some(1));
            assert_eq!(ring.stand_in(key), Some(0));
        }
    }

    #[test]
    fn a_ring_of_nobody_owns_nothing_and_one_alone_has_no_stand_in() {
        assert_eq!(GroupcacheRing::new(&[]).owner(b"key"), None);
        assert_eq!(GroupcacheRing::new(&[]).stand_in(b"key"), None);
        assert_eq!(GroupcacheRing::new(&URLS[..1]).owner(b"key"), Some(0));
        assert_eq!(GroupcacheRing::new(&URLS[..1]).stand_in(b"key"), None);
    }

    #[test]
    fn the_owner_does_not_depend_on_the_order_of_the_list() {
        let ring = GroupcacheRing::new(&URLS);
        let turned = GroupcacheRing::new(&[URLS[2], URLS[0], URLS[1]]);
        for key in 0..2_000 {
            let key = format!("key:{key}");
            let owner = turned.owner(key.as_bytes()).map(|place| (place + 2) % 3);
            assert_eq!(ring.owner(key.as_bytes()), owner, "{key}");
        }
    }
}
