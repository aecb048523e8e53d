//! The ids of the kernel's BPF objects.
//!
//! Ids alone: to open a program array that is being freed keeps it for ever. (kernel/bpf/arraymap.c,
//! `prog_array_map_clear` takes a reference for work that may be pending already, Linux 6.18.) Whoever
//! watches an instance die must not do it by opening what is left of it.

use std::io;

use anyhow::Context as _;
use serde_json::{Value, json};

/// Commands of bpf(2), `enum bpf_cmd` in include/uapi/linux/bpf.h.
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_MAP_GET_NEXT_ID: libc::c_int = 12;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;

/// The part of `union bpf_attr` that these commands use.
#[derive(Default)]
#[repr(C)]
struct NextId {
    start: u32,
    next: u32,
    open_flags: u32,
}

pub(crate) fn list() -> anyhow::Result<Value> {
    Ok(json!({
        "programs": ids(BPF_PROG_GET_NEXT_ID).context("cannot list BPF programs")?,
        "maps": ids(BPF_MAP_GET_NEXT_ID).context("cannot list BPF maps")?,
        "links": ids(BPF_LINK_GET_NEXT_ID).context("cannot list BPF links")?,
    }))
}

fn ids(command: libc::c_int) -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut attributes = NextId::default();
    loop {
        // SAFETY: attributes of that size, of which the kernel writes the next id.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                &raw mut attributes,
                size_of::<NextId>(),
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            // There is none after the last.
            return if error.raw_os_error() == Some(libc::ENOENT) {
                Ok(ids)
            } else {
                Err(error)
            };
        }
        ids.push(attributes.next);
        attributes.start = attributes.next;
    }
}
