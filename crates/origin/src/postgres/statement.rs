//! The statements of the configuration, prepared on one connection and checked there.

use std::borrow::Cow;

use futures_util::future::try_join3;
use larder_core::Version;
use tokio_postgres::{
    Client, Error, Row, Statement,
    types::{Kind, ToSql, Type},
};

use super::form::{Bound, Form, Wire};
use crate::ConfigError;

/// The statements of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    pub(super) select: Box<str>,
    pub(super) select_many: Option<Box<str>>,
    pub(super) upsert: Option<Box<str>>,
    pub(super) delete: Option<Box<str>>,
    pub(super) upsert_many: Option<Box<str>>,
}

/// Why statements could not be prepared.
pub(super) enum Unprepared {
    /// One is mistaken.
    Mistaken(ConfigError),
    /// The server or the way to it failed.
    Failed(Error),
}

/// The statements as one connection has them.
pub(super) struct Prepared {
    pub(super) select: Select,
    pub(super) select_many: Option<Select>,
    pub(super) upsert: Option<Write>,
    pub(super) delete: Option<Write>,
    pub(super) upsert_many: Option<Write>,
}

/// A statement that finds values.
pub(super) struct Select {
    pub(super) statement: Statement,
    pub(super) key: Form,
    /// Those of its columns.
    columns: Vec<Form>,
}

/// A statement that changes something.
pub(super) struct Write {
    pub(super) statement: Statement,
    pub(super) key: Form,
    /// That of the value; for a statement that takes none, that of what is bound in its place.
    pub(super) value: Form,
    /// That of the version, if the statement names it. Then it fences.
    pub(super) version: Option<Form>,
}

/// A type that the server is to find out.
fn to_be_found() -> Type {
    Type::new(String::new(), 0, Kind::Simple, String::new())
}

impl Sql {
    /// Whether every statement that writes names the version.
    pub(super) fn fences(&self) -> bool {
        let mut writes = [&self.upsert, &self.delete, &self.upsert_many].into_iter().flatten().peekable();
        writes.peek().is_some() && writes.all(|sql| names(sql, "$3"))
    }
}

impl Prepared {
    /// Prepares and checks all of them, in one round trip where no type is strange.
    pub(super) async fn new(client: &Client, sql: &Sql) -> Result<Self, Unprepared> {
        let selects = async {
            let select = Select::new(client, "select", &sql.select, false).await?;
            let many = match &sql.select_many {
                Some(many) => Some(Select::new(client, "select_many", many, true).await?),
                None => None,
            };
            Ok((select, many))
        };
        let upserts = async {
            let upsert = Write::new(client, "upsert", sql.upsert.as_deref(), Takes::Value).await?;
            let many = Write::new(client, "upsert_many", sql.upsert_many.as_deref(), Takes::Arrays).await?;
            let fences = |write: &Option<Write>| write.as_ref().is_some_and(|write| write.version.is_some());
            if many.is_some() && fences(&many) != fences(&upsert) {
                let message = "must name $3, the version, if upsert does, and else not";
                return Err(Unprepared::Mistaken(ConfigError::new("upsert_many", message)));
            }
            Ok((upsert, many))
        };
        let delete = Write::new(client, "delete", sql.delete.as_deref(), Takes::Key);
        let ((select, select_many), (upsert, upsert_many), delete) = try_join3(selects, upserts, delete).await?;
        Ok(Self { select, select_many, upsert, delete, upsert_many })
    }
}

/// Prepares a statement whose parameters have these types.
async fn prepare(client: &Client, setting: &'static str, sql: &str, types: &[Type]) -> Result<Statement, Unprepared> {
    client.prepare_typed(sql, types).await.map_err(|error| {
        // What is wrong with a statement is in the classes 42 (syntax, names) and 0A (what PostgreSQL can't do), and in 22 and 26
        // for constants and for texts that are several statements.
        match error.as_db_error() {
            Some(told) if ["0A", "22", "26", "42"].contains(&&told.code().code()[..2]) => {
                Unprepared::Mistaken(ConfigError::new(setting, format!("{}, in {sql:?}", told.message())))
            }
            _ => Unprepared::Failed(error),
        }
    })
}

fn mistaken<T>(setting: &'static str, message: String) -> Result<T, Unprepared> {
    Err(Unprepared::Mistaken(ConfigError::new(setting, message)))
}

/// The form of a parameter or a column, which `what` names.
fn form(setting: &'static str, what: &str, of: &Type, is_array: bool) -> Result<Form, Unprepared> {
    let form = if is_array { Form::of_elements(of) } else { Form::of(of) };
    let expected = if is_array { format!("an array of {}", Form::EXPECTED) } else { Form::EXPECTED.to_owned() };
    form.map_or_else(|| mistaken(setting, format!("{what} is of the type {}: cast it to {expected}", of.name())), Ok)
}

impl Select {
    async fn new(client: &Client, setting: &'static str, sql: &str, is_many: bool) -> Result<Self, Unprepared> {
        let statement = prepare(client, setting, sql, &[]).await?;
        let [key] = statement.params() else {
            return mistaken(setting, format!("must take one parameter, $1: {sql:?}"));
        };
        let key = form(setting, "its $1", key, is_many)?;
        let expected = if is_many { "the key and the value" } else { "the value" };
        if statement.columns().len() != if is_many { 2 } else { 1 } {
            let message = format!("returns {} columns, and should only {expected}: {sql:?}", statement.columns().len());
            return mistaken(setting, message);
        }
        let columns = statement.columns().iter();
        let columns = columns.map(|it| form(setting, &format!("its column {}", it.name()), it.type_(), false));
        let columns = columns.collect::<Result<_, _>>()?;
        Ok(Self { statement, key, columns })
    }

    /// The bytes of a row's column, `None` if it is NULL.
    pub(super) fn column<'row>(&self, row: &'row Row, at: usize) -> Option<Cow<'row, [u8]>> {
        let Wire(wire) = row.try_get::<_, Option<Wire<'_>>>(at).ok()??;
        self.columns.get(at)?.read(wire).ok()
    }
}

/// What a statement that writes gets beside the version.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Key,
    Value,
    Arrays,
}

impl Write {
    async fn new(
        client: &Client,
        setting: &'static str,
        sql: Option<&str>,
        takes: Takes,
    ) -> Result<Option<Self>, Unprepared> {
        let Some(sql) = sql else { return Ok(None) };
        // PostgreSQL has to be told the type of what a statement leaves out before its $3.
        let types: &[Type] = if takes == Takes::Key { &[to_be_found(), Type::TEXT] } else { &[] };
        let statement = prepare(client, setting, sql, types).await?;
        let names_value = names(sql, "$2");
        let (key, value, version) = match statement.params() {
            [key, value] => (key, value, None),
            [key, value, version] => (key, value, Some(version)),
            [] | [_, ..] => return mistaken(setting, takes.must(sql)),
        };
        if !names(sql, "$1") || names_value != (takes != Takes::Key) {
            return mistaken(setting, takes.must(sql));
        }
        if !statement.columns().is_empty() {
            return mistaken(setting, format!("returns columns, and should return none: {sql:?}"));
        }
        let are_arrays = takes == Takes::Arrays;
        let key = form(setting, "its $1", key, are_arrays)?;
        let value = form(setting, "its $2", value, are_arrays)?;
        let version = version.map(|version| form(setting, "its $3", version, are_arrays)).transpose()?;
        if version.is_some_and(|version| version != Form::Text) {
            let expected = if are_arrays { "an array of text" } else { "text" };
            return mistaken(setting, format!("gets the version as text: cast its $3 to {expected}"));
        }
        Ok(Some(Self { statement, key, value, version }))
    }

    /// Runs it, and says how many rows it changed.
    pub(super) async fn run(&self, client: &Client, key: &[u8], value: &[u8], version: Version) -> Result<u64, Error> {
        let version = version.to_string();
        let key = Bound { form: self.key, bytes: key };
        let value = Bound { form: self.value, bytes: value };
        let version = Bound { form: Form::Text, bytes: version.as_bytes() };
        self.run_with(client, &key, &value, &version).await
    }

    /// Runs one for many, with what belongs together in the same place.
    pub(super) async fn run_many(
        &self,
        client: &Client,
        keys: &[&[u8]],
        values: &[&[u8]],
        versions: &[String],
    ) -> Result<u64, Error> {
        let (keys, values) = (Bound::all(self.key, keys), Bound::all(self.value, values));
        let versions: Vec<&[u8]> = versions.iter().map(String::as_bytes).collect();
        self.run_with(client, &keys, &values, &Bound::all(Form::Text, &versions)).await
    }

    async fn run_with(
        &self,
        client: &Client,
        key: &(dyn ToSql + Sync),
        value: &(dyn ToSql + Sync),
        version: &(dyn ToSql + Sync),
    ) -> Result<u64, Error> {
        let parameters = [key, value, version];
        client.execute(&self.statement, &parameters[..self.statement.params().len()]).await
    }
}

impl Takes {
    fn must(self, sql: &str) -> String {
        let must = match self {
            Self::Key => "$1, the key",
            Self::Value => "$1, the key, and $2, the value",
            Self::Arrays => "$1, the keys, and $2, the values",
        };
        format!("must take {must}, and may take $3, the version, and nothing else: {sql:?}")
    }
}

/// Whether a statement has this parameter.
fn names(sql: &str, parameter: &str) -> bool {
    let digit = |next: char| next.is_ascii_digit();
    sql.match_indices(parameter).any(|(at, _)| !sql[at + parameter.len()..].starts_with(digit))
}
