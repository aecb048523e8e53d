//! The machines a node can be, and the two doors (ABIs) a process can enter each kernel through.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A node's processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit x86; its compat ABI is ia32 (`int $0x80`, 32-bit `sysenter`).
    X86_64,
    /// 64-bit ARM; its compat ABI is 32-bit ARM EABI.
    Aarch64,
}

/// Which table of system call numbers a call is looked up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Abi {
    /// The 64-bit numbers of the architecture.
    Native,
    /// The 32-bit numbers: ia32 on x86_64, 32-bit ARM on aarch64.
    Compat,
}

/// An architecture name that is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown architecture {0:?}: expected x86_64 (amd64) or aarch64 (arm64)")]
pub struct UnknownArch(pub String);

// === impl Arch ===

impl Arch {
    /// Every architecture there is a table for.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

    /// The architecture this program was compiled for.
    ///
    /// A build for any other processor (somebody's laptop running `check`) answers x86_64, the
    /// commonest node.
    pub const fn host() -> Arch {
        if cfg!(target_arch = "aarch64") {
            Arch::Aarch64
        } else {
            Arch::X86_64
        }
    }

    /// The name `uname -m` prints.
    pub const fn as_str(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }

    /// What people call the ABI on this architecture: `x86_64`, `ia32`, `aarch64` or `arm`.
    pub const fn abi_name(self, abi: Abi) -> &'static str {
        match (self, abi) {
            (Arch::X86_64, Abi::Native) => "x86_64",
            (Arch::X86_64, Abi::Compat) => "ia32",
            (Arch::Aarch64, Abi::Native) => "aarch64",
            (Arch::Aarch64, Abi::Compat) => "arm",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Arch {
    type Err = UnknownArch;

    /// Takes the kernel's name (`uname -m`) and the one of Go and Kubernetes node labels.
    fn from_str(text: &str) -> Result<Self, UnknownArch> {
        match text {
            "x86_64" | "amd64" => Ok(Arch::X86_64),
            "aarch64" | "arm64" => Ok(Arch::Aarch64),
            other => Err(UnknownArch(other.to_owned())),
        }
    }
}

// === impl Abi ===

impl Abi {
    /// Both, native first.
    pub const ALL: [Abi; 2] = [Abi::Native, Abi::Compat];
}
