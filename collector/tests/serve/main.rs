//! The collector's port from the outside: real sockets, real clients.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod behind;
mod costly;
#[path = "../log/crash.rs"]
mod crash;
mod hole;
mod http;
mod observe;
mod port;
mod publish;
mod refuse;
mod resume;
mod server;
