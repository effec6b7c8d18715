//! The API for operators: health, readiness, metrics.

use std::sync::Arc;

use http::{HeaderValue, header};
use larder_core::ErrorKind;

use super::{
    Request, Response,
    api::Inner,
    listener::Handler,
    metrics,
    problem::Problem,
    route::{self, AdminRoute},
};

/// Answers operators' requests.
#[derive(Clone)]
pub struct Admin(pub(super) Arc<Inner>);

impl Handler for Admin {
    async fn answer(&self, request: Request) -> Response {
        let answer = route::admin(request.method(), request.uri().path()).and_then(|route| self.tell(route));
        answer.unwrap_or_else(Response::from)
    }
}

impl Admin {
    fn tell(&self, route: AdminRoute) -> Result<Response, Problem> {
        let Inner { metrics, .. } = &*self.0;
        match route {
            AdminRoute::Health => Ok(text("ok\n".into(), "text/plain; charset=utf-8")),
            AdminRoute::Ready => {
                self.0.check_ready()?;
                Ok(text("ready\n".into(), "text/plain; charset=utf-8"))
            }
            AdminRoute::Metrics => match metrics.text() {
                Ok(metrics) => Ok(text(metrics, metrics::MEDIA_TYPE)),
                Err(error) => {
                    Err(Problem::new(ErrorKind::Overloaded, format!("The metrics can't be written: {error}.")))
                }
            },
        }
    }
}

fn text(text: String, media_type: &'static str) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
