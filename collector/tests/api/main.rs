//! What needs more than a compiler: real servers and clients of other makers, and namespaces.
//!
//! Needs `nats-server` and `grpcurl` on the PATH or in the folder of EBPF_HELLO_ASSETS, and a `python3` that has
//! `grpc` and `grpc_tools` (Debian: python3-grpcio python3-grpc-tools; pip: grpcio grpcio-tools). A test that misses
//! what it needs fails.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]
#![allow(dead_code, reason = "the server is shared with tests/serve")]

#[path = "../access/crowd.rs"]
mod crowd;
mod curl;
#[path = "../access/fixture.rs"]
mod fixture;
mod full_disk;
mod grpcurl;
#[path = "../log/killed.rs"]
mod killed;
mod nats;
mod python;
#[path = "../log/rates.rs"]
mod rates;
#[path = "../serve/server.rs"]
mod server;
#[path = "../log/suite.rs"]
mod suite;

pub(crate) use suite::promises;
