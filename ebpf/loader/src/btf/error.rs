//! What can be wrong with BTF, and with a question put to it.

use std::{io, path::PathBuf};

/// BTF that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// There is no such file: the kernel has no BTF, or `/sys` is not mounted.
    #[error(
        "{} does not exist: this kernel has no BTF. Use a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y, and make sure that /sys is mounted", path.display()
    )]
    NotBuilt {
        /// The file that was asked for.
        path: PathBuf,
    },
    /// The file is there and cannot be read.
    #[error(
        "cannot read the kernel's BTF from {}: a kernel built with CONFIG_DEBUG_INFO_BTF=y shows \
         it there to every user", path.display()
    )]
    Read {
        /// The file that was asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The data ends inside something.
    #[error("BTF ends inside {what}: {needed} bytes expected, {left} left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes that it has.
        needed: u64,
        /// Bytes that there are.
        left: u64,
    },
    /// Not BTF at all.
    #[error(
        "not raw BTF: it starts with {found:#06x}, expected 0xeb9f (an ELF file starts with 0x457f)"
    )]
    Magic {
        /// The first two bytes, little endian.
        found: u16,
    },
    /// BTF of a big-endian kernel.
    #[error("big-endian BTF: only x86_64 and little-endian arm64 kernels are supported")]
    BigEndian,
    /// A version of the format that is not known.
    #[error("BTF version {found} is not known, expected 1")]
    Version {
        /// The version in the header.
        found: u8,
    },
    /// The header is shorter than every header is.
    #[error("the BTF header says that it has {found} bytes, expected at least {expected}")]
    HeaderLength {
        /// The length in the header.
        found: u32,
        /// The length of version 1.
        expected: u32,
    },
    /// The string section does not begin and end with a NUL.
    #[error("the BTF string section must begin with an empty name and end with a NUL")]
    Strings,
    /// A name outside the string section.
    #[error("BTF type {id} has its name at {offset}, the string section has {length} bytes")]
    Name {
        /// The type's id.
        id: u32,
        /// Where the name should be.
        offset: u32,
        /// Bytes of the string section.
        length: u64,
    },
    /// A kind of type that is newer than this program; its length is unknown, so is what follows.
    #[error("BTF type {id} is of kind {kind}, this version knows 1 to 19")]
    Kind {
        /// The type's id.
        id: u32,
        /// The kind.
        kind: u32,
    },
    /// More types than an id can count.
    #[error("BTF has more than {} types", u32::MAX)]
    TooManyTypes,
}

/// A question to BTF that has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No struct or union of this name.
    #[error("this kernel has no struct {name}")]
    NoStruct {
        /// The name that was asked for.
        name: String,
    },
    /// No such member, in the struct or in the anonymous ones within it.
    #[error("{within} has no member {step}")]
    NoMember {
        /// The struct, and the path within it so far.
        within: String,
        /// The member that was asked for.
        step: String,
    },
    /// None of a member's names, newest first.
    #[error("struct {structure} has none of {paths}")]
    NoneOf {
        /// The struct.
        structure: String,
        /// The paths that were tried, separated by commas.
        paths: String,
    },
    /// A path through a pointer: the offset behind it is not one of this struct.
    #[error("{path} is a pointer: only members embedded by value have an offset in the struct")]
    ThroughPointer {
        /// The path up to the pointer.
        path: String,
    },
    /// A path through something that has no members.
    #[error("{path} is neither struct nor union, it has no members")]
    NotStruct {
        /// The path up to it.
        path: String,
    },
    /// An index on something that has no such element.
    #[error("{path} has no such element: {reason}")]
    Element {
        /// The path, with the index.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A path that is not of the form `member.member[index]`.
    #[error("{path:?} is not a member path; expected the form member.member[index]")]
    Path {
        /// The path that was asked for.
        path: String,
    },
    /// Several definitions of the struct put the member at different places.
    #[error("the kernel has several definitions of {path} that differ")]
    Ambiguous {
        /// The struct and path.
        path: String,
    },
    /// Damaged BTF: an id that no type has.
    #[error("damaged BTF: type id {id} is used, there are {types} types")]
    TypeId {
        /// The id.
        id: u32,
        /// How many types there are.
        types: usize,
    },
    /// Damaged BTF: a member or parameter whose type has no size.
    #[error("damaged BTF: a value of type {id}, which has no size")]
    NoSize {
        /// The type's id.
        id: u32,
    },
    /// Damaged BTF: a chain of types that is a cycle, or deeper than any C has.
    #[error("damaged BTF: the types around id {id} are nested without end")]
    TooDeep {
        /// The id at which it was given up.
        id: u32,
    },
    /// Damaged BTF: a size or offset beyond 4 GiB.
    #[error("damaged BTF: a size or offset around type {id} is beyond 4 GiB")]
    TooLarge {
        /// The type's id.
        id: u32,
    },
    /// Damaged BTF: a member that is no bitfield and does not begin at a byte.
    #[error("damaged BTF: {path} begins at bit {bit}, which is not the start of a byte")]
    Unaligned {
        /// The struct and path.
        path: String,
        /// Offset in bits from the start of the struct.
        bit: u32,
    },
}

// === impl LookupError ===

impl LookupError {
    /// Whether the kernel merely lacks what was asked for, so that an older name may have it.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            LookupError::NoStruct { .. }
                | LookupError::NoMember { .. }
                | LookupError::NoneOf { .. }
                | LookupError::ThroughPointer { .. }
                | LookupError::NotStruct { .. }
        )
    }
}
