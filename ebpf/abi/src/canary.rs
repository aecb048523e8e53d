//! Readiness canaries: what the agent announces before it makes a marked system call or exec.

/// Place of the nonce among the arguments of a canary's system call.
pub const CANARY_ARGUMENT: usize = 1;

/// Key of an announced system call: of the thread that will make it (initial PID namespace).
pub const fn canary_call(tid: u32) -> u64 {
    tid as u64
}

/// Key of an announced exec: of the process whose child will make it (initial PID namespace).
pub const fn canary_exec(parent: u32) -> u64 {
    1 << 32 | parent as u64
}
