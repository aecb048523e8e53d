//! BTF with a few structs of a large one, for tests that run on kernels which are not there.
//!
//! Named structs, and those that are anonymous, keep every member with its name, offset, size and
//! kind. Other structs embedded in them keep their size only, pointers become `void *`, and
//! nothing else is kept.

use std::collections::HashMap;

use super::{
    Btf, LookupError, MAX_DEPTH,
    parse::{Body, Field, HEADER_LENGTH, MAGIC, VERSION, kind},
};

/// Raw BTF with the named structs and the declarations of the named raw tracepoints. A name that
/// the kernel does not have is left out.
///
/// # Errors
///
/// A [`LookupError`] when the BTF is damaged.
pub fn minimize(
    btf: &Btf,
    structures: &[&str],
    tracepoints: &[&str],
) -> Result<Vec<u8>, LookupError> {
    let mut output = Output {
        btf,
        kept: structures
            .iter()
            .flat_map(|name| btf.definitions(name))
            .flatten()
            .copied()
            .collect(),
        records: Vec::new(),
        new_ids: HashMap::new(),
        pointer: None,
        index: None,
        depth: 0,
        strings: vec![0],
        new_names: HashMap::from([(&b""[..], 0)]),
    };
    for id in output.kept.clone() {
        output.copy(id)?;
    }
    for name in tracepoints {
        output.copy_tracepoint(name)?;
    }
    Ok(output.finish())
}

struct Output<'a> {
    btf: &'a Btf,
    /// Old ids of the structs that keep their members though they have a name.
    kept: Vec<u32>,
    /// Type `n + 1` of the new BTF, encoded.
    records: Vec<Vec<u8>>,
    /// New id of an old one.
    new_ids: HashMap<u32, u32>,
    /// New id of `void *`.
    pointer: Option<u32>,
    /// New id of the type of array indices.
    index: Option<u32>,
    /// Types that are being copied, each embedded in the one before.
    depth: usize,
    strings: Vec<u8>,
    /// Offset in `strings` of a name.
    new_names: HashMap<&'a [u8], u32>,
}

// === impl Output ===

impl<'a> Output<'a> {
    /// Copies a type and what is embedded in it, and returns its new id.
    fn copy(&mut self, old: u32) -> Result<u32, LookupError> {
        if let Some(&new) = self.new_ids.get(&old) {
            return Ok(new);
        }
        let btf = self.btf;
        let found = btf.get(old)?;
        if let Body::Pointer { .. } = found.body {
            return Ok(self.void_pointer());
        }
        if let Body::Sizeless | Body::Prototype { .. } = found.body {
            return Err(LookupError::NoSize { id: old });
        }
        // Each of a nest of structs can have a chain of qualifiers. Deeper is damaged BTF.
        if self.depth > MAX_DEPTH * MAX_DEPTH {
            return Err(LookupError::TooDeep { id: old });
        }
        self.depth += 1;
        // The id is given before the members are copied: what embeds itself, in damaged BTF,
        // finds it here and ends.
        let new = self.reserve();
        self.new_ids.insert(old, new);
        let name = self.name(found.name);
        let record = match &found.body {
            Body::Integer { size, info } => words(&[name, kind::INT << 24, *size, *info]),
            Body::Float { size } => words(&[name, kind::FLOAT << 24, *size]),
            Body::Enumeration { size, kind } => words(&[name, kind << 24, *size]),
            Body::Alias { target, kind } => words(&[name, kind << 24, self.copy(*target)?]),
            Body::Array { element, count } => {
                let element = self.copy(*element)?;
                let index = self.index_type();
                words(&[name, kind::ARRAY << 24, 0, element, index, *count])
            }
            Body::Aggregate {
                size,
                kind,
                members,
            } => {
                let keeps_members = found.name == 0 || self.kept.contains(&old);
                // The parser made the range from the list it lies in.
                let members = btf.fields.get(members.clone()).unwrap_or_default();
                let members = if keeps_members { members } else { &[] };
                self.aggregate(name, *kind, *size, members)?
            }
            Body::Pointer { .. } | Body::Prototype { .. } | Body::Sizeless => Vec::new(),
        };
        self.set(new, record);
        self.depth -= 1;
        Ok(new)
    }

    fn aggregate(
        &mut self,
        name: u32,
        kind: u32,
        size: u32,
        members: &'a [Field],
    ) -> Result<Vec<u8>, LookupError> {
        let has_bitfields = members.iter().any(|member| member.width != 0);
        // The members came from a 16-bit count.
        let info = (u32::from(has_bitfields) << 31) | (kind << 24) | members.len() as u32;
        let mut record = words(&[name, info, size]);
        for member in members {
            let name = self.name(member.name);
            let type_id = self.copy(member.type_id)?;
            record.extend(words(&[name, type_id, (member.width << 24) | member.bit]));
        }
        Ok(record)
    }

    /// Copies `typedef void (*btf_trace_<name>)(…)`, with its parameters.
    fn copy_tracepoint(&mut self, name: &str) -> Result<(), LookupError> {
        let btf = self.btf;
        let Some((typedef, &id)) = btf
            .typedefs
            .get_key_value(format!("btf_trace_{name}").as_bytes())
        else {
            return Ok(());
        };
        let Body::Pointer { target } = btf.resolve(id)?.1.body else {
            return Ok(());
        };
        let Body::Prototype { parameters } = &btf.resolve(target)?.1.body else {
            return Ok(());
        };
        let parameters = btf.fields.get(parameters.clone()).unwrap_or_default();
        // `parameters` came from a 16-bit count.
        let mut record = words(&[0, (kind::FUNC_PROTO << 24) | parameters.len() as u32, 0]);
        for parameter in parameters {
            let name = self.name(parameter.name);
            let type_id = self.copy(parameter.type_id)?;
            record.extend(words(&[name, type_id]));
        }
        let prototype = self.push(record);
        let pointer = self.push(words(&[0, kind::PTR << 24, prototype]));
        let name = self.add_name(typedef);
        self.push(words(&[name, kind::TYPEDEF << 24, pointer]));
        Ok(())
    }

    fn void_pointer(&mut self) -> u32 {
        if let Some(id) = self.pointer {
            return id;
        }
        let id = self.push(words(&[0, kind::PTR << 24, 0]));
        *self.pointer.insert(id)
    }

    /// The type of array indices, which a valid array must name.
    fn index_type(&mut self) -> u32 {
        if let Some(id) = self.index {
            return id;
        }
        let name = self.add_name(b"__ARRAY_SIZE_TYPE__");
        let id = self.push(words(&[name, kind::INT << 24, 4, 32]));
        *self.index.insert(id)
    }

    fn name(&mut self, old: u32) -> u32 {
        self.add_name(self.btf.name(old))
    }

    fn add_name(&mut self, name: &'a [u8]) -> u32 {
        let end = self.strings.len() as u32;
        *self.new_names.entry(name).or_insert_with(|| {
            self.strings.extend_from_slice(name);
            self.strings.push(0);
            end
        })
    }

    fn push(&mut self, record: Vec<u8>) -> u32 {
        let id = self.reserve();
        self.set(id, record);
        id
    }

    /// The next id; its record follows. The new BTF is smaller than one whose ids fit 32 bits.
    fn reserve(&mut self) -> u32 {
        self.records.push(Vec::new());
        self.records.len() as u32
    }

    fn set(&mut self, id: u32, record: Vec<u8>) {
        // Ids come from `reserve`, which counts from 1.
        self.records[id as usize - 1] = record;
    }

    fn finish(self) -> Vec<u8> {
        let types = self.records.concat();
        let (types_length, strings_length) = (types.len() as u32, self.strings.len() as u32);
        let first = u32::from(MAGIC) | (u32::from(VERSION) << 16);
        let mut data = words(&[
            first,
            HEADER_LENGTH,
            0,
            types_length,
            types_length,
            strings_length,
        ]);
        data.extend(types);
        data.extend(self.strings);
        data
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
