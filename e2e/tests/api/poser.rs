//! What watches and reports as an agent does, through the agent's own code, without a kernel: it says of every valid
//! filter that it is programmed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ebpf_hello_agent::{
    Accounts,
    kubernetes::{Reach, watch as follow_objects},
    publish::{PublishOptions, Publisher},
};
use ebpf_hello_policy::{Filter, crd::SyscallFilter};
use ebpf_hello_proto::v1;
use futures::StreamExt as _;
use kube::{
    Api, Client,
    runtime::watcher::{Config, Event},
};
use tokio::{sync::watch, task::JoinHandle};

/// An agent as the collector sees it, on one node.
pub(crate) struct Poser {
    reports: watch::Sender<Option<v1::NodeReport>>,
    state: Arc<Mutex<State>>,
    tasks: Vec<JoinHandle<()>>,
    publisher: Option<Publisher>,
}

struct State {
    node: String,
    epoch: u64,
    filters: BTreeMap<String, v1::FilterState>,
    /// Reason and message for filters that it does not program.
    failure: Option<(String, String)>,
}

// === impl Poser ===

impl Poser {
    /// Starts to follow the filters and to report.
    pub(crate) fn start(node: &str, client: Client, collector: SocketAddr) -> Poser {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let epoch = u64::try_from(epoch.as_micros()).unwrap();
        let options = PublishOptions {
            node: node.to_owned(),
            epoch,
            version: "0.0.0".to_owned(),
            memory: 1 << 20,
            spool: None,
            compress: false,
        };
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{collector}"));
        let publisher = Publisher::start(options, endpoint.unwrap(), Arc::<Accounts>::default());
        let publisher = publisher.unwrap();
        let reports = publisher.reports().clone();
        let state = Arc::new(Mutex::new(State {
            node: node.to_owned(),
            epoch,
            filters: BTreeMap::new(),
            failure: None,
        }));
        let follow = follow(client, Arc::clone(&state), reports.clone());
        let (again, told) = (Arc::clone(&state), reports.clone());
        let repeat = async move {
            loop {
                tell(&again, &told);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        Poser {
            reports,
            state,
            tasks: vec![tokio::spawn(follow), tokio::spawn(repeat)],
            publisher: Some(publisher),
        }
    }

    /// From now on it fails, or no longer.
    pub(crate) fn fail(&self, failure: Option<(&str, &str)>) {
        let failure = failure.map(|(reason, message)| (reason.to_owned(), message.to_owned()));
        self.state.lock().unwrap().failure = failure;
        tell(&self.state, &self.reports);
    }

    /// Ends.
    pub(crate) async fn stop(mut self) {
        if let Some(publisher) = self.publisher.take() {
            publisher.drain(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Poser {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn follow(
    client: Client,
    state: Arc<Mutex<State>>,
    reports: watch::Sender<Option<v1::NodeReport>>,
) {
    let api: Api<SyscallFilter> = Api::all(client);
    let mut events = follow_objects(api, Config::default(), Reach::default()).boxed();
    while let Some(event) = events.next().await {
        match event {
            Event::Apply(filter) | Event::InitApply(filter) => take(&state, &filter),
            Event::Delete(filter) => {
                let uid = filter.metadata.uid.unwrap();
                state.lock().unwrap().filters.remove(&uid);
            }
            Event::Init | Event::InitDone => {}
        }
        tell(&state, &reports);
    }
}

fn take(state: &Mutex<State>, filter: &SyscallFilter) {
    // One that is not valid leaves the last that was.
    let Ok(valid) = Filter::try_from(filter) else {
        return;
    };
    let uid = filter.metadata.uid.clone().unwrap();
    let told = v1::FilterState {
        filter: valid.name().to_string(),
        uid: uid.clone(),
        observed_generation: filter.metadata.generation.unwrap(),
        pods: 1,
        programmed: true,
        ..v1::FilterState::default()
    };
    state.lock().unwrap().filters.insert(uid, told);
}

fn tell(state: &Mutex<State>, reports: &watch::Sender<Option<v1::NodeReport>>) {
    let state = state.lock().unwrap();
    let filters = state
        .filters
        .values()
        .cloned()
        .map(|told| match &state.failure {
            None => told,
            Some((reason, message)) => v1::FilterState {
                programmed: false,
                reason: reason.clone(),
                message: message.clone(),
                ..told
            },
        });
    let report = v1::NodeReport {
        time: Some(SystemTime::now().into()),
        node: Some(v1::Node {
            name: state.node.clone(),
            epoch: state.epoch,
            ..v1::Node::default()
        }),
        filters: filters.collect(),
        ..v1::NodeReport::default()
    };
    reports.send_replace(Some(report));
}
