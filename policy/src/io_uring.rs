//! io_uring's operations, and the system calls they do the work of: `enum io_uring_op` in
//! `include/uapi/linux/io_uring.h`.

/// Name, and calls; opcodes count from 0 in this order. An operation without calls is io_uring's own.
const OPERATIONS: &[(&str, &[&str])] = &[
    ("IORING_OP_NOP", &[]),
    ("IORING_OP_READV", &["readv", "preadv", "preadv2"]),
    ("IORING_OP_WRITEV", &["writev", "pwritev", "pwritev2"]),
    ("IORING_OP_FSYNC", &["fsync", "fdatasync"]),
    ("IORING_OP_READ_FIXED", &["read", "pread64"]),
    ("IORING_OP_WRITE_FIXED", &["write", "pwrite64"]),
    ("IORING_OP_POLL_ADD", &["poll", "ppoll"]),
    ("IORING_OP_POLL_REMOVE", &[]),
    ("IORING_OP_SYNC_FILE_RANGE", &["sync_file_range"]),
    ("IORING_OP_SENDMSG", &["sendmsg"]),
    ("IORING_OP_RECVMSG", &["recvmsg"]),
    ("IORING_OP_TIMEOUT", &[]),
    ("IORING_OP_TIMEOUT_REMOVE", &[]),
    ("IORING_OP_ACCEPT", &["accept", "accept4"]),
    ("IORING_OP_ASYNC_CANCEL", &[]),
    ("IORING_OP_LINK_TIMEOUT", &[]),
    ("IORING_OP_CONNECT", &["connect"]),
    ("IORING_OP_FALLOCATE", &["fallocate"]),
    ("IORING_OP_OPENAT", &["open", "creat", "openat"]),
    ("IORING_OP_CLOSE", &["close"]),
    ("IORING_OP_FILES_UPDATE", &[]),
    ("IORING_OP_STATX", &["statx"]),
    ("IORING_OP_READ", &["read", "pread64"]),
    ("IORING_OP_WRITE", &["write", "pwrite64"]),
    ("IORING_OP_FADVISE", &["fadvise64"]),
    ("IORING_OP_MADVISE", &["madvise"]),
    ("IORING_OP_SEND", &["sendto"]),
    ("IORING_OP_RECV", &["recvfrom"]),
    ("IORING_OP_OPENAT2", &["openat2"]),
    ("IORING_OP_EPOLL_CTL", &["epoll_ctl"]),
    ("IORING_OP_SPLICE", &["splice"]),
    ("IORING_OP_PROVIDE_BUFFERS", &[]),
    ("IORING_OP_REMOVE_BUFFERS", &[]),
    ("IORING_OP_TEE", &["tee"]),
    ("IORING_OP_SHUTDOWN", &["shutdown"]),
    ("IORING_OP_RENAMEAT", &["rename", "renameat", "renameat2"]),
    ("IORING_OP_UNLINKAT", &["unlink", "rmdir", "unlinkat"]),
    ("IORING_OP_MKDIRAT", &["mkdir", "mkdirat"]),
    ("IORING_OP_SYMLINKAT", &["symlink", "symlinkat"]),
    ("IORING_OP_LINKAT", &["link", "linkat"]),
    ("IORING_OP_MSG_RING", &[]),
    ("IORING_OP_FSETXATTR", &["fsetxattr"]),
    ("IORING_OP_SETXATTR", &["setxattr"]),
    ("IORING_OP_FGETXATTR", &["fgetxattr"]),
    ("IORING_OP_GETXATTR", &["getxattr"]),
    ("IORING_OP_SOCKET", &["socket"]),
    (
        "IORING_OP_URING_CMD",
        &["ioctl", "getsockopt", "setsockopt"],
    ),
    ("IORING_OP_SEND_ZC", &["sendto"]),
    ("IORING_OP_SENDMSG_ZC", &["sendmsg"]),
    ("IORING_OP_READ_MULTISHOT", &["read"]),
    ("IORING_OP_WAITID", &["waitid"]),
    ("IORING_OP_FUTEX_WAIT", &["futex", "futex_wait"]),
    ("IORING_OP_FUTEX_WAKE", &["futex", "futex_wake"]),
    ("IORING_OP_FUTEX_WAITV", &["futex_waitv"]),
    ("IORING_OP_FIXED_FD_INSTALL", &[]),
    ("IORING_OP_FTRUNCATE", &["ftruncate"]),
    ("IORING_OP_BIND", &["bind"]),
    ("IORING_OP_LISTEN", &["listen"]),
    ("IORING_OP_RECV_ZC", &["recvfrom"]),
    (
        "IORING_OP_EPOLL_WAIT",
        &["epoll_wait", "epoll_pwait", "epoll_pwait2"],
    ),
    ("IORING_OP_READV_FIXED", &["readv", "preadv", "preadv2"]),
    ("IORING_OP_WRITEV_FIXED", &["writev", "pwritev", "pwritev2"]),
    ("IORING_OP_PIPE", &["pipe", "pipe2"]),
];

/// An opcode's name as the kernel's header has it; `None` for one that is newer than this list.
pub fn name(opcode: u16) -> Option<&'static str> {
    OPERATIONS.get(usize::from(opcode)).map(|(name, _)| *name)
}

/// Every opcode that does the work of one of the calls that `wanted` says yes to.
pub fn opcodes(wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = u16> {
    (0..)
        .zip(OPERATIONS)
        .filter(move |(_, (_, calls))| calls.iter().any(|call| wanted(call)))
        .map(|(opcode, _)| opcode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscall;

    #[test]
    fn opcodes_are_those_of_the_header() {
        for (opcode, expected) in [
            (0, "IORING_OP_NOP"),
            (16, "IORING_OP_CONNECT"),
            (18, "IORING_OP_OPENAT"),
            (35, "IORING_OP_RENAMEAT"),
            (46, "IORING_OP_URING_CMD"),
            (62, "IORING_OP_PIPE"),
        ] {
            assert_eq!(name(opcode), Some(expected));
        }
        assert_eq!(name(63), None);
    }

    #[test]
    fn every_call_exists_and_finds_its_operations() {
        for (name, calls) in OPERATIONS {
            for call in *calls {
                assert!(syscall::known(call).is_some(), "{name}: no ABI has {call}");
            }
        }
        let of = |wanted| opcodes(|call| call == wanted).collect::<Vec<_>>();
        assert_eq!(of("read"), [4, 22, 49]);
        assert_eq!(of("openat"), [18]);
        assert!(of("getppid").is_empty());
    }
}
