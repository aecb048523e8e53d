//! Raw BTF to a table of types, members and names. Nothing is interpreted here: a type id may
//! still point nowhere, which whoever follows it finds out.

use std::{collections::HashMap, ops::Range};

use super::{Btf, BtfError};

/// One type, as far as sizes and offsets need it.
#[derive(Debug)]
pub(super) struct Type {
    /// Offset of the name in the string section; 0 is anonymous.
    pub(super) name: u32,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    /// `info` is the format's own word: encoding (bits 24 to 27), bit offset (16 to 23), bits
    /// (0 to 7).
    Integer {
        size: u32,
        info: u32,
    },
    Float {
        size: u32,
    },
    /// `kind` is `ENUM` or `ENUM64`.
    Enumeration {
        size: u32,
        kind: u32,
    },
    Pointer {
        target: u32,
    },
    Array {
        element: u32,
        count: u32,
    },
    /// A struct or union; `kind` says which.
    Aggregate {
        size: u32,
        kind: u32,
        members: Range<usize>,
    },
    /// Another name or qualifier of `target`: `kind` is `TYPEDEF`, `CONST`, `VOLATILE`,
    /// `RESTRICT` or `TYPE_TAG`.
    Alias {
        target: u32,
        kind: u32,
    },
    /// A function's type.
    Prototype {
        parameters: Range<usize>,
    },
    /// `void`, a forward declaration, a function, a variable, a section, a declaration tag.
    Sizeless,
}

/// A member of a struct or union, or a parameter of a function.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: u32,
    pub(super) type_id: u32,
    /// Offset in bits from the start of the struct; 0 for a parameter.
    pub(super) bit: u32,
    /// Bits of a bitfield; 0 for any other member.
    pub(super) width: u32,
}

pub(super) const MAGIC: u16 = 0xeb9f;
pub(super) const VERSION: u8 = 1;
/// Bytes of a version 1 header: magic, version, flags, length, two sections' offset and length.
pub(super) const HEADER_LENGTH: u32 = 24;

/// `enum` of kinds in `include/uapi/linux/btf.h`.
pub(super) mod kind {
    pub(in super::super) const INT: u32 = 1;
    pub(in super::super) const PTR: u32 = 2;
    pub(in super::super) const ARRAY: u32 = 3;
    pub(in super::super) const STRUCT: u32 = 4;
    pub(in super::super) const UNION: u32 = 5;
    pub(in super::super) const ENUM: u32 = 6;
    pub(in super::super) const FWD: u32 = 7;
    pub(in super::super) const TYPEDEF: u32 = 8;
    pub(in super::super) const VOLATILE: u32 = 9;
    pub(in super::super) const CONST: u32 = 10;
    pub(in super::super) const RESTRICT: u32 = 11;
    pub(in super::super) const FUNC: u32 = 12;
    pub(in super::super) const FUNC_PROTO: u32 = 13;
    pub(in super::super) const VAR: u32 = 14;
    pub(in super::super) const DATASEC: u32 = 15;
    pub(in super::super) const FLOAT: u32 = 16;
    pub(in super::super) const DECL_TAG: u32 = 17;
    pub(in super::super) const TYPE_TAG: u32 = 18;
    pub(in super::super) const ENUM64: u32 = 19;
}

pub(super) fn parse(data: &[u8]) -> Result<Btf, BtfError> {
    let (types, strings) = sections(data)?;
    if strings.first() != Some(&0) || strings.last() != Some(&0) {
        return Err(BtfError::Strings);
    }
    let mut btf = Btf {
        types: vec![Type {
            name: 0,
            body: Body::Sizeless,
        }],
        fields: Vec::new(),
        strings: strings.to_vec(),
        aggregates: HashMap::new(),
        typedefs: HashMap::new(),
    };
    let mut cursor = Cursor { data: types };
    while !cursor.data.is_empty() {
        let id = u32::try_from(btf.types.len()).map_err(|_| BtfError::TooManyTypes)?;
        let found = read_type(&mut cursor, &mut btf.fields, id, strings.len())?;
        btf.index(id, &found);
        btf.types.push(found);
    }
    Ok(btf)
}

/// The type and the string section.
fn sections(data: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    let mut header = Cursor { data };
    let word = header.word("the header")?;
    // The low half holds the magic, the third byte the version.
    let [low, high, version, _flags] = word.to_le_bytes();
    match u16::from_le_bytes([low, high]) {
        MAGIC => {}
        swapped if swapped == MAGIC.swap_bytes() => return Err(BtfError::BigEndian),
        found => return Err(BtfError::Magic { found }),
    }
    if version != VERSION {
        return Err(BtfError::Version { found: version });
    }
    let length = header.word("the header")?;
    if length < HEADER_LENGTH {
        return Err(BtfError::HeaderLength {
            found: length,
            expected: HEADER_LENGTH,
        });
    }
    let mut section = |what: &'static str| {
        let offset = header.word("the header")?;
        let size = header.word("the header")?;
        // In u64 neither sum can overflow.
        let start = u64::from(length) + u64::from(offset);
        let end = start + u64::from(size);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        range
            .and_then(|(start, end)| data.get(start..end))
            .ok_or(BtfError::Truncated {
                what,
                needed: end,
                left: data.len() as u64,
            })
    };
    Ok((section("the type section")?, section("the string section")?))
}

fn read_type(
    cursor: &mut Cursor<'_>,
    fields: &mut Vec<Field>,
    id: u32,
    strings: usize,
) -> Result<Type, BtfError> {
    let what = "a type";
    let name = checked_name(cursor.word(what)?, id, strings)?;
    let info = cursor.word(what)?;
    // A size for some kinds, another type's id for others.
    let size = cursor.word(what)?;
    let target = size;
    let count = info & 0xffff;
    let of_kind = (info >> 24) & 0x1f;
    // In a struct: the upper 8 bits of each member's offset are a bitfield's width.
    let flag = info >> 31 == 1;
    let body = match of_kind {
        kind::INT => Body::Integer {
            size,
            info: cursor.word("an integer type")?,
        },
        kind::PTR => Body::Pointer { target },
        kind::ARRAY => {
            let element = cursor.word("an array type")?;
            let _index_type = cursor.word("an array type")?;
            Body::Array {
                element,
                count: cursor.word("an array type")?,
            }
        }
        kind::STRUCT | kind::UNION => {
            let first = fields.len();
            for _ in 0..count {
                let name = checked_name(cursor.word("a struct's members")?, id, strings)?;
                let type_id = cursor.word("a struct's members")?;
                let offset = cursor.word("a struct's members")?;
                let (bit, width) = if flag {
                    (offset & 0x00ff_ffff, offset >> 24)
                } else {
                    (offset, 0)
                };
                fields.push(Field {
                    name,
                    type_id,
                    bit,
                    width,
                });
            }
            Body::Aggregate {
                size,
                kind: of_kind,
                members: first..fields.len(),
            }
        }
        kind::ENUM => {
            cursor.skip(count, 8, "an enumeration's values")?;
            Body::Enumeration {
                size,
                kind: of_kind,
            }
        }
        kind::ENUM64 => {
            cursor.skip(count, 12, "an enumeration's values")?;
            Body::Enumeration {
                size,
                kind: of_kind,
            }
        }
        kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
            Body::Alias {
                target,
                kind: of_kind,
            }
        }
        kind::FUNC_PROTO => {
            let first = fields.len();
            for _ in 0..count {
                let name = checked_name(cursor.word("a function's parameters")?, id, strings)?;
                let type_id = cursor.word("a function's parameters")?;
                fields.push(Field {
                    name,
                    type_id,
                    bit: 0,
                    width: 0,
                });
            }
            Body::Prototype {
                parameters: first..fields.len(),
            }
        }
        kind::FLOAT => Body::Float { size },
        kind::FWD | kind::FUNC => Body::Sizeless,
        kind::VAR | kind::DECL_TAG => {
            cursor.skip(1, 4, "a variable or tag")?;
            Body::Sizeless
        }
        kind::DATASEC => {
            cursor.skip(count, 12, "a section's variables")?;
            Body::Sizeless
        }
        kind => return Err(BtfError::Kind { id, kind }),
    };
    Ok(Type { name, body })
}

fn checked_name(offset: u32, id: u32, strings: usize) -> Result<u32, BtfError> {
    if (offset as usize) < strings {
        Ok(offset)
    } else {
        Err(BtfError::Name {
            id,
            offset,
            length: strings as u64,
        })
    }
}

// === impl Btf ===

impl Btf {
    /// Makes a type findable by its name.
    fn index(&mut self, id: u32, found: &Type) {
        if found.name == 0 {
            return;
        }
        match found.body {
            Body::Aggregate { .. } => {
                let name = self.name(found.name).to_vec();
                self.aggregates.entry(name).or_default().push(id);
            }
            Body::Alias {
                kind: kind::TYPEDEF,
                ..
            } => {
                let name = self.name(found.name).to_vec();
                self.typedefs.entry(name).or_insert(id);
            }
            _ => {}
        }
    }
}

/// What is left to read.
struct Cursor<'a> {
    data: &'a [u8],
}

// === impl Cursor ===

impl Cursor<'_> {
    /// The next four bytes, little endian.
    fn word(&mut self, what: &'static str) -> Result<u32, BtfError> {
        match self.data.split_first_chunk() {
            Some((word, rest)) => {
                self.data = rest;
                Ok(u32::from_le_bytes(*word))
            }
            None => Err(BtfError::Truncated {
                what,
                needed: 4,
                left: self.data.len() as u64,
            }),
        }
    }

    /// Passes over `count` entries of `size` bytes each.
    fn skip(&mut self, count: u32, size: u32, what: &'static str) -> Result<(), BtfError> {
        // `count` is 16 bits wide and `size` at most 12: no overflow.
        let needed = count * size;
        self.data = self
            .data
            .get(needed as usize..)
            .ok_or(BtfError::Truncated {
                what,
                needed: u64::from(needed),
                left: self.data.len() as u64,
            })?;
        Ok(())
    }
}
