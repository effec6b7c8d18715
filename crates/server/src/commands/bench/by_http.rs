//! [`ByHttp`]: a node, asked as its clients ask it.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use larder_bench::Outcome;
use larder_core::{ErrorKind, Key};
use serde_json::Value;
use tokio::time::timeout;

use super::Target;
use crate::commands::{
    Failure, NodeUrl,
    client::{self, ANSWER_TIMEOUT, NodeClient, key_path},
};

/// A group at a node, over connections that are kept: as many as there are gets under way.
pub(super) struct ByHttp {
    client: NodeClient,
    node: NodeUrl,
    group: String,
}

impl ByHttp {
    pub(super) fn new(node: NodeUrl, group: &str) -> Self {
        Self { client: NodeClient::new(node.clone()), node, group: group.to_owned() }
    }

    async fn answer(&self, key: &Key) -> Outcome {
        let Ok(response) = self.client.send(Method::GET, &key_path(&self.group, key), Bytes::new()).await else {
            return Outcome::Failed("unreachable");
        };
        if response.status() == StatusCode::OK {
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    return Outcome::Failed("broke-off");
                }
            }
            return Outcome::Found;
        }
        match client::problem(response).await {
            Some(problem) if problem.r#type == "not-found" => Outcome::NotFound,
            Some(problem) => Outcome::Failed(ErrorKind::from_slug(&problem.r#type).map_or("other", ErrorKind::slug)),
            None => Outcome::Failed("other"),
        }
    }
}

impl Target for ByHttp {
    fn name(&self) -> String {
        self.node.to_string()
    }

    /// Asks for no key: what is measured begins with the first.
    async fn check(&self, _first: Key) -> Result<(), Failure> {
        let groups = self.client.ask_json("/v1/groups").await?;
        let names: Vec<&str> = groups["groups"].as_array().into_iter().flatten().filter_map(name).collect();
        if names.contains(&self.group.as_str()) {
            return Ok(());
        }
        let (node, names) = (&self.node, names.join(", "));
        Err(Failure::usage(format!("there is no group {:?} at {node}; its groups: {names}", self.group)))
    }

    async fn get(&self, key: Key) -> Outcome {
        timeout(ANSWER_TIMEOUT, self.answer(&key)).await.unwrap_or(Outcome::Failed("no-answer"))
    }

    async fn put(&self, key: Key, value: Bytes) -> Result<(), Failure> {
        self.client.ask(Method::PUT, &key_path(&self.group, &key), value).await.map(drop)
    }
}

fn name(group: &Value) -> Option<&str> {
    group["name"].as_str()
}
