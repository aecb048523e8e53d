//! The Helm chart and what is made of it. `UPDATE=1` writes the generated files again.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod arrival;
mod certificates;
mod definitions;
mod generated;
mod manifests;
mod monitoring;
mod notes;
mod pods;
mod refusals;
mod rendering;
mod roles;
mod server;
mod values;
