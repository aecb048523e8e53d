//! What the running kernel's structs look like, read from its BTF.
//!
//! Rust has no CO-RE relocations and aya keeps its BTF accessors to itself, so the loader reads
//! `/sys/kernel/btf/vmlinux` once, before it loads the programs:
//!
//! ```text
//! /sys/kernel/btf/vmlinux -> parse (type table) -> member (offset of a path)   -> layout -> abi::Layout
//!                                               -> tracepoint (parameter kinds) ---------> abi::Config
//! ```
//!
//! The result is written into the object's read-only data; after that nothing here is needed.
//! The input is the kernel's own, yet nothing in it is trusted: every index is checked, every
//! recursion and every search is bounded, and what does not fit is an error, never a panic.
//!
//! Source of the format: the kernel's `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h`.

mod error;
pub mod layout;
mod member;
mod minimize;
mod parse;
mod tracepoint;

use std::{collections::HashMap, io, path::Path};

pub use error::{BtfError, LookupError};
pub use layout::{Architecture, LayoutError, Missing};
pub use member::{Bits, Kind, Member};
pub use minimize::minimize;
pub use tracepoint::Parameter;

use parse::{Body, Field, Type};

/// Where a kernel built with `CONFIG_DEBUG_INFO_BTF` shows its own BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The types of one 64-bit little-endian kernel.
///
/// Offsets and sizes are bytes; a pointer is 8 bytes, since BTF does not say and no 32-bit kernel
/// is supported.
#[derive(Debug)]
pub struct Btf {
    /// Indexed by type id; id 0 is `void`.
    types: Vec<Type>,
    /// Members of all structs and unions, parameters of all prototypes; a type holds its range.
    fields: Vec<Field>,
    /// The string section: NUL-terminated names, the first one empty.
    strings: Vec<u8>,
    /// Ids of the structs and unions of a name. A kernel can define one more than once.
    aggregates: HashMap<Vec<u8>, Vec<u32>>,
    /// Id of the typedef of a name.
    typedefs: HashMap<Vec<u8>, u32>,
}

// === impl Btf ===

impl Btf {
    /// Reads the running kernel's BTF from [`KERNEL_BTF`].
    ///
    /// # Errors
    ///
    /// [`BtfError::NotBuilt`] where the kernel has none, [`BtfError::Read`] where it cannot be
    /// read, and what [`Btf::parse`] returns.
    pub fn from_kernel() -> Result<Btf, BtfError> {
        Btf::from_file(Path::new(KERNEL_BTF))
    }

    /// Reads raw BTF (not an ELF file) from `path`.
    ///
    /// # Errors
    ///
    /// As [`Btf::from_kernel`].
    pub fn from_file(path: &Path) -> Result<Btf, BtfError> {
        let data = std::fs::read(path).map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::NotFound => BtfError::NotBuilt { path },
                _ => BtfError::Read { path, source },
            }
        })?;
        Btf::parse(&data)
    }

    /// Reads raw little-endian BTF of version 1: a header, types of every kind up to `ENUM64`,
    /// and strings.
    ///
    /// # Errors
    ///
    /// A [`BtfError`] that names the first thing that is not as the format says.
    pub fn parse(data: &[u8]) -> Result<Btf, BtfError> {
        parse::parse(data)
    }

    /// Whether the kernel defines a struct or union of this name.
    #[must_use]
    pub fn has_struct(&self, name: &str) -> bool {
        self.aggregates.contains_key(name.as_bytes())
    }

    /// Size of a struct or union, in bytes.
    ///
    /// # Errors
    ///
    /// [`LookupError::NoStruct`], or [`LookupError::Ambiguous`] where several definitions of the
    /// name have different sizes.
    pub fn struct_size(&self, name: &str) -> Result<u32, LookupError> {
        let mut sizes = self.definitions(name)?.iter().map(|&id| self.size(id));
        // `definitions` never returns an empty list; 0 would be an empty struct's size.
        let first = sizes.next().unwrap_or(Ok(0))?;
        for size in sizes {
            if size? != first {
                return Err(LookupError::Ambiguous { path: name.into() });
            }
        }
        Ok(first)
    }

    /// Ids of the structs and unions of this name: at least one.
    fn definitions(&self, name: &str) -> Result<&[u32], LookupError> {
        match self.aggregates.get(name.as_bytes()) {
            Some(ids) => Ok(ids),
            None => Err(LookupError::NoStruct { name: name.into() }),
        }
    }

    fn get(&self, id: u32) -> Result<&Type, LookupError> {
        // A u32 always fits a usize on the 64-bit machines this runs on.
        self.types.get(id as usize).ok_or(LookupError::TypeId {
            id,
            types: self.types.len(),
        })
    }

    /// The name at a string offset, without its NUL. Offsets were checked by the parser, which
    /// also made sure that the section ends with a NUL.
    fn name(&self, offset: u32) -> &[u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// The type behind typedefs, qualifiers and type tags, with its id.
    fn resolve(&self, mut id: u32) -> Result<(u32, &Type), LookupError> {
        // C nests these a handful deep; a longer chain is a cycle.
        for _ in 0..MAX_DEPTH {
            let found = self.get(id)?;
            match found.body {
                Body::Alias { target, .. } => id = target,
                _ => return Ok((id, found)),
            }
        }
        Err(LookupError::TooDeep { id })
    }

    /// Size in bytes of a value of this type.
    fn size(&self, id: u32) -> Result<u32, LookupError> {
        let mut count: u32 = 1;
        let mut at = id;
        for _ in 0..MAX_DEPTH {
            let (element, elements) = match self.resolve(at)?.1.body {
                Body::Array { element, count } => (element, count),
                Body::Integer { size, .. }
                | Body::Float { size }
                | Body::Enumeration { size, .. }
                | Body::Aggregate { size, .. } => {
                    return count.checked_mul(size).ok_or(LookupError::TooLarge { id });
                }
                Body::Pointer { .. } => {
                    return count
                        .checked_mul(POINTER_SIZE)
                        .ok_or(LookupError::TooLarge { id });
                }
                Body::Alias { .. } | Body::Prototype { .. } | Body::Sizeless => {
                    return Err(LookupError::NoSize { id });
                }
            };
            count = count
                .checked_mul(elements)
                .ok_or(LookupError::TooLarge { id })?;
            at = element;
        }
        Err(LookupError::TooDeep { id })
    }
}

/// Bytes of a pointer on every kernel this runs on.
const POINTER_SIZE: u32 = 8;

/// Longest chain of typedefs and qualifiers, and deepest nesting of anonymous members and of
/// arrays, that is followed. The deepest in Linux 6.18 is 6.
const MAX_DEPTH: usize = 32;
