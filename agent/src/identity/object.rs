//! A pod as the API has it, trimmed to a [`Pod`]. Pure.

use ebpf_hello_proto::v1::Workload;
use k8s_openapi::{
    api::core::v1::{self as core, ContainerStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Container, Pod, Qos};

/// The kubelet's annotations on the mirror of a static pod: that it is one, and the hash its cgroup carries.
const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
/// The label that a Deployment's ReplicaSet puts on its pods: the end of its own name.
const TEMPLATE: &str = "pod-template-hash";
/// Minutes before a pod was made that its CronJob may have been due: retries and held up jobs.
const CRON_BEFORE: i64 = 7 * 24 * 60;
/// Minutes after, should clocks differ.
const CRON_AFTER: i64 = 5;

/// The pod of an API object; `None` for one without a UID, which no server sends.
pub(super) fn pod(object: core::Pod) -> Option<Pod> {
    let metadata = object.metadata;
    let uid = metadata.uid.clone()?;
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let init = status.init_container_statuses.unwrap_or_default();
    let ordinary = status.container_statuses.unwrap_or_default();
    let ephemeral = status.ephemeral_container_statuses.unwrap_or_default();
    let init_specs = spec.init_containers.unwrap_or_default().into_iter();
    let specs = spec.containers.into_iter();
    let ephemeral_specs = spec.ephemeral_containers.unwrap_or_default().into_iter();
    let containers = init_specs
        .map(|spec| container(spec.name, spec.image, &init))
        .chain(specs.map(|spec| container(spec.name, spec.image, &ordinary)))
        .chain(ephemeral_specs.map(|spec| container(spec.name, spec.image, &ephemeral)))
        .collect();
    Some(Pod {
        cgroup_uid: static_hash(&metadata, spec.node_name.as_deref())
            .unwrap_or(&uid)
            .to_owned(),
        uid,
        workload: workload(&metadata),
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        qos: match status.qos_class.as_deref() {
            Some("Guaranteed") => Qos::Guaranteed,
            Some("Burstable") => Qos::Burstable,
            _ => Qos::BestEffort,
        },
        containers,
    })
}

/// What a static pod's cgroup carries. UIDs that an API server made have dashes: a mirror cannot claim one of those.
fn static_hash<'a>(metadata: &'a ObjectMeta, node: Option<&str>) -> Option<&'a str> {
    let annotations = metadata.annotations.as_ref()?;
    let hash = annotations.get(HASH)?;
    let is_mirror = annotations.contains_key(MIRROR)
        && metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.kind == "Node" && Some(owner.name.as_str()) == node);
    (is_mirror && !hash.is_empty() && !hash.contains('-')).then_some(hash)
}

fn container(name: String, image: Option<String>, statuses: &[ContainerStatus]) -> Container {
    let status = statuses.iter().find(|status| status.name == name);
    let earlier = status.and_then(|status| {
        let terminated = status.last_state.as_ref()?.terminated.as_ref()?;
        terminated.container_id.as_deref()
    });
    let current = status.and_then(|status| status.container_id.as_deref());
    let mut ids: Vec<String> = Vec::new();
    for id in [earlier, current].into_iter().flatten() {
        // `containerd://ID`.
        let id = id.split_once("://").map_or(id, |(_, id)| id);
        if !id.is_empty() && !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    Container {
        name,
        ids,
        image: image.unwrap_or_default(),
    }
}

/// The owner that a person would name.
fn workload(metadata: &ObjectMeta) -> Option<Workload> {
    let owner = metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))?;
    let of = |kind: &str, name: &str| {
        Some(Workload {
            kind: kind.to_owned(),
            name: name.to_owned(),
        })
    };
    match owner.kind.as_str() {
        // A static pod is its node's, and nobody made it.
        "Node" => None,
        "ReplicaSet" => {
            let hash = metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(TEMPLATE));
            let deployment = hash
                .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
                .filter(|name| !name.is_empty());
            deployment.map_or_else(
                || of("ReplicaSet", &owner.name),
                |name| of("Deployment", name),
            )
        }
        "Job" => cron_job(&owner.name, metadata)
            .map_or_else(|| of("Job", &owner.name), |name| of("CronJob", name)),
        kind => of(kind, &owner.name),
    }
}

/// A CronJob's name, of a Job that is called so and the minute since 1970 at which it was due. Other Jobs may end in
/// digits as well: the minute must be about when the pod was made.
fn cron_job<'a>(job: &'a str, metadata: &ObjectMeta) -> Option<&'a str> {
    let (name, due) = job.rsplit_once('-')?;
    let due: i64 = due
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| due.parse().ok())??;
    let made = metadata.creation_timestamp.as_ref()?.0.as_second() / 60;
    let is_due = (made - CRON_BEFORE..=made + CRON_AFTER).contains(&due);
    (is_due && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Pod {
        pod(serde_json::from_value(json).unwrap()).unwrap()
    }

    fn owned(kind: &str, name: &str, labels: serde_json::Value) -> Option<(String, String)> {
        let pod = read(serde_json::json!({
            "metadata": {
                "uid": "0-1", "labels": labels, "creationTimestamp": "2026-11-25T20:00:30Z",
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Other", "name": "other", "uid": "8"},
                    {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "9", "controller": true},
                ],
            },
        }));
        pod.workload.map(|workload| (workload.kind, workload.name))
    }

    #[test]
    fn a_pod_is_trimmed_to_what_is_needed() {
        let status = |name: &str, id: &str, last: &str| {
            serde_json::json!({
                "name": name, "image": "x", "imageID": "x", "ready": true, "restartCount": 1,
                "containerID": id,
                "lastState": {"terminated": {"exitCode": 1, "containerID": last}},
            })
        };
        let pod = read(serde_json::json!({
            "metadata": {"uid": "0-1", "namespace": "shop", "name": "cart-0", "labels": {"app": "cart"}},
            "spec": {
                "nodeName": "n1",
                "initContainers": [{"name": "prepare", "image": "p:1"}],
                "containers": [{"name": "web", "image": "w:1"}, {"name": "log", "image": "l:1"}],
                "ephemeralContainers": [{"name": "debug"}],
            },
            "status": {
                "qosClass": "Burstable",
                "initContainerStatuses": [status("prepare", "containerd://a0", "")],
                "containerStatuses": [status("web", "cri-o://b1", "cri-o://b0")],
            },
        }));
        let containers: Vec<_> = pod
            .containers
            .iter()
            .map(|container| {
                (
                    container.name.as_str(),
                    container.ids.join(" "),
                    container.image.as_str(),
                )
            })
            .collect();
        assert_eq!(
            containers,
            [
                ("prepare", "a0".into(), "p:1"),
                ("web", "b0 b1".into(), "w:1"),
                ("log", String::new(), "l:1"),
                ("debug", String::new(), ""),
            ]
        );
        assert_eq!(
            (
                pod.uid.as_str(),
                pod.cgroup_uid.as_str(),
                pod.namespace.as_str(),
                pod.name.as_str(),
                pod.qos
            ),
            ("0-1", "0-1", "shop", "cart-0", Qos::Burstable)
        );
        assert_eq!((pod.labels["app"].as_str(), pod.workload), ("cart", None));
    }

    #[test]
    fn a_static_pod_has_its_hash_and_nobody_elses_uid() {
        let uid = |hash: &str, owner: &str| {
            read(serde_json::json!({
                "metadata": {
                    "uid": "0-1",
                    "annotations": {"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash},
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": "Node", "name": owner, "uid": "8", "controller": true},
                    ],
                },
                "spec": {"nodeName": "n1", "containers": []},
            }))
            .cgroup_uid
        };
        assert_eq!(
            uid("46dac9a538838115821dfd9559149484", "n1"),
            "46dac9a538838115821dfd9559149484"
        );
        assert_eq!(uid("46dac9a538838115821dfd9559149484", "n2"), "0-1");
        assert_eq!(uid("2c4b2241-5c01-11e9-8e4e-42010a800002", "n1"), "0-1");
        assert_eq!(uid("", "n1"), "0-1");
    }

    #[test]
    fn the_workload_is_the_one_that_a_person_made() {
        let some = |kind: &str, name: &str| Some((kind.to_owned(), name.to_owned()));
        let hash = serde_json::json!({"pod-template-hash": "7d9f"});
        let none = serde_json::json!({});
        assert_eq!(
            owned("ReplicaSet", "cart-7d9f", hash.clone()),
            some("Deployment", "cart")
        );
        assert_eq!(
            owned("ReplicaSet", "cart-7d9f", none.clone()),
            some("ReplicaSet", "cart-7d9f")
        );
        assert_eq!(
            owned("ReplicaSet", "7d9f", hash),
            some("ReplicaSet", "7d9f")
        );
        assert_eq!(
            owned("StatefulSet", "db", none.clone()),
            some("StatefulSet", "db")
        );
        assert_eq!(
            owned("DaemonSet", "log-1", none.clone()),
            some("DaemonSet", "log-1")
        );
        assert_eq!(owned("Node", "n1", none.clone()), None);
        // 2026-11-25T20:00Z is minute 29,927,280.
        assert_eq!(
            owned("Job", "report-29927280", none.clone()),
            some("CronJob", "report")
        );
        assert_eq!(
            owned("Job", "report-29900000", none.clone()),
            some("Job", "report-29900000")
        );
        assert_eq!(
            owned("Job", "load-1000", none.clone()),
            some("Job", "load-1000")
        );
        assert_eq!(owned("Job", "report", none), some("Job", "report"));
    }
}
