//! The pods of this node from the API server into [`Pods`].

use std::{collections::HashSet, mem, sync::Arc};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api,
    runtime::watcher::{Config, Event},
};

use super::{Pods, object};
use crate::kubernetes::{Kubernetes, watch};

/// Follows the pods that are bound to this node, for ever. Needs the right to list and watch pods.
pub async fn follow_pods(kubernetes: Kubernetes, pods: Arc<Pods>) {
    let node = kubernetes.node;
    let config = Config::default().fields(&format!("spec.nodeName={node}"));
    let api: Api<core::Pod> = Api::all(kubernetes.client);
    let mut events = Box::pin(watch(api, config, kubernetes.reach));
    // Those of the list that is being sent: taken in together, after those that went, whose cgroups some of them may have
    // by now.
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.extend(object::pod(object));
            }
            Event::InitDone => {
                let listed = mem::take(&mut listed);
                let uids: HashSet<_> = listed.iter().map(|pod| pod.uid.as_str()).collect();
                for pod in pods.all() {
                    if !uids.contains(pod.uid.as_str()) {
                        pods.remove(&pod);
                    }
                }
                tracing::info!(node, pods = listed.len(), "the pods of this node are known");
                for pod in listed {
                    pods.put(pod);
                }
                pods.note_listed();
            }
            Event::Apply(object) => {
                if let Some(pod) = object::pod(object) {
                    pods.put(pod);
                }
            }
            Event::Delete(object) => {
                if let Some(pod) = object::pod(object) {
                    pods.remove(&pod);
                }
            }
        }
    }
}
