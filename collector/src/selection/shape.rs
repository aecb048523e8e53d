//! What a selection and a told loss need of an encoded event, read without the rest.

use bytes::Bytes;
use ebpf_hello_proto::{Timestamp, v1};

/// An encoded `Event`, as far as it is looked into.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Shape {
    #[prost(message, optional, tag = "1")]
    pub(crate) time: Option<Timestamp>,
    #[prost(string, tag = "2")]
    pub(crate) node: String,
    #[prost(uint32, optional, tag = "3")]
    pub(crate) cpu: Option<u32>,
    #[prost(uint64, tag = "4")]
    pub(crate) sequence: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) epoch: u64,
    #[prost(oneof = "Kind", tags = "16, 17, 18, 19, 20, 21, 22, 23, 24, 25")]
    pub(crate) kind: Option<Kind>,
}

/// An event's kind, not looked into, but for what is needed.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    #[prost(bytes = "bytes", tag = "16")]
    Exec(Bytes),
    #[prost(bytes = "bytes", tag = "17")]
    Exit(Bytes),
    #[prost(bytes = "bytes", tag = "18")]
    Fork(Bytes),
    #[prost(message, tag = "19")]
    Syscall(Named),
    #[prost(message, tag = "20")]
    Timer(Named),
    #[prost(message, tag = "21")]
    Path(Named),
    #[prost(message, tag = "22")]
    Sock(Named),
    #[prost(bytes = "bytes", tag = "23")]
    Counters(Bytes),
    #[prost(message, tag = "24")]
    Loss(v1::Loss),
    #[prost(bytes = "bytes", tag = "25")]
    Identity(Bytes),
}

/// A kind whose first field is the system call's name.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Named {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) name: Bytes,
}

// === impl Kind ===

impl Kind {
    /// Its field number in `Event`.
    pub(crate) fn number(&self) -> u32 {
        match self {
            Kind::Exec(_) => 16,
            Kind::Exit(_) => 17,
            Kind::Fork(_) => 18,
            Kind::Syscall(_) => 19,
            Kind::Timer(_) => 20,
            Kind::Path(_) => 21,
            Kind::Sock(_) => 22,
            Kind::Counters(_) => 23,
            Kind::Loss(_) => 24,
            Kind::Identity(_) => 25,
        }
    }

    /// Names of the system calls it may be of: an exec's does not say which of the two it was.
    pub(crate) fn is_of(&self, mut wanted: impl FnMut(&[u8]) -> bool) -> bool {
        match self {
            Kind::Exec(_) => wanted(b"execve") || wanted(b"execveat"),
            Kind::Syscall(named) | Kind::Timer(named) | Kind::Path(named) | Kind::Sock(named) => {
                wanted(&named.name)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::schema;

    #[test]
    fn every_kind_of_the_schema_has_its_number_here() {
        for field in schema::kinds() {
            // An empty message of that kind.
            let mut bytes = Vec::new();
            prost::encoding::encode_key(
                field.number(),
                prost::encoding::WireType::LengthDelimited,
                &mut bytes,
            );
            bytes.push(0);
            let shape = Shape::decode(bytes.as_slice()).unwrap();
            assert_eq!(
                shape.kind.map(|kind| kind.number()),
                Some(field.number()),
                "{}",
                field.name()
            );
        }
    }
}
