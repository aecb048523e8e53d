//! What any program on `sys_enter` costs: the benchmarks' baseline. Only they load it.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

/// Nothing.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn bench_empty(_ctx: RawTracePointContext) -> i32 {
    0
}
