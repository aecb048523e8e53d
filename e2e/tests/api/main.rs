//! The api tier beside a real etcd and kube-apiserver.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod access;
mod audit;
mod definitions;
mod filters;
mod identity;
mod lease;
mod load;
mod poser;
mod refused;
mod release;
mod scene;
mod stage;
mod status;
