//! What the cluster says back: the status subresource, written by the collector that leads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Whether a filter is valid, and where it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilterStatus {
    /// The `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Accepted` (the filter is valid) and `Programmed` (every node that should run it does).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,

    /// On how many nodes it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,

    /// How many pods it selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pods: Option<i32>,

    /// Why it does not run on some nodes: the first ten by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 10),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"])
    )]
    pub failures: Vec<NodeFailure>,
}

/// A filter's nodes, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeCounts {
    /// Nodes that should run it.
    #[schemars(range(min = 0))]
    pub desired: i32,
    /// Nodes that run it, at the observed generation.
    #[schemars(range(min = 0))]
    pub programmed: i32,
    /// Nodes that tried and could not.
    #[schemars(range(min = 0))]
    pub failed: i32,
    /// `programmed/desired`, for people: "3/3".
    #[schemars(length(max = 32))]
    pub summary: String,
}

/// Why a filter does not run on one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeFailure {
    /// The node's name.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// One CamelCase word for programs: `TablesExhausted`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// A sentence for people.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// As `metav1.Condition`, with its published bounds, keyed by type for server-side apply.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "description": "Accepted (the filter is valid) and Programmed (every node that should run it does).",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One aspect of the filter's state.",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {
                    "type": "string", "description": "Accepted or Programmed.",
                    "maxLength": 316, "pattern": "^[A-Za-z][A-Za-z0-9]*$",
                },
                "status": {
                    "type": "string", "description": "Whether it holds.",
                    "enum": ["True", "False", "Unknown"],
                },
                "reason": {
                    "type": "string", "description": "One CamelCase word for programs.",
                    "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "type": "string", "description": "A sentence for people.", "maxLength": 32768,
                },
                "lastTransitionTime": {
                    "type": "string", "format": "date-time", "description": "When status last changed.",
                },
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0,
                    "description": "The metadata.generation this condition is about.",
                },
            },
        },
    })
}
