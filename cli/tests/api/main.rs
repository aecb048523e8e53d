//! The product beside servers of other makers. Needs `nats-server` on the PATH; a test that misses what it needs
//! fails.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod crash;
#[path = "../kernel/executable.rs"]
#[allow(dead_code, reason = "shared with the kernel tier")]
mod executable;
mod faults;
mod load;
mod metrics;
#[path = "../monitor/mod.rs"]
mod monitor;
mod servers;
