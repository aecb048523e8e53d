//! Puts the definitions into a cluster: what `helm` does not do in an upgrade, run by a hook of the chart.

use std::{path::Path, time::Duration};

use anyhow::bail;
use ebpf_hello_policy::crd::crds;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition,
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use tokio::time::{Instant, sleep};

use crate::{
    apiserver::{client, refusal},
    page,
};

/// Whose fields the definitions are, in every version: what a later one leaves out goes. `spec.versions`, which holds the
/// schema, is one atomic value, so that nothing stays of what helm or kubectl installed either.
const MANAGER: &str = "ebpf-hello-crds";
/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(200);
/// What whoever applies needs.
const ALLOWED: &str = "applying needs the verbs create, patch and get on customresourcedefinitions";

/// Applies both definitions, and waits until they are served.
///
/// # Errors
/// The API server cannot be reached, refuses, or does not serve them in time; the definition is named.
pub(super) async fn apply(kubeconfig: Option<&Path>, timeout: Duration) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client(kubeconfig).await?);
    // Whoever installed them (helm, kubectl) owns the same fields: theirs become ours.
    let parameters = PatchParams::apply(MANAGER).force();
    let end = Instant::now() + timeout;
    for definition in crds() {
        let name = definition.name_any();
        definitions
            .patch(&name, &parameters, &Patch::Apply(&definition))
            .await
            .map_err(|error| refusal(error, &format!("apply {name}"), ALLOWED))?;
        loop {
            let found = definitions
                .get(&name)
                .await
                .map_err(|error| refusal(error, &format!("look at {name}"), ALLOWED))?;
            let conditions = found
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            if is_true(&conditions, "Established") {
                break;
            }
            if Instant::now() >= end {
                bail!(
                    "{name} is applied, and not served after {}: {}",
                    humantime::format_duration(timeout),
                    reasons(&conditions)
                );
            }
            sleep(INTERVAL).await;
        }
        page::tell(&format!("{name} applied and served"));
    }
    Ok(())
}

fn is_true(conditions: &[CustomResourceDefinitionCondition], type_: &str) -> bool {
    conditions
        .iter()
        .any(|condition| condition.type_ == type_ && condition.status == "True")
}

/// What stands in the way, as the API server says.
fn reasons(conditions: &[CustomResourceDefinitionCondition]) -> String {
    let reasons: Vec<_> = conditions
        .iter()
        .filter(|condition| condition.status != "True")
        .map(|condition| {
            let message = condition.message.as_deref().unwrap_or("no reason is given");
            format!("{}: {message}", condition.type_)
        })
        .collect();
    if reasons.is_empty() {
        return "its API server gives no reason".to_owned();
    }
    reasons.join("; ")
}
