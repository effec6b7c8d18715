//! [`Pool`]: a bounded number of connections to one database, each with the statements prepared.

use std::{sync::Arc, time::Duration};

use larder_core::{Error, UpdateError};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::{Instant, timeout},
};
use tokio_postgres::{Client, Config, error::Severity};

use super::{
    statement::{Prepared, Sql, Unprepared},
    tls::Tls,
};
use crate::{ConfigError, cause};

/// How long a connection may take to come about, with its statements prepared. Within a `hard_timeout` of 10 s there must be time left
/// for the load.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a connection has to show that it is alive: a round trip, and time for a busy server.
const ASK_TIME_MAX: Duration = Duration::from_secs(1);

/// How long the server is given to hear that a query is not wanted any more. Its connection counts until then.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(1);

/// For how long an idle connection is taken for alive. After that it is asked first: a change that was sent over one that is gone
/// would be one of which nobody knows what became.
const TRUSTED_TIME: Duration = Duration::from_millis(500);

/// Connections to one database, made when they are first needed. Clones are the same pool.
#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    database: Config,
    tls: Tls,
    sql: Sql,
    idle: Mutex<Vec<(Connection, Instant)>>,
    connections: Arc<Semaphore>,
}

/// A connection, and what reads and writes its socket.
struct Connection {
    client: Client,
    prepared: Prepared,
    driver: AbortHandle,
}

/// Why there is no connection. Nothing was asked of the database.
pub(super) enum Unconnected {
    /// The server is away, or not ready.
    Away(String),
    /// It doesn't let us in, or a statement is mistaken.
    Mistaken(ConfigError),
}

impl Pool {
    pub(super) fn new(database: Config, tls: Tls, sql: Sql, connections_max: usize) -> Self {
        let connections = Arc::new(Semaphore::new(connections_max));
        Self(Arc::new(Inner { database, tls, sql, idle: Mutex::default(), connections }))
    }

    /// A connection that nobody else uses, as soon as there is one.
    pub(super) async fn lend(&self) -> Result<Lent, Unconnected> {
        self.lend_after(TRUSTED_TIME).await
    }

    /// The same, with one that has just been seen to be alive.
    pub(super) async fn lend_asked(&self) -> Result<Lent, Unconnected> {
        self.lend_after(Duration::ZERO).await
    }

    async fn lend_after(&self, trusted_time: Duration) -> Result<Lent, Unconnected> {
        let permit = Arc::clone(&self.0.connections).acquire_owned().await;
        let permit = permit.map_err(|error| Unconnected::Away(error.to_string()))?;
        let connection = self.idle(trusted_time).await;
        let connection = match connection {
            Some(connection) => connection,
            None => match timeout(CONNECT_TIME_MAX, self.0.connect()).await {
                Ok(connected) => connected?,
                Err(_) => return Err(Unconnected::Away(format!("no answer within {CONNECT_TIME_MAX:?}"))),
            },
        };
        Ok(Lent { pool: self.clone(), work: Some((connection, permit)) })
    }

    /// An idle connection that is alive.
    async fn idle(&self, trusted_time: Duration) -> Option<Connection> {
        loop {
            // The one that was used last is the least likely to be closed by the server.
            let (connection, since) = self.0.idle.lock().pop()?;
            if connection.client.is_closed() {
                continue;
            }
            if since.elapsed() < trusted_time {
                return Some(connection);
            }
            if let Ok(Ok(())) = timeout(ASK_TIME_MAX, connection.client.check_connection()).await {
                return Some(connection);
            }
        }
    }
}

impl Inner {
    async fn connect(&self) -> Result<Connection, Unconnected> {
        let connected = self.database.connect(self.tls.clone()).await;
        let (client, driver) = connected.map_err(|error| unconnected(&error))?;
        // What ends it, its client is told.
        let driver = tokio::spawn(async move { driver.await.is_ok() }).abort_handle();
        let prepared = Prepared::new(&client, &self.sql).await.map_err(|unprepared| match unprepared {
            Unprepared::Mistaken(error) => Unconnected::Mistaken(error),
            Unprepared::Failed(error) => unconnected(&error),
        });
        match prepared {
            Ok(prepared) => Ok(Connection { client, prepared, driver }),
            Err(error) => {
                driver.abort();
                Err(error)
            }
        }
    }
}

fn unconnected(error: &tokio_postgres::Error) -> Unconnected {
    match error.as_db_error() {
        // 28: who we are; 3D: the database's name; 42: our rights.
        Some(told) if ["28", "3D", "42"].contains(&&told.code().code()[..2]) => {
            Unconnected::Mistaken(ConfigError::new("url", format!("doesn't let us in: {}", told.message())))
        }
        Some(told) => Unconnected::Away(format!("SQLSTATE {}", told.code().code())),
        None if error.to_string() == "invalid configuration" || error.to_string() == "authentication error" => {
            Unconnected::Mistaken(ConfigError::new("url", format!("doesn't let us in: {}", cause(error))))
        }
        None => Unconnected::Away(cause(error)),
    }
}

impl Unconnected {
    /// What those hear who asked for a key. The server's own words are for the operator.
    fn told(&self) -> String {
        match self {
            Self::Away(why) => {
                format!("the PostgreSQL origin can't be reached ({why}): see that it runs and that url names it")
            }
            Self::Mistaken(error) => {
                format!("the PostgreSQL origin is set up wrongly: see its {} and the server's log", error.setting())
            }
        }
    }
}

impl From<Unconnected> for Error {
    fn from(unconnected: Unconnected) -> Self {
        Self::origin(unconnected.told())
    }
}

impl From<Unconnected> for UpdateError {
    fn from(unconnected: Unconnected) -> Self {
        Self::unreached(unconnected.told())
    }
}

/// A connection for one piece of work. Dropped before it is [given back](Self::give_back), what it does is cancelled at the
/// server and the connection ended.
pub(super) struct Lent {
    pool: Pool,
    work: Option<(Connection, OwnedSemaphorePermit)>,
}

impl Lent {
    /// What to work with.
    pub(super) fn parts(&self) -> Result<(&Client, &Prepared), Error> {
        match &self.work {
            Some((Connection { client, prepared, .. }, _)) => Ok((client, prepared)),
            None => Err(Error::origin("the connection to the PostgreSQL origin was given back")),
        }
    }

    /// The work is done, and went well.
    pub(super) fn give_back(mut self) {
        if let Some((connection, permit)) = self.work.take() {
            if !connection.client.is_closed() {
                self.pool.0.idle.lock().push((connection, Instant::now()));
            }
            drop(permit);
        }
    }

    /// The work is done, and ended in this error.
    pub(super) fn give_back_after(mut self, error: &tokio_postgres::Error) {
        // After any other the server ends the connection.
        let told = error.as_db_error().filter(|told| told.parsed_severity() == Some(Severity::Error));
        match told.map(|told| told.code().code()) {
            // A statement does not hold any more what it held when it was prepared, on no connection.
            Some("0A000" | "26000") => {
                self.pool.0.idle.lock().clear();
                self.work = None;
            }
            Some(_) => self.give_back(),
            None => self.work = None,
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some((connection, permit)), Ok(runtime)) = (self.work.take(), Handle::try_current()) else { return };
        let tls = self.pool.0.tls.clone();
        runtime.spawn(async move {
            // The server goes on with a query whose connection is gone: it has to be told. If it can't be, the connection
            // ends all the same.
            let _told = timeout(CANCEL_TIME_MAX, connection.client.cancel_token().cancel_query(tls)).await;
            drop((connection, permit));
        });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
