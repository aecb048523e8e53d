//! BTF made by hand, valid or not.

use ebpf_hello_loader::btf::{Btf, BtfError};

pub(crate) const PTR: u32 = 2;
pub(crate) const ARRAY: u32 = 3;
pub(crate) const STRUCT: u32 = 4;
pub(crate) const UNION: u32 = 5;
pub(crate) const TYPEDEF: u32 = 8;
pub(crate) const VOLATILE: u32 = 9;
pub(crate) const CONST: u32 = 10;
pub(crate) const TYPE_TAG: u32 = 18;

/// Raw BTF in the making; types are counted from 1.
#[derive(Default)]
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Builder {
    fn name_of(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// Adds a type and returns its id. `vlen` counts what follows, `size` is the size or the
    /// target's id.
    pub(crate) fn record(
        &mut self,
        name: &str,
        kind: u32,
        vlen: u32,
        size: u32,
        rest: &[u32],
    ) -> u32 {
        let name = self.name_of(name);
        let words = [&[name, (kind << 24) | vlen, size], rest].concat();
        self.types
            .extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.count += 1;
        self.count
    }

    pub(crate) fn integer(&mut self, name: &str, size: u32) -> u32 {
        self.record(name, 1, 0, size, &[size * 8])
    }

    pub(crate) fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.aggregate(STRUCT, name, size, members)
    }

    /// Members are name, type id and offset in bits.
    pub(crate) fn aggregate(
        &mut self,
        kind: u32,
        name: &str,
        size: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let rest: Vec<u32> = members
            .iter()
            .flat_map(|&(name, id, bit)| [self.name_of(name), id, bit])
            .collect();
        self.record(name, kind, members.len() as u32, size, &rest)
    }

    pub(crate) fn parse(&self) -> Result<Btf, BtfError> {
        let length = self.types.len() as u32;
        let header = [
            0x0001_eb9f,
            24,
            0,
            length,
            length,
            self.strings.len() as u32,
        ];
        let mut data: Vec<u8> = header
            .iter()
            .flat_map(|word: &u32| word.to_le_bytes())
            .collect();
        data.extend(&self.types);
        data.extend(&self.strings);
        Btf::parse(&data)
    }
}
