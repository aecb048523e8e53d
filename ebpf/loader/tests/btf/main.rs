//! What the BTF parser and the layout table say about real kernels, and what they refuse.
//!
//! No kernel is needed: `testdata/btf/` holds BTF of several, and `offsets.txt` beside them what
//! `bpftool` reads in it.

mod builder;
mod damage;
mod kernels;
mod lacks;
mod paths;

use std::collections::BTreeMap;

use ebpf_hello_abi::Layout;
use ebpf_hello_loader::btf::{
    Architecture, Btf, LayoutError,
    layout::{self, Missing},
};

/// Kernels in the order of `offsets.txt`'s columns.
const KERNELS: [(&str, Architecture, &[u8]); 5] = [
    (
        "5.10",
        Architecture::X86_64,
        include_bytes!("../../testdata/btf/linux-5.10-debian-x86_64.btf"),
    ),
    (
        "6.1",
        Architecture::X86_64,
        include_bytes!("../../testdata/btf/linux-6.1-debian-x86_64.btf"),
    ),
    (
        "6.12",
        Architecture::X86_64,
        include_bytes!("../../testdata/btf/linux-6.12-debian-x86_64.btf"),
    ),
    (
        "6.12-aarch64",
        Architecture::Aarch64,
        include_bytes!("../../testdata/btf/linux-6.12-debian-aarch64.btf"),
    ),
    (
        "6.18",
        Architecture::X86_64,
        include_bytes!("../../testdata/btf/linux-6.18-x86_64.btf"),
    ),
];

/// Linux 6.12 for x86_64.
fn debian() -> (&'static [u8], Btf) {
    let data = KERNELS[2].2;
    (data, Btf::parse(data).expect("the fixture is valid"))
}

fn x86_64(btf: &Btf) -> Result<(Layout, Vec<Missing>), LayoutError> {
    layout::resolve(btf, Architecture::X86_64)
}

/// A layout's members by name.
fn by_name(layout: &Layout) -> BTreeMap<String, u32> {
    let text = format!("{layout:?}");
    let body = text.trim_start_matches("Layout { ").trim_end_matches(" }");
    body.split(", ")
        .map(|member| {
            let (name, value) = member.split_once(": ").expect("derived Debug");
            (name.to_owned(), value.parse().expect("a u32"))
        })
        .collect()
}
