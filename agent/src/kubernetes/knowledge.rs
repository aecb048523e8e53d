//! What is known of the cluster, and the policy that it amounts to. Pure.

use std::collections::{BTreeSet, HashMap};

use ebpf_hello_policy::Labels;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    ResourceExt as _,
    api::{ObjectMeta, PartialObjectMeta},
};

use super::{
    catalogue::{Catalogue, Kind},
    listing::Update,
    object::Object,
    saved::Saved,
};
use crate::Policy;

/// News of one of the watches.
#[derive(Debug)]
pub(super) enum News {
    Filters(Kind, Update<Object<()>>),
    /// Of this node alone.
    Node(Update<PartialObjectMeta<Node>>),
    Namespaces(Update<PartialObjectMeta<Namespace>>),
}

/// What must have been heard before there is a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Filters(Kind),
    Node,
}

/// What the API server said last.
#[derive(Debug)]
pub(super) struct Knowledge {
    catalogue: Catalogue,
    node_labels: Labels,
    /// `None` until they are known, and while nobody asks for them.
    namespaces: Option<HashMap<String, Labels>>,
    unheard: BTreeSet<Subject>,
}

// === impl Knowledge ===

impl Default for Knowledge {
    fn default() -> Self {
        let filters = Kind::ALL.map(Subject::Filters);
        Knowledge {
            catalogue: Catalogue::default(),
            node_labels: Labels::new(),
            namespaces: None,
            unheard: filters.into_iter().chain([Subject::Node]).collect(),
        }
    }
}

impl Knowledge {
    /// As it was saved: good until the API server says otherwise.
    pub(super) fn restore(saved: &Saved) -> Self {
        let mut catalogue = Catalogue::default();
        catalogue.restore(saved.filters.clone());
        Knowledge {
            catalogue,
            node_labels: saved.node_labels.clone(),
            namespaces: saved.namespaces.clone(),
            unheard: BTreeSet::new(),
        }
    }

    /// To be saved. Without pods.
    pub(super) fn saved(&self) -> Saved {
        Saved {
            node_labels: self.node_labels.clone(),
            namespaces: self.namespaces.clone(),
            filters: self.catalogue.objects(),
            ..Saved::default()
        }
    }

    /// Takes in news; whether they change the policy.
    pub(super) fn take(&mut self, news: News) -> bool {
        match news {
            News::Filters(kind, update) => {
                let is_first = matches!(update, Update::All(_))
                    && self.unheard.remove(&Subject::Filters(kind));
                self.catalogue.take(kind, update) || is_first
            }
            News::Node(update) => self.take_node(update),
            News::Namespaces(update) => self.take_namespaces(update),
        }
    }

    fn take_node(&mut self, update: Update<PartialObjectMeta<Node>>) -> bool {
        let labels = match update {
            Update::One(node) => labels(node.metadata),
            Update::All(nodes) => match nodes.into_iter().next() {
                Some(node) => labels(node.metadata),
                None => {
                    tracing::warn!("the API server has no Node of this name: check --node");
                    return false;
                }
            },
            // It is we who are there; the object will be made again.
            Update::Gone(_) => return false,
        };
        let is_first = self.unheard.remove(&Subject::Node);
        let is_changed = self.node_labels != labels;
        self.node_labels = labels;
        is_changed || is_first
    }

    fn take_namespaces(&mut self, update: Update<PartialObjectMeta<Namespace>>) -> bool {
        match (update, &mut self.namespaces) {
            (Update::All(all), _) => {
                let all = all.into_iter().map(named).collect();
                let is_changed = self.namespaces.as_ref() != Some(&all);
                self.namespaces = Some(all);
                is_changed
            }
            (Update::One(one), Some(namespaces)) => {
                let (name, labels) = named(one);
                namespaces.insert(name, labels.clone()) != Some(labels)
            }
            (Update::Gone(one), Some(namespaces)) => namespaces.remove(&one.name_any()).is_some(),
            // Of a watch that was closed meanwhile.
            (_, None) => false,
        }
    }

    /// Whether any filter selects by the labels of namespaces.
    pub(super) fn needs_namespaces(&self) -> bool {
        self.catalogue.selects_namespaces()
    }

    /// Nobody asks for them any more.
    pub(super) fn forget_namespaces(&mut self) {
        self.namespaces = None;
    }

    /// How many filters are invalid as they are.
    pub(super) fn invalid_filters(&self) -> u64 {
        self.catalogue.invalid()
    }

    /// What it amounts to; `None` until enough is known.
    pub(super) fn policy(&mut self) -> Option<Policy> {
        if !self.unheard.is_empty() {
            return None;
        }
        Some(Policy {
            filters: self.catalogue.apply(self.namespaces.is_some()),
            node_labels: self.node_labels.clone(),
            namespaces: self.namespaces.clone().unwrap_or_default(),
        })
    }

    /// What was not heard yet, a sentence each.
    pub(super) fn unheard(&self) -> Vec<String> {
        let unheard = self.unheard.iter();
        unheard
            .map(|subject| match subject {
                Subject::Filters(kind) => format!("{}s", kind.name()),
                Subject::Node => "this Node".to_owned(),
            })
            .map(|what| {
                format!("the API server has not told of {what} yet, and no policy is saved")
            })
            .collect()
    }
}

fn labels(metadata: ObjectMeta) -> Labels {
    metadata.labels.unwrap_or_default()
}

fn named(namespace: PartialObjectMeta<Namespace>) -> (String, Labels) {
    (namespace.name_any(), labels(namespace.metadata))
}
