//! The commands that ask a server, from the outside: the binary, against a server whose every answer
//! the test decides, and against the collector itself. No root, no kernel.
//!
//! ```text
//! observing  interruptions  topping  counting  fleet  usage     collecting    what is proved
//! command (the binary, running)       server (scripted)         collector     both sides
//! ```

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod collecting;
mod collector;
mod command;
mod counting;
mod events;
mod fleet;
mod interruptions;
mod observing;
mod secure;
mod server;
mod topping;
mod usage;
