//! What clients of several daemons saw, recorded and checked against the promises.
//!
//! Clients write down when each request began, when its answer was there, and what it said ([`record`]). Two checkers judge that,
//! and know nothing of how Larder works: [`fresh`] finds reads that are older than what was acknowledged before they began, which is the
//! promise of `consistency = "eventual"`; [`linear`] finds out whether there is an order of all operations of a key, each within its
//! time, in which every answer is right, which is the promise of `"strong"`. What they judge is made in [`torture`] and [`strong`] by [`clients`].

mod clients;
mod fresh;
mod ledger;
mod linear;
mod record;
mod strong;
mod torture;
