//! The statements of the configuration: checked against the tables when the database is opened, and bound by the names of their
//! parameters.

use rusqlite::{
    Connection, Statement,
    types::{ToSqlOutput, ValueRef},
};

use super::connections::message;
use crate::ConfigError;

/// Checks that a statement is one, reads only, takes `$1` alone and returns these columns.
pub(super) fn check_read(
    connection: &Connection,
    setting: &'static str,
    sql: &str,
    columns: &[&str],
) -> Result<(), ConfigError> {
    let fail = |message: String| Err(ConfigError::new(setting, message));
    let statement = prepare(connection, setting, sql)?;
    if !statement.readonly() {
        return fail(format!("must only read: {sql:?}"));
    }
    // `?`, `?1` and `$1` are the same to SQLite where there is but one.
    let is_first = statement.parameter_name(1).is_none_or(|name| name.get(1..) == Some("1"));
    if statement.parameter_count() != 1 || !is_first {
        return fail(format!("must take one parameter, $1: {sql:?}"));
    }
    if statement.column_count() != columns.len() {
        let columns = columns.join(" and ");
        return fail(format!("returns {} columns, and should only {columns}: {sql:?}", statement.column_count()));
    }
    Ok(())
}

fn prepare<'connection>(
    connection: &'connection Connection,
    setting: &'static str,
    sql: &str,
) -> Result<Statement<'connection>, ConfigError> {
    connection.prepare(sql).map_err(|error| {
        let message = match &error {
            rusqlite::Error::SqlInputError { msg, offset: 0.., .. } if msg == "incomplete input" => {
                format!("ends too early: {sql:?}")
            }
            rusqlite::Error::SqlInputError { msg, offset: offset @ 0.., .. } => {
                format!("{msg}, at byte {offset} of {sql:?}")
            }
            error => format!("{}, in {sql:?}", message(error)),
        };
        ConfigError::new(setting, message)
    })
}

/// A statement that changes something.
pub(super) struct Write {
    sql: Box<str>,
    /// Whether it names the version, so that no rows changed means that there is a newer one.
    pub(super) fences: bool,
}

/// What stands for the parameters of a [`Write`].
pub(super) struct Parameters<'update> {
    pub(super) key: ValueRef<'update>,
    /// The value, for a statement that takes one.
    pub(super) value: ValueRef<'update>,
    pub(super) version: &'update str,
}

impl Write {
    /// Checks that a statement is one, writes, takes those of `$1`, `$2` and `$3` that it has to, and returns nothing.
    pub(super) fn check(
        connection: &Connection,
        setting: &'static str,
        sql: &str,
        takes_value: bool,
    ) -> Result<Self, ConfigError> {
        let fail = |message: String| Err(ConfigError::new(setting, message));
        let statement = prepare(connection, setting, sql)?;
        if statement.readonly() {
            return fail(format!("must write: {sql:?}"));
        }
        let numbers: Vec<Option<u8>> = (1..=statement.parameter_count()).map(|at| number(&statement, at)).collect();
        let names = |number| numbers.contains(&Some(number));
        if numbers.contains(&None) || !names(1) || names(2) != takes_value {
            let must = if takes_value { "$1, the key, and $2, the value" } else { "$1, the key" };
            return fail(format!("must take {must}, and may take $3, the version, and nothing else: {sql:?}"));
        }
        if statement.column_count() != 0 {
            return fail(format!("returns columns, and should return none: leave RETURNING out of {sql:?}"));
        }
        Ok(Self { fences: names(3), sql: sql.into() })
    }

    /// Runs it, and says how many rows it changed.
    pub(super) fn run(&self, connection: &Connection, parameters: &Parameters<'_>) -> rusqlite::Result<usize> {
        let mut statement = connection.prepare_cached(&self.sql)?;
        for at in 1..=statement.parameter_count() {
            let bound = match number(&statement, at) {
                Some(1) => parameters.key,
                Some(2) => parameters.value,
                _ => ValueRef::Text(parameters.version.as_bytes()),
            };
            statement.raw_bind_parameter(at, ToSqlOutput::Borrowed(bound))?;
        }
        statement.raw_execute()
    }
}

/// Which of `$1` to `$3` the parameter is. SQLite takes `$3` for a name, and numbers names in the order in which it meets them.
fn number(statement: &Statement<'_>, at: usize) -> Option<u8> {
    let name = statement.parameter_name(at)?;
    let number = name.get(1..)?.parse().ok()?;
    (1..=3).contains(&number).then_some(number)
}
