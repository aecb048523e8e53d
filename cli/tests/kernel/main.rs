//! The kernel tier: the product on a real kernel, seen from the outside.
//!
//! Everything is asked of `ebpf-hello run` (its events, its ledger, its status) and of the kernel, and
//! held against what the generator says it made. It needs root, and a kernel that loads BPF; without
//! them it fails. Tests run one at a time, because all of them watch the same kernel. The executable is
//! static and finds everything through variables (executable.rs), so that it can be a virtual
//! machine's init.
//!
//! ```text
//! processes  timers  counts  dispatch  cgroups  entered  io_uring  paths  socketcall  loss  feedback  hostile  instances  refusals    what is proved
//! policies  edits  limits  exhaustion  returns  bench  canaries  metrics  faults  observers  redaction
//! instance, agent ── stream, ledger, events          generator   filter, cgroup    kernel_object
//! a running product, and what it says          the load    what it is given   the kernel's own answer
//! ```

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod agent;
mod bench;
mod canaries;
mod cgroup;
mod cgroups;
mod counts;
mod dispatch;
mod edits;
mod entered;
mod events;
mod executable;
mod exhaustion;
mod faults;
mod feedback;
mod filter;
mod generator;
mod hostile;
mod instance;
mod instances;
mod io_uring;
mod kernel_object;
mod ledger;
mod limits;
mod loss;
mod metrics;
#[path = "../monitor/mod.rs"]
mod monitor;
mod observers;
mod paths;
mod policies;
mod processes;
mod redaction;
mod refusals;
mod returns;
#[cfg(target_arch = "x86_64")]
mod socketcall;
mod stream;
mod timers;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// A trial for each function named, called `module::function`.
macro_rules! trials {
    ($($(#[$meta:meta])* $module:ident::$case:ident,)*) => {
        vec![$(
            $(#[$meta])*
            Trial::test(concat!(stringify!($module), "::", stringify!($case)), || {
                $module::$case();
                Ok(())
            }),
        )*]
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list && !rustix::process::geteuid().is_root() {
        eprintln!("the kernel tier loads eBPF programs: run it as root");
        return ExitCode::FAILURE;
    }
    arguments.test_threads = Some(1);
    let trials = trials![
        refusals::who_is_not_root_is_told_what_is_missing,
        refusals::wrong_usage_is_status_2,
        refusals::a_ring_of_an_impossible_size_is_status_2,
        refusals::an_invalid_filter_is_status_1_and_names_file_and_mistake,
        refusals::status_without_an_instance_is_status_6,
        refusals::an_agent_without_tls_to_another_host_is_status_1_and_names_the_flag,
        refusals::an_agent_that_may_be_insecure_says_that_it_is,
        processes::two_thousand_execs_are_reported_once_each_with_pid_argv_uid_and_code,
        processes::processes_of_sixteen_threads_end_once_however_they_end,
        processes::arguments_past_the_bound_are_cut_and_marked,
        processes::a_process_older_than_the_instance_is_told_once_and_keeps_its_identity,
        timers::every_timer_call_is_decoded_and_what_cannot_be_read_is_marked,
        counts::ten_million_calls_of_sixteen_threads_are_ten_million,
        counts::keys_that_sixteen_threads_meet_first_at_the_same_time_lose_nothing,
        counts::exec_attempts_are_counted_by_user,
        counts::a_full_map_counts_the_rest_beside_it_and_the_sum_is_exact,
        counts::cgroups_and_policies_that_are_gone_make_room_and_their_counts_stay_in_their_rows,
        dispatch::a_traced_call_has_its_name_number_and_raw_arguments,
        #[cfg(target_arch = "x86_64")]
        dispatch::an_ignored_call_is_no_event_where_every_other_is,
        dispatch::a_call_ignored_by_a_rule_is_in_no_account,
        dispatch::numbers_out_of_range_are_counted_and_never_dispatched,
        #[cfg(target_arch = "x86_64")]
        dispatch::a_32_bit_call_is_dispatched_by_its_own_number_name_and_arguments,
        #[cfg(target_arch = "x86_64")]
        dispatch::a_32_bit_call_that_64_bits_do_not_have_is_reported_by_its_own_name,
        dispatch::sys_enter_is_attached_only_while_a_call_is_wanted,
        policies::one_call_in_ten_is_an_event_and_the_others_are_counted,
        policies::a_rate_limit_lets_its_burst_through_and_accounts_for_the_rest,
        policies::a_joined_call_tells_what_it_returned,
        policies::a_failed_exec_is_one_event_with_its_errno,
        policies::a_path_is_told_as_it_was_asked_for,
        policies::a_rule_for_other_users_or_executables_lets_nothing_through,
        policies::a_child_made_under_a_filtered_cgroup_has_its_policy_at_once,
        policies::a_process_moved_into_a_filtered_cgroup_has_its_policy_at_once,
        policies::an_edited_filter_is_applied_and_a_mistake_leaves_the_last_good_one,
        cgroups::a_new_cgroup_that_a_glob_matches_has_its_policy_before_the_next_sweep,
        cgroups::a_cgroup_that_a_filter_spells_out_has_its_policy_from_its_first_call_on,
        cgroups::a_bound_name_counts_in_its_parent_or_everywhere_and_every_change_is_told,
        entered::a_call_that_sampling_leaves_out_is_not_told_as_refused,
        #[cfg(target_arch = "x86_64")]
        entered::a_call_that_finds_no_room_to_wait_is_told_once_and_not_as_refused,
        io_uring::operations_of_a_call_that_a_rule_names_are_counted,
        io_uring::the_tracepoint_is_attached_only_while_a_call_with_an_operation_is_wanted,
        paths::rename_link_and_symlink_tell_both_paths,
        #[cfg(target_arch = "x86_64")]
        socketcall::a_socketcall_tells_call_socket_and_address_and_what_cannot_be_read,
        edits::two_hundred_edits_under_load_tear_no_event_and_leave_others_alone,
        edits::tables_that_are_refilled_at_once_tear_no_event,
        limits::a_rate_holds_in_every_second_for_each_cgroup_that_shares_it,
        limits::what_no_event_follows_is_told_within_seconds_and_once,
        exhaustion::fifteen_hundred_policies_share_256_tables_and_who_has_none_is_told,
        returns::a_call_that_seccomp_refuses_is_reported_with_its_errno,
        returns::a_call_that_outlives_its_policy_returns_under_it,
        returns::a_path_on_an_untouched_page_is_told,
        returns::who_was_accepted_is_told,
        loss::what_a_full_ring_loses_is_what_was_made_less_what_was_delivered,
        loss::a_reader_that_goes_away_ends_the_run_and_what_it_left_is_accounted_for,
        loss::a_reader_that_is_stuck_holds_up_no_signal_and_what_it_left_is_accounted_for,
        loss::a_reader_of_stderr_that_goes_away_is_no_failure,
        hostile::hostile_text_is_lossless_in_json,
        hostile::hostile_text_never_reaches_the_terminal_raw,
        instances::two_instances_neither_disturb_nor_feed_each_other,
        instances::a_killed_instance_leaves_no_program_map_or_link,
        instances::status_lists_what_the_kernel_has_of_the_instance,
        instances::sigusr1_prints_the_ledger_and_sigterm_ends_with_it,
        instances::an_instance_after_a_killed_one_starts_afresh,
        observers::an_observer_sees_what_run_prints_and_nothing_else,
        observers::a_second_instance_serves_its_observers_beside_the_first,
        observers::an_instance_after_a_killed_one_serves_where_observers_look,
        redaction::a_secret_in_arguments_is_neither_spooled_nor_published,
        canaries::no_canary_reaches_a_consumer_and_each_is_counted,
        canaries::a_way_that_breaks_makes_it_unready_until_it_is_whole_again,
        metrics::the_endpoint_has_the_documented_names_and_the_ledgers_equation,
        faults::each_fault_has_its_healthz_and_readyz,
        faults::a_reader_that_goes_on_makes_the_agent_ready_again,
        faults::a_spool_without_disk_loses_what_finds_no_room_and_says_exactly_how_much,
        bench::every_name_is_measured_and_what_is_measured_happened,
        feedback::who_read_the_output_before_its_exec_is_reported_after_it,
        feedback::a_reader_of_the_output_is_never_in_it,
        feedback::a_reader_of_the_output_is_never_in_it_in_a_pid_namespace,
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}
