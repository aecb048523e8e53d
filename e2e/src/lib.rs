//! What the tests beside a real API server and on a real cluster start and ask. Not a part of the product.
//!
//! ```text
//! ApiServer (etcd, kube-apiserver) ◀── kubeconfigs of ServiceAccounts ── Process (ebpf-hello agent, collector)
//!        ▲                                                                   ▲
//!        └──────────────────────────── a test ───────────────────────────────┘
//! ```
//!
//! A fixture that cannot do its work panics with the reason: the test that needs it fails there.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod apiserver;
pub mod chart;
mod eventually;
mod executable;
pub mod kind;
mod ports;
mod process;
mod stalls;

pub use apiserver::{ApiServer, Request, Review, TokenFor};
pub use eventually::{PATIENCE, eventually};
pub use executable::{generator, product};
pub use ports::free_address;
pub use process::Process;
pub use stalls::Stalls;
