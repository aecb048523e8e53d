//! How often an address may guess.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{door::network, secrets::Hash};

/// Failures an address may have in [`WINDOW`].
const ALLOWED: u32 = 10;

/// Time after which they are forgotten.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered; further ones share a count.
const MAX_ADDRESSES: usize = 4096;

/// Tokens that are remembered as good; past it the one unheard of for the longest goes.
const MAX_PROVEN: usize = 4096;

/// Credentials that were not good, by address. An address with too many is not listened to for a while: tokens
/// cannot be guessed in number, and whoever has to be asked about them is not flooded.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<Option<IpAddr>, Count>>);

/// Tokens that were good when they were last looked at, each with the address it came from: many readers come from one
/// address, by `kubectl port-forward` from loopback, and what is not good of one must not keep the others out. It is
/// looked at all the same.
#[derive(Default)]
pub(super) struct Proven(Mutex<HashMap<(IpAddr, Hash), Instant>>);

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

// === impl Proven ===

impl Proven {
    /// Whether a token was good when it last came from this address.
    pub(super) fn has(&self, address: IpAddr, token: &str) -> bool {
        self.lock().contains_key(&key(address, token))
    }

    /// It is good.
    pub(super) fn add(&self, address: IpAddr, token: &str) {
        let key = key(address, token);
        let mut proven = self.lock();
        if proven.len() >= MAX_PROVEN && !proven.contains_key(&key) {
            let oldest = proven.iter().min_by_key(|(_, heard)| **heard);
            let oldest = oldest.map(|(key, _)| *key);
            oldest.and_then(|oldest| proven.remove(&oldest));
        }
        proven.insert(key, Instant::now());
    }

    /// It is not good any more.
    pub(super) fn remove(&self, address: IpAddr, token: &str) {
        self.lock().remove(&key(address, token));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(IpAddr, Hash), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(address: IpAddr, token: &str) -> (IpAddr, Hash) {
    (network(address), Hash::of(token))
}

/// Without the hashes.
impl fmt::Debug for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proven").finish_non_exhaustive()
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

    #[test]
    fn tokens_that_were_good_are_bounded_and_the_oldest_goes() {
        let proven = Proven::default();
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        proven.add(one, "first");
        assert!(proven.has(one, "first"));
        assert!(!proven.has(two, "first"), "it came from another address");
        for index in 0..MAX_PROVEN {
            proven.add(one, &format!("token {index}"));
        }
        assert!(!proven.has(one, "first"));
        assert_eq!(proven.lock().len(), MAX_PROVEN);
        proven.remove(one, "token 1");
        assert!(!proven.has(one, "token 1") && proven.has(one, "token 2"));
    }
}
