//! Who may reach a collector that asks a real API server: agents, readers, and the authority it keeps there.

mod agents;
mod authority;
mod away;
mod fixture;
mod readers;
mod tenant;
