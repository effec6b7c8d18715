//! Who is in the cluster.
//!
//! A node learns of the others through [`larder_core::Membership`], as a list of members and each later one. Here is what
//! knows such lists:
//!
//! - [`Static`]: one that a person or a program writes. [`parse_member`] reads its entries as configurations have them.
//!
//! Nothing here reaches a member, or knows whether it lives.

#![forbid(unsafe_code)]

mod entry;
#[cfg(feature = "gossip")]
pub mod gossip;
mod static_list;

pub use entry::parse_member;
pub use static_list::Static;
