//! Keeps the node's policy what the API server says.
//!
//! ```text
//! watches (a task each) ──News──▶ Knowledge ──Policy──▶ Node::apply ──▶ applied(how long it took)
//! Pods::changes ─────────────────────────────────────▶ Node::follow_pods
//!                                 └────────── saved ──▶ policy.json, at most once a second
//! ```
//!
//! News are applied at once; those that come while others are being applied are applied together.

use std::{
    fmt::Debug,
    path::Path,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_hello_policy::crd::{ClusterSyscallFilter, SyscallFilter};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Node as NodeObject};
use kube::{
    Api, Resource,
    api::PartialObjectMeta,
    runtime::watcher::{Config, Event},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{
    Kubernetes,
    catalogue::Kind,
    knowledge::{Knowledge, News},
    listing::{Listing, Update},
    object::Object,
    saved::{Place, Saved},
    watch,
};
use crate::{AgentError, Node, Policy, identity::Pods};

/// News that wait while others are applied. A watch that finds no room waits, and its server's buffer grows.
const QUEUE: usize = 1024;
/// Between two looks whether there is anything to save.
const SAVE: Duration = Duration::from_secs(1);

/// The node's policy, as the API server has it and as it is saved.
pub struct FilterWatch {
    kubernetes: Kubernetes,
    pods: Arc<Pods>,
    knowledge: Knowledge,
    place: Place,
    /// What is on disk.
    saved: Option<Saved>,
    news: mpsc::Sender<(Instant, News)>,
    received: mpsc::Receiver<(Instant, News)>,
    /// Ends with this value.
    watches: JoinSet<()>,
    /// Open while any filter selects by namespaces.
    namespaces: Option<AbortHandle>,
}

// === impl FilterWatch ===

impl FilterWatch {
    /// Reads what was saved in `directory`; nothing is asked of the API server yet. Pods that were there are put
    /// into `pods`.
    pub fn new(kubernetes: Kubernetes, pods: Arc<Pods>, directory: &Path) -> Self {
        let place = Place::new(directory, &kubernetes.node);
        let saved = place.read();
        if let Some(saved) = &saved {
            tracing::info!(
                filters = saved.filters.len(),
                pods = saved.pods.len(),
                "the policy of the run before holds until the API server answers"
            );
            for pod in &saved.pods {
                pods.put(pod.clone());
            }
        }
        let (news, received) = mpsc::channel(QUEUE);
        FilterWatch {
            knowledge: saved.as_ref().map(Knowledge::restore).unwrap_or_default(),
            kubernetes,
            pods,
            place,
            saved,
            news,
            received,
            watches: JoinSet::new(),
            namespaces: None,
        }
    }

    /// Who is asked.
    pub fn kubernetes(&self) -> &Kubernetes {
        &self.kubernetes
    }

    /// The policy to start with: what was saved.
    pub fn policy(&mut self) -> Policy {
        self.knowledge.policy().unwrap_or_default()
    }

    /// Watches, and keeps the node's policy what it is told, until the future is dropped. `applied` hears how long
    /// each change took from its arrival to the kernel.
    pub async fn keep(mut self, node: Arc<Node>, applied: impl Fn(Duration)) {
        let filters = filters_of::<SyscallFilter>(&self.kubernetes);
        self.watch(filters, |update| {
            News::Filters(Kind::SyscallFilter, update.map(Object::without_kind))
        });
        let filters = filters_of::<ClusterSyscallFilter>(&self.kubernetes);
        self.watch(filters, |update| {
            News::Filters(Kind::ClusterSyscallFilter, update.map(Object::without_kind))
        });
        self.watch(own_node(&self.kubernetes), News::Node);
        let mut pods = self.pods.changes();
        let mut save = tokio::time::interval(SAVE);
        self.follow_namespaces();
        node.note_unheard(self.unheard());
        loop {
            tokio::select! {
                Some((since, first)) = self.received.recv() => {
                    if self.take(first)
                        && let Some(policy) = self.knowledge.policy()
                    {
                        // Changes of pods that are there already are part of it.
                        pods.mark_unchanged();
                        if program(&node, move |node| node.apply(policy)).await {
                            applied(since.elapsed());
                        }
                    }
                    node.note_invalid_filters(self.knowledge.invalid_filters());
                    node.note_unheard(self.unheard());
                }
                Ok(()) = pods.changed() => {
                    program(&node, Node::follow_pods).await;
                    node.note_unheard(self.unheard());
                }
                _ = save.tick() => self.save().await,
            }
        }
    }

    /// What the node waits for, a sentence each; nothing where a policy was saved.
    fn unheard(&self) -> Vec<String> {
        let mut unheard = self.knowledge.unheard();
        if self.saved.is_none() && !self.pods.is_listed() {
            unheard.push(
                "the API server has not told of this node's pods yet, and no policy is saved"
                    .to_owned(),
            );
        }
        unheard
    }

    /// Takes in news and all that wait behind; whether they change the policy.
    fn take(&mut self, first: News) -> bool {
        let mut is_changed = self.knowledge.take(first);
        while let Ok((_, news)) = self.received.try_recv() {
            is_changed |= self.knowledge.take(news);
        }
        self.follow_namespaces();
        is_changed
    }

    /// Opens the watch of namespaces while any filter selects by them, and closes it after.
    fn follow_namespaces(&mut self) {
        match (self.knowledge.needs_namespaces(), &self.namespaces) {
            (true, None) => {
                let watch = self.watch(namespaces(&self.kubernetes), News::Namespaces);
                self.namespaces = Some(watch);
            }
            (false, Some(watch)) => {
                watch.abort();
                self.namespaces = None;
                self.knowledge.forget_namespaces();
            }
            _ => {}
        }
    }

    /// Hands on what a watch says.
    fn watch<K: Debug + Send + 'static>(
        &mut self,
        events: impl Stream<Item = Event<K>> + Send + 'static,
        news: impl Fn(Update<K>) -> News + Send + 'static,
    ) -> AbortHandle {
        let out = self.news.clone();
        self.watches.spawn(async move {
            let mut events = pin!(events);
            let mut listing = Listing::default();
            while let Some(event) = events.next().await {
                let since = Instant::now();
                if let Some(update) = listing.take(event)
                    && out.send((since, news(update))).await.is_err()
                {
                    return;
                }
            }
        })
    }

    /// Saves what is known, if it is enough for a policy and not on disk.
    async fn save(&mut self) {
        if !self.unheard().is_empty() {
            return;
        }
        let mut saved = self.knowledge.saved();
        saved.pods = self.pods.all().iter().map(|pod| (**pod).clone()).collect();
        saved.pods.sort_by(|a, b| a.cgroup_uid.cmp(&b.cgroup_uid));
        if self.saved.as_ref().is_some_and(|known| known.says(&saved)) {
            return;
        }
        let place = self.place.clone();
        let written = saved.clone();
        let result = tokio::task::spawn_blocking(move || place.write(&written)).await;
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the policy cannot be saved: a restart without the API server would have none");
            }
            Err(error) => tracing::error!(%error, "the policy cannot be saved"),
        }
        // Also where that failed: it is tried again when there is something new.
        self.saved = Some(saved);
    }
}

/// Programs the kernel, on a thread that may wait; whether that went well.
async fn program(
    node: &Arc<Node>,
    change: impl FnOnce(&Node) -> Result<(), AgentError> + Send + 'static,
) -> bool {
    let node = Arc::clone(node);
    match tokio::task::spawn_blocking(move || change(&node)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!(
                error = &error as &(dyn std::error::Error + 'static),
                "the policy cannot be programmed"
            );
            false
        }
        Err(error) => {
            tracing::error!(%error, "the policy cannot be programmed");
            false
        }
    }
}

fn filters_of<K>(kubernetes: &Kubernetes) -> impl Stream<Item = Event<Object<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Send + Sync + 'static,
{
    let api = Api::all(kubernetes.client.clone());
    watch(api, Config::default(), kubernetes.reach.clone())
}

fn own_node(
    kubernetes: &Kubernetes,
) -> impl Stream<Item = Event<PartialObjectMeta<NodeObject>>> + Send + 'static {
    let config = Config::default().fields(&format!("metadata.name={}", kubernetes.node));
    let api = Api::all(kubernetes.client.clone());
    watch(api, config, kubernetes.reach.clone())
}

fn namespaces(
    kubernetes: &Kubernetes,
) -> impl Stream<Item = Event<PartialObjectMeta<Namespace>>> + Send + 'static {
    let api = Api::all(kubernetes.client.clone());
    watch(api, Config::default(), kubernetes.reach.clone())
}
