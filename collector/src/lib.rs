//! The collector: takes batches from agents, keeps them, and serves their events.
//!
//! ```text
//! agents ──Publish──▶ ingest ──append──▶ log (hub and store) ──read──▶ subscriber ──queue──▶ Observe, /v1/events
//!                        └──reports──▶ fleet ◀── ListNodes, GetCounters, …
//!                                        └──▶ status, under a lease ──▶ API server
//! ```
//!
//! One slow subscriber never slows another or the ingest: each reads the log by itself, filters, and has a
//! bounded queue to its connection.

pub mod access;
pub mod accounts;
mod attribution;
pub mod caller;
pub mod fleet;
pub mod ingest;
pub mod kubernetes;
pub mod lease;
pub mod log;
pub mod mask;
pub mod metrics;
pub mod refusal;
mod schema;
pub mod selection;
pub mod serve;
pub mod status;
pub mod token;
