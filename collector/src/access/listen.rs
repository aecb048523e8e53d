//! Addresses to listen on, and which of them may go without TLS.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use super::AccessError;
use crate::serve::Socket;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `unix:///PATH`.
    Unix(PathBuf),
    /// `HOST:PORT`, or `:PORT` for every address.
    Tcp(SocketAddr),
}

// === impl Listen ===

impl FromStr for Listen {
    type Err = AccessError;

    fn from_str(given: &str) -> Result<Self, AccessError> {
        let wrong = |problem: &str| AccessError::Listen {
            given: given.to_owned(),
            problem: problem.to_owned(),
        };
        if let Some(path) = given.strip_prefix("unix://") {
            // sun_path of sockaddr_un(7), with its closing 0.
            return match path.len() {
                _ if !path.starts_with('/') => Err(wrong("the path must be absolute")),
                2..=107 => Ok(Listen::Unix(path.into())),
                1 => Err(wrong("no path")),
                _ => Err(wrong("a socket's path has at most 107 bytes")),
            };
        }
        if given.contains("://") {
            return Err(wrong(
                "the only scheme is unix://; TLS is chosen by --tls-dir or --tls-cert",
            ));
        }
        if let Some(port) = given.strip_prefix(':') {
            let port = port
                .parse()
                .map_err(|_| wrong("a port is a number from 0 to 65535"))?;
            return Ok(Listen::Tcp(SocketAddr::from(([0_u16; 8], port))));
        }
        let mut addresses = given
            .to_socket_addrs()
            .map_err(|error| wrong(&error.to_string()))?;
        addresses
            .next()
            .map(Listen::Tcp)
            .ok_or_else(|| wrong("the name has no address"))
    }
}

impl Listen {
    /// Binds it. A Unix socket is for its owner only (0600); one that nobody answers on is replaced.
    ///
    /// # Errors
    /// It cannot be bound, or another process answers on it.
    pub async fn bind(&self) -> Result<Socket, AccessError> {
        let failed = |address: String| move |source| AccessError::Bind { address, source };
        match self {
            Listen::Tcp(address) => bind_tcp(*address)
                .await
                .map(Socket::Tcp)
                .map_err(failed(address.to_string())),
            Listen::Unix(path) => bind_unix(path)
                .map(Socket::Unix)
                .map_err(failed(path.display().to_string())),
        }
    }
}

/// Listens on a TCP address; for all addresses of a host without IPv6 (`ipv6.disable=1`) on those of IPv4.
///
/// # Errors
/// It cannot be bound.
pub async fn bind_tcp(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    match tokio::net::TcpListener::bind(address).await {
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
                && address.ip() == Ipv6Addr::UNSPECIFIED =>
        {
            tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

fn bind_unix(path: &Path) -> io::Result<tokio::net::UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file, and it is no socket",
            ));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process answers on it",
            ));
        }
        Ok(_) => match fs::remove_file(path) {
            // Another process that starts now has done the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Bound under another name, protected, then named: nobody can connect in between, and of two that start at once only
    // one gets the name.
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let listener = tokio::net::UnixListener::bind(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    let named = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    named?;
    Ok(listener)
}

/// Whether an address may be served without TLS: loopback, or said to be insecure (and then told loudly).
///
/// # Errors
/// It may not.
pub fn check_plain(address: SocketAddr, insecure: bool) -> Result<(), AccessError> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if !insecure {
        return Err(AccessError::Plain(address));
    }
    tracing::warn!(%address, "INSECURE: serving without TLS on an address that other machines can reach: whoever can reach it reads and forges events");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_bad_ones_named() {
        assert_eq!(
            "unix:///run/a.sock".parse::<Listen>().unwrap(),
            Listen::Unix("/run/a.sock".into())
        );
        assert_eq!(
            ":7443".parse::<Listen>().unwrap(),
            Listen::Tcp("[::]:7443".parse().unwrap())
        );
        assert_eq!(
            "127.0.0.1:0".parse::<Listen>().unwrap(),
            Listen::Tcp("127.0.0.1:0".parse().unwrap())
        );
        for bad in [
            "unix://a",
            "unix:///",
            "7443",
            ":99999",
            "https://a:1",
            "127.0.0.1",
            "",
        ] {
            let error = bad.parse::<Listen>().unwrap_err().to_string();
            assert!(
                error.contains("expected unix:///PATH or HOST:PORT"),
                "{error}"
            );
        }
    }

    #[test]
    fn without_tls_only_loopback_is_served_unless_told() {
        check_plain("127.0.0.1:1".parse().unwrap(), false).unwrap();
        check_plain("[::1]:1".parse().unwrap(), false).unwrap();
        check_plain("[::ffff:127.0.0.1]:1".parse().unwrap(), false).unwrap();
        let refused = check_plain("0.0.0.0:1".parse().unwrap(), false)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("0.0.0.0:1") && refused.contains("--tls-dir"),
            "{refused}"
        );
        check_plain("0.0.0.0:1".parse().unwrap(), true).unwrap();
    }

    #[tokio::test]
    async fn a_socket_is_private_and_only_a_dead_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/observer.sock");
        let listen = Listen::Unix(path.clone());
        let first = listen.bind().await.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let refused = listen.bind().await.unwrap_err();
        assert!(
            super::super::reload::chain(&refused).contains("another process answers"),
            "{refused}"
        );
        drop(first);
        listen.bind().await.unwrap();
    }
}
