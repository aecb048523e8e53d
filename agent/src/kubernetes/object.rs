//! A filter as it came: what it says is judged later, one by one, so that one object that is not as expected is a
//! problem of its own and not of the list it is in.

use std::{borrow::Cow, fmt, marker::PhantomData};

use kube::{Resource, api::ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

/// An object of the kind `K`.
#[derive(Deserialize)]
#[serde(bound = "")]
pub(super) struct Object<K> {
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: Value,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

// === impl Object ===

impl<K> Object<K> {
    /// The same, for who knows its kind otherwise.
    pub(super) fn without_kind(self) -> Object<()> {
        Object {
            metadata: self.metadata,
            spec: self.spec,
            kind: PhantomData,
        }
    }
}

impl<K> Clone for Object<K> {
    fn clone(&self) -> Self {
        Object {
            metadata: self.metadata.clone(),
            spec: self.spec.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Object<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("metadata", &self.metadata)
            .field("spec", &self.spec)
            .finish()
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Object<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
