//! Where this kernel tells of io_uring's operations.

use ebpf_hello_abi::ABSENT;

use crate::btf::{Btf, Kind};

/// Newest first; renamed in 6.4.
const TRACEPOINTS: [&str; 2] = ["io_uring_submit_req", "io_uring_submit_sqe"];
/// Arguments that the program can tell apart.
const ARGUMENTS: usize = 4;

/// A tracepoint that is passed by every operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IoUring {
    pub(crate) tracepoint: &'static str,
    /// Which argument has the opcode.
    pub(crate) argument: u32,
    /// Offset of the opcode in the struct that the argument points to, or [`ABSENT`] where it is
    /// the opcode.
    pub(crate) opcode: u32,
}

// === impl IoUring ===

impl IoUring {
    /// `None` where the kernel has neither the tracepoint nor, without CONFIG_IO_URING, io_uring.
    pub(crate) fn find(btf: &Btf) -> Option<IoUring> {
        TRACEPOINTS.iter().find_map(|tracepoint| {
            let parameters = btf.tracepoint_parameters(tracepoint).ok()??;
            let found = |argument: usize, opcode| IoUring {
                tracepoint,
                argument: argument as u32,
                opcode,
            };
            // Up to 5.19 the opcode is an argument, the only one of one byte that is no bool.
            let byte = parameters
                .iter()
                .take(ARGUMENTS)
                .position(|parameter| parameter.kind == Kind::Integer && parameter.size == 1);
            if let Some(argument) = byte {
                return Some(found(argument, ABSENT));
            }
            let member = btf.member("io_kiocb", "opcode").ok()?;
            let is_pointer = parameters.first()?.kind == Kind::Pointer;
            (is_pointer && member.size == 1).then(|| found(0, member.offset))
        })
    }
}
