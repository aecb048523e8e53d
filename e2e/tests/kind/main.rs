//! The e2e tier: the product on a cluster of two nodes, installed with helm, seen as its users see it.
//!
//! `scripts/e2e` brings up the cluster, loads the images and starts this. Tests run one after the other
//! and share one installation; each has namespaces of its own. The last ones take the installation away,
//! and put others in its place.
//!
//! ```text
//! installation  attribution  filters  access  churn  outages  privilege  storage  upgrade
//!                            counter
//! ```

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod access;
mod attribution;
mod churn;
mod counter;
mod filters;
mod installation;
mod outages;
mod privilege;
mod status;
mod storage;
mod upgrade;

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Instant,
};

use ebpf_hello_e2e::kind::Cluster;
use libtest_mimic::{Arguments, Failed, Trial};

/// A trial for each function named, called `module::function`; all get the one cluster.
macro_rules! trials {
    ($($module:ident::$case:ident,)*) => {
        vec![$(
            trial(concat!(stringify!($module), "::", stringify!($case)), $module::$case),
        )*]
    };
}

fn trial(name: &'static str, case: fn(&Cluster)) -> Trial {
    Trial::test(name, move || {
        let cluster = installed()?;
        let started = Instant::now();
        case(&cluster);
        eprintln!("    {:.1} s", started.elapsed().as_secs_f32());
        Ok(())
    })
}

/// The cluster with this chart on it. Installed once: without it no test says anything.
fn installed() -> Result<Arc<Cluster>, Failed> {
    static CLUSTER: OnceLock<Option<Arc<Cluster>>> = OnceLock::new();
    CLUSTER
        .get_or_init(|| {
            std::panic::catch_unwind(|| {
                let cluster = Cluster::connect();
                let started = Instant::now();
                cluster.install(cluster.chart(), &[]);
                eprintln!("    installed in {:.1} s", started.elapsed().as_secs_f32());
                Arc::new(cluster)
            })
            .ok()
        })
        .clone()
        .ok_or_else(|| "the chart could not be installed: see the first failure".into())
}

fn main() -> ExitCode {
    let arguments = Arguments {
        test_threads: Some(1),
        ..Arguments::default()
    };
    let mut trials = trials![
        installation::every_node_has_a_ready_agent,
        installation::helm_test_sees_an_event_of_its_pod_arrive,
        attribution::every_exec_is_told_once_by_its_node_with_pod_container_workload_and_labels,
        attribution::a_namespace_never_sees_anothers_events,
        filters::the_first_open_of_a_selected_container_is_told_and_none_of_the_other,
        filters::an_edited_filter_changes_the_stream_without_a_restart,
        filters::the_tail_sample_shows_its_lines_for_pods_on_both_nodes,
        status::a_filter_says_how_many_nodes_have_it_and_a_broken_one_says_why,
        access::who_may_exec_in_the_collector_observes_there,
        access::an_account_observes_through_a_port_forward,
        access::an_agents_pod_shows_its_node_and_says_so,
        churn::pods_that_come_and_go_are_told_with_their_names,
        outages::an_agents_pod_is_deleted,
        outages::the_collector_is_deleted_and_nothing_is_lost,
        outages::the_api_server_is_away,
        status::a_node_whose_agent_cannot_start_is_named_within_a_minute,
        outages::the_worker_is_stopped_and_started,
        privilege::each_capability_is_needed_for_something_named,
        upgrade::uninstall_leaves_what_is_the_users_and_nothing_else,
        storage::what_a_volume_keeps_outlives_the_collectors_pod,
        storage::two_collectors_share_their_events_through_nats,
        upgrade::an_older_release_is_upgraded_and_rolled_back,
    ];
    // All, or those whose names contain one of the arguments.
    let names: Vec<String> = std::env::args().skip(1).collect();
    trials.retain(|trial| {
        names.is_empty()
            || names
                .iter()
                .any(|name| trial.name().contains(name.as_str()))
    });
    libtest_mimic::run(&arguments, trials).exit_code()
}
