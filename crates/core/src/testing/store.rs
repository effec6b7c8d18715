//! What every [`Store`] of an origin must do, as one suite.
//!
//! [`store_contract!`](crate::store_contract) turns each behaviour below into a test of its own. What a change has made of the
//! origin the suite sees through the origin's own [`Loader`], which passes [its suite](super::loader) first. What only some
//! origins can do is asked of those that say so: see [`Arrange`].

use std::pin::pin;

use futures_util::{future::join_all, stream::FuturesUnordered, stream::StreamExt};
use tokio::time::{Instant, timeout_at};

use super::loader::{
    ABANDONED_LEN, ANSWER_TIME, HANGING_LEN, SECRET, SLOW_TIME, VALUE_LEN_MAX, bytes, key, odd_keys, request,
};
use crate::{Change, Key, Loader, Store, Update, UpdateError, Value, Version, version::Reading};

/// How the suite arranges what becomes of changes, from outside of the [`Store`].
pub trait Arrange {
    /// The store under test.
    fn store(&self) -> &dyn Store;

    /// The same origin, to be read.
    fn loader(&self) -> &dyn Loader;

    /// Makes the origin refuse to put `key`, with [`SECRET`] in what it says if it says anything; `false` if it has no way to.
    fn refuse(&self, key: &Key) -> bool;

    /// Makes the origin not take what is put under `key` for a reason that is none of the change's, such as that it is full or busy, with
    /// [`SECRET`] in what it says if it says anything; `false` if it has no way to. Other keys may fare as this one does.
    fn keep_out(&self, key: &Key) -> bool;

    /// Makes the origin break off in the middle of putting `key`, so that nobody knows what became of it; `false` if it has
    /// no way to.
    fn break_off(&self, key: &Key) -> bool;

    /// Makes the origin never answer whoever puts `key`; `false` if it has no way to.
    fn hang(&self, key: &Key) -> bool;

    /// Whether the origin by its nature makes one change after another, so that one that hangs keeps the others waiting until
    /// it is given up.
    fn is_one_after_another(&self) -> bool {
        false
    }
}

/// The version that is the `place`-th of all.
#[must_use]
pub fn version(place: u64) -> Version {
    // Of the size that versions have in this century.
    Version::new(Reading::from_bits((1_750_000_000_000 + place) << 16), 7)
}

/// An update as a group makes it.
#[must_use]
pub fn update(key: &Key, change: Change, place: u64) -> Update {
    let (version, deadline) = (version(place), Instant::now() + ANSWER_TIME);
    Update { key: key.clone(), change, version, idempotency_key: None, deadline }
}

/// An update that puts these bytes.
#[must_use]
pub fn put(key: &Key, value: impl AsRef<[u8]>, place: u64) -> Update {
    update(key, Change::Put(Value::new(value.as_ref().to_vec())), place)
}

/// An update that deletes.
#[must_use]
pub fn delete(key: &Key, place: u64) -> Update {
    update(key, Change::Delete, place)
}

async fn make(origin: &impl Arrange, update: Update) -> Result<(), UpdateError> {
    let deadline = update.deadline;
    timeout_at(deadline, origin.store().update(update)).await.expect("the change was not answered")
}

/// Makes a change and expects no failure.
async fn made(origin: &impl Arrange, update: Update) {
    let key = update.key.clone();
    make(origin, update).await.unwrap_or_else(|error| panic!("{}: {error}", key.as_bytes().escape_ascii()));
}

async fn make_many(origin: &impl Arrange, updates: Vec<Update>) -> Vec<Result<(), UpdateError>> {
    let (deadline, len) = (Instant::now() + ANSWER_TIME, updates.len());
    let answers = timeout_at(deadline, origin.store().update_many(updates)).await.expect("the batch was not answered");
    assert_eq!(answers.len(), len);
    answers
}

/// What the origin holds under `key`.
async fn held(origin: &impl Arrange, key: &Key) -> Option<Vec<u8>> {
    let loaded = timeout_at(Instant::now() + ANSWER_TIME, origin.loader().load(request(key))).await;
    let loaded = loaded.expect("the load was not answered").unwrap_or_else(|error| panic!("{key:?}: {error}"));
    bytes(&loaded.found).map(<[u8]>::to_vec)
}

fn assert_refused(answer: &Result<(), UpdateError>) {
    assert!(matches!(answer, Err(UpdateError::Refused(_))), "{answer:?}");
}

fn assert_conflict(answer: &Result<(), UpdateError>) {
    assert!(matches!(answer, Err(UpdateError::Conflict)), "{answer:?}");
}

fn assert_tells_no_secret(answer: &Result<(), UpdateError>) {
    let Err(error) = answer else { panic!("it fails") };
    assert!(!error.to_string().contains(SECRET) && !format!("{error:?}").contains(SECRET), "{error}");
}

/// What was put is what a load finds.
pub async fn what_is_put_is_found(origin: &impl Arrange) {
    let key = key("put");
    made(origin, put(&key, "value", 1)).await;
    assert_eq!(held(origin, &key).await.as_deref(), Some(&b"value"[..]));
}

/// Of several puts the last one counts.
pub async fn the_last_put_counts(origin: &impl Arrange) {
    let key = key("put-over");
    for (value, place) in [("first, and longer", 1), ("second", 2), ("third", 3)] {
        made(origin, put(&key, value, place)).await;
        assert_eq!(held(origin, &key).await.as_deref(), Some(value.as_bytes()));
    }
}

/// What was deleted is nothing, and can be put again.
pub async fn what_is_deleted_is_nothing(origin: &impl Arrange) {
    let (gone, other) = (key("deleted"), key("not-deleted"));
    made(origin, put(&gone, "value", 1)).await;
    made(origin, put(&other, "other", 2)).await;
    made(origin, delete(&gone, 3)).await;
    assert_eq!(held(origin, &gone).await, None);
    assert_eq!(held(origin, &other).await.as_deref(), Some(&b"other"[..]));
    made(origin, put(&gone, "again", 4)).await;
    assert_eq!(held(origin, &gone).await.as_deref(), Some(&b"again"[..]));
}

/// That there is nothing to delete is no failure, whether or not there ever was.
pub async fn deleting_what_is_not_there_is_no_failure(origin: &impl Arrange) {
    let key = key("never-there");
    made(origin, delete(&key, 1)).await;
    made(origin, put(&key, "value", 2)).await;
    for place in [3, 3, 4] {
        made(origin, delete(&key, place)).await;
        assert_eq!(held(origin, &key).await, None);
    }
}

/// Values of all sizes and of all bytes are taken as they are, the empty one too.
pub async fn a_value_is_taken_as_it_is(origin: &impl Arrange) {
    let mut values: Vec<Vec<u8>> =
        [0, 1, 255, 4096, 70_000, VALUE_LEN_MAX].map(|len| (0..len).map(|at| (at % 251) as u8).collect()).into();
    let texts: [&[u8]; 6] = [b"text", "\u{e9} \u{1f4a1}".as_bytes(), b"042", b"NULL", b"a\0b", b"\xff\xfe"];
    values.extend(texts.map(<[u8]>::to_vec));
    let key = key("taken");
    for (value, place) in values.iter().zip(1..) {
        made(origin, put(&key, value, place)).await;
        assert_eq!(held(origin, &key).await.as_ref(), Some(value), "{} bytes", value.len());
    }
}

/// Whatever its bytes, a key is taken for no other. One that the origin can't hold is refused.
pub async fn each_odd_key_is_a_key_of_its_own(origin: &impl Arrange) {
    let keys = odd_keys();
    let mut taken = Vec::new();
    for key in &keys {
        let answer = make(origin, put(key, key.as_bytes(), 1)).await;
        if answer.is_err() {
            assert_refused(&answer);
        }
        taken.push(answer.is_ok());
    }
    assert!(taken.contains(&true));
    for (key, taken) in keys.iter().zip(&taken) {
        let expected = taken.then_some(key.as_bytes());
        assert_eq!(held(origin, key).await.as_deref(), expected, "{}", key.as_bytes().escape_ascii());
    }
    for (at, key) in keys.iter().enumerate() {
        made(origin, delete(key, 2)).await;
        assert_eq!(held(origin, key).await, None, "{}", key.as_bytes().escape_ascii());
        let next = keys.get(at + 1).filter(|_| taken.get(at + 1) == Some(&true));
        if let Some(next) = next {
            assert_eq!(held(origin, next).await.as_deref(), Some(next.as_bytes()), "deleted with its neighbour");
        }
    }
}

/// A refusal changes nothing, is told without the origin's own words, and harms no other key.
pub async fn a_refusal_changes_nothing(origin: &impl Arrange) {
    let (refused, working) = (key("refused"), key("working"));
    made(origin, put(&refused, "before", 1)).await;
    if !origin.refuse(&refused) {
        return;
    }
    for place in 2..20 {
        let answer = make(origin, put(&refused, "after", place)).await;
        assert_refused(&answer);
        assert_tells_no_secret(&answer);
        assert_eq!(held(origin, &refused).await.as_deref(), Some(&b"before"[..]));
        made(origin, put(&working, place.to_string(), place)).await;
        assert_eq!(held(origin, &working).await, Some(place.to_string().into_bytes()));
    }
}

/// What an origin can't take for now, whatever it is, is no refusal: it may be made later, and write-behind does not give it up.
pub async fn what_is_kept_out_is_not_refused(origin: &impl Arrange) {
    let (kept_out, before) = (key("kept-out"), key("before"));
    made(origin, put(&before, "before", 1)).await;
    if !origin.keep_out(&kept_out) {
        return;
    }
    let mut answers = vec![make(origin, put(&kept_out, "value", 1)).await];
    if origin.store().update_batch_len_max() > 1 {
        let batch = vec![put(&kept_out, "value", 2), put(&kept_out, "value", 2)];
        answers.extend(make_many(origin, batch).await);
    }
    for answer in answers {
        assert!(matches!(answer, Err(UpdateError::Unreached(_))), "{answer:?}");
        assert_tells_no_secret(&answer);
    }
    assert_eq!(held(origin, &kept_out).await, None);
    assert_eq!(held(origin, &before).await.as_deref(), Some(&b"before"[..]));
}

/// Of a change that the origin breaks off nobody knows what became, and that is what is said of it.
pub async fn what_breaks_off_is_unknown(origin: &impl Arrange) {
    let (broken, working) = (key("broken"), key("working"));
    if !origin.break_off(&broken) {
        return;
    }
    for place in 1..10 {
        let answer = make(origin, put(&broken, "value", place)).await;
        assert!(matches!(answer, Err(UpdateError::Unknown(_))), "{answer:?}");
        assert_tells_no_secret(&answer);
        made(origin, put(&working, place.to_string(), place)).await;
        assert_eq!(held(origin, &working).await, Some(place.to_string().into_bytes()));
    }
}

/// A change that hangs keeps no other waiting.
pub async fn a_change_that_hangs_keeps_no_other_waiting(origin: &impl Arrange) {
    let (hanging, working) = (key("hanging"), key("working"));
    if origin.is_one_after_another() || !origin.hang(&hanging) {
        return;
    }
    let hang = |place| origin.store().update(put(&hanging, "never", place));
    let mut changes: FuturesUnordered<_> = (1..=HANGING_LEN as u64).map(hang).collect();
    let mut answered = pin!(make(origin, put(&working, "works", 1)));
    tokio::select! {
        early = changes.next() => panic!("a hanging change was answered: {early:?}"),
        answer = &mut answered => answer.unwrap_or_else(|error| panic!("{error}")),
    }
    assert_eq!(held(origin, &working).await.as_deref(), Some(&b"works"[..]));
}

/// A change that is given up holds no thread, no connection and no lock: however many were, the next one is made.
pub async fn a_change_that_is_given_up_holds_nothing(origin: &impl Arrange) {
    let (hanging, working) = (key("hanging"), key("working"));
    if !origin.hang(&hanging) {
        return;
    }
    let deadline = Instant::now() + SLOW_TIME;
    let hang = |place| timeout_at(deadline, origin.store().update(put(&hanging, "never", place)));
    let given_up = join_all((1..=ABANDONED_LEN as u64).map(hang)).await;
    assert!(given_up.iter().all(Result::is_err), "a hanging change was answered");
    made(origin, put(&working, "works", 1)).await;
    assert_eq!(held(origin, &working).await.as_deref(), Some(&b"works"[..]));
}

/// A batch answers each change as if it were made alone, in its place.
pub async fn a_batch_answers_each_change_in_its_place(origin: &impl Arrange) {
    let keys = odd_keys();
    for key in keys.iter().step_by(3) {
        // Whether it can be put is for another behaviour to say.
        let _answer = make(origin, put(key, "before", 1)).await;
    }
    let is_deleted = |at: usize| at.is_multiple_of(3);
    let change = |(at, key): (usize, &Key)| if is_deleted(at) { delete(key, 2) } else { put(key, key.as_bytes(), 2) };
    let updates: Vec<Update> = keys.iter().enumerate().map(change).collect();
    let batch_len = origin.store().update_batch_len_max().min(updates.len());
    if batch_len < 2 {
        return;
    }
    let mut answers = Vec::new();
    for batch in updates.chunks(batch_len) {
        match batch {
            [alone] => answers.push(make(origin, alone.clone()).await),
            batch => answers.extend(make_many(origin, batch.to_vec()).await),
        }
    }
    assert!(answers.iter().any(Result::is_ok));
    for (at, (key, answer)) in keys.iter().zip(&answers).enumerate() {
        if answer.is_err() {
            assert_refused(answer);
        }
        let expected = (answer.is_ok() && !is_deleted(at)).then_some(key.as_bytes());
        assert_eq!(held(origin, key).await.as_deref(), expected, "{}", key.as_bytes().escape_ascii());
    }
    for (update, answer) in updates.into_iter().zip(answers) {
        let name = update.key.as_bytes().escape_ascii().to_string();
        assert_eq!(make(origin, update).await.is_ok(), answer.is_ok(), "{name} alone and in a batch");
    }
}

/// A change that is refused keeps back no other of its batch.
pub async fn one_refused_keeps_back_no_other_of_its_batch(origin: &impl Arrange) {
    let refused = key("refused");
    made(origin, put(&refused, "before", 1)).await;
    let batch_len = origin.store().update_batch_len_max().min(9);
    if batch_len < 2 || !origin.refuse(&refused) {
        return;
    }
    let others: Vec<Key> = (1..batch_len).map(|at| key(format!("beside-{at}"))).collect();
    for place in [0, batch_len / 2, batch_len - 1] {
        let number = 2 + place as u64;
        let mut updates: Vec<Update> = others.iter().map(|key| put(key, number.to_string(), number)).collect();
        updates.insert(place, put(&refused, "after", number));
        for (at, answer) in make_many(origin, updates).await.iter().enumerate() {
            match at == place {
                true => assert_refused(answer),
                false => assert!(answer.is_ok(), "{answer:?}"),
            }
        }
        assert_eq!(held(origin, &refused).await.as_deref(), Some(&b"before"[..]));
        for other in &others {
            assert_eq!(held(origin, other).await, Some(number.to_string().into_bytes()), "{other:?}");
        }
    }
}

/// Where the origin fences: a change that is older than what is there is a conflict, and changes nothing.
pub async fn an_older_change_is_a_conflict_where_it_fences(origin: &impl Arrange) {
    if !origin.store().fences() {
        return;
    }
    let key = key("fenced");
    made(origin, put(&key, "new", 5)).await;
    for older in [put(&key, "old", 4), delete(&key, 4), put(&key, "old", 1)] {
        assert_conflict(&make(origin, older).await);
        assert_eq!(held(origin, &key).await.as_deref(), Some(&b"new"[..]));
    }
    made(origin, put(&key, "newer", 6)).await;
    assert_eq!(held(origin, &key).await.as_deref(), Some(&b"newer"[..]));
    made(origin, delete(&key, 7)).await;
    assert_eq!(held(origin, &key).await, None);
}

/// A change that is made again, of the version that is there, is done: whoever heard no answer may repeat it.
pub async fn a_repeated_change_is_done(origin: &impl Arrange) {
    let key = key("repeated");
    for _ in 0..3 {
        made(origin, put(&key, "value", 5)).await;
        assert_eq!(held(origin, &key).await.as_deref(), Some(&b"value"[..]));
    }
    for _ in 0..3 {
        made(origin, delete(&key, 6)).await;
        assert_eq!(held(origin, &key).await, None);
    }
}

/// Where the origin fences: an older change in a batch is a conflict in its place, and keeps back no other.
pub async fn an_older_change_in_a_batch_is_a_conflict_in_its_place(origin: &impl Arrange) {
    let batch_len = origin.store().update_batch_len_max();
    if !origin.store().fences() || batch_len < 2 {
        return;
    }
    let (fenced, fresh, again, gone) = (key("fenced"), key("fresh"), key("again"), key("gone"));
    made(origin, put(&fenced, "new", 5)).await;
    made(origin, put(&again, "same", 3)).await;
    made(origin, put(&gone, "new", 5)).await;
    let batch = [put(&fresh, "fresh", 4), put(&fenced, "old", 4), put(&again, "same", 3), delete(&gone, 4)];
    let mut answers = Vec::new();
    for batch in batch.chunks(batch_len) {
        answers.extend(make_many(origin, batch.to_vec()).await);
    }
    assert_conflict(&answers[1]);
    assert_conflict(&answers[3]);
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    for (key, value) in [(&fenced, "new"), (&fresh, "fresh"), (&again, "same"), (&gone, "new")] {
        assert_eq!(held(origin, key).await.as_deref(), Some(value.as_bytes()), "{key:?}");
    }
}

/// Makes a module of tests, one for each behaviour of [`testing::store`](crate::testing::store); `$arrange` makes the
/// [`Arrange`](crate::testing::store::Arrange) of one test. It needs `tokio` with `macros` and `rt`.
///
/// With `needs $program` before the rest, only where [`needs`](crate::testing::needs::needs) says that the program is there.
#[macro_export]
macro_rules! store_contract {
    ($name:ident, $arrange:expr) => {
        $crate::store_contract!(@behaviours $name, $arrange, true);
    };
    (needs $program:literal, $name:ident, $arrange:expr) => {
        $crate::store_contract!(@behaviours $name, $arrange, $crate::testing::needs::needs($program));
    };
    (@behaviours $name:ident, $arrange:expr, $is_there:expr) => {
        $crate::store_contract!(
            @tests $name, $arrange, $is_there,
            what_is_put_is_found
            the_last_put_counts
            what_is_deleted_is_nothing
            deleting_what_is_not_there_is_no_failure
            a_value_is_taken_as_it_is
            each_odd_key_is_a_key_of_its_own
            a_refusal_changes_nothing
            what_is_kept_out_is_not_refused
            what_breaks_off_is_unknown
            a_change_that_hangs_keeps_no_other_waiting
            a_change_that_is_given_up_holds_nothing
            a_batch_answers_each_change_in_its_place
            one_refused_keeps_back_no_other_of_its_batch
            an_older_change_is_a_conflict_where_it_fences
            a_repeated_change_is_done
            an_older_change_in_a_batch_is_a_conflict_in_its_place
        );
    };
    (@tests $name:ident, $arrange:expr, $is_there:expr, $($behaviour:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test]
                async fn $behaviour() {
                    if $is_there {
                        $crate::testing::store::$behaviour(&$arrange).await;
                    }
                }
            )*
        }
    };
}
