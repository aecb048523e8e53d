//! The `ebpfhello.v1` protocol: the events an agent publishes and people and programs read.
//!
//! Its place in the flow: the agent fills a [`v1::Event`], everything after it (batches, collector,
//! subscribers, `-o json`) carries that message, as protobuf on the wire and as canonical proto3
//! JSON for people. The source of truth is `proto/ebpfhello/v1/*.proto`; field docs live there.
//!
//! The types in [`v1`] are generated and committed, so that a build needs neither `protoc` nor the
//! generator. `UPDATE=1 cargo test -p ebpf-hello-proto --test generated` writes them again.
//!
//! JSON is plain serde: `serde_json::to_string(&event)`. It prints an enum value this build does not
//! know as its number and skips unknown fields when it reads, so that versions one apart understand
//! each other.
//!
//! ```
//! use ebpf_hello_proto::v1::{Event, Exit, event::Kind};
//!
//! let event = Event {
//!     kind: Some(Kind::Exit(Exit { code: Some(0), ..Exit::default() })),
//!     ..Event::default()
//! };
//! assert_eq!(serde_json::to_string(&event)?, r#"{"exit":{"code":0}}"#);
//! # Ok::<(), serde_json::Error>(())
//! ```

// The serde derives of the generated types name `::alloc`.
extern crate alloc;

pub mod label;
pub mod ledger;
pub mod time;
pub mod wire;

pub use time::{Duration, Timestamp};

/// Version 1 of the protocol, as generated from `proto/ebpfhello/v1/*.proto`.
pub mod v1 {
    #![allow(
        clippy::large_enum_variant,
        reason = "generated: a report is large, and one message in a thousand"
    )]
    include!("gen/ebpfhello.v1.rs");
}

/// Servers of the protocol's services, over the messages of [`v1`] and, where events are carried, of [`wire`].
pub mod server {
    #![allow(missing_docs, reason = "generated; the .proto files document it")]
    include!("gen/server.rs");
}

/// Every message and service of the protocol as an encoded `google.protobuf.FileDescriptorSet`, for reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!("gen/descriptor.binpb");
