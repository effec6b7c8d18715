//! HTTP, as clients and operators meet it.

mod head;
mod intake;
mod listener;
mod problem;

use bytes::Bytes;
use http_body_util::Full;

pub use listener::{Accept, HttpLimits, serve};
pub use problem::{Problem, ProblemKind};

/// An answer. Its body is at hand, whole, and goes to the socket without being copied.
pub type Response = http::Response<Full<Bytes>>;

/// A request, its body not yet read.
pub type Request = http::Request<hyper::body::Incoming>;
