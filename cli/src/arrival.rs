//! `ebpf-hello arrival`, what `helm test` runs: executes a program in its pod, and waits for that event at the
//! collector, as any reader would. If it does not come, the cluster may know why.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use ebpf_hello_proto::v1::{Event, ObserveRequest, Selection, event::Kind};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Namespace};
use kube::Api;
use tokio::time::{Instant, interval, sleep, sleep_until};

use crate::{
    apiserver,
    args::duration,
    client::{
        feed::{Feed, FeedOptions, SILENCE, Update},
        runtime,
    },
    connect::ConnectArgs,
    page,
};

/// Time between two executions: the first may come before anybody knows the pod.
const AGAIN: Duration = Duration::from_secs(2);
/// Label that says what pods a namespace allows.
const ENFORCED: &str = "pod-security.kubernetes.io/enforce";

/// `arrival`'s command line.
#[derive(Debug, Args)]
pub(crate) struct ArrivalArgs {
    /// The pod this runs in.
    #[arg(long, value_name = "NS/NAME", value_parser = pod)]
    pod: (String, String),
    /// The agents, in the same namespace.
    #[arg(long, value_name = "NAME", default_value = "ebpf-hello-agent")]
    daemonset: String,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) fn run(arguments: &ArrivalArgs) -> anyhow::Result<()> {
    runtime()?.block_on(arrival(arguments))
}

async fn arrival(arguments: &ArrivalArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let nonce = format!("arrival-{}", jiff::Timestamp::now().as_nanosecond());
    let mut last = anyhow!("the collector has shown no event of this pod");
    let waited = tokio::select! {
        event = observe(arguments, &nonce, &mut last) => Some(event),
        () = sleep_until(started + arguments.timeout) => None,
    };
    match waited {
        Some(event) => {
            page::tell(&format!(
                "an event of pod {}/{} on node {} arrived after {:.1} s",
                arguments.pod.0,
                arguments.pod.1,
                event.node,
                started.elapsed().as_secs_f64()
            ));
            Ok(())
        }
        None => {
            let cause = cause(arguments)
                .await
                .unwrap_or_else(|error| format!("{error:#}"));
            Err(last.context(format!(
                "no event of pod {}/{} arrived within {}: {cause}",
                arguments.pod.0,
                arguments.pod.1,
                humantime::format_duration(arguments.timeout)
            )))
        }
    }
}

/// Executes until the event of one execution is there; keeps in `last` what the collector said instead.
async fn observe(arguments: &ArrivalArgs, nonce: &str, last: &mut anyhow::Error) -> Event {
    let (namespace, name) = arguments.pod.clone();
    let options = FeedOptions {
        connect: arguments.connect.settled(),
        request: ObserveRequest {
            selection: Some(Selection {
                namespaces: vec![namespace],
                pods: vec![name],
                types: vec!["exec".to_owned()],
                ..Selection::default()
            }),
            follow: true,
            ..ObserveRequest::default()
        },
        silence: SILENCE,
    };
    loop {
        let mut feed = Feed::start(options.clone());
        let mut greeted = false;
        let mut again = interval(AGAIN);
        loop {
            tokio::select! {
                _ = again.tick(), if greeted => if let Err(error) = execute(nonce) { *last = error },
                update = feed.next() => match update {
                    Some(Ok(Update::Hello(_))) => greeted = true,
                    Some(Ok(Update::Events { events, .. })) => {
                        if let Some(event) = events.into_iter().find(|event| is_of(event, nonce)) {
                            return event;
                        }
                    }
                    Some(Ok(Update::Heartbeat { .. })) => {}
                    Some(Ok(Update::Interrupted { reason, .. })) => *last = anyhow!(reason),
                    Some(Err(error)) => {
                        *last = error;
                        break;
                    }
                    None => break,
                },
            }
        }
        sleep(AGAIN).await;
    }
}

/// This program again, which then ends at once.
fn execute(nonce: &str) -> anyhow::Result<()> {
    Command::new("/proc/self/exe")
        .args(["canary", nonce])
        .stdin(Stdio::null())
        .status()
        .map(drop)
        .context("cannot execute /proc/self/exe")
}

fn is_of(event: &Event, nonce: &str) -> bool {
    matches!(&event.kind, Some(Kind::Exec(exec)) if exec.argv.iter().any(|argument| argument == nonce))
}

/// What the cluster says about the agents, for whoever waited in vain.
async fn cause(arguments: &ArrivalArgs) -> anyhow::Result<String> {
    let namespace = &arguments.pod.0;
    let allowed = "the account of `helm test` has the right";
    let client = apiserver::client(None).await?;
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let set = sets
        .get(&arguments.daemonset)
        .await
        .map_err(|error| apiserver::refusal(error, "look at the agents", allowed))?;
    let spaces: Api<Namespace> = Api::all(client);
    let space = spaces
        .get(namespace)
        .await
        .map_err(|error| apiserver::refusal(error, "look at the namespace", allowed))?;
    let status = set.status.unwrap_or_default();
    let (desired, ready) = (status.desired_number_scheduled, status.number_ready);
    let enforced = space.metadata.labels.unwrap_or_default().remove(ENFORCED);
    Ok(match enforced {
        Some(standard) if standard != "privileged" && ready == 0 => format!(
            "no agent runs, because the namespace {namespace} enforces the Pod Security Standard \"{standard}\"; `kubectl label namespace {namespace} {ENFORCED}=privileged --overwrite` allows them"
        ),
        _ if ready < desired => format!(
            "{ready} of {desired} agents are ready; `kubectl describe daemonset -n {namespace} {}` says why",
            arguments.daemonset
        ),
        _ => format!("all {desired} agents are ready"),
    })
}

fn pod(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("expected NAMESPACE/NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::pod;

    #[test]
    fn a_pod_has_a_namespace() {
        assert_eq!(pod("shop/cart-0"), Ok(("shop".into(), "cart-0".into())));
        for wrong in ["cart-0", "/cart-0", "shop/"] {
            assert!(pod(wrong).is_err(), "{wrong}");
        }
    }
}
