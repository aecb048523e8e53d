//! What agents publish: batches into the log, reports into the fleet.
//!
//! Per stream one task, one message at a time: a batch is checked, appended, and only then the next one is
//! read. So an agent cannot put more on the collector than HTTP/2's flow control lets wait on the connection,
//! whatever it makes of the window it was told; acknowledgements are put together while more is waiting.

mod check;
mod session;
mod settings;

use std::sync::Arc;

use async_trait::async_trait;
use ebpf_hello_proto::{server::collector_service_server::CollectorService, v1, wire};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub use self::check::{MAX_BATCH_BYTES, MAX_EVENTS};
pub(crate) use self::{session::stopped, settings::report_interval};
use crate::{
    accounts::Accounts,
    caller::{self, Peer},
    fleet::Fleet,
    log::Log,
    refusal,
};

/// Gives agents certificates.
#[async_trait]
pub trait Enrol: Send + Sync + std::fmt::Debug {
    /// Answers Enroll.
    ///
    /// # Errors
    /// As the protocol says.
    async fn enrol(
        &self,
        peer: &Peer,
        request: v1::EnrollRequest,
    ) -> Result<v1::EnrollResponse, Status>;
}

/// CollectorService.
#[derive(Debug)]
pub struct Ingest {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) enrol: Option<Arc<dyn Enrol>>,
    /// True when the collector shuts down: streams end.
    pub(crate) stop: watch::Receiver<bool>,
}

#[async_trait]
impl CollectorService for Ingest {
    type PublishStream = ReceiverStream<Result<v1::PublishResponse, Status>>;

    async fn publish(
        &self,
        request: Request<Streaming<wire::PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let publisher = caller::of(&request).publisher()?.clone();
        session::open(self, publisher, request.into_inner())
            .await
            .map(Response::new)
            .inspect_err(|_| self.accounts.refused())
    }

    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .cloned()
            .unwrap_or_default();
        match &self.enrol {
            Some(enrol) => Ok(Response::new(
                enrol.enrol(&peer, request.into_inner()).await?,
            )),
            None => Err(refusal::because(
                tonic::Code::Unimplemented,
                "NO_AUTHORITY",
                "this collector gives no certificates",
            )),
        }
    }
}
