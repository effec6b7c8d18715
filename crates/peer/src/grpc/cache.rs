//! `larder.v1.Cache`: what clients ask of a node over gRPC, as `proto/larder/v1/cache.proto` has it. Each call means what the
//! request of the HTTP API means that has its name.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use larder_core::{
    Answer, Clock, Error, ErrorKind, Group, Node, Value, Version, check_group_name,
    group::{GET_MANY_VALUES_LEN_MAX, WriteOptions},
    peer::{Condition, WriteOp},
    stats::GetOutcome,
    store::{TAGS_MAX, Tag, Tags},
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{
    api::{
        self, DeleteRequest, DeleteResponse, Failed, GetManyRequest, GetManyResponse, GetRequest, GetResponse,
        InvalidateRequest, InvalidateResponse, KeyAnswer, NotFound, PutRequest, PutResponse, cache_server::Cache,
        condition::When, key_answer,
    },
    call::Call,
    convert::millis,
    status,
};

/// The media type of a value whose origin or writer gave none.
const OCTETS: &str = "application/octet-stream";

pub(super) struct CacheService(pub(super) Node);

#[tonic::async_trait]
impl Cache for CacheService {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let (call, GetRequest { group, key, known_version }) = parts(request)?;
        let group = self.group(&group)?;
        let start = Instant::now();
        let answer = group.get(&key, call.left()).await;
        group.stats().get_durations.of(GetOutcome::of(&answer)).observe(start.elapsed());
        let mut value = value(answer.map_err(status::of)?, self.0.clock()).map_err(|how| status::not_found(&how))?;
        let unchanged = !value.version.is_empty() && value.version == known_version;
        if unchanged {
            value.data = Bytes::new();
        }
        call.make_room(value.data.len()).await.map_err(status::of)?;
        Ok(Response::new(GetResponse { value: Some(value), unchanged }))
    }

    async fn get_many(&self, request: Request<GetManyRequest>) -> Result<Response<GetManyResponse>, Status> {
        let (call, GetManyRequest { group, keys }) = parts(request)?;
        let answers = self.group(&group)?.get_many(&keys, call.left()).await.map_err(status::of)?;
        let mut left = GET_MANY_VALUES_LEN_MAX;
        let answers: Vec<KeyAnswer> =
            answers.into_iter().map(|answer| key_answer(answer, &mut left, self.0.clock())).collect();
        call.make_room(GET_MANY_VALUES_LEN_MAX - left).await.map_err(status::of)?;
        Ok(Response::new(GetManyResponse { answers }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (call, request) = parts(request)?;
        let PutRequest { group, key, value, content_type, ttl_ms, condition, tags, idempotency_key } = request;
        let group = self.group(&group)?;
        let value = with_content_type(Value::new(value), content_type)?.with_tags(parse_tags(&tags)?);
        let op = WriteOp::Put { value, ttl: ttl_ms.map(Duration::from_millis) };
        let options = options(&call, condition, idempotency_key)?;
        let version = group.write(&key, op, options).await.map_err(status::of)?;
        Ok(Response::new(PutResponse { version: told(version) }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let (call, DeleteRequest { group, key, condition, idempotency_key }) = parts(request)?;
        let group = self.group(&group)?;
        let options = options(&call, condition, idempotency_key)?;
        group.write(&key, WriteOp::Delete, options).await.map_err(status::of)?;
        Ok(Response::new(DeleteResponse {}))
    }

    async fn invalidate(&self, request: Request<InvalidateRequest>) -> Result<Response<InvalidateResponse>, Status> {
        let (call, InvalidateRequest { group, keys, tags, all }) = parts(request)?;
        let group = self.group(&group)?;
        if all {
            group.invalidate_all(call.left()).await.map_err(status::of)?;
        }
        group.invalidate_tags(&tags, call.left()).await.map_err(status::of)?;
        group.invalidate_many(&keys, call.left()).await.map_err(status::of)?;
        Ok(Response::new(InvalidateResponse {}))
    }
}

impl CacheService {
    /// A name that no group could have is a mistake of another kind than one that none has.
    fn group(&self, name: &str) -> Result<Group, Status> {
        let unknown = |unknown| check_group_name(name).err().unwrap_or(unknown);
        self.0.group(name).map_err(|error| status::of(unknown(error)))
    }
}

/// A request's call and message.
pub(super) fn parts<M>(mut request: Request<M>) -> Result<(Arc<Call>, M), Status> {
    // The listener puts one into every request.
    let call =
        request.extensions_mut().remove::<Arc<Call>>().ok_or_else(|| Status::internal("the call is not known"))?;
    Ok((call, request.into_inner()))
}

/// The value, or how it is known that there is none.
fn value(answer: Answer, clock: &dyn Clock) -> Result<api::Value, String> {
    let (cache_status, age) = (answer.cache_status().into_owned(), answer.age(clock));
    let Answer { value: Some(value), version, ttl_left, .. } = answer else { return Err(cache_status) };
    Ok(api::Value {
        content_type: value.content_type().unwrap_or(OCTETS).to_owned(),
        data: value.into_bytes(),
        version: told(version),
        age_ms: millis(age),
        ttl_left_ms: ttl_left.map(millis),
        cache_status,
    })
}

/// What became of one key of several. `left` is how many bytes of values the answer still has room for.
fn key_answer(answer: Result<Answer, Error>, left: &mut usize, clock: &dyn Clock) -> KeyAnswer {
    let outcome = match answer.map(|answer| value(answer, clock)) {
        Err(error) => key_answer::Outcome::Failed(failed(&error)),
        Ok(Err(cache_status)) => key_answer::Outcome::NotFound(NotFound { cache_status }),
        Ok(Ok(value)) => match left.checked_sub(value.data.len()) {
            Some(rest) => {
                *left = rest;
                key_answer::Outcome::Value(value)
            }
            None => {
                let message = "the answer is full: ask for this key in another call";
                key_answer::Outcome::Failed(failed(&Error::new(ErrorKind::TooLarge, message)))
            }
        },
    };
    KeyAnswer { outcome: Some(outcome) }
}

fn failed(error: &Error) -> Failed {
    Failed {
        r#type: error.kind().slug().to_owned(),
        message: error.message().to_owned(),
        retry_after_ms: error.retry_after().map(millis),
    }
}

fn told(version: Option<Version>) -> String {
    version.map_or(String::new(), |version| version.to_string())
}

/// A condition that only newer nodes know is refused: the write must not be done as if it had none.
fn parse_condition(condition: Option<api::Condition>) -> Result<Condition, Status> {
    let Some(condition) = condition else { return Ok(Condition::Always) };
    match condition.when {
        Some(When::IfAbsent(true)) => Ok(Condition::IfAbsent),
        Some(When::IfAbsent(false)) => Ok(Condition::Always),
        Some(When::IfVersion(version)) => version
            .parse()
            .map(Condition::IfVersion)
            .map_err(|_| invalid("a version has 24 hexadecimal digits: give one as a Get or Put told it")),
        None => Err(invalid("the condition is none that this node knows: give if_version or if_absent")),
    }
}

/// The value with the media type that its writer gives; clients of the HTTP API are told it in a header.
fn with_content_type(value: Value, content_type: String) -> Result<Value, Status> {
    if content_type.is_empty() {
        return Ok(value);
    }
    if HeaderValue::from_str(&content_type).is_err() {
        return Err(invalid("the content type can't be one: give a media type such as application/json"));
    }
    Ok(value.with_content_type(content_type))
}

fn options(call: &Call, condition: Option<api::Condition>, idempotency_key: String) -> Result<WriteOptions, Status> {
    let idempotency_key = (!idempotency_key.is_empty()).then(|| Arc::from(idempotency_key));
    Ok(WriteOptions { condition: parse_condition(condition)?, idempotency_key, timeout: call.left() })
}

fn parse_tags(names: &[String]) -> Result<Tags, Status> {
    let mut tags = Tags::NONE;
    for name in names {
        let tag = Tag::of(name.trim().as_bytes());
        if !tags.iter().any(|known| known == tag) && !tags.push(tag) {
            return Err(invalid(&format!("a value bears {TAGS_MAX} tags at most: give fewer")));
        }
    }
    Ok(tags)
}

fn invalid(message: &str) -> Status {
    status::of(Error::new(ErrorKind::Invalid, message))
}
