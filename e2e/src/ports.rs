//! Ports for servers that are told theirs.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below those that the kernel gives to whoever asks for any (`net.ipv4.ip_local_port_range`): nobody else draws one
/// of them between this and the server's start, or while it is stopped.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// An address of this host that nobody listens on, and that is not given twice.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Processes that run at the same time begin at different ones.
        let drawn = NEXT.fetch_add(1, Ordering::Relaxed) + process::id() * 101;
        let port = u16::try_from(FIRST + drawn % COUNT).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
