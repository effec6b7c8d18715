//! The API for operators: health, readiness, metrics, and what they have done.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use larder::origin::journal::Journal;
use larder_core::ErrorKind;
use serde_json::json;
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    Request, Response,
    api::{Inner, json},
    dead_letters::DeadLetters,
    listener::Handler,
    metrics,
    problem::{Problem, ProblemKind},
    route::{self, AdminRoute},
};
use crate::reload::Reload;

/// What operators can have done.
///
/// ```
/// use larder_server::{config::Config, http::{Api, ApiConfig, Operations}, reload::Reload};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = larder::Node::builder().name("a").start().await?;
/// let (draining, watched) = tokio::sync::watch::channel(false);
/// let api = Api::new(ApiConfig { node: node.core().clone(), locks: node.locks().clone(), max_ages: Default::default(), draining: watched });
/// let reload = Reload::new(Config::parse("", &[])?, None, api.clone());
/// let _admin = api.admin(Operations { draining, reload, journal: None });
/// # Ok(()) }
/// ```
pub struct Operations {
    /// Set, it has the node leave.
    pub draining: watch::Sender<bool>,
    /// Takes up a configuration that has changed.
    pub reload: Reload,
    /// Where writes are that were given up, if there is such a place.
    pub journal: Option<Journal>,
}

/// Answers operators' requests.
#[derive(Clone)]
pub struct Admin {
    pub(super) api: Arc<Inner>,
    pub(super) operations: Arc<Operations>,
}

impl Handler for Admin {
    async fn answer(&self, request: Request) -> Response {
        let answer = match route::admin(request.method(), request.uri().path()) {
            Ok(route) => self.carry_out(route, request.uri().query()).await,
            Err(problem) => Err(problem),
        };
        answer.unwrap_or_else(Response::from)
    }
}

impl Admin {
    async fn carry_out(&self, route: AdminRoute, query: Option<&str>) -> Result<Response, Problem> {
        let letters = DeadLetters { node: &self.api.node, journal: self.operations.journal.as_ref() };
        match route {
            AdminRoute::Takeover => {
                let takeover = self.api.node.take_over_records();
                let without: Vec<&str> = takeover.without.iter().map(|name| &**name).collect();
                Ok(json(&json!({ "slots": takeover.slots, "without": without, "told": takeover.to_string() })))
            }
            AdminRoute::DeadLetters => letters.list(query).await,
            AdminRoute::DeadLetter(id) => letters.show(id).await,
            AdminRoute::DropDeadLetter(id) => letters.drop(id).await,
            AdminRoute::RetryDeadLetter(id) => letters.retry(id).await,
            AdminRoute::Health => Ok(text("ok\n".into(), "text/plain; charset=utf-8")),
            AdminRoute::Ready => {
                self.api.check_ready()?;
                Ok(text("ready\n".into(), "text/plain; charset=utf-8"))
            }
            AdminRoute::Metrics => match self.api.metrics.text() {
                Ok(metrics) => Ok(text(metrics, metrics::MEDIA_TYPE)),
                Err(error) => {
                    Err(Problem::new(ErrorKind::Overloaded, format!("The metrics can't be written: {error}.")))
                }
            },
            AdminRoute::Drain => {
                self.operations.draining.send_replace(true);
                let mut response = Response::default();
                *response.status_mut() = StatusCode::ACCEPTED;
                Ok(response)
            }
            AdminRoute::Reload => {
                let reload = self.operations.reload.clone();
                let reloaded = spawn_blocking(move || reload.reload()).await;
                let failed = |detail: String| Problem::new(ProblemKind::BadConfiguration, detail);
                let reloaded = reloaded.map_err(|error| failed(error.to_string()))?;
                let reloaded = reloaded.map_err(|failure| failed(failure.to_string()))?;
                Ok(json(&json!(reloaded)))
            }
        }
    }
}

fn text(text: String, media_type: &'static str) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
