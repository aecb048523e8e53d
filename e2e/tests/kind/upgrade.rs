//! From one release to the next, back, and away.
pub(crate) fn uninstall_leaves_what_is_the_users_and_nothing_else(_: &ebpf_hello_e2e::kind::Cluster) { todo!() }
pub(crate) fn an_older_release_is_upgraded_and_rolled_back(_: &ebpf_hello_e2e::kind::Cluster) { todo!() }
