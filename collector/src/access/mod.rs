//! Who may come to the collector's port, and as whom.
//!
//! ```text
//! serve::Listener ─▶ Door: address, TLS handshake ─▶ Connection + Peer ─▶ HTTP
//!                      ▲                                                   │ each request
//!      Tls, reloaded from authority and files                              ▼
//!                                                       Credentials ─▶ Caller ─▶ services
//! ```
//!
//! Nodes show a certificate of the collector's own [`Authority`], which [`Enrollment`] exchanges for a bootstrap
//! token; readers show a bearer token or a certificate of the operator's. In a [cluster](kubernetes) its API server knows
//! both. What stands in files is read again
//! when it changes; a file that is broken then leaves what it held before in force.

mod authority;
mod connection;
mod credentials;
mod door;
mod enrollment;
mod error;
mod failures;
pub mod kubernetes;
mod limits;
mod listen;
mod name;
mod reload;
mod secrets;
mod tls;
mod verifier;

pub use authority::{Authority, AuthorityPem, Directory, KeepAuthority};
use connection::Connection;
pub use credentials::Credentials;
pub use door::{Door, DoorCounts};
pub use enrollment::{Enrollment, EnrollmentOptions};
pub use error::AccessError;
pub use failures::Failures;
pub use limits::{Limits, connections_within, raise_open_files};
pub use listen::{Listen, bind_tcp, check_plain};
pub use name::{NODE_URI, NotANode, check_node, node_uri};
pub use reload::{RELOAD, Reload, Source};
pub use tls::{ServerCertificate, Tls, TlsFiles};
pub use verifier::{
    FirstThatKnows, ReaderCredential, ReaderFile, ReaderVerifier, Refused, TokenFile, TokenNode,
    TokenVerifier,
};
