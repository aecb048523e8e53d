//! Lists that a server gives in pages, all of them.

use std::time::Duration;

use anyhow::{anyhow, bail};
use ebpf_hello_proto::v1::{
    CollectorLedger, CountersRow, FilterState, GetCountersRequest, GetLedgerRequest,
    ListFiltersRequest, ListNodesRequest, Node, NodeLedger, Selection,
};
use tokio::time::timeout;
use tonic::{Response, Status};

use super::{Observer, refusal};
use crate::exit::Unreachable;

/// How long one page may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Rows taken at most of any list, whatever the server would give: a thousand nodes with a hundred pods each.
const MAX_ROWS: usize = 100_000;

/// Gathers pages until there is none.
struct Pages<T> {
    rows: Vec<T>,
    token: String,
}

/// Counters of the places selected.
pub(crate) async fn counters(
    client: &mut Observer,
    selection: &Selection,
) -> anyhow::Result<Vec<CountersRow>> {
    let mut pages = Pages::new();
    loop {
        let request = GetCountersRequest {
            selection: Some(selection.clone()),
            page_token: pages.token.clone(),
            ..GetCountersRequest::default()
        };
        let page = answer(client.get_counters(request)).await?;
        if pages.add(page.rows, page.next_page_token)? {
            return Ok(pages.rows);
        }
    }
}

/// Every node.
pub(crate) async fn nodes(client: &mut Observer) -> anyhow::Result<Vec<Node>> {
    let mut pages = Pages::new();
    loop {
        let request = ListNodesRequest {
            page_token: pages.token.clone(),
            ..ListNodesRequest::default()
        };
        let page = answer(client.list_nodes(request)).await?;
        if pages.add(page.nodes, page.next_page_token)? {
            return Ok(pages.rows);
        }
    }
}

/// Every filter on every node.
pub(crate) async fn filters(client: &mut Observer) -> anyhow::Result<Vec<FilterState>> {
    let mut pages = Pages::new();
    loop {
        let request = ListFiltersRequest {
            page_token: pages.token.clone(),
            ..ListFiltersRequest::default()
        };
        let page = answer(client.list_filters(request)).await?;
        if pages.add(page.filters, page.next_page_token)? {
            return Ok(pages.rows);
        }
    }
}

/// The ledger of every node, and the collector's own where it tells.
pub(crate) async fn ledgers(
    client: &mut Observer,
) -> anyhow::Result<(Vec<NodeLedger>, Option<CollectorLedger>)> {
    let mut pages = Pages::new();
    let mut collector = None;
    loop {
        let request = GetLedgerRequest {
            page_token: pages.token.clone(),
            ..GetLedgerRequest::default()
        };
        let page = answer(client.get_ledger(request)).await?;
        collector = page.collector.or(collector);
        if pages.add(page.nodes, page.next_page_token)? {
            return Ok((pages.rows, collector));
        }
    }
}

/// One answer, in time.
pub(crate) async fn answer<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> anyhow::Result<T> {
    match timeout(TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refusal::explain(&status, &Selection::default())),
        Err(_) => Err(anyhow!("no answer within {}s", TIMEOUT.as_secs()).context(Unreachable)),
    }
}

// === impl Pages ===

impl<T> Pages<T> {
    fn new() -> Self {
        Pages {
            rows: Vec::new(),
            token: String::new(),
        }
    }

    /// Adds a page; true after the last one.
    fn add(&mut self, page: Vec<T>, next: String) -> anyhow::Result<bool> {
        self.rows.extend(page);
        if next.is_empty() {
            return Ok(true);
        }
        if next == self.token {
            bail!("the server gives the same page again and again");
        }
        if self.rows.len() >= MAX_ROWS {
            tracing::warn!(
                rows = self.rows.len(),
                "there is more than is shown: select less"
            );
            return Ok(true);
        }
        self.token = next;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_with_an_empty_token_or_an_error() {
        let mut pages = Pages::new();
        assert!(!pages.add(vec![1, 2], "a".into()).unwrap());
        assert!(pages.add(vec![3], String::new()).unwrap());
        assert_eq!(pages.rows, [1, 2, 3]);
        let mut pages = Pages::new();
        assert!(!pages.add(vec![1], "a".into()).unwrap());
        assert!(pages.add(vec![1], "a".into()).is_err());
        let mut pages = Pages::new();
        let full = pages.add(vec![0; MAX_ROWS], "a".into()).unwrap();
        assert!(full);
    }
}
