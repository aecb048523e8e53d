//! The commands that ask a server, from the outside: the binary, against a server whose every answer
//! the test decides. No root, no kernel, no collector.
//!
//! ```text
//! observing  interruptions  topping  counting  fleet  usage      what is proved
//! command (the binary, running)     server (the other side)      screen (a terminal)
//! ```

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod command;
mod counting;
mod events;
mod fleet;
mod interruptions;
mod observing;
mod server;
mod topping;
mod usage;
