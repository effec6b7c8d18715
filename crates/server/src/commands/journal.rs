//! `larder journal`: what is in the write-behind journal of a node that does not run. It changes nothing.

use base64::{Engine, engine::general_purpose::STANDARD};
use larder::origin::journal::{self, DeadLetter, Holder, JournalError, Met, Record, Report};
use larder_core::{Change, Key};
use serde_json::{Value, json};

use super::{Failure, print, time};
use crate::cli::JournalArgs;

/// What is gathered before it is written.
const GATHERED_BYTES: usize = 64 << 10;

/// Prints records and dead letters, one a line.
///
/// # Errors
///
/// If the journal can't be read, or something in it is damaged.
pub fn list(args: &JournalArgs) -> Result<(), Failure> {
    let (mut text, mut failed) = (String::new(), None);
    let report = inspect(args, |met| {
        if failed.is_some() {
            return;
        }
        let line = match &met {
            Met::Record(record) if args.json => json!({ "record": of_record(record) }).to_string(),
            Met::DeadLetter(letter) if args.json => json!({ "dead_letter": of_letter(letter) }).to_string(),
            Met::Record(record) => format!("record         {}", told(record)),
            Met::DeadLetter(letter) => {
                let DeadLetter { id, record, reason, buried_ms } = letter;
                format!("dead letter {id}  {}  given up {}: {reason}", told(record), time(*buried_ms))
            }
            Met::Mark(_) => return,
        };
        text.push_str(&line);
        text.push('\n');
        if text.len() >= GATHERED_BYTES {
            failed = print(std::mem::take(&mut text).as_bytes()).err();
        }
    })?;
    failed.map_or(Ok(()), Err)?;
    print(text.as_bytes())?;
    sound(args, &report)
}

/// Prints what it holds, or what is damaged.
///
/// # Errors
///
/// If the journal can't be read, or something in it is damaged.
pub fn check(args: &JournalArgs) -> Result<(), Failure> {
    let report = inspect(args, |_| {})?;
    if args.json {
        let bad: Vec<Value> = report.bad.iter().map(|bad| json!({ "what": bad.what, "why": bad.why })).collect();
        let object = json!({
            "commit": report.commit,
            "records": report.records,
            "marks": report.marks,
            "dead_letters": report.dead_letters,
            "members": report.members.as_deref(),
            "damaged": report.bad_count,
            "bad": bad,
        });
        print(format!("{object}\n").as_bytes())?;
    } else {
        let Report { commit, records, marks, dead_letters, .. } = report;
        let held = format!("{records} records, {marks} marks, {dead_letters} dead letters");
        print(format!("commit {commit}: {held}, {} damaged\n", report.bad_count).as_bytes())?;
    }
    sound(args, &report)
}

fn inspect(args: &JournalArgs, visit: impl FnMut(Met)) -> Result<Report, Failure> {
    let path = journal::path_in(&args.data_dir);
    journal::inspect(&path, visit).map_err(|error| match error {
        JournalError::Locked { .. } => {
            let path = path.display();
            Failure::failed(format!("{path} is open: end the node that runs on it, or ask it for its dead letters"))
        }
        error => Failure::failed(error.to_string()),
    })
}

fn sound(args: &JournalArgs, report: &Report) -> Result<(), Failure> {
    if report.bad_count == 0 {
        return Ok(());
    }
    let path = journal::path_in(&args.data_dir);
    let bad: Vec<String> = report.bad.iter().map(ToString::to_string).collect();
    let head = format!("{} is damaged in {} places: no node starts on it", path.display(), report.bad_count);
    Err(Failure::failed(format!("{head}\n{}", bad.join("\n"))))
}

/// A record in one line, without its value.
fn told(record: &Record) -> String {
    let Record { id, change, holder, written_ms, .. } = record;
    let change = match change {
        Change::Put(value) => format!("put of {} bytes", value.len()),
        Change::Delete => "delete".to_owned(),
    };
    let holder = match holder {
        Holder::Owner => "as owner".to_owned(),
        Holder::CopyFor(node) => format!("as copy for {node}"),
    };
    let (group, key) = (&id.place.group, id.place.key.as_bytes().escape_ascii());
    format!("{group}/{key}  version {}  {change}  held {holder}  written {}", id.version, time(*written_ms))
}

fn of_record(record: &Record) -> Value {
    let Record { id, change, idempotency_key, holder, written_ms, ttl } = record;
    let copy_for = match holder {
        Holder::Owner => None,
        Holder::CopyFor(node) => Some(&**node),
    };
    let value = match change {
        Change::Put(value) => Some(value),
        Change::Delete => None,
    };
    let mut object = json!({
        "group": &*id.place.group,
        "slot": id.place.slot.number(),
        "version": id.version.to_string(),
        "change": if value.is_some() { "put" } else { "delete" },
        "bytes": value.map(|value| value.len()),
        "content_type": value.and_then(|value| value.content_type()),
        "ttl_ms": ttl.map(|ttl| ttl.as_millis() as u64),
        "idempotency_key": idempotency_key.as_deref(),
        "copy_for": copy_for,
        "written_ms": written_ms,
    });
    let (name, key) = of_key(&id.place.key);
    object[name] = key.into();
    object
}

/// A key as the HTTP API writes it.
fn of_key(key: &Key) -> (&'static str, String) {
    match std::str::from_utf8(key.as_bytes()) {
        Ok(text) => ("key", text.to_owned()),
        Err(_) => ("key_b64", STANDARD.encode(key.as_bytes())),
    }
}

fn of_letter(letter: &DeadLetter) -> Value {
    let mut object = of_record(&letter.record);
    object["id"] = letter.id.into();
    object["reason"] = (*letter.reason).into();
    object["buried_ms"] = letter.buried_ms.into();
    object
}
