//! What every log promises, on each kind of log.
#![allow(clippy::unwrap_used)] // tests

mod crash;
mod killed;
mod rates;
mod store;
mod suite;

pub(crate) use suite::promises;

mod memory {
    use std::sync::Arc;

    use ebpf_hello_collector::log::{Log, Memory};

    crate::promises!(async { (Arc::new(Memory::default()) as Arc<dyn Log>, ()) });

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "prints rates"]
    async fn rates() {
        crate::rates::print("memory", Arc::new(Memory::new(1 << 30))).await;
    }

    #[tokio::test]
    async fn counts_what_is_gone() {
        crate::suite::counts_what_is_gone(&Memory::new(64 << 10)).await;
    }
}
