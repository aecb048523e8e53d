//! What the writer follows at the API server: both kinds of filters, nodes, and the agents' DaemonSet.

use std::{fmt::Debug, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Node};
use kube::{
    Api,
    core::DynamicObject,
    runtime::watcher::{self, watch_object, watcher},
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::{metrics::Counts, object::Kind};
use crate::kubernetes::Kubernetes;

/// Bounds of the pause before a watch that broke is opened again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Changes that may wait for the writer.
const WAITING: usize = 256;

/// Something changed at the API server.
#[derive(Debug)]
pub(super) enum Change {
    Filter(Kind, Box<watcher::Event<DynamicObject>>),
    Node(Box<watcher::Event<Node>>),
    DaemonSet(Box<Option<DaemonSet>>),
}

/// Follows all of them, until the tasks are dropped.
pub(super) fn start(
    kubernetes: &Kubernetes,
    daemonset: &str,
    counts: &Arc<Counts>,
) -> (mpsc::Receiver<Change>, JoinSet<()>) {
    let (sender, changes) = mpsc::channel(WAITING);
    let mut tasks = JoinSet::new();
    let client = &kubernetes.client;
    for kind in [Kind::Namespaced, Kind::Cluster] {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
        let events = watcher(api, watcher::Config::default());
        tasks.spawn(follow(
            kind.name(),
            events,
            move |event| Change::Filter(kind, Box::new(event)),
            sender.clone(),
            counts.clone(),
        ));
    }
    let nodes: Api<Node> = Api::all(client.clone());
    tasks.spawn(follow(
        "Node",
        watcher(nodes, watcher::Config::default())
            .map(|event| event.map(|event| event.modify(trim))),
        |event| Change::Node(Box::new(event)),
        sender.clone(),
        counts.clone(),
    ));
    let daemonsets: Api<DaemonSet> = Api::namespaced(client.clone(), &kubernetes.namespace);
    tasks.spawn(follow(
        "DaemonSet",
        watch_object(daemonsets, daemonset),
        |found| Change::DaemonSet(Box::new(found)),
        sender,
        counts.clone(),
    ));
    (changes, tasks)
}

/// Images and conditions are most of a node, and of no use here.
fn trim(node: &mut Node) {
    node.status = None;
    node.metadata.managed_fields = None;
    node.metadata.annotations = None;
}

async fn follow<T: Debug>(
    what: &str,
    events: impl Stream<Item = watcher::Result<T>>,
    change: impl Fn(T) -> Change,
    changes: mpsc::Sender<Change>,
    counts: Arc<Counts>,
) {
    let mut events = std::pin::pin!(events);
    let mut pause = RETRY.0;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                pause = RETRY.0;
                counts.is_cut.store(false, Relaxed);
                if changes.send(change(event)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if pause == RETRY.0 {
                    tracing::info!(what, %error, "a watch broke: opening it again");
                } else {
                    tracing::warn!(what, %error, "cannot watch");
                    counts.is_cut.store(true, Relaxed);
                }
                sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}
