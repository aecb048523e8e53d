//! Which handler understands which system call, and where in its arguments to look.
//!
//! `Timer`, `Path` and `Sock` read user memory, so they are valid only on calls whose arguments
//! are described here; validation refuses the rest. The kernel side fills its per-slot parameters
//! from [`decode`], so a call gains a handler by gaining a line in this file. Argument numbers
//! count from 0, as in `SYSCALL_DEFINEn` of the kernel's source, from which the table is taken.

use serde::Serialize;

use crate::{
    arch::Abi,
    handler::{EXEC_CALLS, Handler},
};

/// How a handler reads one system call's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Decode {
    /// A timer call.
    Timer {
        /// Which one.
        call: TimerCall,
        /// How the times it points to are laid out.
        time: TimeLayout,
    },
    /// A call that takes a path, or two of them (rename, link, symlink), in its own order: of a
    /// symlink the first is the text that the link holds.
    Path {
        /// The argument that points to the NUL-terminated path.
        path: u8,
        /// The argument that is the directory descriptor; `None`: the working directory.
        dirfd: Option<u8>,
        /// Where the flags are; `None`: the call has none.
        flags: Option<Flags>,
        /// The second path; `None`: the call has none.
        new: Option<NewPath>,
    },
    /// A call that takes a socket address.
    Sock {
        /// The argument that points to the `struct sockaddr`.
        address: u8,
        /// The argument that is the address's length in bytes, or for [`Direction::Out`] points
        /// to an `int` that holds it.
        length: u8,
        /// Whether the caller or the kernel fills the address in.
        direction: Direction,
    },
    /// ia32's `socketcall`: which call it is, and so where its address is, is known when it is made.
    Socketcall,
}

/// ia32's one door to all socket calls: which of them is its first argument, and the second points
/// to theirs.
const SOCKETCALL: &str = "socketcall";

/// The timer calls, with tags that never change: the kernel side switches on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[non_exhaustive]
pub enum TimerCall {
    /// `timer_create(clockid, sigevent *, timer_t *created)`
    TimerCreate = 1,
    /// `timer_settime(timerid, flags, itimerspec *new, itimerspec *old)`
    TimerSettime = 2,
    /// `timer_gettime(timerid, itimerspec *setting)`; the setting is filled in on return.
    TimerGettime = 3,
    /// `timer_getoverrun(timerid)`
    TimerGetoverrun = 4,
    /// `timer_delete(timerid)`
    TimerDelete = 5,
    /// `timerfd_create(clockid, flags)`; the descriptor is the return value.
    TimerfdCreate = 6,
    /// `timerfd_settime(fd, flags, itimerspec *new, itimerspec *old)`
    TimerfdSettime = 7,
    /// `timerfd_gettime(fd, itimerspec *setting)`; the setting is filled in on return.
    TimerfdGettime = 8,
    /// `setitimer(which, itimerval *new, itimerval *old)`; microseconds, where the others have
    /// nanoseconds.
    Setitimer = 9,
}

/// Layout of the `itimerspec` or `itimerval` a timer call points to: interval, then value, each
/// seconds and then nanoseconds or microseconds. Tags never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum TimeLayout {
    /// Four signed 64-bit words (`__kernel_itimerspec`): native calls, and the `*64` calls of a
    /// 32-bit ABI.
    Wide = 0,
    /// Four signed 32-bit words (`old_itimerspec32`, `old_itimerval32`): the older calls of a
    /// 32-bit ABI.
    Narrow = 1,
}

/// The path that a call makes beside the one it has. Argument numbers, as in [`Decode::Path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewPath {
    /// The argument that points to it.
    pub path: u8,
    /// The argument that is the directory it starts from; `None`: the working directory.
    pub dirfd: Option<u8>,
}

/// Where a path call's flags are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flags {
    /// The argument of this number is the flags.
    Argument(u8),
    /// The argument of this number points to a structure whose first 64-bit word is the flags
    /// (openat2's `struct open_how`).
    Pointee(u8),
}

/// Who fills a socket address in. Tags never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Direction {
    /// The caller, before the call: it can be read at sys_enter.
    In = 0,
    /// The kernel, during the call: it is read at sys_exit, and only if the call succeeded.
    Out = 1,
}

/// Name, call, and whether it is a 32-bit ABI's 64-bit-time variant.
const TIMER: &[(&str, TimerCall, bool)] = &[
    ("timer_create", TimerCall::TimerCreate, false),
    ("timer_settime", TimerCall::TimerSettime, false),
    ("timer_settime64", TimerCall::TimerSettime, true),
    ("timer_gettime", TimerCall::TimerGettime, false),
    ("timer_gettime64", TimerCall::TimerGettime, true),
    ("timer_getoverrun", TimerCall::TimerGetoverrun, false),
    ("timer_delete", TimerCall::TimerDelete, false),
    ("timerfd_create", TimerCall::TimerfdCreate, false),
    ("timerfd_settime", TimerCall::TimerfdSettime, false),
    ("timerfd_settime64", TimerCall::TimerfdSettime, true),
    ("timerfd_gettime", TimerCall::TimerfdGettime, false),
    ("timerfd_gettime64", TimerCall::TimerfdGettime, true),
    ("setitimer", TimerCall::Setitimer, false),
];

/// Name, argument of the address, argument of its length, direction.
const SOCK: &[(&str, u8, u8, Direction)] = &[
    ("bind", 1, 2, Direction::In),
    ("connect", 1, 2, Direction::In),
    ("sendto", 4, 5, Direction::In),
    ("accept", 1, 2, Direction::Out),
    ("accept4", 1, 2, Direction::Out),
];

const fn at(path: u8) -> Shape {
    (path, None, None, None)
}
const fn flagged(path: u8, flags: u8) -> Shape {
    (path, None, Some(Flags::Argument(flags)), None)
}
const fn below(dirfd: u8, path: u8) -> Shape {
    (path, Some(dirfd), None, None)
}
const fn below_flagged(dirfd: u8, path: u8, flags: u8) -> Shape {
    (path, Some(dirfd), Some(Flags::Argument(flags)), None)
}
const fn two(path: u8, new: u8) -> Shape {
    (
        path,
        None,
        None,
        Some(NewPath {
            path: new,
            dirfd: None,
        }),
    )
}
/// A symlink's text starts from no directory.
const fn text(path: u8, new_dirfd: u8, new: u8) -> Shape {
    (
        path,
        None,
        None,
        Some(NewPath {
            path: new,
            dirfd: Some(new_dirfd),
        }),
    )
}
const fn two_below(flags: Option<u8>) -> Shape {
    let flags = match flags {
        Some(number) => Some(Flags::Argument(number)),
        None => None,
    };
    (
        1,
        Some(0),
        flags,
        Some(NewPath {
            path: 3,
            dirfd: Some(2),
        }),
    )
}
type Shape = (u8, Option<u8>, Option<Flags>, Option<NewPath>);

const PATH: &[(&str, Shape)] = &[
    // opening and creating
    ("open", flagged(0, 1)),
    ("creat", at(0)),
    ("openat", below_flagged(0, 1, 2)),
    ("openat2", (1, Some(0), Some(Flags::Pointee(2)), None)),
    ("mknod", at(0)),
    ("mknodat", below(0, 1)),
    ("mkdir", at(0)),
    ("mkdirat", below(0, 1)),
    ("name_to_handle_at", below_flagged(0, 1, 4)),
    // removing, renaming, linking
    ("unlink", at(0)),
    ("unlinkat", below_flagged(0, 1, 2)),
    ("rmdir", at(0)),
    ("rename", two(0, 1)),
    ("renameat", two_below(None)),
    ("renameat2", two_below(Some(4))),
    ("link", two(0, 1)),
    ("linkat", two_below(Some(4))),
    ("symlink", two(0, 1)),
    ("symlinkat", text(0, 1, 2)),
    ("readlink", at(0)),
    ("readlinkat", below(0, 1)),
    // attributes
    ("chmod", at(0)),
    ("fchmodat", below(0, 1)),
    ("fchmodat2", below_flagged(0, 1, 3)),
    ("chown", at(0)),
    ("chown32", at(0)),
    ("lchown", at(0)),
    ("lchown32", at(0)),
    ("fchownat", below_flagged(0, 1, 4)),
    ("truncate", at(0)),
    ("truncate64", at(0)),
    ("utime", at(0)),
    ("utimes", at(0)),
    ("futimesat", below(0, 1)),
    ("utimensat", below_flagged(0, 1, 3)),
    ("utimensat_time64", below_flagged(0, 1, 3)),
    ("setxattr", flagged(0, 4)),
    ("lsetxattr", flagged(0, 4)),
    ("setxattrat", below_flagged(0, 1, 2)),
    ("getxattr", at(0)),
    ("lgetxattr", at(0)),
    ("getxattrat", below_flagged(0, 1, 2)),
    ("listxattr", at(0)),
    ("llistxattr", at(0)),
    ("listxattrat", below_flagged(0, 1, 2)),
    ("removexattr", at(0)),
    ("lremovexattr", at(0)),
    ("removexattrat", below_flagged(0, 1, 2)),
    ("file_getattr", below_flagged(0, 1, 4)),
    ("file_setattr", below_flagged(0, 1, 4)),
    // looking
    ("access", at(0)),
    ("faccessat", below(0, 1)),
    ("faccessat2", below_flagged(0, 1, 3)),
    ("stat", at(0)),
    ("stat64", at(0)),
    ("oldstat", at(0)),
    ("lstat", at(0)),
    ("lstat64", at(0)),
    ("oldlstat", at(0)),
    ("newfstatat", below_flagged(0, 1, 3)),
    ("fstatat64", below_flagged(0, 1, 3)),
    ("statx", below_flagged(0, 1, 2)),
    ("statfs", at(0)),
    ("statfs64", at(0)),
    ("inotify_add_watch", flagged(1, 2)),
    // the process's place, and mounts: the path is the mount point
    ("chdir", at(0)),
    ("chroot", at(0)),
    ("pivot_root", at(0)),
    ("mount", flagged(1, 3)),
    ("umount", at(0)),
    ("umount2", flagged(0, 1)),
    ("move_mount", below_flagged(0, 1, 4)),
    ("mount_setattr", below_flagged(0, 1, 2)),
    ("open_tree", below_flagged(0, 1, 2)),
    ("open_tree_attr", below_flagged(0, 1, 2)),
    ("fspick", below_flagged(0, 1, 2)),
    // devices and accounts
    ("swapon", flagged(0, 1)),
    ("swapoff", at(0)),
    ("acct", at(0)),
    ("uselib", at(0)),
];

/// How `handler` reads the arguments of the system call `name` on `abi`.
///
/// `None` for a handler that reads no memory (`Exec`, `Trace`, `Count`, `Ignore`) and for a call
/// it cannot decode; [`accepts`] tells the two apart.
pub fn decode(handler: Handler, abi: Abi, name: &str) -> Option<Decode> {
    match handler {
        Handler::Timer => TIMER
            .iter()
            .find(|(call, ..)| *call == name)
            .map(|(_, call, time64)| {
                let narrow = abi == Abi::Compat && !time64;
                Decode::Timer {
                    call: *call,
                    time: if narrow {
                        TimeLayout::Narrow
                    } else {
                        TimeLayout::Wide
                    },
                }
            }),
        Handler::Path => {
            PATH.iter()
                .find(|(call, _)| *call == name)
                .map(|(_, (path, dirfd, flags, new))| Decode::Path {
                    path: *path,
                    dirfd: *dirfd,
                    flags: *flags,
                    new: *new,
                })
        }
        Handler::Sock if name == SOCKETCALL => Some(Decode::Socketcall),
        Handler::Sock => {
            SOCK.iter()
                .find(|(call, ..)| *call == name)
                .map(|(_, address, length, direction)| Decode::Sock {
                    address: *address,
                    length: *length,
                    direction: *direction,
                })
        }
        Handler::Exec | Handler::Trace | Handler::Count | Handler::Ignore => None,
    }
}

/// Whether a rule may name `handler` for the system call `name`.
pub fn accepts(handler: Handler, name: &str) -> bool {
    let exec = EXEC_CALLS.contains(&name);
    match handler {
        Handler::Count | Handler::Ignore => true,
        Handler::Exec => exec,
        Handler::Trace => !exec,
        Handler::Timer | Handler::Path | Handler::Sock => {
            decode(handler, Abi::Native, name).is_some()
        }
    }
}

/// The calls `handler` is valid on, when there is a list: `None` means any, or for `Trace` any
/// but execve and execveat.
pub fn accepted_calls(handler: Handler) -> Option<Vec<&'static str>> {
    match handler {
        Handler::Exec => Some(EXEC_CALLS.to_vec()),
        Handler::Timer => Some(TIMER.iter().map(|(name, ..)| *name).collect()),
        Handler::Path => Some(PATH.iter().map(|(name, _)| *name).collect()),
        Handler::Sock => {
            let calls = SOCK.iter().map(|(name, ..)| *name);
            Some(calls.chain([SOCKETCALL]).collect())
        }
        Handler::Trace | Handler::Count | Handler::Ignore => None,
    }
}

// === impl Decode ===

impl Decode {
    /// A stable tag for the kernel side: the timer call's own (1 to 9), 16 for a path, 32 for an
    /// address the caller gives, 33 for one the kernel gives, 34 for a socketcall.
    pub const fn tag(self) -> u8 {
        match self {
            Decode::Timer { call, .. } => call as u8,
            Decode::Path { .. } => 16,
            Decode::Sock { direction, .. } => 32 + direction as u8,
            Decode::Socketcall => 34,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::syscall;

    #[test]
    fn every_decoded_call_exists_and_is_listed_once() {
        for handler in [Handler::Exec, Handler::Timer, Handler::Path, Handler::Sock] {
            let calls = accepted_calls(handler).expect("these have lists");
            for call in &calls {
                assert!(
                    syscall::known(call).is_some(),
                    "{handler}: no ABI has {call}"
                );
                assert!(accepts(handler, call), "{handler} {call}");
            }
            assert_eq!(
                calls.iter().collect::<BTreeSet<_>>().len(),
                calls.len(),
                "{handler}"
            );
        }
    }

    #[test]
    fn an_argument_is_one_of_six() {
        for (name, (path, dirfd, flags, new)) in PATH {
            let flags = flags.map(|f| match f {
                Flags::Argument(n) | Flags::Pointee(n) => n,
            });
            let (new, new_dirfd) = (new.map(|new| new.path), new.and_then(|new| new.dirfd));
            let used: Vec<u8> = [Some(*path), *dirfd, flags, new, new_dirfd]
                .into_iter()
                .flatten()
                .collect();
            assert!(used.iter().all(|n| *n < 6), "{name}");
            assert_eq!(
                used.iter().collect::<BTreeSet<_>>().len(),
                used.len(),
                "{name}: one argument, two meanings"
            );
        }
    }

    #[test]
    fn narrow_times_are_only_those_of_the_older_32_bit_calls() {
        let time = |abi, name| match decode(Handler::Timer, abi, name) {
            Some(Decode::Timer { time, .. }) => time,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(time(Abi::Native, "timer_settime"), TimeLayout::Wide);
        assert_eq!(time(Abi::Compat, "timer_settime"), TimeLayout::Narrow);
        assert_eq!(time(Abi::Compat, "timer_settime64"), TimeLayout::Wide);
        assert_eq!(time(Abi::Compat, "setitimer"), TimeLayout::Narrow);
        assert_eq!(time(Abi::Native, "setitimer"), TimeLayout::Wide);
    }

    #[test]
    fn tags_tell_the_decoders_apart() {
        let tag = |handler, name| decode(handler, Abi::Native, name).map(Decode::tag);
        assert_eq!(tag(Handler::Timer, "timer_create"), Some(1));
        assert_eq!(tag(Handler::Timer, "setitimer"), Some(9));
        assert_eq!(tag(Handler::Path, "openat"), Some(16));
        assert_eq!(tag(Handler::Sock, "connect"), Some(32));
        assert_eq!(tag(Handler::Sock, "accept4"), Some(33));
    }

    #[test]
    fn exec_calls_take_exec_count_and_ignore_only() {
        for call in EXEC_CALLS {
            let valid: Vec<_> = Handler::ALL
                .into_iter()
                .filter(|h| accepts(*h, call))
                .collect();
            assert_eq!(valid, [Handler::Exec, Handler::Count, Handler::Ignore]);
        }
        assert!(!accepts(Handler::Exec, "openat"));
        assert!(!accepts(Handler::Timer, "openat"));
        assert!(!accepts(Handler::Sock, "socket"));
    }
}
