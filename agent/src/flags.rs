//! Names of flags, as man pages have them.

/// open(2)'s flags whose values are the same on x86_64 and aarch64
/// (`include/uapi/asm-generic/fcntl.h`).
const OPEN: [(u64, &str); 12] = [
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10000, "O_DSYNC"),
    (0o20000, "O_ASYNC"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
    (0o4000000, "__O_SYNC"),
    (0o10000000, "O_PATH"),
];

/// Flags that differ.
#[cfg(target_arch = "aarch64")]
const OPEN_HERE: [(u64, &str); 4] = [
    (0o40000, "O_DIRECTORY"),
    (0o100000, "O_NOFOLLOW"),
    (0o200000, "O_DIRECT"),
    (0o20000000, "__O_TMPFILE"),
];
#[cfg(not(target_arch = "aarch64"))]
const OPEN_HERE: [(u64, &str); 4] = [
    (0o40000, "O_DIRECT"),
    (0o200000, "O_DIRECTORY"),
    (0o400000, "O_NOFOLLOW"),
    (0o20000000, "__O_TMPFILE"),
];

/// The `AT_*` flags of the calls that end in `at` (`include/uapi/linux/fcntl.h`).
const AT: [(u64, &str); 4] = [
    (0x100, "AT_SYMLINK_NOFOLLOW"),
    (0x400, "AT_SYMLINK_FOLLOW"),
    (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"),
];

/// Names of the set flags of a call that takes a path; what has none is a hexadecimal rest.
pub(crate) fn of_path_call(call: &str, flags: u64) -> Vec<String> {
    if call.starts_with("open") {
        let access = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"][(flags & 3) as usize];
        let mut names = vec![access.to_owned()];
        names.extend(named(flags & !3, OPEN.iter().chain(&OPEN_HERE)));
        return names;
    }
    match call {
        // AT_REMOVEDIR and AT_EACCESS share a value: the call tells them apart.
        "unlinkat" => named(flags, [(0x200, "AT_REMOVEDIR")].iter()),
        "faccessat2" => named(flags, [(0x200, "AT_EACCESS")].iter().chain(&AT)),
        "renameat2" => named(
            flags,
            [
                (1, "RENAME_NOREPLACE"),
                (2, "RENAME_EXCHANGE"),
                (4, "RENAME_WHITEOUT"),
            ]
            .iter(),
        ),
        _ => named(flags, AT.iter()),
    }
}

fn named<'a>(flags: u64, table: impl Iterator<Item = &'a (u64, &'static str)>) -> Vec<String> {
    let mut rest = flags;
    let mut names = Vec::new();
    for (bit, name) in table {
        if flags & bit != 0 {
            names.push((*name).to_owned());
            rest &= !bit;
        }
    }
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names
}

/// socket(2)'s name of an address family; its number where it is a rare one.
pub(crate) fn family_name(family: u16) -> String {
    match family {
        0 => "AF_UNSPEC",
        16 => "AF_NETLINK",
        17 => "AF_PACKET",
        38 => "AF_ALG",
        40 => "AF_VSOCK",
        44 => "AF_XDP",
        family => return family.to_string(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_names_and_lose_no_bit() {
        assert_eq!(of_path_call("openat", 0o2000001), ["O_WRONLY", "O_CLOEXEC"]);
        assert_eq!(of_path_call("openat", 0), ["O_RDONLY"]);
        assert_eq!(of_path_call("unlinkat", 0x200), ["AT_REMOVEDIR"]);
        assert_eq!(
            of_path_call("fchownat", 0x1100),
            ["AT_SYMLINK_NOFOLLOW", "AT_EMPTY_PATH"]
        );
        assert_eq!(of_path_call("unlinkat", 1 << 40), ["0x10000000000"]);
    }
}
