//! Groups of system calls: `"@timer"` in a filter stands for its members.
//!
//! A group lists names of all ABIs; where a name does not exist it selects nothing. The lists are
//! about what a call is *for*, so a call may be in several. `@all` is every call there is.

use crate::syscall;

/// A named set of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// With its `@`, as written in a filter.
    pub name: &'static str,
    /// What its members have in common, in a sentence.
    pub doc: &'static str,
    listed: &'static [&'static str],
}

/// Every group, `@all` last.
#[rustfmt::skip] // it would give each of 400 names a line
pub const GROUPS: [Group; 13] = [
    Group {
        name: "@exec",
        doc: "Becoming another program. The handler is Exec, Count or Ignore.",
        listed: &["execve", "execveat"],
    },
    Group {
        name: "@timer",
        doc: "POSIX timers, timer descriptors and setitimer: what the handler Timer decodes.",
        listed: &[
            "setitimer", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
            "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create",
            "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
        ],
    },
    Group {
        name: "@file",
        doc: "Opening, reading, writing, naming and describing files and directories.",
        listed: &[
            "_llseek", "access", "cachestat", "chdir", "chmod", "chown", "chown32", "chroot",
            "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3",
            "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fchdir",
            "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl",
            "fcntl64", "fdatasync", "fgetxattr", "file_getattr", "file_setattr", "flistxattr",
            "flock", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs",
            "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futimesat", "getcwd", "getdents",
            "getdents64", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init",
            "inotify_init1", "inotify_rm_watch", "fanotify_init", "fanotify_mark", "ioctl",
            "lchown", "lchown32", "lgetxattr", "link", "linkat", "listxattr", "listxattrat",
            "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "mkdir",
            "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat", "oldfstat",
            "oldlstat", "oldstat", "open", "open_by_handle_at", "openat", "openat2", "pread64",
            "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead",
            "readdir", "readlink", "readlinkat", "readv", "removexattr", "removexattrat",
            "rename", "renameat", "renameat2", "rmdir", "sendfile", "sendfile64", "setxattr",
            "setxattrat", "splice", "stat", "stat64", "statfs", "statfs64", "statx", "symlink",
            "symlinkat", "sync", "sync_file_range", "syncfs", "tee", "truncate", "truncate64",
            "umask", "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes",
            "vmsplice", "write", "writev",
        ],
    },
    Group {
        name: "@network",
        doc: "Sockets. (A 32-bit x86 program may do all of them through socketcall.)",
        listed: &[
            "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt",
            "listen", "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "send",
            "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socket", "socketcall",
            "socketpair",
        ],
    },
    Group {
        name: "@process",
        doc: "Making, ending, waiting for, tracing and scheduling processes and threads.",
        listed: &[
            "capget", "capset", "clone", "clone3", "execve", "execveat", "exit", "exit_group",
            "fork", "get_robust_list", "getcpu", "getpgid", "getpgrp", "getpid", "getppid",
            "getpriority", "getrlimit", "getrusage", "getsid", "gettid", "ioprio_get",
            "ioprio_set", "kcmp", "nice", "personality", "pidfd_getfd", "pidfd_open", "prctl",
            "prlimit64", "process_vm_readv", "process_vm_writev", "ptrace",
            "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
            "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
            "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr",
            "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "set_robust_list",
            "set_tid_address", "setns", "setpgid", "setpriority", "setrlimit", "setsid", "times",
            "ugetrlimit", "unshare", "vfork", "wait4", "waitid", "waitpid",
        ],
    },
    Group {
        name: "@memory",
        doc: "Mapping, protecting and advising about memory.",
        listed: &[
            "brk", "get_mempolicy", "madvise", "map_shadow_stack", "mbind", "membarrier",
            "memfd_create", "memfd_secret", "migrate_pages", "mincore", "mlock", "mlock2",
            "mlockall", "mmap", "mmap2", "move_pages", "mprotect", "mremap", "mseal", "msync",
            "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect",
            "process_madvise", "process_mrelease", "remap_file_pages", "set_mempolicy",
            "set_mempolicy_home_node", "userfaultfd",
        ],
    },
    Group {
        name: "@signal",
        doc: "Sending, blocking, handling and waiting for signals.",
        listed: &[
            "kill", "pause", "pidfd_send_signal", "restart_syscall", "rt_sigaction",
            "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
            "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sgetmask",
            "sigaction", "sigaltstack", "signal", "signalfd", "signalfd4", "sigpending",
            "sigprocmask", "sigreturn", "sigsuspend", "ssetmask", "tgkill", "tkill",
        ],
    },
    Group {
        name: "@ipc",
        doc: "Pipes, futexes, event descriptors, System V and POSIX queues, semaphores and shared memory.",
        listed: &[
            "eventfd", "eventfd2", "futex", "futex_requeue", "futex_time64", "futex_wait",
            "futex_waitv", "futex_wake", "ipc", "mq_getsetattr", "mq_notify", "mq_open",
            "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
            "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "pipe", "pipe2", "semctl",
            "semget", "semop", "semtimedop", "semtimedop_time64", "shmat", "shmctl", "shmdt",
            "shmget",
        ],
    },
    Group {
        name: "@credentials",
        doc: "Reading and changing user and group ids, capabilities and keys.",
        listed: &[
            "add_key", "capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32",
            "getgid", "getgid32", "getgroups", "getgroups32", "getresgid", "getresgid32",
            "getresuid", "getresuid32", "getuid", "getuid32", "keyctl", "request_key", "setfsgid",
            "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups",
            "setgroups32", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid",
            "setresuid32", "setreuid", "setreuid32", "setuid", "setuid32",
        ],
    },
    Group {
        name: "@module",
        doc: "Loading code into the kernel: modules, BPF, another kernel.",
        listed: &[
            "bpf", "create_module", "delete_module", "finit_module", "get_kernel_syms",
            "init_module", "kexec_file_load", "kexec_load", "query_module",
        ],
    },
    Group {
        name: "@mount",
        doc: "Mounting, unmounting and changing the root of file systems.",
        listed: &[
            "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "listmount", "mount",
            "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "pivot_root",
            "statmount", "swapoff", "swapon", "umount", "umount2",
        ],
    },
    Group {
        name: "@clock",
        doc: "Reading, setting and waiting on clocks. Most reads never enter the kernel (vDSO).",
        listed: &[
            "adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres",
            "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
            "clock_nanosleep_time64", "clock_settime", "clock_settime64", "getitimer",
            "gettimeofday", "nanosleep", "settimeofday", "stime", "time",
        ],
    },
    Group {
        name: "@all",
        doc: "Every system call of every ABI.",
        listed: &[],
    },
];

/// The group of this name, written with its `@`.
pub fn find(name: &str) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.name == name)
}

// === impl Group ===

impl Group {
    /// The names of its members on all ABIs.
    pub fn members(&self) -> impl Iterator<Item = &'static str> {
        let everything = (self.name == "@all").then(syscall::all_names);
        self.listed
            .iter()
            .copied()
            .chain(everything.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{decode, handler::Handler};

    #[test]
    fn every_member_exists_on_some_abi_and_is_listed_once() {
        for group in GROUPS {
            let members: Vec<_> = group.members().collect();
            assert!(!members.is_empty(), "{}", group.name);
            for member in &members {
                assert!(
                    syscall::known(member).is_some(),
                    "{}: no ABI has {member}",
                    group.name
                );
            }
            assert_eq!(
                members.iter().collect::<BTreeSet<_>>().len(),
                members.len(),
                "{}",
                group.name
            );
        }
    }

    #[test]
    fn timer_and_exec_groups_are_what_their_handlers_decode() {
        for (group, handler) in [("@timer", Handler::Timer), ("@exec", Handler::Exec)] {
            let members: BTreeSet<_> = find(group).expect("listed").members().collect();
            let decoded: BTreeSet<_> = decode::accepted_calls(handler)
                .expect("listed")
                .into_iter()
                .collect();
            assert_eq!(members, decoded, "{group}");
        }
    }

    #[test]
    fn every_path_call_is_a_file_mount_or_process_matter() {
        let grouped: BTreeSet<_> = ["@file", "@mount"]
            .into_iter()
            .flat_map(|g| find(g).expect("listed").members())
            .collect();
        let left: Vec<_> = decode::accepted_calls(Handler::Path)
            .expect("listed")
            .into_iter()
            .filter(|call| !grouped.contains(call) && !["acct", "uselib"].contains(call))
            .collect();
        assert_eq!(left, Vec::<&str>::new());
    }
}
