//! The collector's port with clients of other makers: grpcurl, and Python's gRPC.
//!
//! Needs `grpcurl` on the PATH or in the folder of EBPF_HELLO_ASSETS, and a `python3` that has `grpc` and
//! `grpc_tools` (Debian: python3-grpcio python3-grpc-tools; pip: grpcio grpcio-tools). A test whose client is
//! missing fails.

#![cfg(feature = "api-tests")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]
#![allow(dead_code, reason = "the server is shared with tests/serve")]

mod grpcurl;
mod python;
#[path = "../serve/server.rs"]
mod server;
