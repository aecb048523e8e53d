//! The collector's port from the outside: real TLS on real sockets, and who gets in as whom.

mod certificates;
mod enrol;
mod fixture;
mod port;
mod readers;
mod replacement;
