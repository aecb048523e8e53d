//! Decoded system calls in words: `openat /etc/passwd O_RDONLY = 3`.

use ebpf_hello_proto::v1::{Path, Sock};

use super::escape::{argument, human};

/// `dirfd` that means the working directory (AT_FDCWD, linux/fcntl.h).
const WORKING_DIRECTORY: i32 = -100;

/// What a call on a file asked for.
pub(super) fn path(path: &Path) -> String {
    let mut words = human(&path.name);
    let mut file = |text: &str, directory: Option<i32>| {
        words.push(' ');
        if let Some(directory) = directory.filter(|fd| *fd != WORKING_DIRECTORY)
            && !text.starts_with('/')
        {
            words.push_str(&format!("fd {directory}:"));
        }
        words.push_str(&argument(text));
    };
    if !path.path.is_empty() {
        file(&path.path, path.dirfd);
    }
    if !path.new_path.is_empty() {
        file(&path.new_path, path.new_dirfd);
    }
    words.push_str(&flags(&path.flags));
    if let Some(mode) = path.mode {
        words.push_str(&format!(" mode {mode:04o}"));
    }
    if let Some(owner) = path.owner {
        words.push_str(&format!(" owner {owner}"));
    }
    if let Some(group) = path.group {
        words.push_str(&format!(" group {group}"));
    }
    if path.truncated {
        words.push_str(" …");
    }
    if path.unreadable {
        words.push_str(" (path unreadable)");
    }
    words + &outcome(path.return_value, path.denied)
}

/// What a call on a socket asked for.
pub(super) fn sock(sock: &Sock) -> String {
    let mut words = human(&sock.name);
    let address = human(&sock.address);
    match sock.port {
        Some(port) if address.contains(':') => words.push_str(&format!(" [{address}]:{port}")),
        Some(port) => words.push_str(&format!(" {address}:{port}")),
        None if !address.is_empty() => words.push_str(&format!(" {}", argument(&sock.address))),
        None if !sock.family.is_empty() => words.push_str(&format!(" {}", human(&sock.family))),
        None => {}
    }
    if let Some(fd) = sock.fd {
        words.push_str(&format!(" fd {fd}"));
    }
    words.push_str(&flags(&sock.flags));
    if sock.unreadable {
        words.push_str(" (address unreadable)");
    }
    words + &outcome(sock.return_value, sock.denied)
}

/// What a call returned, where that is known.
pub(super) fn outcome(value: Option<i64>, denied: bool) -> String {
    let mut words = match value {
        // A negated errno, with its name where it has one.
        Some(value @ -4095..=-1) => {
            let error = i32::try_from(-value).map(std::io::Error::from_raw_os_error);
            let text = error.map_or_else(|_| String::new(), |error| error.to_string());
            let text = text.split(" (os error").next().unwrap_or_default();
            format!(" = {value} ({text})")
        }
        Some(value) => format!(" = {value}"),
        None => String::new(),
    };
    if denied {
        words.push_str(" (refused by seccomp)");
    }
    words
}

fn flags(flags: &[String]) -> String {
    if flags.is_empty() {
        String::new()
    } else {
        format!(" {}", human(&flags.join("|")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_on_a_file_reads_like_a_line_of_strace() {
        let call = Path {
            name: "openat".into(),
            path: "/etc/passwd".into(),
            dirfd: Some(WORKING_DIRECTORY),
            flags: vec!["O_WRONLY".into(), "O_CREAT".into()],
            mode: Some(0o644),
            return_value: Some(-13),
            ..Path::default()
        };
        assert_eq!(
            path(&call),
            "openat /etc/passwd O_WRONLY|O_CREAT mode 0644 = -13 (Permission denied)"
        );
        let call = Path {
            name: "renameat2".into(),
            path: "a b".into(),
            dirfd: Some(4),
            new_path: "c".into(),
            denied: true,
            return_value: Some(-1),
            ..Path::default()
        };
        assert_eq!(
            path(&call),
            "renameat2 fd 4:'a b' c = -1 (Operation not permitted) (refused by seccomp)"
        );
    }

    #[test]
    fn a_call_on_a_socket_tells_address_and_port() {
        let call = |address: &str, port| {
            sock(&Sock {
                name: "connect".into(),
                address: address.into(),
                port,
                return_value: Some(0),
                ..Sock::default()
            })
        };
        assert_eq!(call("192.0.2.1", Some(80)), "connect 192.0.2.1:80 = 0");
        assert_eq!(
            call("2001:db8::1", Some(80)),
            "connect [2001:db8::1]:80 = 0"
        );
        assert_eq!(call("/run/x", None), "connect /run/x = 0");
        assert_eq!(call("", None), "connect = 0");
    }
}
