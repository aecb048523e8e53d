//! `SyscallFilter` and `ClusterSyscallFilter`: one spec, two scopes.
//!
//! Every list, map and string has a bound, and what CEL can say is said in CEL, so that the API
//! server refuses most mistakes at `kubectl apply`. The doc comments are what `kubectl explain`
//! prints.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{selector, status::FilterStatus};
use crate::{
    decode,
    handler::{DefaultAction, Handler},
};

/// Which workloads a filter acts on, and what is done with their system calls.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "ebpf-hello.dev",
    version = "v1alpha1",
    kind = "SyscallFilter",
    namespaced,
    shortname = "sf",
    category = "ebpf-hello",
    status = "FilterStatus",
    derive = "PartialEq",
    doc = "Chooses, for pods of its own namespace, which system calls are observed and how.",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the filter is valid"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.nodes.summary",
        description = "Nodes that run it, of the nodes that should"
    ),
    printcolumn(
        name = "Pods",
        type_ = "integer",
        json_path = ".status.pods",
        description = "Pods it selects"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SyscallFilterSpec {
    /// Pods by label. Empty or left out: all pods (of the namespace, for a SyscallFilter).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector::schema")]
    pub pod_selector: Option<LabelSelector>,

    /// Only containers of these names. Left out: all containers, init and ephemeral ones too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub containers: Vec<String>,

    /// Only on nodes with these labels. Empty or left out: all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector::schema")]
    pub node_selector: Option<LabelSelector>,

    /// Only processes of these host user ids: "0" or "1000-1999", ends included, each at most
    /// 4294967294. Left out: all users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 21), regex(pattern = r"^[0-9]{1,10}(-[0-9]{1,10})?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    #[x_kube(
        validation = Rule::new("self.all(u, u.split('-').all(id, int(id) <= 4294967294))")
            .message("a user id is at most 4294967294"),
        validation = Rule::new("self.all(u, int(u.split('-')[0]) <= int(u.split('-')[size(u.split('-')) - 1]))")
            .message("a range of user ids starts with the smaller")
    )]
    pub match_uids: Vec<String>,

    /// Only processes whose executed file has one of these absolute paths, as seen in the
    /// process's own mount namespace. A `*` at the end matches whatever follows, slashes too.
    /// Left out: all files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 255), regex(pattern = r"^/[^*]*[*]?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub match_binaries: Vec<String>,

    /// Where two filters name the same system call, the one with the higher priority has it; of
    /// equals, the one whose name sorts first. A cluster filter that is not overridable goes
    /// before every SyscallFilter, whatever the priorities.
    #[serde(default)]
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    pub priority: i32,

    /// What happens to a system call that no rule names. Of several filters' defaults the
    /// strongest holds: Trace, then Count, then Ignore.
    #[serde(default)]
    pub default: DefaultAction,

    /// What is done with which system calls. Of two rules that name the same call the first has
    /// it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<FilterRule>,
}

/// What is done with some system calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.handler != 'Exec' || self.syscalls.all(s, s in ['execve', 'execveat', '@exec'])")
        .message("Exec is valid on execve and execveat only"),
    validation = Rule::new("self.handler in ['Exec', 'Count', 'Ignore'] || \
        !self.syscalls.exists(s, s in ['execve', 'execveat', '@exec'])")
        .message("on execve and execveat only Exec, Count and Ignore are valid"),
    validation = Rule::new("self.handler in ['Exec', 'Count', 'Ignore'] || \
        !self.syscalls.exists(s, s in ['@process', '@all']) || (has(self.except) && \
        (self.except.exists(s, s in ['@exec', '@process', '@all']) || \
        ('execve' in self.except && 'execveat' in self.except)))")
        .message("on execve and execveat only Exec, Count and Ignore are valid: add except: [execve, execveat]"),
    validation = Rule::new(decodable("Timer", Handler::Timer))
        .message("Timer is valid on the calls of @timer only"),
    validation = Rule::new(decodable("Sock", Handler::Sock))
        .message("Sock is valid on accept, accept4, bind, connect and sendto only"),
    validation = Rule::new("!has(self.except) || size(self.except) == 0 || \
        self.syscalls.exists(s, s.startsWith('@'))")
        .message("except takes calls out of a group, and syscalls names none"),
    validation = Rule::new("!has(self.except) || !self.except.exists(s, s in self.syscalls)")
        .message("a call is both in syscalls and in except"),
    validation = Rule::new("!(self.handler in ['Count', 'Ignore']) || !(has(self.rateLimit) || \
        (has(self.sampling) && self.sampling > 1) || (has(self.returns) && self.returns) || \
        (has(self.denied) && self.denied))")
        .message("Count and Ignore make no events: rateLimit, sampling, returns and denied have nothing to act on")
)]
pub struct FilterRule {
    /// System calls by the kernel's names, or groups of them: "@exec" "@timer" "@file" "@network"
    /// "@process" "@memory" "@signal" "@ipc" "@credentials" "@module" "@mount" "@clock" "@all",
    /// always quoted. A name counts wherever an architecture has it.
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 64), regex(pattern = r"^@?[a-z0-9_]+$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub syscalls: Vec<String>,

    /// Calls, or groups, taken out of the groups in syscalls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 64), regex(pattern = r"^@?[a-z0-9_]+$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub except: Vec<String>,

    /// What is done with them.
    pub handler: Handler,

    /// At most so many events, per container and rule. What is over is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,

    /// One event in so many; the others are counted. Left out: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sampling: Option<u32>,

    /// Wait for the call's return and report its value. With Exec: report failed execs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub returns: bool,

    /// Report calls that seccomp refused, too; they never reach the handler.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

/// A bound on events, kept in the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.burst) || self.burst <= self.eventsPerSecond * 10")
        .message("burst is at most ten times eventsPerSecond")
)]
pub struct RateLimitSpec {
    /// Sustained events per second.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub events_per_second: u32,
    /// Events that may come at once after a pause. Left out: a tenth of the rate, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub burst: Option<u32>,
}

/// A `SyscallFilter`'s spec for all namespaces, and for processes outside pods.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ebpf-hello.dev",
    version = "v1alpha1",
    kind = "ClusterSyscallFilter",
    shortname = "csf",
    category = "ebpf-hello",
    status = "FilterStatus",
    derive = "PartialEq",
    doc = "Chooses, for pods of all namespaces and for processes outside pods, which system calls are observed and how.",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the filter is valid"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.nodes.summary",
        description = "Nodes that run it, of the nodes that should"
    ),
    printcolumn(
        name = "Pods",
        type_ = "integer",
        json_path = ".status.pods",
        description = "Pods it selects"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSyscallFilterSpec {
    /// What both kinds have.
    #[serde(flatten)]
    pub common: SyscallFilterSpec,

    /// Only pods of namespaces with these labels. Empty or left out: all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector::schema")]
    pub namespace_selector: Option<LabelSelector>,

    /// Select processes outside pods, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host: bool,

    /// Let a SyscallFilter of higher priority have a system call that this filter names, and
    /// weaken its default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overridable: bool,
}

/// The CEL rule that a handler's calls are those it decodes. A group may still hold calls that it
/// cannot, less those in `except`: CEL has no members, so that is left to validation.
fn decodable(name: &str, handler: Handler) -> String {
    let calls: Vec<String> = decode::accepted_calls(handler)
        .unwrap_or_default()
        .into_iter()
        .map(|call| format!("'{call}'"))
        .collect();
    format!(
        "self.handler != '{name}' || self.syscalls.all(s, s.startsWith('@') || s in [{}])",
        calls.join(", ")
    )
}
