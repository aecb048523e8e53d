//! The collector's port from the outside: real TLS on real sockets, and who gets in as whom.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod certificates;
mod enrol;
mod fixture;
mod port;
mod readers;
mod replacement;
