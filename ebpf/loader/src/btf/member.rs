//! Where a member lies in a struct: a path of embedded members to an offset and a size.

use std::ops::Range;

use super::{
    Btf, LookupError, MAX_DEPTH,
    parse::{Body, Field},
};

/// A member of a struct, however deeply embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the struct; for a bitfield, of the byte that holds its first bit.
    pub offset: u32,
    /// Bytes of the member's declared type; 0 for a flexible array.
    pub size: u32,
    /// What the member is, behind typedefs and qualifiers.
    pub kind: Kind,
    /// Set when the member is a bitfield.
    pub bits: Option<Bits>,
}

/// The bits of a bitfield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// First bit, counted from the least significant bit of the byte at the member's offset: 0
    /// to 7.
    pub first: u32,
    /// How many bits: 1 to 255.
    pub width: u32,
}

/// What a value is, behind typedefs, qualifiers and type tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer other than `bool`, signed or not.
    Integer,
    /// `bool`.
    Bool,
    /// An enumeration.
    Enumeration,
    /// A floating-point number.
    Float,
    /// A pointer, to anything.
    Pointer,
    /// A struct or union, embedded by value.
    Struct,
    /// An array.
    Array,
}

/// Most members that one lookup looks at. `task_struct` has 262 of its own in Debian's 6.12;
/// only damaged BTF, whose anonymous structs contain each other, has more.
const MAX_LOOKED_AT: u32 = 1 << 20;

// === impl Btf ===

impl Btf {
    /// Finds a member by its path: names separated by dots, each embedded by value in the one
    /// before, with an index where an array's element is meant (`"thread_info.status"`,
    /// `"regs[2]"`). Anonymous structs and unions are looked through at each step.
    ///
    /// Where the kernel defines the struct more than once, the definitions that have the member
    /// must agree.
    ///
    /// # Errors
    ///
    /// A [`LookupError`] that names the step which failed; [`LookupError::is_absence`] tells a
    /// member that this kernel does not have from a bad question and from damaged BTF.
    pub fn member(&self, structure: &str, path: &str) -> Result<Member, LookupError> {
        let mut found = None;
        let mut absent = None;
        for &id in self.definitions(structure)? {
            match self.walk(id, structure, path) {
                Ok(member) if found.is_none_or(|earlier| earlier == member) => found = Some(member),
                Ok(_) => {
                    return Err(LookupError::Ambiguous {
                        path: format!("{structure}.{path}"),
                    });
                }
                Err(error) if error.is_absence() => absent = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (found, absent) {
            (Some(member), _) => Ok(member),
            (None, Some(error)) => Err(error),
            (None, None) => Err(LookupError::NoStruct {
                name: structure.into(),
            }),
        }
    }

    /// Finds a member that kernels have under different names: the first of `paths` that this
    /// one has.
    ///
    /// # Errors
    ///
    /// As [`Btf::member`]; [`LookupError::NoneOf`] when it has none of several.
    pub fn member_of_any(&self, structure: &str, paths: &[&str]) -> Result<Member, LookupError> {
        if let [path] = paths {
            return self.member(structure, path);
        }
        self.definitions(structure)?;
        for path in paths {
            match self.member(structure, path) {
                Err(error) if error.is_absence() => {}
                decided => return decided,
            }
        }
        Err(LookupError::NoneOf {
            structure: structure.into(),
            paths: paths.join(", "),
        })
    }

    fn walk(&self, structure_id: u32, structure: &str, path: &str) -> Result<Member, LookupError> {
        let mut at = structure_id;
        let mut bit = 0;
        let mut width = 0;
        // What has been walked, for errors.
        let mut walked = structure.to_owned();
        for step in path.split('.') {
            let (name, index) = split_index(step).ok_or_else(|| LookupError::Path {
                path: format!("{structure}.{path}"),
            })?;
            let (id, found) = self.resolve(at)?;
            let members = match &found.body {
                Body::Aggregate { members, .. } => members.clone(),
                Body::Pointer { .. } => return Err(LookupError::ThroughPointer { path: walked }),
                _ => return Err(LookupError::NotStruct { path: walked }),
            };
            let mut search = Search {
                btf: self,
                name: name.as_bytes(),
                looked_at: 0,
            };
            let (field, base) =
                search
                    .run(id, members, 0)?
                    .ok_or_else(|| LookupError::NoMember {
                        within: walked.clone(),
                        step: name.into(),
                    })?;
            bit = checked_sum(bit, checked_sum(base, field.bit, id)?, id)?;
            width = field.width;
            at = field.type_id;
            walked.push('.');
            walked.push_str(step);
            if let Some(index) = index {
                let (element, skipped) = self.element(at, index, &walked)?;
                bit = checked_sum(bit, skipped, at)?;
                at = element;
            }
        }
        self.describe(at, bit, width, walked)
    }

    /// The type of an array's element, and the bits before it.
    fn element(&self, array: u32, index: u32, path: &str) -> Result<(u32, u32), LookupError> {
        let refuse = |reason: String| LookupError::Element {
            path: path.into(),
            reason,
        };
        let (id, found) = self.resolve(array)?;
        let Body::Array { element, count } = found.body else {
            return Err(refuse("it is not an array".into()));
        };
        if index >= count {
            return Err(refuse(format!("the array has {count}, counted from 0")));
        }
        let bits = u64::from(self.size(element)?) * 8 * u64::from(index);
        let bits = u32::try_from(bits).map_err(|_| LookupError::TooLarge { id })?;
        Ok((element, bits))
    }

    fn describe(&self, id: u32, bit: u32, width: u32, path: String) -> Result<Member, LookupError> {
        let (kind, bits) = match self.resolve(id)?.1.body {
            // Before the width moved into the struct, it was in the integer (`info`).
            Body::Integer { size, info } if width == 0 && info & 0xff < size.saturating_mul(8) => {
                let bit = checked_sum(bit, (info >> 16) & 0xff, id)?;
                (kind_of_integer(info), Some((bit, info & 0xff)))
            }
            Body::Integer { info, .. } => (kind_of_integer(info), None),
            Body::Float { .. } => (Kind::Float, None),
            Body::Enumeration { .. } => (Kind::Enumeration, None),
            Body::Pointer { .. } => (Kind::Pointer, None),
            Body::Array { .. } => (Kind::Array, None),
            Body::Aggregate { .. } => (Kind::Struct, None),
            Body::Alias { .. } | Body::Prototype { .. } | Body::Sizeless => {
                return Err(LookupError::NoSize { id });
            }
        };
        let (bit, width) = bits.unwrap_or((bit, width));
        let first = bit % 8;
        if width == 0 && first != 0 {
            return Err(LookupError::Unaligned { path, bit });
        }
        let bits = (width != 0).then_some(Bits { first, width });
        Ok(Member {
            offset: bit / 8,
            size: self.size(id)?,
            kind,
            bits,
        })
    }

    /// What a value of this type is.
    pub(super) fn kind(&self, id: u32) -> Result<Kind, LookupError> {
        Ok(self.describe(id, 0, 0, String::new())?.kind)
    }
}

/// A name with its index, if it has one: `regs[2]`. `None` when it is neither.
fn split_index(step: &str) -> Option<(&str, Option<u32>)> {
    let (name, index) = match step.split_once('[') {
        Some((name, rest)) => (name, Some(rest.strip_suffix(']')?.parse().ok()?)),
        None => (step, None),
    };
    let is_name = !name.is_empty() && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
    is_name.then_some((name, index))
}

fn kind_of_integer(info: u32) -> Kind {
    // BTF_INT_BOOL
    if (info >> 24) & 4 != 0 {
        Kind::Bool
    } else {
        Kind::Integer
    }
}

fn checked_sum(a: u32, b: u32, id: u32) -> Result<u32, LookupError> {
    a.checked_add(b).ok_or(LookupError::TooLarge { id })
}

/// One step of a path: a name looked for in a struct and in the anonymous ones within it.
struct Search<'a> {
    btf: &'a Btf,
    name: &'a [u8],
    /// Members seen so far, so that damaged BTF cannot make the search endless.
    looked_at: u32,
}

// === impl Search ===

impl<'a> Search<'a> {
    /// The member, and the bits between the start of the struct and that of the anonymous one
    /// which holds it.
    fn run(
        &mut self,
        id: u32,
        members: Range<usize>,
        depth: usize,
    ) -> Result<Option<(&'a Field, u32)>, LookupError> {
        // The parser made the range from the list it lies in.
        for field in self.btf.fields.get(members).unwrap_or_default() {
            self.looked_at += 1;
            if depth > MAX_DEPTH || self.looked_at > MAX_LOOKED_AT {
                return Err(LookupError::TooDeep { id });
            }
            if field.name != 0 {
                if self.btf.name(field.name) == self.name {
                    return Ok(Some((field, 0)));
                }
                continue;
            }
            let (inner, found) = self.btf.resolve(field.type_id)?;
            if let Body::Aggregate { members, .. } = &found.body
                && let Some((field_within, base)) = self.run(inner, members.clone(), depth + 1)?
            {
                return Ok(Some((field_within, checked_sum(base, field.bit, id)?)));
            }
        }
        Ok(None)
    }
}
