//! A watch's events, made changes of a set: what a new list does not name is gone.

use kube::runtime::watcher::Event;

/// What became of the objects of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Update<K> {
    /// These are all there are.
    All(Vec<K>),
    /// One came or changed.
    One(K),
    /// One went.
    Gone(K),
}

/// The list that is being read.
#[derive(Debug)]
pub(super) struct Listing<K>(Vec<K>);

// === impl Update ===

impl<K> Update<K> {
    pub(super) fn map<L>(self, make: impl Fn(K) -> L) -> Update<L> {
        match self {
            Update::All(objects) => Update::All(objects.into_iter().map(make).collect()),
            Update::One(object) => Update::One(make(object)),
            Update::Gone(object) => Update::Gone(make(object)),
        }
    }
}

// === impl Listing ===

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Listing(Vec::new())
    }
}

impl<K> Listing<K> {
    /// `None` while a list is not whole.
    pub(super) fn take(&mut self, event: Event<K>) -> Option<Update<K>> {
        match event {
            Event::Apply(object) => Some(Update::One(object)),
            Event::Delete(object) => Some(Update::Gone(object)),
            Event::Init => {
                self.0.clear();
                None
            }
            Event::InitApply(object) => {
                self.0.push(object);
                None
            }
            Event::InitDone => Some(Update::All(std::mem::take(&mut self.0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_counts_when_it_is_whole_and_one_that_broke_off_does_not() {
        let mut listing = Listing::default();
        for event in [Event::Init, Event::InitApply(1)] {
            assert_eq!(listing.take(event), None);
        }
        for event in [Event::Init, Event::InitApply(2), Event::InitApply(3)] {
            assert_eq!(listing.take(event), None);
        }
        assert_eq!(listing.take(Event::InitDone), Some(Update::All(vec![2, 3])));
        assert_eq!(listing.take(Event::Apply(4)), Some(Update::One(4)));
        assert_eq!(listing.take(Event::Delete(2)), Some(Update::Gone(2)));
    }
}
