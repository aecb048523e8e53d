//! Places for streams: so many at a time, and so many of one reader.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tonic::{Code, Status};

use crate::{
    caller::{Caller, Publisher},
    refusal,
};

/// How many streams there may be, and how many there are.
#[derive(Debug)]
pub(crate) struct Places {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Of readers that have any, by name.
    of: HashMap<String, usize>,
}

/// A place for one stream, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    /// Whose share it is of.
    reader: Option<String>,
}

// === impl Places ===

impl Places {
    /// Places for `all` streams, and for `each` of one reader.
    pub(super) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Places {
            all,
            each,
            taken: Mutex::default(),
        })
    }

    /// A place for a stream of a caller.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED where all are taken, or all that one reader may have.
    pub(super) fn take(self: &Arc<Self>, caller: &Caller) -> Result<Place, Status> {
        // Who may publish for any node came over the Unix socket, or where there is no authentication: all who do are
        // called the same, and the operator who let them in is not to be kept out by the first of them.
        let reader = match caller.publishes {
            Some(Publisher::Any) => None,
            _ => Some(caller.name.clone().unwrap_or_default()),
        };
        let mut taken = self.lock();
        if taken.all >= self.all {
            return Err(too_many(format!(
                "{} streams are open, which is the limit",
                self.all
            )));
        }
        if let Some(reader) = &reader {
            let own = taken.of.get(reader).copied().unwrap_or_default();
            if own >= self.each {
                return Err(too_many(format!(
                    "{own} streams of {reader} are open, which is the limit for one reader"
                )));
            }
            taken.of.insert(reader.clone(), own + 1);
        }
        taken.all += 1;
        drop(taken);
        Ok(Place {
            places: self.clone(),
            reader,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_many(what: String) -> Status {
    refusal::because(Code::ResourceExhausted, "TOO_MANY_SUBSCRIBERS", what)
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        let Some(reader) = &self.reader else {
            return;
        };
        if let Some(own) = taken.of.get_mut(reader) {
            *own -= 1;
            if *own == 0 {
                taken.of.remove(reader);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(name: &str) -> Caller {
        Caller {
            name: Some(name.into()),
            ..Caller::default()
        }
    }

    #[test]
    fn one_reader_has_its_share_and_whoever_is_local_has_all() {
        let places = Places::new(5, 2);
        let (alice, bob) = (reader("alice"), reader("bob"));
        let of_alice = [places.take(&alice).unwrap(), places.take(&alice).unwrap()];
        let refused = places.take(&alice).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(
            refused.message().contains("2 streams of alice"),
            "{refused}"
        );
        let local: Vec<Place> = (0..3)
            .map(|_| places.take(&Caller::trusted()).unwrap())
            .collect();
        let refused = places.take(&bob).unwrap_err();
        assert!(
            refused.message().starts_with("5 streams are open"),
            "{refused}"
        );
        drop((of_alice, local));
        places.take(&alice).unwrap();
        let taken = places.lock();
        assert_eq!(
            (taken.all, taken.of.len()),
            (0, 0),
            "nothing is left behind"
        );
    }
}
