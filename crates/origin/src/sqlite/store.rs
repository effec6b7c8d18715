//! Writes: a statement a change, or one for many.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use larder_core::{Change, Found, Key, Store, Update, UpdateError};
use rusqlite::{Connection, types::ValueRef};

use super::{
    SqliteConfig, SqliteOrigin, load,
    statement::{Parameters, Write},
    writer::{Failed, Writer},
};
use crate::{ConfigError, halves::Halves};

/// How changes are made.
pub(super) struct Writes {
    writer: Writer,
    statements: Arc<Statements>,
}

struct Statements {
    /// Finds a value, to tell a newer one from none at all.
    select: Box<str>,
    upsert: Option<Write>,
    delete: Option<Write>,
    upsert_many: Option<Write>,
}

/// What became of a change.
#[derive(Clone, Copy)]
enum Made {
    Done,
    Conflict,
    NoStatement(&'static str),
}

impl From<Made> for Result<(), UpdateError> {
    fn from(made: Made) -> Self {
        match made {
            Made::Done => Ok(()),
            Made::Conflict => Err(UpdateError::Conflict),
            Made::NoStatement(setting) => Err(UpdateError::refused(format_args!(
                "the SQLite origin has no statement for such a change: set its {setting}"
            ))),
        }
    }
}

impl Writes {
    /// Checks the statements that write; `None` if there is none.
    pub(super) fn open(config: &SqliteConfig) -> Result<Option<Self>, ConfigError> {
        let SqliteConfig { upsert, delete, upsert_many, .. } = config;
        if upsert.is_none() && upsert_many.is_some() {
            return Err(ConfigError::new(
                "upsert_many",
                "needs upsert beside it, for what it can't take: set that too",
            ));
        }
        if upsert.is_none() && delete.is_none() {
            return Ok(None);
        }
        let unopened = |error: rusqlite::Error| {
            let message = super::connections::message(&error);
            ConfigError::new("url", format!("{} can't be opened to be written: {message}", config.database()))
        };
        let writer = Writer::open(config.database()).map_err(unopened)?;
        let statements = writer
            .run_here(|connection| {
                if connection.is_readonly("main").is_ok_and(|is_readonly| is_readonly) {
                    return Err(ConfigError::new("url", format!("{} may only be read", config.database())));
                }
                let check = |setting, sql: &Option<String>, takes_value| {
                    sql.as_deref().map(|sql| Write::check(connection, setting, sql, takes_value)).transpose()
                };
                Ok::<_, ConfigError>(Statements {
                    select: config.select.as_str().into(),
                    upsert: check("upsert", upsert, true)?,
                    delete: check("delete", delete, false)?,
                    upsert_many: check("upsert_many", upsert_many, true)?,
                })
            })
            .map_err(unopened)??;
        let fences = |write: &Option<Write>| write.as_ref().is_some_and(|write| write.fences);
        if statements.upsert_many.is_some() && fences(&statements.upsert_many) != fences(&statements.upsert) {
            return Err(ConfigError::new("upsert_many", "must name $3, the version, if upsert does, and else not"));
        }
        Ok(Some(Self { writer, statements: statements.into() }))
    }
}

impl Statements {
    fn all(&self) -> impl Iterator<Item = &Write> {
        [&self.upsert, &self.delete, &self.upsert_many].into_iter().flatten()
    }

    fn make(&self, connection: &Connection, update: &Update) -> rusqlite::Result<Made> {
        let (write, value) = match &update.change {
            Change::Put(value) => (self.upsert.as_ref().ok_or("upsert"), bound(value)),
            Change::Delete => (self.delete.as_ref().ok_or("delete"), ValueRef::Null),
        };
        let write = match write {
            Ok(write) => write,
            Err(setting) => return Ok(Made::NoStatement(setting)),
        };
        let version = update.version.to_string();
        let changed = write.run(connection, &Parameters { key: bound_key(&update.key), value, version: &version })?;
        let is_done = changed > 0
            || !write.fences
            // That there is nothing to delete is no conflict.
            || update.change == Change::Delete && self.finds_nothing(connection, &update.key)?;
        Ok(if is_done { Made::Done } else { Made::Conflict })
    }

    fn finds_nothing(&self, connection: &Connection, key: &Key) -> rusqlite::Result<bool> {
        // Of a value that is there, its length says enough.
        let found = load(connection, &self.select, key, 0)?;
        Ok(found.is_ok_and(|loaded| loaded.found == Found::Nothing))
    }

    /// Makes all of them; `None` if they have to be made one by one, to see which of them is a conflict.
    fn make_together(&self, connection: &Connection, updates: &[Update]) -> rusqlite::Result<Option<Vec<Made>>> {
        let Some(upsert_many) = &self.upsert_many else { return Ok(None) };
        let mut made = vec![Made::Done; updates.len()];
        let (mut keys, mut values, mut versions) = (Vec::new(), Vec::new(), Vec::new());
        for (made, update) in made.iter_mut().zip(updates) {
            match in_json(update) {
                Some((key, value)) => {
                    keys.push(key);
                    values.push(value);
                    versions.push(update.version.to_string());
                }
                None => *made = self.make(connection, update)?,
            }
        }
        if keys.is_empty() {
            return Ok(Some(made));
        }
        let len = keys.len();
        let array = |texts: Vec<&str>| serde_json::Value::from(texts).to_string();
        let (keys, values, versions) = (array(keys), array(values), serde_json::Value::from(versions).to_string());
        let (key, value) = (ValueRef::Text(keys.as_bytes()), ValueRef::Text(values.as_bytes()));
        let changed = upsert_many.run(connection, &Parameters { key, value, version: &versions })?;
        Ok((changed == len || !upsert_many.fences).then_some(made))
    }
}

/// The key and value of a put that JSON can hold. It can hold a NUL; but where SQLite reads text, that ends it.
fn in_json(update: &Update) -> Option<(&str, &str)> {
    let Change::Put(value) = &update.change else { return None };
    Some((text(update.key.as_bytes())?, text(value)?))
}

fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// As loads bind a key.
fn bound_key(key: &Key) -> ValueRef<'_> {
    let bytes = key.as_bytes();
    if str::from_utf8(bytes).is_ok() { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) }
}

fn bound(value: &[u8]) -> ValueRef<'_> {
    if text(value).is_some() { ValueRef::Text(value) } else { ValueRef::Blob(value) }
}

impl SqliteOrigin {
    fn writes(&self) -> Result<&Writes, UpdateError> {
        self.writes.as_ref().ok_or_else(|| UpdateError::refused("the SQLite origin takes no writes: set its upsert"))
    }

    async fn write(&self, update: Update) -> Result<(), UpdateError> {
        let Writes { writer, statements } = self.writes()?;
        let statements = Arc::clone(statements);
        // A conflict changed nothing, so that it makes no difference whether its transaction is made or undone.
        let made = writer.transact(move |connection| statements.make(connection, &update).map(Some)).await?;
        made.map_or(Ok(()), Result::from)
    }

    async fn write_many(&self, updates: Vec<Update>) -> Vec<Result<(), UpdateError>> {
        let mut answers: Vec<Option<Result<(), UpdateError>>> = updates.iter().map(|_| None).collect();
        let mut halves = Halves::of(updates.len());
        while let Ok(Writes { writer, statements }) = self.writes()
            && let Some(part) = halves.next()
        {
            let (statements, together) = (Arc::clone(statements), updates[part.clone()].to_vec());
            match writer.transact(move |connection| statements.make_together(connection, &together)).await {
                Ok(Some(made)) => {
                    let made = made.into_iter().map(|made| Some(made.into()));
                    answers[part].iter_mut().zip(made).for_each(|(answer, made)| *answer = made);
                }
                // One of them is refused or a conflict, and held the others up: nothing changed yet.
                Ok(None) | Err(Failed::Undone(_)) => halves.failed(part),
                // None of them could be made now. Or nobody knows which of them are made, so that making them again could only hide it.
                Err(failed) => answers[part].fill_with(|| Some(Err(failed.clone().into()))),
            }
        }
        let mut made = Vec::with_capacity(updates.len());
        for (answer, update) in answers.into_iter().zip(updates) {
            made.push(match answer {
                Some(answer) => answer,
                None => self.write(update).await,
            });
        }
        made
    }
}

impl Store for SqliteOrigin {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(self.write(update))
    }

    fn update_batch_len_max(&self) -> usize {
        let is_batched = self.writes.as_ref().is_some_and(|writes| writes.statements.upsert_many.is_some());
        if is_batched { self.batch_len_max } else { 1 }
    }

    fn update_many(&self, updates: Vec<Update>) -> BoxFuture<'_, Vec<Result<(), UpdateError>>> {
        Box::pin(self.write_many(updates))
    }

    fn fences(&self) -> bool {
        self.writes.as_ref().is_some_and(|writes| writes.statements.all().all(|write| write.fences))
    }
}
