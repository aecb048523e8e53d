//! How often an address may guess.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::door::network;

/// Failures an address may have in [`WINDOW`].
const ALLOWED: u32 = 10;

/// Time after which they are forgotten.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered; further ones share a count.
const MAX_ADDRESSES: usize = 4096;

/// Credentials that were not good, by address. An address with too many is not listened to for a while: tokens
/// cannot be guessed in number, and whoever has to be asked about them is not flooded.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<Option<IpAddr>, Count>>);

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    failures: u32,
}

// === impl Failures ===

impl Failures {
    /// How long an address has to wait before its credentials are looked at again.
    pub(super) fn wait(&self, address: Option<IpAddr>) -> Option<Duration> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = address.map(network);
        let count = counts.get(&address).or_else(|| {
            // A full table counts what it has no room for together.
            (counts.len() >= MAX_ADDRESSES)
                .then(|| counts.get(&None))
                .flatten()
        })?;
        let age = count.since.elapsed();
        (count.failures >= ALLOWED && age < WINDOW).then(|| WINDOW - age)
    }

    /// An address showed credentials that are not good.
    pub(super) fn add(&self, address: Option<IpAddr>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut address = address.map(network);
        if counts.len() >= MAX_ADDRESSES && !counts.contains_key(&address) {
            counts.retain(|_, count| count.since.elapsed() < WINDOW);
            if counts.len() >= MAX_ADDRESSES {
                address = None;
            }
        }
        let fresh = Count {
            since: Instant::now(),
            failures: 0,
        };
        let count = counts.entry(address).or_insert(fresh);
        if count.since.elapsed() >= WINDOW {
            *count = fresh;
        }
        count.failures = count.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn one_address_is_stopped_and_another_is_not() {
        let failures = Failures::default();
        let (one, two) = (
            Some(IpAddr::from([10, 0, 0, 1])),
            Some(IpAddr::from([10, 0, 0, 2])),
        );
        for _ in 0..ALLOWED {
            assert!(failures.wait(one).is_none());
            failures.add(one);
        }
        assert!(failures.wait(one).is_some());
        assert!(failures.wait(two).is_none());
    }

    #[test]
    fn the_table_is_bounded_and_what_finds_no_room_is_counted_together() {
        let failures = Failures::default();
        let address = |index: u32| Some(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + index)));
        for index in 0..2 * MAX_ADDRESSES as u32 {
            failures.add(address(index));
        }
        assert!(failures.0.lock().unwrap().len() <= MAX_ADDRESSES + 1);
        assert!(failures.wait(address(3 * MAX_ADDRESSES as u32)).is_some());
        assert!(failures.wait(address(0)).is_none());
    }
}
