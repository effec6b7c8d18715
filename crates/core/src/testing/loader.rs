//! What every [`Loader`] of an origin must do, as one suite.
//!
//! [`loader_contract!`](crate::loader_contract) turns each behaviour below into a test of its own. The suite knows an
//! origin only through its [`Arrange`], and asks nothing that only some origins can do: those behaviours are tested
//! beside the origin.

use std::{pin::pin, time::Duration};

use futures_util::{future::join_all, stream::FuturesUnordered, stream::StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::{Error, Found, KEY_LEN_MAX, Key, LoadError, LoadRequest, Loaded, Loader, Value};

/// The limit that the suite's requests set, in bytes: above every buffer that an origin may read at once.
pub const VALUE_LEN_MAX: usize = 256 * 1024;

/// How long a load may take that should be answered; long, because a busy machine must not fail a test.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(30);

/// After how long a load of a key that hangs is given up, as a flight does at its deadline.
pub(super) const SLOW_TIME: Duration = Duration::from_millis(50);

/// Hanging loads that run beside one that is answered; fewer than any origin's threads or connections.
pub(super) const HANGING_LEN: usize = 4;

/// Hanging loads that are given up one after another's start; more than any origin's threads or connections.
pub(super) const ABANDONED_LEN: usize = 100;

/// How the suite arranges what an origin holds, from outside of its [`Loader`].
pub trait Arrange {
    /// The loader under test.
    fn loader(&self) -> &dyn Loader;

    /// Makes the origin hold this value; `false` if it has no way to hold such a key.
    fn put(&self, key: &Key, value: &[u8]) -> bool;

    /// Makes the origin never answer for `key`; `false` if it has no way to.
    fn hang(&self, key: &Key) -> bool;

    /// Makes the origin fail for `key`, with [`SECRET`] in what it says if it says anything; `false` if it has no way to.
    fn fail(&self, key: &Key) -> bool;
}

/// What must not get into an error's text: it stands for what an origin's own error page may hold.
pub const SECRET: &str = "hunter2";

/// Keys that something on their way may take apart, change or take for each other.
#[must_use]
pub fn odd_keys() -> Vec<Key> {
    const TEXTS: &[&str] = &[
        " ",
        "+",
        "%",
        "%2",
        "%20",
        "%2B",
        "%2F",
        "%2f",
        "%252F",
        "a b",
        "a+b",
        "a%20b",
        "/",
        "//",
        "/a",
        "b/",
        "c/d",
        "c//d",
        "c%2Fd",
        ".",
        "..",
        "...",
        "%2E",
        "%2E%2E",
        "%2e%2e",
        "./e",
        "../e",
        "e/.",
        "e/..",
        "e/../f",
        "e/./f",
        "/../e",
        "../../../../etc/passwd",
        "/etc/passwd",
        ".hidden",
        "\\",
        "..\\g",
        "?",
        "?h=i",
        "#",
        "h#i",
        ";",
        "&",
        "=",
        ":",
        "@",
        "http://j/k",
        "{key}",
        "$1",
        "?1",
        "'",
        "''",
        "\"",
        "' OR 1=1 --",
        "*",
        "~",
        "-",
        "\0",
        "l\0m",
        "\0l",
        "\n",
        "\r\n",
        "\r\nn: o",
        "\t",
        "\u{7f}",
        "é",
        "e\u{301}",
        "ÿ",
        "💡",
        "\u{fffd}",
        "\u{feff}",
        "NULL",
        "042",
        "42",
        "42.0",
        "4.2e1",
        " 42",
        "P",
        "p",
        "CON",
        "[]",
        "[\"q\"]",
    ];
    const BYTES: &[&[u8]] =
        &[b"\x80", b"\xff", b"\xff\xfe", b"\xc3", b"\xc3\x28", b"r\xff", b"\xed\xa0\x80", b"\xc0\xaf"];

    let every_byte: Vec<u8> = (0..=255).collect();
    let longest = [b'k', b'/', b'.', b' ', 0xff].map(|byte| vec![byte; KEY_LEN_MAX]);
    TEXTS
        .iter()
        .map(|text| text.as_bytes())
        .chain(BYTES.iter().copied())
        .chain([&every_byte[..]])
        .chain(longest.iter().map(|key| &key[..]))
        .map(key)
        .collect()
}

/// A key that never hides what is wrong with it.
pub(super) fn key(bytes: impl AsRef<[u8]>) -> Key {
    Key::copy_from(bytes.as_ref()).expect("the suite's keys are keys")
}

/// A request as a flight makes it.
#[must_use]
pub fn request(key: &Key) -> LoadRequest {
    LoadRequest {
        key: key.clone(),
        previous: None,
        value_len_max: VALUE_LEN_MAX,
        deadline: Instant::now() + ANSWER_TIME,
    }
}

async fn load(origin: &impl Arrange, request: LoadRequest) -> Result<Loaded, LoadError> {
    let deadline = request.deadline;
    timeout_at(deadline, origin.loader().load(request)).await.expect("the load was not answered")
}

/// Loads `key` and expects no failure.
async fn found(origin: &impl Arrange, key: &Key) -> Found {
    load(origin, request(key)).await.unwrap_or_else(|error| panic!("{key:?}: {error}")).found
}

pub(super) fn bytes(found: &Found) -> Option<&[u8]> {
    match found {
        Found::Value(value) => Some(value),
        Found::Nothing | Found::Unchanged => None,
    }
}

fn is_too_large(error: &LoadError) -> bool {
    error.downcast_ref::<Error>().is_some_and(Error::is_too_large)
}

/// A key that the origin doesn't hold is an answer and no failure.
pub async fn a_missing_key_is_nothing(origin: &impl Arrange) {
    assert_eq!(found(origin, &key("missing")).await, Found::Nothing);
}

/// Values of all sizes come back byte for byte, the empty one too.
pub async fn a_value_comes_back_as_it_is(origin: &impl Arrange) {
    for len in [0, 1, 255, 4096, 70_000, VALUE_LEN_MAX] {
        let value: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let key = key(format!("value-{len}"));
        assert!(origin.put(&key, &value));
        assert_eq!(bytes(&found(origin, &key).await), Some(&value[..]), "{len} bytes");
    }
}

/// A value that shared its buffer with others would keep all of it in memory for as long as it is cached.
pub async fn a_value_keeps_no_memory_but_its_own(origin: &impl Arrange) {
    for len in [10, 1_000, 100_000] {
        let key = key(format!("own-{len}"));
        assert!(origin.put(&key, &vec![b'o'; len]));
        let Found::Value(value) = found(origin, &key).await else { panic!("{len} bytes are there") };
        let buffer = value.into_bytes().try_into_mut().expect("the value shares its buffer");
        assert_eq!(buffer.capacity(), len);
    }
}

/// What the origin holds now counts, not what it held before.
pub async fn a_changed_value_is_seen(origin: &impl Arrange) {
    let key = key("changed");
    for value in ["first", "second", "third"] {
        assert!(origin.put(&key, value.as_bytes()));
        assert_eq!(bytes(&found(origin, &key).await), Some(value.as_bytes()));
    }
}

/// One byte over the limit is too large, and harms no later load.
pub async fn a_value_over_the_limit_is_too_large(origin: &impl Arrange) {
    let (huge, small) = (key("huge"), key("small"));
    for len in [VALUE_LEN_MAX + 1, VALUE_LEN_MAX * 20] {
        assert!(origin.put(&huge, &vec![b'h'; len]));
        let error = load(origin, request(&huge)).await.expect_err("it is too large");
        assert!(is_too_large(&error), "{len} bytes: {error}");
    }
    assert!(origin.put(&small, b"small"));
    assert_eq!(bytes(&found(origin, &small).await), Some(&b"small"[..]));
}

/// Whatever its bytes, a key finds what is held under it, and never what is held under another. One that the origin
/// can't hold is nothing.
pub async fn each_odd_key_is_a_key_of_its_own(origin: &impl Arrange) {
    let keys = odd_keys();
    let held: Vec<bool> = keys.iter().map(|key| origin.put(key, key.as_bytes())).collect();
    assert!(held.contains(&true));
    for (key, held) in keys.iter().zip(held) {
        let found = found(origin, key).await;
        assert_eq!(bytes(&found), held.then_some(key.as_bytes()), "{}", key.as_bytes().escape_ascii());
    }
}

/// A failure is told without the origin's own words, and harms no other key.
pub async fn a_failure_is_told_without_secrets(origin: &impl Arrange) {
    let (failing, working) = (key("failing"), key("working"));
    if !origin.fail(&failing) {
        return;
    }
    assert!(origin.put(&working, b"works"));
    for _ in 0..20 {
        let error = load(origin, request(&failing)).await.expect_err("it fails");
        assert!(!is_too_large(&error), "{error}");
        assert!(!error.to_string().contains(SECRET), "{error}");
        assert_eq!(bytes(&found(origin, &working).await), Some(&b"works"[..]));
    }
}

/// A key that hangs keeps no other key waiting.
pub async fn a_hanging_key_keeps_no_other_waiting(origin: &impl Arrange) {
    let (hanging, working) = (key("hanging"), key("working"));
    if !origin.hang(&hanging) {
        return;
    }
    assert!(origin.put(&working, b"works"));
    let mut loads: FuturesUnordered<_> = (0..HANGING_LEN).map(|_| origin.loader().load(request(&hanging))).collect();
    let mut answered = pin!(found(origin, &working));
    let answer = tokio::select! {
        early = loads.next() => panic!("a hanging key was answered: {early:?}"),
        answer = &mut answered => answer,
    };
    assert_eq!(bytes(&answer), Some(&b"works"[..]));
}

/// A load that is given up holds no thread and no connection: however many were, the next one is answered.
pub async fn a_load_that_is_given_up_holds_nothing(origin: &impl Arrange) {
    let (hanging, working) = (key("hanging"), key("working"));
    if !origin.hang(&hanging) {
        return;
    }
    assert!(origin.put(&working, b"works"));
    let deadline = Instant::now() + SLOW_TIME;
    let given_up = join_all((0..ABANDONED_LEN).map(|_| timeout_at(deadline, origin.loader().load(request(&hanging)))));
    assert!(given_up.await.iter().all(Result::is_err), "a hanging key was answered");
    assert_eq!(bytes(&found(origin, &working).await), Some(&b"works"[..]));
}

/// A load that knows what an earlier one brought may hear that nothing changed, but only if nothing did.
pub async fn what_an_earlier_load_brought_counts_only_while_it_holds(origin: &impl Arrange) {
    let key = key("revalidated");
    let again = async |previous: &Value| {
        let request = LoadRequest { previous: Some(previous.clone()), ..request(&key) };
        load(origin, request).await.expect("it is there").found
    };
    assert!(origin.put(&key, b"first"));
    let Found::Value(first) = found(origin, &key).await else { panic!("it is there") };

    match again(&first).await {
        Found::Unchanged => assert!(first.validator().is_some(), "nothing to tell it by"),
        found => assert_eq!(bytes(&found), Some(&b"first"[..])),
    }
    let foreign = Value::from("first").with_validator("\r\nnot \u{1f4a1} from here");
    assert_eq!(bytes(&again(&foreign).await), Some(&b"first"[..]));
    assert!(origin.put(&key, b"other"));
    assert_eq!(bytes(&again(&first).await), Some(&b"other"[..]));
}

/// A batch answers each key as a load of its own would, in its place.
pub async fn a_batch_answers_each_key_in_its_place(origin: &impl Arrange) {
    let huge = key("huge");
    assert!(origin.put(&huge, &vec![b'h'; VALUE_LEN_MAX + 1]));
    let mut keys = odd_keys();
    for key in &keys {
        origin.put(key, key.as_bytes());
    }
    keys.extend([key("missing"), huge, key("also missing")]);

    let batch_len = origin.loader().batch_len_max().min(keys.len());
    for keys in keys.chunks(batch_len).filter(|keys| keys.len() > 1) {
        let batch = origin.loader().load_many(keys.iter().map(request).collect());
        let answers = batch.await.unwrap_or_else(|error| panic!("the batch failed: {error}"));
        assert_eq!(answers.len(), keys.len());
        for (key, answer) in keys.iter().zip(answers) {
            match (answer, load(origin, request(key)).await) {
                (Ok(answer), Ok(alone)) => assert_eq!(answer, alone, "{}", key.as_bytes().escape_ascii()),
                (Err(error), Err(alone)) => assert_eq!(is_too_large(&error), is_too_large(&alone), "{key:?}"),
                (answer, alone) => panic!("{key:?} is {answer:?} in a batch and {alone:?} alone"),
            }
        }
    }
}

/// Makes a module of tests, one for each behaviour of [`testing::loader`](crate::testing::loader); `$arrange` makes the
/// [`Arrange`](crate::testing::loader::Arrange) of one test. It needs `tokio` with `macros` and `rt`.
///
/// With `needs $program` before the rest, only where [`needs`](crate::testing::needs::needs) says that the program is there.
#[macro_export]
macro_rules! loader_contract {
    ($name:ident, $arrange:expr) => {
        $crate::loader_contract!(@behaviours $name, $arrange, true);
    };
    (needs $program:literal, $name:ident, $arrange:expr) => {
        $crate::loader_contract!(@behaviours $name, $arrange, $crate::testing::needs::needs($program));
    };
    (@behaviours $name:ident, $arrange:expr, $is_there:expr) => {
        $crate::loader_contract!(
            @tests $name, $arrange, $is_there,
            a_missing_key_is_nothing
            a_value_comes_back_as_it_is
            a_value_keeps_no_memory_but_its_own
            a_changed_value_is_seen
            a_value_over_the_limit_is_too_large
            each_odd_key_is_a_key_of_its_own
            a_failure_is_told_without_secrets
            a_hanging_key_keeps_no_other_waiting
            a_load_that_is_given_up_holds_nothing
            what_an_earlier_load_brought_counts_only_while_it_holds
            a_batch_answers_each_key_in_its_place
        );
    };
    (@tests $name:ident, $arrange:expr, $is_there:expr, $($behaviour:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test]
                async fn $behaviour() {
                    if $is_there {
                        $crate::testing::loader::$behaviour(&$arrange).await;
                    }
                }
            )*
        }
    };
}
