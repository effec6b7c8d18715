//! HTTP, as clients, other nodes and operators meet it.
//!
//! A connection's way in: [`serve`] takes it, `intake.rs` hands its requests on whole and vetted, hyper parses them,
//! `route.rs` says what is asked for, [`Clients`] or [`Admin`] answers. What is answered to a get is in `found.rs`, how
//! errors are told in `problem.rs`.
//!
//! No framework in between: there are a dozen paths, keys must not be normalised, and a hit should cost little more than
//! hyper itself does.

mod about;
mod admin;
mod api;
mod body;
mod conditions;
mod dead_letters;
mod found;
mod get_many;
mod head;
mod intake;
mod invalidate;
mod listener;
mod locks;
mod metrics;
mod problem;
mod reference;
mod route;

pub use admin::{Admin, Operations};
pub use api::{Api, ApiConfig, Clients};
pub use body::Body;
pub use listener::{Accept, Handler, HttpLimits, serve};
pub use problem::{Problem, ProblemKind};
pub use reference::reference;

/// An answer. Its body is at hand, whole, and goes to the socket without being copied.
pub type Response = http::Response<Body>;

/// A request, its body not yet read.
pub type Request = http::Request<hyper::body::Incoming>;
