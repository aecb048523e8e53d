//! Access by a cluster's word: its API server says whose a token is and what they may read, and a Secret of it keeps
//! the collector's authority.
//!
//! ```text
//! token ─▶ AgentTokens ─┐                       ┌─▶ TokenReview
//! token ─▶ Readers ─────┴─▶ Reviews ─(timeout)──┴─▶ SubjectAccessReview
//!              └─▶ Reader: remembers what it was told, and for how long
//! authority ─▶ SecretAuthority ─▶ Secret (keys), ConfigMap (bundle), a copy on disk
//!                   └─ rotation: what is due
//! ```
//!
//! Asked are only reviews and two objects by name: no list, no watch, and no other Secret.

mod agents;
mod claims;
mod readers;
mod reviews;
mod rotation;
mod secret;

pub use agents::AgentTokens;
pub use readers::{Freshness, Readers};
pub use reviews::Reviews;
pub use rotation::Rotation;
pub use secret::{SecretAuthority, SecretOptions};

/// Audience of readers' tokens.
pub const READER_AUDIENCE: &str = "ebpf-hello";

/// Audience of agents' tokens.
pub const AGENT_AUDIENCE: &str = "ebpf-hello-collector";
