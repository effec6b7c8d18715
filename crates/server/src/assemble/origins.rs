//! Origins of a configuration's making.

use std::sync::Arc;

use larder::{
    Loader,
    core::Store,
    origin::{
        ConfigError, DirectoryOrigin, HttpConfig, HttpOrigin, ObjectConfig, ObjectOrigin, PostgresConfig,
        PostgresOrigin, RedisConfig, RedisOrigin, SqliteConfig, SqliteOrigin,
    },
};

use crate::config::OriginConfig;

/// What a group's values come from, and where its writes go.
#[derive(Clone, Default)]
pub struct Origin {
    /// None where the group is a plain cache.
    pub loader: Option<Arc<dyn Loader>>,
    /// The same origin, where it takes writes; those that have statements do only if one of them writes.
    pub store: Option<Arc<dyn Store>>,
}

impl Origin {
    fn new(origin: impl Loader + Store, takes_writes: bool) -> Self {
        let origin = Arc::new(origin);
        Self { store: takes_writes.then(|| origin.clone() as Arc<dyn Store>), loader: Some(origin) }
    }
}

/// Makes an origin, with its statements checked as far as it can be reached.
///
/// # Errors
///
/// What is wrong with which of its settings.
pub async fn origin(origin: &OriginConfig) -> Result<Origin, ConfigError> {
    Ok(match origin {
        OriginConfig::None => Origin::default(),
        OriginConfig::Http(origin) => {
            let mut http = HttpConfig::new(origin.url.reveal()).respect_cache_control(origin.respect_cache_control);
            for (name, value) in &origin.headers {
                http = http.header(name, value.reveal());
            }
            if let Some(path) = &origin.ca_file {
                http = http.ca_file(path);
            }
            Origin::new(HttpOrigin::new(http)?, true)
        }
        OriginConfig::Sqlite(origin) => {
            let mut sqlite = SqliteConfig::new(&origin.url, &origin.select);
            sqlite = set(sqlite, &origin.select_many, SqliteConfig::select_many);
            sqlite = set(sqlite, &origin.upsert, SqliteConfig::upsert);
            sqlite = set(sqlite, &origin.upsert_many, SqliteConfig::upsert_many);
            sqlite = set(sqlite, &origin.delete, SqliteConfig::delete);
            let sqlite = SqliteOrigin::open(sqlite)?;
            let takes_writes = sqlite.takes_writes();
            Origin::new(sqlite, takes_writes)
        }
        OriginConfig::Postgres(origin) => {
            let mut postgres = PostgresConfig::new(origin.url.reveal(), origin.select.as_str());
            postgres = set(postgres, &origin.select_many, PostgresConfig::select_many);
            postgres = set(postgres, &origin.upsert, PostgresConfig::upsert);
            postgres = set(postgres, &origin.upsert_many, PostgresConfig::upsert_many);
            postgres = set(postgres, &origin.delete, PostgresConfig::delete);
            if let Some(path) = &origin.ca_file {
                postgres = postgres.ca_file(path);
            }
            let postgres = PostgresOrigin::new(postgres.connections_max(origin.connections))?;
            if !postgres.check().await? {
                tracing::warn!("a PostgreSQL origin can't be reached: keys are loaded from it once it is there");
            }
            let takes_writes = postgres.takes_writes();
            Origin::new(postgres, takes_writes)
        }
        OriginConfig::Directory(origin) => Origin::new(DirectoryOrigin::open(&origin.path)?, true),
        OriginConfig::Object(origin) => {
            let mut object = ObjectConfig::new(origin.url.reveal());
            for (name, value) in &origin.options {
                object = object.option(name, value.reveal());
            }
            if let Some(path) = &origin.ca_file {
                object = object.ca_file(path);
            }
            Origin::new(ObjectOrigin::open(object)?, true)
        }
        OriginConfig::Redis(origin) => {
            let redis = RedisConfig::new(origin.url.reveal()).prefix(origin.prefix.as_str());
            Origin::new(RedisOrigin::new(redis)?, true)
        }
    })
}

/// The configuration with a statement, if there is one.
fn set<C>(config: C, statement: &Option<String>, set: fn(C, String) -> C) -> C {
    match statement {
        Some(statement) => set(config, statement.clone()),
        None => config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    async fn made(table: &str) -> Result<Origin, ConfigError> {
        let text = format!("[groups.users.origin]\n{table}");
        let config = Config::parse(&text, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        origin(&config.groups["users"].origin).await
    }

    #[tokio::test]
    async fn an_origin_takes_writes_where_it_can_be_told_how() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users.db");
        let database = rusqlite::Connection::open(&file).unwrap();
        database.execute_batch("CREATE TABLE users (id TEXT PRIMARY KEY, body TEXT)").unwrap();
        let sqlite = |more: &str| {
            let select = "SELECT body FROM users WHERE id = $1";
            format!("kind = 'sqlite'\nurl = '{}'\nselect = '{select}'\n{more}", file.display())
        };
        let upsert = "upsert = 'INSERT OR REPLACE INTO users VALUES ($1, $2)'";
        let postgres = "kind = 'postgres'\nurl = 'host=/no/such/folder'\nselect = 'SELECT $1'";
        let origins = [
            ("kind = 'none'".to_owned(), false, false),
            ("kind = 'http'\nurl = 'http://127.0.0.1:1/{key}'".to_owned(), true, true),
            (format!("kind = 'directory'\npath = '{}'", folder.path().display()), true, true),
            (sqlite(""), true, false),
            (sqlite(upsert), true, true),
            (sqlite("delete = 'DELETE FROM users WHERE id = $1'"), true, true),
            (postgres.to_owned(), true, false),
            (format!("{postgres}\n{upsert}"), true, true),
            ("kind = 'redis'\nurl = 'redis://127.0.0.1:1'".to_owned(), true, true),
            (format!("kind = 'object'\nurl = 'file://{}'", folder.path().display()), true, true),
            (
                "kind = 'object'\nurl = 's3://bucket/path'\noptions = { aws_endpoint = 'http://127.0.0.1:1' }"
                    .to_owned(),
                true,
                true,
            ),
        ];
        for (table, loads, takes_writes) in origins {
            let Origin { loader, store } = made(&table).await.unwrap_or_else(|error| panic!("{table}: {error}"));
            assert_eq!((loader.is_some(), store.is_some()), (loads, takes_writes), "{table}");
        }
        let mistaken = made(&sqlite("upsert = 'INSERT INTO usrs VALUES ($1, $2)'")).await;
        let error = mistaken.map(drop).unwrap_err();
        assert_eq!(error.to_string(), r#"upsert: no such table: usrs, in "INSERT INTO usrs VALUES ($1, $2)""#);
    }
}
