//! Where requests go: paths as they come, split by hand.
//!
//! A key is any bytes, `/`, `..` and `//` among them. So nothing here normalises a path, decodes one twice, or sends a
//! client elsewhere.

use std::borrow::Cow;

use http::{Method, Uri};
use larder::peer::http::{groupcache, path};

use super::problem::{Problem, ProblemKind};

/// A path of an API: its pattern, the methods it takes, and what for. The reference prints it.
pub(super) struct Row {
    pub(super) path: &'static str,
    pub(super) methods: &'static str,
    pub(super) about: &'static str,
}

/// The methods of a path that is only read.
const READ: &str = "GET, HEAD";

const KEY: Row = Row {
    path: "/v1/groups/{group}/keys/{key}",
    methods: "GET, HEAD, PUT, DELETE",
    about: "The key's value. PUT stores the body and answers 204 with the new `ETag`; DELETE answers 204, whether or not \
            there was a value.",
};
const GET_MANY: Row =
    Row { path: "/v1/groups/{group}/get-many", methods: "POST", about: "The values of up to 1,000 keys." };
const INVALIDATE: Row = Row {
    path: "/v1/groups/{group}/invalidate",
    methods: "POST",
    about: "Drops what is cached on every node, the origin untouched: of `{\"keys\":[…]}` (or `keys_b64`), at most 1,000, of `{\"tags\":[…]}`, or of the whole group, `{\"all\":true}`. 204.",
};
const GROUPS: Row =
    Row { path: "/v1/groups", methods: READ, about: "Each group's settings and counters at this node." };
const CLUSTER: Row = Row {
    path: "/v1/cluster",
    methods: READ,
    about: "The members as this node sees them; `http` is empty for one that has not said yet where its API is. \
            `journal_failure` says what is wrong with the journal's disk, if it has failed.",
};
const OWNER: Row = Row {
    path: "/v1/cluster/owner/{group}/{key}",
    methods: READ,
    about: "The key's slot, its owner, and who answers while the owner can't be reached.",
};
const LOCKS: Row = Row {
    path: "/v1/locks",
    methods: READ,
    about: "The locks that this node keeps, and those that were had at it, at most 1,000 and how many there are beyond: `{\"locks\":[{\"name\":\"…\",\"name_b64\":null,\"node\":\"a\",\"fence\":42,\"ttl_left_ms\":9000,\"waiters\":0}],\"more\":0}`; \
            a name that is not UTF-8 is in `name_b64`.",
};
const LOCK: Row = Row {
    path: "/v1/locks/{name}",
    methods: "POST, PUT, DELETE",
    about: "A lock. POST of `{\"ttl_ms\":10000,\"wait_ms\":5000}` (those are the defaults) takes it: 200 and \
            `{\"token\":\"…\",\"fence\":42,\"ttl_ms\":10000}`, or 409 `lock-held`. PUT of `{\"token\":\"…\"}` renews it: 200 and `{\"ttl_ms\":10000}`, \
            and DELETE with `?token=…` frees it: 204; or 409 `lock-lost`.",
};
const PEER: Row =
    Row { path: "/_groupcache/{group}/{key}", methods: "any", about: "golang/groupcache's protocol, for other nodes." };

/// The paths for clients.
pub(super) const CLIENT_ROWS: [&Row; 9] =
    [&KEY, &GET_MANY, &INVALIDATE, &GROUPS, &CLUSTER, &OWNER, &LOCKS, &LOCK, &PEER];

const HEALTH: Row = Row { path: "/healthz", methods: READ, about: "200 while the process works." };
const READY: Row = Row {
    path: "/readyz",
    methods: READ,
    about: "200 once the node is a serving member of its view, else 503; 503 also while it drains, and once the disk of its journal has failed.",
};
const METRICS: Row = Row { path: "/metrics", methods: READ, about: "The metrics below, in OpenMetrics' text format." };

const DRAIN: Row = Row {
    path: "/v1/drain",
    methods: "POST",
    about: "Has the node leave, as SIGTERM does: answers 202 at once; when all is done, the process ends.",
};
const RELOAD: Row = Row {
    path: "/v1/reload",
    methods: "POST",
    about: "Reads the configuration anew, as SIGHUP does, and takes up what can change while the node runs. Answers \
            `{\"changed\":[…],\"needs_restart\":[…]}`, each a list of keys; or 400 and every mistake, and nothing has changed.",
};

const DEAD_LETTERS: Row = Row {
    path: "/v1/dead-letters",
    methods: READ,
    about: "The writes that this node gave up because the origin refused them: `{\"dead_letters\":[…],\"next\":17}`, the oldest first, each \
            with `id`, `group`, `key` (or `key_b64`), `version`, `op`, `len`, `content_type`, `ttl_ms`, `idempotency_key`, `reason`, `written_ms` and \
            `buried_ms`. `?n=` says how many (100; 1,024 at most), `?after=` from where to go on: after the `next` of the page before, \
            until that is null.",
};
const DEAD_LETTER: Row = Row {
    path: "/v1/dead-letters/{id}",
    methods: "GET, HEAD, DELETE",
    about: "One of them, with its `value` in Base64, null for a delete. DELETE drops it for good: 204.",
};
const RETRY: Row = Row {
    path: "/v1/dead-letters/{id}/retry",
    methods: "POST",
    about: "Writes it anew, as any write of its key, and drops it once that is acknowledged: 204 with the new `ETag`. 409 if this node \
            knows of a later write of the key.",
};

const TAKEOVER: Row = Row {
    path: "/v1/takeover",
    methods: "POST",
    about: "Has the node answer for slots that wait for members which may have acknowledged writes and don't come back: \
            `{\"slots\":5461,\"without\":[\"c\"],\"told\":\"…\"}`. What only those had is given up.",
};

/// The paths for operators.
pub(super) const ADMIN_ROWS: [&Row; 9] =
    [&HEALTH, &READY, &METRICS, &DRAIN, &RELOAD, &DEAD_LETTERS, &DEAD_LETTER, &RETRY, &TAKEOVER];

/// A group and a key as they stand in a path, still encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place<'a> {
    pub(super) group: &'a str,
    pub(super) key: &'a str,
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ClientRoute<'a> {
    Get(Place<'a>),
    Put(Place<'a>),
    Delete(Place<'a>),
    GetMany(&'a str),
    Invalidate(&'a str),
    Groups,
    Cluster,
    Owner(Place<'a>),
    Locks,
    /// These have a lock's name, still encoded.
    TakeLock(&'a str),
    RenewLock(&'a str),
    /// And the query.
    FreeLock(&'a str, &'a str),
    Peer,
}

/// What an operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AdminRoute {
    Health,
    Ready,
    Metrics,
    Drain,
    Reload,
    DeadLetters,
    DeadLetter(u64),
    DropDeadLetter(u64),
    RetryDeadLetter(u64),
    Takeover,
}

/// What `method` of `uri` asks for.
pub(super) fn client<'a>(method: &Method, uri: &'a Uri) -> Result<ClientRoute<'a>, Problem> {
    let path = uri.path();
    if let Some(rest) = path.strip_prefix("/v1/groups/") {
        // A group has no `/`, and whatever follows `keys/` is the key.
        let (group, rest) = rest.split_once('/').ok_or_else(unknown_path)?;
        if let Some(key) = rest.strip_prefix("keys/") {
            return key_route(method, Place { group, key: whole(key, uri)? });
        }
        return match rest {
            "get-many" => post(method, &GET_MANY).map(|()| ClientRoute::GetMany(group)),
            "invalidate" => post(method, &INVALIDATE).map(|()| ClientRoute::Invalidate(group)),
            _ => Err(unknown_path()),
        };
    }
    if let Some(rest) = path.strip_prefix("/v1/cluster/owner/") {
        let (group, key) = rest.split_once('/').ok_or_else(unknown_path)?;
        read(method, &OWNER)?;
        return Ok(ClientRoute::Owner(Place { group, key: whole(key, uri)? }));
    }
    if let Some(name) = path.strip_prefix("/v1/locks/") {
        return match *method {
            Method::POST => whole(name, uri).map(ClientRoute::TakeLock),
            Method::PUT => whole(name, uri).map(ClientRoute::RenewLock),
            Method::DELETE => Ok(ClientRoute::FreeLock(name, uri.query().unwrap_or_default())),
            _ => Err(Problem::method_not_allowed(LOCK.methods)),
        };
    }
    match path {
        "/v1/groups" => read(method, &GROUPS).map(|()| ClientRoute::Groups),
        "/v1/locks" => read(method, &LOCKS).map(|()| ClientRoute::Locks),
        "/v1/cluster" => read(method, &CLUSTER).map(|()| ClientRoute::Cluster),
        _ if path.starts_with(groupcache::PREFIX) => Ok(ClientRoute::Peer),
        _ => Err(unknown_path()),
    }
}

/// What `method` of `path` asks for.
pub(super) fn admin(method: &Method, path: &str) -> Result<AdminRoute, Problem> {
    match path {
        "/healthz" => read(method, &HEALTH).map(|()| AdminRoute::Health),
        "/readyz" => read(method, &READY).map(|()| AdminRoute::Ready),
        "/metrics" => read(method, &METRICS).map(|()| AdminRoute::Metrics),
        "/v1/drain" => post(method, &DRAIN).map(|()| AdminRoute::Drain),
        "/v1/reload" => post(method, &RELOAD).map(|()| AdminRoute::Reload),
        "/v1/takeover" => post(method, &TAKEOVER).map(|()| AdminRoute::Takeover),
        "/v1/dead-letters" => read(method, &DEAD_LETTERS).map(|()| AdminRoute::DeadLetters),
        _ => match path.strip_prefix("/v1/dead-letters/") {
            Some(rest) => dead_letter(method, rest),
            None => Err(unknown_path()),
        },
    }
}

fn dead_letter(method: &Method, rest: &str) -> Result<AdminRoute, Problem> {
    let number = |id: &str| {
        let id = id.parse().ok().filter(|_| id.bytes().all(|byte| byte.is_ascii_digit()));
        id.ok_or_else(|| Problem::bad_request("The id of a dead letter is a number, as GET /v1/dead-letters has it."))
    };
    match rest.split_once('/') {
        None => match *method {
            Method::GET | Method::HEAD => number(rest).map(AdminRoute::DeadLetter),
            Method::DELETE => number(rest).map(AdminRoute::DropDeadLetter),
            _ => Err(Problem::method_not_allowed(DEAD_LETTER.methods)),
        },
        Some((id, "retry")) => post(method, &RETRY).and_then(|()| number(id)).map(AdminRoute::RetryDeadLetter),
        Some(_) => Err(unknown_path()),
    }
}

fn key_route<'a>(method: &Method, place: Place<'a>) -> Result<ClientRoute<'a>, Problem> {
    match *method {
        Method::GET | Method::HEAD => Ok(ClientRoute::Get(place)),
        Method::PUT => Ok(ClientRoute::Put(place)),
        Method::DELETE => Ok(ClientRoute::Delete(place)),
        _ => Err(Problem::method_not_allowed(KEY.methods)),
    }
}

fn read(method: &Method, row: &Row) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::HEAD) { Ok(()) } else { Err(Problem::method_not_allowed(row.methods)) }
}

fn post(method: &Method, row: &Row) -> Result<(), Problem> {
    if method == Method::POST { Ok(()) } else { Err(Problem::method_not_allowed(row.methods)) }
}

/// The key, if it is all of it: with a query behind it, a `?` of the key was not encoded.
fn whole<'a>(key: &'a str, uri: &Uri) -> Result<&'a str, Problem> {
    match uri.query() {
        None => Ok(key),
        Some(_) => Err(Problem::bad_request(
            "This path takes no query: write a ? that belongs to the key, or to the lock's name, as %3F.",
        )),
    }
}

fn unknown_path() -> Problem {
    Problem::new(ProblemKind::UnknownPath, "Look the paths up in docs/http.md.")
}

/// Decodes a part of a path, once.
pub(super) fn decode(part: &str) -> Result<Cow<'_, [u8]>, Problem> {
    if !part.contains('%') {
        return Ok(Cow::Borrowed(part.as_bytes()));
    }
    let decoded = path::decode(part);
    decoded.map(Cow::Owned).ok_or_else(|| {
        Problem::bad_request("A % in the path is not followed by two hexadecimal digits: write the % itself as %25.")
    })
}

#[cfg(test)]
mod tests {
    use larder_core::ErrorKind;

    use super::*;

    fn route(method: &Method, path: &str) -> Result<String, ProblemKind> {
        let uri: Uri = path.parse().unwrap();
        client(method, &uri).map(|route| format!("{route:?}")).map_err(|problem| problem.kind())
    }

    fn key(path: &str) -> Vec<u8> {
        let uri: Uri = path.parse().unwrap();
        match client(&Method::GET, &uri) {
            Ok(ClientRoute::Get(place)) => decode(place.key).unwrap().into_owned(),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn a_key_is_what_follows_keys_decoded_once() {
        for (path, expected) in [
            ("/v1/groups/g/keys/k", &b"k"[..]),
            ("/v1/groups/g/keys/", b""),
            ("/v1/groups/g/keys//", b"/"),
            ("/v1/groups/g/keys/a//b/../c/./", b"a//b/../c/./"),
            ("/v1/groups/g/keys/a%2Fb%252F+%20", b"a/b%2F+ "),
            ("/v1/groups/g/keys/%00%ff%0d%0A", b"\0\xff\r\n"),
            ("/v1/groups/g/keys/keys/get-many", b"keys/get-many"),
            ("/v1/groups/g/keys/%3F%23", b"?#"),
            ("http://elsewhere:1/v1/groups/g/keys/k", b"k"),
        ] {
            assert_eq!(key(path), expected, "{path}");
        }
    }

    #[test]
    fn a_broken_escape_or_a_query_is_no_key() {
        for part in ["%", "a%4", "%zz", "%%41"] {
            assert_eq!(decode(part).unwrap_err().kind(), ErrorKind::Invalid.into(), "{part}");
        }
        for path in ["/v1/groups/g/keys/k?x=1", "/v1/groups/g/keys/k?", "/v1/cluster/owner/g/k?x"] {
            assert_eq!(route(&Method::GET, path), Err(ErrorKind::Invalid.into()), "{path}");
        }
    }

    #[test]
    fn paths_are_taken_literally_and_others_are_unknown() {
        for path in [
            "/",
            "/v1",
            "/v1/groups/",
            "/v1/groups/g",
            "/v1/groups/g/",
            "/v1/groups/g/keys",
            "/v1/groups//g/keys/k",
            "//v1/groups/g/keys/k",
            "/v1/./groups/g/keys/k",
            "/V1/groups/g/keys/k",
            "/v1/%67roups/g/keys/k",
            "/v1/groups/g/get-many/",
            "/v1/cluster/",
            "/v1/cluster/owner/g",
            "/v1/lock",
            "/healthz",
            "/_groupcache",
            "*",
        ] {
            assert_eq!(route(&Method::GET, path), Err(ProblemKind::UnknownPath), "{path}");
        }
    }

    #[test]
    fn each_path_takes_its_own_methods() {
        let all = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"];
        for row in CLIENT_ROWS {
            let path = row.path.replace("{group}", "g").replace("{key}", "k").replace("{name}", "n/m");
            for method in all.map(|name| Method::from_bytes(name.as_bytes()).unwrap()) {
                let allowed = row.methods == "any" || row.methods.split(", ").any(|name| name == method.as_str());
                let expected = if allowed { Ok(()) } else { Err(ProblemKind::MethodNotAllowed) };
                assert_eq!(route(&method, &path).map(drop), expected, "{method} {path}");
            }
        }
        for row in ADMIN_ROWS {
            for method in all.map(|name| Method::from_bytes(name.as_bytes()).unwrap()) {
                let allowed = row.methods.split(", ").any(|name| name == method.as_str());
                let refused = admin(&method, &row.path.replace("{id}", "7")).err().map(|problem| problem.kind());
                assert_eq!(refused, (!allowed).then_some(ProblemKind::MethodNotAllowed), "{method} {}", row.path);
            }
        }
    }
}
