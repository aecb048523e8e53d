//! ObserverService.

use std::sync::Arc;

use async_trait::async_trait;
use ebpf_hello_proto::{server::observer_service_server::ObserverService, v1};
use tonic::{Request, Response, Status};

use super::{
    Collector,
    plan::{Plan, store_failed},
    queue::{self, Receiver},
    subscriber::Subscriber,
};
use crate::{
    caller::{self, Caller, Reader},
    refusal::Invalid,
    selection::MAX_VALUES,
};

/// ObserverService over a collector.
#[derive(Clone, Debug)]
pub(super) struct Observer(pub(super) Arc<Collector>);

// === impl Observer ===

impl Observer {
    /// Starts a stream for a caller, who may lose the right to it while it lasts.
    pub(super) async fn stream(
        &self,
        caller: &Caller,
        request: v1::ObserveRequest,
    ) -> Result<Receiver, Status> {
        let collector = &self.0;
        let right = caller
            .right(namespaces(request.selection.as_ref())?)
            .await?;
        let reader = right.reader().clone();
        let place = collector.places.take(caller)?;
        let hello = self.hello(&reader).await?;
        let plan = Plan::new(collector, reader, request).await?;
        let subscription = collector.accounts.subscribe();
        let budget = collector.budget.clone();
        let (sender, receiver) =
            queue::queue(collector.options.queue_bytes, budget, subscription, place);
        tokio::spawn(Subscriber::new(collector.clone(), plan, sender).run(hello, right));
        Ok(receiver)
    }

    async fn hello(&self, reader: &Reader) -> Result<v1::ObserverHello, Status> {
        let range = self.0.log.range().await.map_err(store_failed)?;
        let hello = v1::ObserverHello {
            version: env!("CARGO_PKG_VERSION").into(),
            scope: self.0.options.scope.clone(),
            ..v1::ObserverHello::default()
        };
        Ok(match reader {
            Reader::All => v1::ObserverHello {
                store_oldest: range.oldest_stored.map(Into::into),
                store_newest: range.newest_stored.map(Into::into),
                all_namespaces: true,
                ..hello
            },
            // When others' events came, and how soon they fill the store, is others'.
            Reader::Namespaces(namespaces) => v1::ObserverHello {
                namespaces: namespaces.iter().cloned().collect(),
                ..hello
            },
        })
    }
}

/// The namespaces that a selection names, each to be asked for.
fn namespaces(selection: Option<&v1::Selection>) -> Result<&[String], Status> {
    let named = selection.map_or(&[][..], |selection| &selection.namespaces);
    if named.len() > MAX_VALUES {
        let what = format!("{} values: expected at most {MAX_VALUES}", named.len());
        return Err(Invalid::new("selection.namespaces", what).into());
    }
    Ok(named)
}

#[async_trait]
impl ObserverService for Observer {
    type ObserveStream = Receiver;

    async fn observe(
        &self,
        request: Request<v1::ObserveRequest>,
    ) -> Result<Response<Receiver>, Status> {
        let caller = caller::of(&request);
        self.stream(&caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_counters(
        &self,
        request: Request<v1::GetCountersRequest>,
    ) -> Result<Response<v1::GetCountersResponse>, Status> {
        let named = namespaces(request.get_ref().selection.as_ref())?;
        let reader = caller::of(&request).reader(named).await?;
        let answer = self.0.fleet.get_counters(&reader, request.get_ref())?;
        Ok(Response::new(answer))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let reader = caller::of(&request).reader(&[]).await?;
        let answer = self.0.fleet.list_nodes(&reader, request.get_ref())?;
        Ok(Response::new(answer))
    }

    async fn list_programs(
        &self,
        request: Request<v1::ListProgramsRequest>,
    ) -> Result<Response<v1::ListProgramsResponse>, Status> {
        let reader = caller::of(&request).reader(&[]).await?;
        let answer = self.0.fleet.list_programs(&reader, request.get_ref())?;
        Ok(Response::new(answer))
    }

    async fn list_filters(
        &self,
        request: Request<v1::ListFiltersRequest>,
    ) -> Result<Response<v1::ListFiltersResponse>, Status> {
        let named = &request.get_ref().namespace;
        let named = if named.is_empty() {
            &[][..]
        } else {
            std::slice::from_ref(named)
        };
        let reader = caller::of(&request).reader(named).await?;
        let answer = self.0.fleet.list_filters(&reader, request.get_ref())?;
        Ok(Response::new(answer))
    }

    async fn get_ledger(
        &self,
        request: Request<v1::GetLedgerRequest>,
    ) -> Result<Response<v1::GetLedgerResponse>, Status> {
        let reader = caller::of(&request).reader(&[]).await?;
        let mut answer = self.0.fleet.get_ledgers(&reader, request.get_ref())?;
        // It is of everybody's events together.
        answer.collector = (reader == Reader::All).then(|| self.0.accounts.ledger());
        Ok(Response::new(answer))
    }
}
