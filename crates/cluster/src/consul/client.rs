//! [`Client`]: asks an agent of Consul over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use larder_core::{Error, ErrorKind};
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::registry::{Failure, causes, connector};

/// The longest answer, in bytes: the health of 4,096 instances with the longest names and zones.
const ANSWER_LEN_MAX: usize = 32 << 20;

/// How much of an answer that is no success is repeated.
const COMPLAINT_LEN_MAX: usize = 300;

/// How long an idle connection is kept: a little longer than the pause between two reads.
const IDLE_TIME_MAX: Duration = Duration::from_secs(5);

/// The header with the token.
const TOKEN: &str = "x-consul-token";

/// The header with the index that an answer is as of.
const INDEX: &str = "x-consul-index";

/// Asks one agent.
pub(crate) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    token: Option<HeaderValue>,
}

/// What an agent answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// 0 if it told none.
    pub(crate) index: u64,
    pub(crate) body: Bytes,
}

impl Client {
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the URL is none of an agent, or the token can't be sent.
    pub(crate) fn new(
        url: &str,
        token: Option<&str>,
        tls: ClientConfig,
        connect_time_max: Duration,
    ) -> Result<Self, Error> {
        let bare = url.trim_end_matches('/');
        let is_good = bare.parse::<Uri>().is_ok_and(|uri| {
            let has_no_path = uri.path_and_query().is_none_or(|path| path == "/");
            has_no_path && uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
        });
        if !is_good {
            let message = format!("{url:?} is no agent of Consul: expected a URL such as \"http://127.0.0.1:8500\"");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let token = token
            .map(HeaderValue::from_str)
            .transpose()
            .map_err(|_| Error::new(ErrorKind::Invalid, "the token for Consul holds characters that can't be sent"))?;
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let http = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME_MAX)
            .build(tls.wrap_connector(connector(connect_time_max)));
        Ok(Self { http, url: bare.to_owned(), token })
    }

    /// Asks, and waits for the whole answer for this long at most.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        time_max: Duration,
    ) -> Result<Answer, Failure> {
        let away = |why: String| Failure::Away(format!("{} {why}", self.url));
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header(TOKEN, token);
        }
        let request = request.body(Full::from(body.unwrap_or_default())).map_err(|error| away(error.to_string()))?;
        let asked = async {
            let answer = self.http.request(request).await.map_err(|error| away(causes(&error)))?;
            let index = answer.headers().get(INDEX).and_then(|index| index.to_str().ok()?.parse().ok());
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_LEN_MAX).collect().await;
            let body = body.map_err(|error| away(causes(&*error)))?.to_bytes();
            Ok(Answer { status: head.status, index: index.unwrap_or_default(), body })
        };
        timeout(time_max, asked)
            .await
            .unwrap_or_else(|_| Err(away(format!("gave no answer within {} ms", time_max.as_millis()))))
    }
}

impl Answer {
    /// The answer, if it is a success.
    pub(crate) fn good(self) -> Result<Self, Failure> {
        if self.status.is_success() {
            return Ok(self);
        }
        let said = String::from_utf8_lossy(&self.body[..self.body.len().min(COMPLAINT_LEN_MAX)]);
        let complaint = format!("Consul answers {}: {}", self.status, said.trim());
        Err(match self.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST => Failure::Refused(complaint),
            _ => Failure::Away(complaint),
        })
    }

    /// Whether it is no success and says this.
    pub(crate) fn says(&self, words: &str) -> bool {
        !self.status.is_success() && self.body.windows(words.len()).any(|window| window == words.as_bytes())
    }
}
