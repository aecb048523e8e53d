//! The filter `ebpf-hello run` has when it is given none: hello-tail, as a policy.

use crate::{
    arch::{Abi, Arch},
    crd::{ClusterSyscallFilter, ClusterSyscallFilterSpec, FilterRule, SyscallFilterSpec},
    group,
    handler::{DefaultAction, Handler},
    syscall::{self, Names},
};

/// Its name, as events and `status` show it.
pub const BUILTIN_NAME: &str = "builtin";

/// The numbers that hello-tail sends to its timer program, on x86_64.
const TIMER: [u16; 5] = [222, 223, 224, 225, 226];

/// The numbers that hello-tail ignores, on x86_64: the noisy ones of a desktop.
const NOISY: [u16; 23] = [
    21, 22, 25, 29, 56, 57, 63, 64, 66, 72, 73, 79, 98, 101, 115, 131, 134, 135, 139, 172, 233,
    280, 291,
];

/// The built-in filter: execs to `Exec`, POSIX timers to `Timer`, the noisy calls ignored, and
/// `default` for everything else. It selects processes in and outside of pods.
///
/// hello-tail's numbers are x86_64's; they are made names here, and `arch` takes those it has.
/// With [`DefaultAction::Ignore`] there are no rules at all, so that sys_enter stays detached.
pub fn builtin(default: DefaultAction, arch: Arch) -> ClusterSyscallFilter {
    let rule = |syscalls: Vec<String>, handler| FilterRule {
        syscalls,
        except: Vec::new(),
        handler,
        rate_limit: None,
        sampling: None,
        returns: false,
        denied: false,
    };
    let here = |numbers: &[u16]| -> Vec<String> {
        let has = |name: &&str| {
            Abi::ALL
                .iter()
                .any(|abi| syscall::number(arch, *abi, name).is_some())
        };
        let names = numbers
            .iter()
            .filter_map(|number| Names::of(Arch::X86_64, Abi::Native).name(*number));
        names.filter(has).map(str::to_owned).collect()
    };
    let exec = group::find("@exec")
        .into_iter()
        .flat_map(|group| group.members())
        .map(str::to_owned)
        .collect();
    let rules = match default {
        DefaultAction::Ignore => Vec::new(),
        DefaultAction::Count | DefaultAction::Trace => vec![
            rule(exec, Handler::Exec),
            rule(here(&TIMER), Handler::Timer),
            rule(here(&NOISY), Handler::Ignore),
        ],
    };
    let common = SyscallFilterSpec {
        default,
        rules,
        ..SyscallFilterSpec::default()
    };
    ClusterSyscallFilter::new(
        BUILTIN_NAME,
        ClusterSyscallFilterSpec {
            common,
            host: true,
            ..Default::default()
        },
    )
}
