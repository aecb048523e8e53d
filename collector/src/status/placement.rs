//! Which nodes should run an agent: what the agents' DaemonSet says, read as its controller reads it.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration},
};

/// Taints that every DaemonSet's pods tolerate, with their effects.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// One that they tolerate if they use the node's network.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What of a node decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<Taint>,
}

/// A DaemonSet's choice of nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Placement {
    labels: BTreeMap<String, String>,
    /// Any of these; `None`: no affinity is required.
    terms: Option<Vec<NodeSelectorTerm>>,
    tolerations: Vec<Toleration>,
    host_network: bool,
}

// === impl Place ===

impl Place {
    pub(super) fn of(node: Node) -> Self {
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        Place {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            taints,
        }
    }
}

// === impl Placement ===

impl Placement {
    pub(super) fn of(daemonset: DaemonSet) -> Self {
        let pod = daemonset.spec.and_then(|spec| spec.template.spec);
        let Some(pod) = pod else {
            return Placement::default();
        };
        let affinity = pod.affinity.and_then(|affinity| affinity.node_affinity);
        let required =
            affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution);
        Placement {
            labels: pod.node_selector.unwrap_or_default(),
            terms: required.map(|required| required.node_selector_terms),
            tolerations: pod.tolerations.unwrap_or_default(),
            host_network: pod.host_network.unwrap_or(false),
        }
    }

    /// Whether a node should run an agent. One that runs already stays when a taint only keeps new ones away.
    pub(super) fn takes(&self, place: &Place, runs: bool) -> bool {
        let labels = self
            .labels
            .iter()
            .all(|(key, value)| place.labels.get(key) == Some(value));
        let affinity = self
            .terms
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| holds(term, place)));
        labels
            && affinity
            && place.taints.iter().all(|taint| {
                let keeps_away =
                    taint.effect == "NoExecute" || (taint.effect == "NoSchedule" && !runs);
                !keeps_away || self.tolerates(taint)
            })
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        let is = |(key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
        TOLERATED.into_iter().any(is)
            || (self.host_network && is(NETWORK))
            || self
                .tolerations
                .iter()
                .any(|toleration| matches(toleration, taint))
    }
}

/// An empty effect is every effect; an empty key, with Exists, every key.
fn matches(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let operator = text(&toleration.operator);
    if key.is_empty() {
        return operator == "Exists";
    }
    key == taint.key
        && match operator.as_str() {
            "Exists" => true,
            "" | "Equal" => text(&toleration.value) == text(&taint.value),
            _ => false,
        }
}

/// All of a term's requirements; one without any holds nowhere.
fn holds(term: &NodeSelectorTerm, place: &Place) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    // The only field there is.
    let field = |key: &str| (key == "metadata.name").then_some(place.name.as_str());
    expressions
        .iter()
        .all(|one| meets(one, place.labels.get(&one.key).map(String::as_str)))
        && fields.iter().all(|one| meets(one, field(&one.key)))
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|one| one == value));
    let compared = |wanted: std::cmp::Ordering| {
        let value = value.and_then(|value| value.parse::<i64>().ok());
        let bound = values.first().and_then(|value| value.parse::<i64>().ok());
        value
            .zip(bound)
            .is_some_and(|(value, bound)| value.cmp(&bound) == wanted)
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(std::cmp::Ordering::Greater),
        "Lt" => compared(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn placement(pod: &Value) -> Placement {
        let mut pod = pod.clone();
        pod["containers"] = json!([]);
        let daemonset = json!({"metadata": {}, "spec": {
            "selector": {}, "template": {"spec": pod},
        }});
        Placement::of(serde_json::from_value(daemonset).unwrap())
    }

    fn place(name: &str, labels: Value, taints: Value) -> Place {
        let node =
            json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
        Place::of(serde_json::from_value(node).unwrap())
    }

    fn plain() -> Place {
        place(
            "n1",
            json!({"kubernetes.io/os": "linux", "cpus": "8"}),
            json!([]),
        )
    }

    #[test]
    fn labels_and_required_affinity_choose_nodes() {
        let affinity = |terms: Value| {
            json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
            }}})
        };
        let one = |key: &str, operator: &str, values: Value| {
            affinity(
                json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]),
            )
        };
        for (pod, expected) in [
            (json!({}), true),
            (json!({"nodeSelector": {"kubernetes.io/os": "linux"}}), true),
            (
                json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
                false,
            ),
            (one("kubernetes.io/os", "In", json!(["linux"])), true),
            (one("kubernetes.io/os", "NotIn", json!(["linux"])), false),
            (one("gpu", "NotIn", json!(["a"])), true),
            (one("gpu", "Exists", json!(null)), false),
            (one("gpu", "DoesNotExist", json!(null)), true),
            (one("cpus", "Gt", json!(["4"])), true),
            (one("cpus", "Lt", json!(["4"])), false),
            (one("gpu", "Gt", json!(["4"])), false),
            (affinity(json!([{}])), false),
            (
                affinity(json!([{}, {"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])),
                true,
            ),
            (
                affinity(json!([{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n2"]}]}])),
                false,
            ),
        ] {
            assert_eq!(placement(&pod).takes(&plain(), false), expected, "{pod}");
        }
    }

    #[test]
    fn taints_keep_agents_away_unless_they_are_tolerated() {
        let tolerating = |toleration: Value| placement(&json!({"tolerations": [toleration]}));
        let tainted = |effect: &str| {
            place(
                "n1",
                json!({}),
                json!([{"key": "dedicated", "value": "db", "effect": effect}]),
            )
        };
        let nothing = placement(&json!({}));
        assert!(!nothing.takes(&tainted("NoSchedule"), false));
        assert!(
            nothing.takes(&tainted("NoSchedule"), true),
            "what runs stays"
        );
        assert!(!nothing.takes(&tainted("NoExecute"), true));
        assert!(nothing.takes(&tainted("PreferNoSchedule"), false));
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "dedicated", "operator": "Exists"}), true),
            (json!({"key": "dedicated", "value": "db"}), true),
            (json!({"key": "dedicated", "value": "web"}), false),
            (
                json!({"key": "dedicated", "value": "db", "effect": "NoExecute"}),
                false,
            ),
            (json!({"key": "other", "operator": "Exists"}), false),
        ] {
            let takes = tolerating(toleration.clone()).takes(&tainted("NoSchedule"), false);
            assert_eq!(takes, expected, "{toleration}");
        }
    }

    #[test]
    fn a_node_that_is_cordoned_or_unreachable_should_still_run_one() {
        let taints = json!([
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        ]);
        assert!(placement(&json!({})).takes(&place("n1", json!({}), taints), false));
        let network =
            json!([{"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"}]);
        let network = place("n1", json!({}), network);
        assert!(!placement(&json!({})).takes(&network, false));
        assert!(placement(&json!({"hostNetwork": true})).takes(&network, false));
    }
}
