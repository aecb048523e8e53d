//! What needs more than a compiler: real servers and tools, and namespaces. Each fails where what it needs is
//! missing.
#![allow(clippy::unwrap_used)] // tests

mod full_disk;
#[path = "../log/killed.rs"]
mod killed;
mod nats;
#[path = "../log/rates.rs"]
mod rates;
#[path = "../log/suite.rs"]
mod suite;

pub(crate) use suite::promises;
