//! System call names and numbers, per ABI.
//!
//! Everything comes from the `syscalls` crate, which generates its tables from the kernel's own
//! (`arch/*/entry/syscalls/*.tbl`, `include/uapi/asm-generic/unistd.h`); no number is typed here.
//! Filters speak names, the kernel side speaks numbers, and this module is the only place where
//! one becomes the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use crate::arch::{Abi, Arch};

/// Numbers from here on do not exist for us: slot 511 of each half of a dispatch table is the
/// table's default, and nothing above it is ever looked up (x32 starts at 512).
pub const NUMBER_LIMIT: u16 = 511;

/// Names the `syscalls` crate has in another spelling than the kernel: asm-generic's
/// `__NR3264_fstatat` is `newfstatat` on every 64-bit architecture (`unistd.h`), x86_64 included,
/// so that one name in a filter means one call on all nodes.
const KERNEL_SPELLING: &[(Arch, Abi, &str, &str)] =
    &[(Arch::Aarch64, Abi::Native, "fstatat", "newfstatat")];

/// The names and numbers of one ABI. Borrow it with [`Names::of`].
#[derive(Debug)]
pub struct Names {
    by_name: BTreeMap<&'static str, u16>,
    by_number: BTreeMap<u16, &'static str>,
}

// By number and not with the crate's `iter()`, which leaves the last call of each table out.
static X86_64: LazyLock<Names> = LazyLock::new(|| {
    collect(Arch::X86_64, Abi::Native, |n| {
        syscalls::x86_64::Sysno::new(n).map(|s| s.name())
    })
});
static IA32: LazyLock<Names> = LazyLock::new(|| {
    collect(Arch::X86_64, Abi::Compat, |n| {
        syscalls::x86::Sysno::new(n).map(|s| s.name())
    })
});
static AARCH64: LazyLock<Names> = LazyLock::new(|| {
    collect(Arch::Aarch64, Abi::Native, |n| {
        syscalls::aarch64::Sysno::new(n).map(|s| s.name())
    })
});
static ARM: LazyLock<Names> = LazyLock::new(|| {
    collect(Arch::Aarch64, Abi::Compat, |n| {
        syscalls::arm::Sysno::new(n).map(|s| s.name())
    })
});

static EVERYWHERE: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    Arch::ALL
        .into_iter()
        .flat_map(|arch| Abi::ALL.map(|abi| Names::of(arch, abi)))
        .flat_map(|names| names.by_name.keys().copied())
        .collect()
});

fn collect(arch: Arch, abi: Abi, crate_name: impl Fn(usize) -> Option<&'static str>) -> Names {
    let by_number: BTreeMap<_, _> = (0..NUMBER_LIMIT)
        .filter_map(|number| {
            let name = crate_name(number.into())?;
            let respelt = KERNEL_SPELLING
                .iter()
                .find(|(a, b, spelt, _)| (*a, *b, *spelt) == (arch, abi, name));
            Some((number, respelt.map_or(name, |(.., kernel)| *kernel)))
        })
        .collect();
    let by_name = by_number
        .iter()
        .map(|(number, name)| (*name, *number))
        .collect();
    Names { by_name, by_number }
}

// === impl Names ===

impl Names {
    /// The table of one ABI of one architecture.
    pub fn of(arch: Arch, abi: Abi) -> &'static Names {
        match (arch, abi) {
            (Arch::X86_64, Abi::Native) => &X86_64,
            (Arch::X86_64, Abi::Compat) => &IA32,
            (Arch::Aarch64, Abi::Native) => &AARCH64,
            (Arch::Aarch64, Abi::Compat) => &ARM,
        }
    }

    /// The number of `name` here, below [`NUMBER_LIMIT`]; `None` if this ABI has no such call.
    pub fn number(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied()
    }

    /// The kernel's name of `number` here.
    pub fn name(&self, number: u16) -> Option<&'static str> {
        self.by_number.get(&number).copied()
    }

    /// All calls of this ABI, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &'static str)> + '_ {
        self.by_number.iter().map(|(number, name)| (*number, *name))
    }
}

/// The name of system call `number` as a process entering through `abi` means it.
pub fn name(arch: Arch, abi: Abi, number: u16) -> Option<&'static str> {
    Names::of(arch, abi).name(number)
}

/// The number of system call `name` on one ABI.
pub fn number(arch: Arch, abi: Abi, name: &str) -> Option<u16> {
    Names::of(arch, abi).number(name)
}

/// The static spelling of `name` if any ABI of any architecture has such a call.
///
/// A filter is written once for a fleet of mixed nodes, so a name that exists somewhere is good
/// everywhere; where it does not exist it selects nothing.
pub fn known(name: &str) -> Option<&'static str> {
    EVERYWHERE.get(name).copied()
}

/// Every name any ABI has, sorted.
pub fn all_names() -> impl Iterator<Item = &'static str> {
    EVERYWHERE.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_numbers_are_the_kernels() {
        let cases = [
            (Arch::X86_64, Abi::Native, "execve", 59),
            (Arch::X86_64, Abi::Native, "timer_create", 222),
            (Arch::X86_64, Abi::Native, "timer_delete", 226),
            (Arch::X86_64, Abi::Compat, "execve", 11),
            (Arch::X86_64, Abi::Compat, "timer_settime64", 409),
            (Arch::Aarch64, Abi::Native, "execve", 221),
            (Arch::Aarch64, Abi::Native, "newfstatat", 79),
            (Arch::Aarch64, Abi::Compat, "execve", 11),
            (Arch::X86_64, Abi::Native, "file_setattr", 469),
        ];
        for (arch, abi, name, number) in cases {
            assert_eq!(
                Names::of(arch, abi).number(name),
                Some(number),
                "{name} on {}",
                arch.abi_name(abi)
            );
            assert_eq!(Names::of(arch, abi).name(number), Some(name));
        }
    }

    #[test]
    fn names_and_numbers_are_one_to_one_and_below_the_limit() {
        for arch in Arch::ALL {
            for abi in Abi::ALL {
                let names = Names::of(arch, abi);
                assert!(names.by_name.len() > 300, "{}", arch.abi_name(abi));
                assert_eq!(
                    names.by_name.len(),
                    names.by_number.len(),
                    "{}",
                    arch.abi_name(abi)
                );
                assert!(names.by_number.keys().all(|n| *n < NUMBER_LIMIT));
            }
        }
    }

    #[test]
    fn a_name_is_known_if_any_abi_has_it() {
        assert_eq!(known("socketcall"), Some("socketcall"), "ia32 only");
        assert_eq!(known("open"), Some("open"), "not on aarch64");
        assert_eq!(known("fstatat"), None, "the kernel calls it newfstatat");
        assert_eq!(known("timer_crate"), None);
    }
}
