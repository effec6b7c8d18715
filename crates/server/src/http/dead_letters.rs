//! Dead letters: writes that the origin refused for good, for operators to look at, to try again and to drop.
//!
//! They are in the journal of the node that gave them up. Trying one again is an ordinary write, carried out by whoever owns the
//! key by now; the letter goes once that is acknowledged.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use larder::{
    Change,
    origin::{
        behind::{Retried, retry_dead_letter},
        journal::{DeadLetter, Journal, JournalError, PAGE_LEN_MAX},
    },
};
use larder_core::{Node, group::TIMEOUT_DEFAULT};
use serde_json::{Value, json};

use super::{
    Response,
    api::{json, written},
    problem::{Problem, ProblemKind},
};

/// How many letters an answer has if nobody says how many.
const PAGE_LEN: usize = 100;

/// Answers about the dead letters of a node.
pub(super) struct DeadLetters<'a> {
    pub(super) node: &'a Node,
    /// Not there where nothing is written behind: then there are none.
    pub(super) journal: Option<&'a Journal>,
}

impl DeadLetters<'_> {
    /// `GET /v1/dead-letters`.
    pub(super) async fn list(&self, query: Option<&str>) -> Result<Response, Problem> {
        let (after, len_max) = page(query.unwrap_or_default())?;
        let letters = match self.journal {
            Some(journal) => journal.dead_letters(after, len_max).await.map_err(larder_core::Error::from)?,
            None => Vec::new(),
        };
        // Many large letters make a page short: only one without any is the last.
        let next = letters.last().map(|letter| letter.id);
        let letters: Vec<Value> = letters.iter().map(told).collect();
        Ok(json(&json!({ "dead_letters": letters, "next": next })))
    }

    /// `GET /v1/dead-letters/{id}`.
    pub(super) async fn show(&self, id: u64) -> Result<Response, Problem> {
        let (letter, _) = self.find(id).await?;
        let mut object = told(&letter);
        object["value"] = match &letter.record.change {
            Change::Put(value) => STANDARD.encode(value).into(),
            Change::Delete => Value::Null,
        };
        Ok(json(&object))
    }

    /// `POST /v1/dead-letters/{id}/retry`.
    pub(super) async fn retry(&self, id: u64) -> Result<Response, Problem> {
        let Some(journal) = self.journal else { return Err(unknown(id)) };
        match retry_dead_letter(journal, id, self.node, TIMEOUT_DEFAULT).await? {
            Retried::Written(version) => Ok(written(version)),
            Retried::Overtaken(version) => {
                let detail = format!(
                    "The key was written again as version {version}, which this write would undo: drop the dead letter, or put the key anew."
                );
                Err(Problem::new(ProblemKind::Overtaken, detail))
            }
            Retried::Unknown => Err(unknown(id)),
        }
    }

    /// `DELETE /v1/dead-letters/{id}`.
    pub(super) async fn drop(&self, id: u64) -> Result<Response, Problem> {
        let (_, journal) = self.find(id).await?;
        match journal.drop_dead_letter(id).await {
            Ok(()) => {
                tracing::info!(id, "a dead letter was dropped");
                let mut response = Response::default();
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            Err(JournalError::Invalid(_)) => Err(unknown(id)),
            Err(error) => Err(larder_core::Error::from(error).into()),
        }
    }

    async fn find(&self, id: u64) -> Result<(DeadLetter, &Journal), Problem> {
        let Some(journal) = self.journal else { return Err(unknown(id)) };
        let found = journal.dead_letter(id).await.map_err(larder_core::Error::from)?;
        found.map(|letter| (letter, journal)).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: u64) -> Problem {
    let detail = format!("This node has no dead letter {id}: GET /v1/dead-letters lists those that it has.");
    Problem::new(ProblemKind::UnknownDeadLetter, detail)
}

/// A letter as it is listed: all but its value.
fn told(letter: &DeadLetter) -> Value {
    let DeadLetter { id, record, reason, buried_ms } = letter;
    let value = match &record.change {
        Change::Put(value) => Some(value),
        Change::Delete => None,
    };
    let mut object = json!({
        "id": id,
        "group": &*record.id.place.group,
        "version": record.id.version.to_string(),
        "op": if value.is_some() { "put" } else { "delete" },
        "len": value.map(|value| value.len()),
        "content_type": value.and_then(|value| value.content_type()),
        "ttl_ms": record.ttl.map(|ttl| ttl.as_millis() as u64),
        "idempotency_key": record.idempotency_key.as_deref(),
        "reason": &**reason,
        "written_ms": record.written_ms,
        "buried_ms": buried_ms,
    });
    let key = record.id.place.key.as_bytes();
    let (name, key) = match str::from_utf8(key) {
        Ok(text) => ("key", text.to_owned()),
        Err(_) => ("key_b64", STANDARD.encode(key)),
    };
    object[name] = key.into();
    object
}

/// Which letters a query asks for: after which one, and how many.
fn page(query: &str) -> Result<(u64, usize), Problem> {
    let (mut after, mut len_max) = (0, PAGE_LEN);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("after", number)) => after = number.parse().map_err(|_| wrong("after", "the id of a dead letter"))?,
            Some(("n", number)) => {
                let fits = |n: &usize| (1..=PAGE_LEN_MAX).contains(n);
                let n = number.parse().ok().filter(fits);
                len_max = n.ok_or_else(|| wrong("n", &format!("a number from 1 to {PAGE_LEN_MAX}")))?;
            }
            _ => return Err(Problem::bad_request("The query may have after=ID and n=NUMBER, and nothing else.")),
        }
    }
    Ok((after, len_max))
}

fn wrong(name: &str, expected: &str) -> Problem {
    Problem::bad_request(format!("In the query, {name} must be {expected}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_after_which_letter_and_how_many() {
        let parsed = |query| page(query).ok();
        assert_eq!(parsed(""), Some((0, PAGE_LEN)));
        assert_eq!(parsed("after=7"), Some((7, PAGE_LEN)));
        assert_eq!(parsed("n=3&after=18446744073709551615"), Some((u64::MAX, 3)));
        for wrong in ["n=0", "n=1025", "n=", "after=-1", "after=x", "m=1", "after"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
