//! What the listing RPCs answer, for each caller only what it may see.
//!
//! A reader of some namespaces sees the nodes' names and whether they publish, the counters of its namespaces'
//! pods and its namespaces' filters; no programs and no ledgers, which are of everybody's events together.

use std::collections::BTreeSet;

use ebpf_hello_proto::v1;
use tonic::Status;

use super::{Fleet, Member, page::Page};
use crate::{
    caller::Reader,
    refusal::{self, Invalid},
    selection::Selector,
};

// === impl Fleet ===

impl Fleet {
    /// Answers ListNodes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the page token.
    pub fn list_nodes(
        &self,
        reader: &Reader,
        request: &v1::ListNodesRequest,
    ) -> Result<v1::ListNodesResponse, Status> {
        let page = Page::new(request.page_size, &request.page_token)?;
        let members = self.members();
        let rows = members
            .iter()
            .map(|(name, member)| (vec![name.clone()], node(name, member, reader)));
        let (nodes, next_page_token) = page.cut(rows);
        Ok(v1::ListNodesResponse {
            nodes,
            next_page_token,
        })
    }

    /// Answers ListPrograms.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the page token.
    pub fn list_programs(
        &self,
        reader: &Reader,
        request: &v1::ListProgramsRequest,
    ) -> Result<v1::ListProgramsResponse, Status> {
        let page = Page::new(request.page_size, &request.page_token)?;
        let members = self.members_for(reader, &request.node);
        let mut rows: Vec<(Vec<String>, &v1::Program)> = members
            .iter()
            .flat_map(|(name, member)| {
                member.report.programs.iter().map(move |program| {
                    let id = format!("{:010}", program.id);
                    (vec![name.clone(), program.name.clone(), id], program)
                })
            })
            .collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let (programs, next_page_token) = page.cut(rows.into_iter().map(|(key, program)| {
            let program = v1::Program {
                node: key[0].clone(),
                ..program.clone()
            };
            (key, program)
        }));
        Ok(v1::ListProgramsResponse {
            programs,
            next_page_token,
        })
    }

    /// Answers ListFilters.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the page token.
    pub fn list_filters(
        &self,
        reader: &Reader,
        request: &v1::ListFiltersRequest,
    ) -> Result<v1::ListFiltersResponse, Status> {
        let page = Page::new(request.page_size, &request.page_token)?;
        let members = self.members();
        let namespace_of = |filter: &str| {
            filter
                .split_once('/')
                .map(|(namespace, _)| namespace.to_owned())
        };
        let mut rows: Vec<(Vec<String>, &v1::FilterState)> = members
            .iter()
            .filter(|(name, _)| request.node.is_empty() || *name == request.node)
            .flat_map(|(name, member)| {
                member
                    .report
                    .filters
                    .iter()
                    .map(move |filter| (vec![filter.filter.clone(), name.clone()], filter))
            })
            .filter(|(key, _)| {
                let namespace = namespace_of(&key[0]);
                reader.sees(namespace.as_deref())
                    && (request.namespace.is_empty()
                        || namespace.as_deref() == Some(request.namespace.as_str()))
            })
            .collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let (filters, next_page_token) = page.cut(rows.into_iter().map(|(key, filter)| {
            let filter = v1::FilterState {
                node: key[1].clone(),
                ..filter.clone()
            };
            (key, filter)
        }));
        Ok(v1::ListFiltersResponse {
            filters,
            next_page_token,
        })
    }

    /// Answers GetLedger, but for the collector's own.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the page token.
    pub fn get_ledgers(
        &self,
        reader: &Reader,
        request: &v1::GetLedgerRequest,
    ) -> Result<v1::GetLedgerResponse, Status> {
        let page = Page::new(request.page_size, &request.page_token)?;
        let members = self.members_for(reader, &request.node);
        let rows = members.iter().filter_map(|(name, member)| {
            let report = &member.report;
            let ledger = report.ledger.clone()?;
            let row = v1::NodeLedger {
                node: name.clone(),
                epoch: epoch(member),
                time: report.time,
                ledger: Some(ledger),
            };
            Some((vec![name.clone()], row))
        });
        let (nodes, next_page_token) = page.cut(rows);
        Ok(v1::GetLedgerResponse {
            nodes,
            collector: None,
            next_page_token,
        })
    }

    /// Answers GetCounters.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the page token, or the selection.
    pub fn get_counters(
        &self,
        reader: &Reader,
        request: &v1::GetCountersRequest,
    ) -> Result<v1::GetCountersResponse, Status> {
        let page = Page::new(request.page_size, &request.page_token)?;
        let asked = request.selection.clone().unwrap_or_default();
        refuse_others(&asked)?;
        let selector = Selector::compile(&asked, None, None, reader.clone())
            .map_err(|problems| refusal::invalid(&problems))?;
        let members = self.members();
        let mut rows: Vec<(Vec<String>, &Member, &v1::Counters)> = members
            .iter()
            .filter(|(name, _)| selector.takes_node(name))
            .flat_map(|(name, member)| {
                counters(member).map(move |(namespace, pod, counters)| {
                    let key = vec![name.clone(), namespace.to_owned(), pod.to_owned()];
                    (key, member, counters)
                })
            })
            .filter(|(key, _, _)| selector.takes_pod_name(&key[1], &key[2]))
            .collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let (rows, next_page_token) = page.cut(rows.into_iter().map(|(key, member, counters)| {
            let row = v1::CountersRow {
                node: key[0].clone(),
                namespace: key[1].clone(),
                pod: key[2].clone(),
                counters: Some(counters.clone()),
                epoch: epoch(member),
                time: member.report.time,
            };
            (key, row)
        }));
        Ok(v1::GetCountersResponse {
            rows,
            next_page_token,
        })
    }

    /// Nodes as a whole: only for who may see everything.
    fn members_for(&self, reader: &Reader, node: &str) -> Vec<(String, Member)> {
        if *reader != Reader::All {
            return Vec::new();
        }
        let mut members = self.members();
        members.retain(|(name, _)| node.is_empty() || name == node);
        members
    }
}

fn epoch(member: &Member) -> u64 {
    match &member.report.node {
        Some(node) if node.epoch != 0 => node.epoch,
        _ => member.hello.epoch,
    }
}

fn node(name: &str, member: &Member, reader: &Reader) -> v1::Node {
    let said = match reader {
        Reader::All => member.report.node.clone().unwrap_or_default(),
        Reader::Namespaces(_) => v1::Node::default(),
    };
    let version = member.hello.version.clone();
    v1::Node {
        name: name.to_owned(),
        epoch: epoch(member),
        version: if said.version.is_empty() {
            version
        } else {
            said.version.clone()
        },
        connected: member.has_stream(),
        // Of a node that publishes it would tell when anybody's events came.
        last_seen: (*reader == Reader::All || !member.has_stream())
            .then(|| member.last_seen.into()),
        ..said
    }
}

/// Namespace, pod and counters of every row of a node.
fn counters(member: &Member) -> impl Iterator<Item = (&str, &str, &v1::Counters)> {
    let report = &member.report;
    let host = report.pods.iter().any(|row| row.pod.is_empty());
    // An agent that tells pods apart says what is in none; one that does not has only the sum.
    let whole = (!host && report.pods.is_empty())
        .then_some(report.counters.as_ref())
        .flatten();
    let rows = report.pods.iter().filter_map(|row| {
        let counters = row.counters.as_ref()?;
        Some((row.namespace.as_str(), row.pod.as_str(), counters))
    });
    rows.chain(whole.map(|counters| ("", "", counters)))
}

fn refuse_others(asked: &v1::Selection) -> Result<(), Status> {
    let known = v1::Selection {
        nodes: asked.nodes.clone(),
        namespaces: asked.namespaces.clone(),
        pods: asked.pods.clone(),
        ..v1::Selection::default()
    };
    if *asked == known {
        return Ok(());
    }
    let others: BTreeSet<&str> = [
        ("label_selector", !asked.label_selector.is_empty()),
        ("containers", !asked.containers.is_empty()),
        ("syscalls", !asked.syscalls.is_empty()),
        ("types", !asked.types.is_empty()),
        ("comms", !asked.comms.is_empty()),
        ("binaries", !asked.binaries.is_empty()),
        ("uids", !asked.uids.is_empty()),
        ("pids", !asked.pids.is_empty()),
        ("cel", !asked.cel.is_empty()),
    ]
    .into_iter()
    .filter_map(|(field, set)| set.then_some(field))
    .collect();
    let problems: Vec<Invalid> = others
        .into_iter()
        .map(|field| {
            Invalid::new(
                format!("selection.{field}"),
                "counters are selected by nodes, namespaces and pods only",
            )
        })
        .collect();
    Err(refusal::invalid(&problems))
}
