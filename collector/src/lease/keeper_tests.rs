//! Giving back while a claim is under way, beside an API server that is made of one Lease.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use http::{Method, Request, Response};
use k8s_openapi::api::coordination::v1::LeaseSpec;
use kube::client::Body;
use serde_json::json;
use tokio::sync::Notify;

use super::*;

const NAME: &str = "writer";
const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of a write whose answer is never heard.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Written,
    /// Written just before the next write.
    Late,
}

#[derive(Default)]
struct Server {
    lease: Mutex<Lease>,
    /// Of the next write.
    fate: Mutex<Option<Fate>>,
    late: Mutex<Option<Lease>>,
    cut_off: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn conflict() -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": "", "reason": "Conflict", "code": 409,
    });
    let answer = Response::builder().status(409);
    answer.body(status.to_string().into_bytes().into()).unwrap()
}

// === impl Server ===

impl Server {
    /// With a lease that is nobody's.
    fn new() -> Arc<Self> {
        let server = Self::default();
        let metadata = ObjectMeta {
            name: Some(NAME.into()),
            resource_version: Some("1".into()),
            ..ObjectMeta::default()
        };
        *lock(&server.lease) = Lease {
            metadata,
            spec: Some(LeaseSpec::default()),
        };
        Arc::new(server)
    }

    fn holder(&self) -> String {
        let spec = lock(&self.lease).spec.clone();
        spec.and_then(|spec| spec.holder_identity).unwrap()
    }

    /// Takes a write of the newest version.
    fn write(&self, lease: Lease) -> Result<(), ()> {
        let mut newest = lock(&self.lease);
        let version = newest.metadata.resource_version.clone().unwrap();
        if lease.metadata.resource_version.as_ref() != Some(&version) {
            return Err(());
        }
        *newest = lease;
        let version = version.parse::<u64>().unwrap() + 1;
        newest.metadata.resource_version = Some(version.to_string());
        Ok(())
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        if request.method() == Method::PUT {
            let body = request.into_body().collect_bytes().await.unwrap();
            let lease: Lease = serde_json::from_slice(&body).unwrap();
            if let Some(late) = lock(&self.late).take() {
                self.write(late).unwrap();
            }
            let fate = lock(&self.fate).take();
            match fate {
                None => {
                    if self.write(lease).is_err() {
                        return conflict();
                    }
                }
                Some(fate) => {
                    match fate {
                        Fate::Lost => {}
                        Fate::Written => self.write(lease).unwrap(),
                        Fate::Late => *lock(&self.late) = Some(lease),
                    }
                    self.cut_off.notify_one();
                    std::future::pending::<()>().await;
                }
            }
        }
        let lease = serde_json::to_vec(&*lock(&self.lease)).unwrap();
        Response::new(lease.into())
    }

    fn candidate(self: &Arc<Self>) -> super::super::Lease {
        let server = self.clone();
        let service = tower::service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let kubernetes = Kubernetes {
            client: kube::Client::new(service, "home"),
            namespace: "home".into(),
        };
        let options = LeaseOptions {
            name: NAME.into(),
            identity: "us".into(),
            duration: Duration::from_secs(15),
            interval: Duration::from_millis(10),
        };
        super::super::Lease::start(&kubernetes, options)
    }
}

#[tokio::test]
async fn a_lease_is_given_back_while_a_renewal_is_under_way() {
    for fate in [Fate::Lost, Fate::Written, Fate::Late] {
        let server = Server::new();
        let lease = server.candidate();
        let mut holding = lease.holding();
        timeout(PATIENCE, holding.changed()).await.unwrap();
        assert_eq!(server.holder(), "us");
        *lock(&server.fate) = Some(fate);
        timeout(PATIENCE, server.cut_off.notified()).await.unwrap();
        lease.release().await;
        assert_eq!(server.holder(), "", "{fate:?}");
        assert!(holding.term().is_none());
    }
}

#[tokio::test]
async fn a_first_claim_that_was_cut_off_is_given_back_where_it_was_written() {
    for fate in [Fate::Written, Fate::Lost] {
        let server = Server::new();
        *lock(&server.fate) = Some(fate);
        let lease = server.candidate();
        timeout(PATIENCE, server.cut_off.notified()).await.unwrap();
        lease.release().await;
        let spec = lock(&server.lease).spec.clone().unwrap();
        let holder = spec.holder_identity.as_deref();
        assert!(matches!(holder, None | Some("")), "{fate:?}: {holder:?}");
    }
}

#[tokio::test]
async fn anothers_lease_is_not_given_back() {
    let server = Server::new();
    let lease = server.candidate();
    timeout(PATIENCE, lease.holding().changed()).await.unwrap();
    *lock(&server.fate) = Some(Fate::Lost);
    timeout(PATIENCE, server.cut_off.notified()).await.unwrap();
    if let Some(spec) = &mut lock(&server.lease).spec {
        spec.holder_identity = Some("another".into());
    }
    lease.release().await;
    assert_eq!(server.holder(), "another");
}
