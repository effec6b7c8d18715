//! `grpc.health.v1`: whether the node is ready to serve, for load balancers and orchestrators.

use std::sync::Arc;

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::{sync::watch, time::sleep};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

use super::limits;

/// Says whether the node is ready to serve.
pub(super) type IsReady = Arc<dyn Fn() -> bool + Send + Sync>;

/// What can be asked after: the node as a whole, and its services, which are ready when it is.
const SERVICES: [&str; 4] = ["", "larder.v1.Cache", "larder.v1.Lock", "larder.peer.v1.Peer"];

pub(super) struct HealthService {
    pub(super) is_ready: IsReady,
    /// Whether the node goes.
    pub(super) ending: watch::Receiver<bool>,
}

/// What a watcher is told from.
struct Watched {
    is_ready: IsReady,
    ending: watch::Receiver<bool>,
    told: Option<ServingStatus>,
}

impl Watched {
    fn status(&self) -> ServingStatus {
        if !*self.ending.borrow() && (self.is_ready)() { ServingStatus::Serving } else { ServingStatus::NotServing }
    }

    /// The next status that is another than the last one; `None` when the node goes and that was told.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let (status, ends) = (self.status(), *self.ending.borrow());
            if self.told.replace(status) != Some(status) {
                return Some(status);
            }
            if ends {
                return None;
            }
            tokio::select! {
                () = sleep(limits::WATCH_EVERY) => {}
                // The listener that it is told by is there for as long as its connections are.
                _ = self.ending.changed() => {}
            }
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("there is no such service: list them by reflection"));
        }
        let watched = Watched { is_ready: self.is_ready.clone(), ending: self.ending.clone(), told: None };
        Ok(Response::new(response(watched.status())))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// A service that is not there might come to be, says the protocol; here, none does.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = SERVICES.contains(&request.get_ref().service.as_str());
        let watched = Watched { is_ready: self.is_ready.clone(), ending: self.ending.clone(), told: None };
        let statuses = stream::unfold(watched, |mut watched| async move { Some((watched.next().await?, watched)) });
        let statuses = statuses.map(move |status| if is_known { status } else { ServingStatus::ServiceUnknown });
        Ok(Response::new(statuses.map(|status| Ok(response(status))).boxed()))
    }
}
