//! The benchmarks' baseline: a program on `sys_enter` that does nothing. What the dispatcher costs is
//! told beside it, because the kernel's way to any program is not ours to make shorter.

use aya::{Ebpf, programs::raw_trace_point::RawTracePointLinkId};
use ebpf_hello_abi::program;

use crate::{
    LoadError, machine,
    object::{attach, detach, load_alone},
};

const TRACEPOINT: &str = "sys_enter";

/// A loaded program that returns at once. Nothing of it stays when this is dropped.
pub struct EmptyProgram {
    ebpf: Ebpf,
    link: Option<RawTracePointLinkId>,
}

// === impl EmptyProgram ===

impl EmptyProgram {
    /// Loads it; it is not attached yet.
    ///
    /// # Errors
    /// As [`Kernel::load`](crate::Kernel::load).
    pub fn load() -> Result<Self, LoadError> {
        machine::check()?;
        Ok(EmptyProgram {
            ebpf: load_alone(program::BENCH_EMPTY)?,
            link: None,
        })
    }

    /// Attaches it to `sys_enter`, once.
    ///
    /// # Errors
    /// The tracepoint cannot be attached to.
    pub fn attach(&mut self) -> Result<(), LoadError> {
        if self.link.is_none() {
            self.link = Some(attach(&mut self.ebpf, program::BENCH_EMPTY, TRACEPOINT)?);
        }
        Ok(())
    }

    /// Detaches it, and waits until no CPU runs it any more.
    ///
    /// # Errors
    /// A link that could not be closed, or membarrier(2) refused.
    pub fn detach(&mut self) -> Result<(), LoadError> {
        if let Some(link) = self.link.take() {
            detach(&mut self.ebpf, program::BENCH_EMPTY, link)?;
        }
        machine::wait_for_programs()
    }
}
