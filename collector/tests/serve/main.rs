//! The collector's port from the outside: real sockets, real clients.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod http;
mod observe;
mod port;
mod publish;
mod refuse;
mod server;
