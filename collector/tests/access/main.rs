//! The collector's port from the outside: real TLS on real sockets, and who gets in as whom.

mod certificates;
#[cfg(feature = "api-tests")]
mod crowd;
mod enrol;
mod fixture;
mod port;
mod readers;
mod replacement;
