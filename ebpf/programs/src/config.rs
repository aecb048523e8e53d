//! The loader's constants. Each is read on its own through a volatile read, which the compiler
//! leaves in place and the verifier, knowing the frozen map's content, folds away.

use ebpf_hello_abi::Config;

#[unsafe(no_mangle)]
static CONFIG: Config = Config::UNSET;

macro_rules! config {
    ($($field:ident).+) => {
        // SAFETY: a plain read of an initialized static.
        unsafe { core::ptr::read_volatile(&raw const $crate::config::address().$($field).+) }
    };
}
pub(crate) use config;

/// The offset of a kernel struct's member.
macro_rules! offset {
    ($field:ident) => {
        $crate::config::config!(layout.$field)
    };
}
pub(crate) use offset;

#[inline(always)]
pub(crate) fn address() -> &'static Config {
    &CONFIG
}
