//! `ebpf-hello status` of a server: the nodes it knows, their filters and ledgers.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use ebpf_hello_proto::{
    Timestamp,
    v1::{
        CollectorLedger, FilterState, LossReason, LossStage, Node, NodeLedger,
        observer_service_client::ObserverServiceClient,
    },
};
use serde::Serialize;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    args::StatusOutput,
    client::pages::{self, answer},
    connect::{ConnectArgs, connect},
    ledger,
    render::human,
    table::table,
};

/// What a server knows of its fleet.
#[derive(Debug, Serialize)]
struct Fleet {
    nodes: Vec<Node>,
    filters: Vec<FilterState>,
    ledgers: Vec<NodeLedger>,
    collector: Option<CollectorLedger>,
}

/// The page to print.
///
/// # Errors
///
/// The server cannot be reached, or refuses.
pub(crate) async fn page(arguments: &ConnectArgs, output: StatusOutput) -> anyhow::Result<String> {
    let mut client = ObserverServiceClient::new(connect(arguments).await?);
    let nodes = pages::nodes(&mut client).await?;
    let filters = pages::filters(&mut client).await?;
    let (ledgers, collector) = pages::ledgers(&mut client).await?;
    let fleet = Fleet {
        nodes,
        filters,
        ledgers,
        collector,
    };
    match output {
        StatusOutput::Text => Ok(fleet.text(SystemTime::now())),
        StatusOutput::Json => {
            let text =
                serde_json::to_string(&fleet).context("the status cannot be written as JSON")?;
            Ok(text + "\n")
        }
    }
}

/// Asks the server whether it serves.
///
/// # Errors
///
/// It does not, or cannot be reached.
pub(crate) async fn probe(arguments: &ConnectArgs) -> anyhow::Result<()> {
    let mut client = HealthClient::new(connect(arguments).await?);
    // The empty name is the server as a whole.
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let status = answer(client.check(request)).await?.status();
    match status {
        ServingStatus::Serving => Ok(()),
        status => bail!("{} answers {}", arguments.url(), status.as_str_name()),
    }
}

// === impl Fleet ===

impl Fleet {
    fn text(&self, now: SystemTime) -> String {
        let connected = self.nodes.iter().filter(|node| node.connected).count();
        let mut text = format!("{connected} of {} nodes connected\n", self.nodes.len());
        let nodes: Vec<_> = self.nodes.iter().map(|node| row(node, now)).collect();
        text.push_str(&table(
            [
                "NODE",
                "CONNECTED",
                "SEEN",
                "VERSION",
                "KERNEL",
                "ARCH",
                "TABLES",
                "GENERATION",
                "SYS_ENTER",
                "READY",
            ],
            &nodes,
        ));
        for node in &self.nodes {
            for (what, sentences) in [("not ready", &node.unready), ("missing", &node.missing)] {
                for sentence in sentences {
                    text.push_str(&format!(
                        "{}: {what}: {}\n",
                        human(&node.name),
                        human(sentence)
                    ));
                }
            }
        }
        let filters: Vec<_> = self.filters.iter().map(filter_row).collect();
        text.push('\n');
        text.push_str(&table(
            [
                "FILTER",
                "NODE",
                "GENERATION",
                "PODS",
                "PROGRAMMED",
                "WHY NOT",
            ],
            &filters,
        ));
        text.push('\n');
        for row in &self.ledgers {
            let line = row
                .ledger
                .as_ref()
                .map_or_else(|| "no ledger yet".to_owned(), ledger::line);
            text.push_str(&format!("{}: {line}\n", human(&row.node)));
        }
        if let Some(collector) = &self.collector {
            text.push_str(&collector_line(collector));
        }
        text
    }
}

fn row(node: &Node, now: SystemTime) -> [String; 10] {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    [
        human(&node.name),
        yes(node.connected),
        ago(node.last_seen, now),
        human(&node.version),
        human(&node.kernel),
        human(&node.architecture),
        format!("{}/{}", node.tables_live, node.tables_capacity),
        node.generation.to_string(),
        if node.sys_enter_attached {
            "attached"
        } else {
            "detached"
        }
        .to_owned(),
        yes(node.unready.is_empty()),
    ]
}

fn filter_row(filter: &FilterState) -> [String; 6] {
    let why = match (filter.reason.as_str(), filter.message.as_str()) {
        (reason, "") => human(reason),
        (reason, message) => human(&format!("{reason}: {message}")),
    };
    [
        human(&filter.filter),
        human(&filter.node),
        filter.observed_generation.to_string(),
        filter.pods.to_string(),
        if filter.programmed { "yes" } else { "no" }.to_owned(),
        why,
    ]
}

fn collector_line(ledger: &CollectorLedger) -> String {
    let lost: u64 = ledger
        .lost
        .iter()
        .fold(0, |sum, row| sum.saturating_add(row.count));
    let mut line = format!(
        "collector: received={} stored={} duplicates={} lost={lost}",
        ledger.received, ledger.stored, ledger.duplicates
    );
    if !ledger.lost.is_empty() {
        let rows: Vec<_> = ledger
            .lost
            .iter()
            .map(|row| {
                let stage = LossStage::try_from(row.stage).unwrap_or_default();
                let reason = LossReason::try_from(row.reason).unwrap_or_default();
                format!("{} {}={}", stage.label(), reason.label(), row.count)
            })
            .collect();
        line.push_str(&format!(" ({})", rows.join(", ")));
    }
    line.push_str(&format!(
        " offered={} sent={} dropped={} queued={} subscribers={}\n",
        ledger.offered, ledger.sent, ledger.dropped, ledger.queued, ledger.subscribers
    ));
    line
}

/// How long ago, in its largest unit or two.
fn ago(time: Option<Timestamp>, now: SystemTime) -> String {
    let since = time.and_then(|time| {
        let seconds = u64::try_from(time.seconds).ok()?;
        let then = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        // A server whose clock is ahead has seen it just now.
        Some(now.duration_since(then).unwrap_or_default())
    });
    let Some(since) = since else {
        return "-".to_owned();
    };
    let text = humantime::format_duration(Duration::from_secs(since.as_secs())).to_string();
    let units: Vec<_> = text.split(' ').take(2).collect();
    format!("{} ago", units.join(" "))
}

/// What is said when neither an instance nor a server is there.
pub(crate) fn neither(instance: &anyhow::Error, server: &anyhow::Error) -> anyhow::Error {
    anyhow!("{instance:#}; nor does a server answer: {server:#}").context(crate::exit::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_proto::v1::{Ledger, LostCount};

    #[test]
    fn a_fleet_is_nodes_filters_and_ledgers() {
        let fleet = Fleet {
            nodes: vec![Node {
                name: "n1".into(),
                version: "0.1.0".into(),
                kernel: "6.1.0".into(),
                architecture: "x86_64".into(),
                connected: true,
                last_seen: Some(Timestamp {
                    seconds: 1_000,
                    nanos: 0,
                }),
                tables_live: 3,
                tables_capacity: 256,
                generation: 7,
                sys_enter_attached: true,
                unready: vec!["the pods are not known yet".into()],
                ..Node::default()
            }],
            filters: vec![FilterState {
                node: "n1".into(),
                filter: "shop/cart".into(),
                observed_generation: 2,
                pods: 4,
                reason: "TablesExhausted".into(),
                message: "no table is free".into(),
                ..FilterState::default()
            }],
            ledgers: vec![NodeLedger {
                node: "n1".into(),
                ledger: Some(Ledger {
                    seen: 1,
                    delivered: 1,
                    ..Ledger::default()
                }),
                ..NodeLedger::default()
            }],
            collector: Some(CollectorLedger {
                received: 9,
                stored: 8,
                lost: vec![LostCount {
                    stage: LossStage::Hub.into(),
                    reason: LossReason::Corrupt.into(),
                    count: 1,
                }],
                ..CollectorLedger::default()
            }),
        };
        let text = fleet.text(SystemTime::UNIX_EPOCH + Duration::from_secs(1_065));
        assert_eq!(
            text,
            "1 of 1 nodes connected\n\
             NODE  CONNECTED  SEEN       VERSION  KERNEL  ARCH    TABLES  GENERATION  SYS_ENTER  READY\n\
             n1    yes        1m 5s ago  0.1.0    6.1.0   x86_64  3/256            7  attached   no\n\
             n1: not ready: the pods are not known yet\n\
             \n\
             FILTER     NODE  GENERATION  PODS  PROGRAMMED  WHY NOT\n\
             shop/cart  n1             2     4  no          TablesExhausted: no table is free\n\
             \n\
             n1: ledger: seen=1 delivered=1 counted=0 suppressed=0 self=0 canary=0 table_miss=0 lost=0 in_flight=0 foreign=0 out_of_range=0\n\
             collector: received=9 stored=8 duplicates=0 lost=1 (hub corrupt=1) offered=0 sent=0 dropped=0 queued=0 subscribers=0\n"
        );
    }

    #[test]
    fn a_clock_that_is_ahead_has_seen_it_just_now() {
        let time = Some(Timestamp {
            seconds: 10,
            nanos: 0,
        });
        assert_eq!(ago(time, SystemTime::UNIX_EPOCH), "0s ago");
        assert_eq!(ago(None, SystemTime::UNIX_EPOCH), "-");
    }
}
