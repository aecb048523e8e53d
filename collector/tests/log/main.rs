//! What every log promises, on each kind of log.
#![allow(clippy::unwrap_used)] // tests

mod killed;
mod store;
mod suite;

/// The promises that need only an empty log; `$log` makes one, with what must outlive it.
macro_rules! promises {
    ($log:expr) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn keeps_the_order() {
            let (log, _kept) = $log.await;
            crate::suite::keeps_the_order(&*log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn appends_a_batch_once() {
            let (log, _kept) = $log.await;
            crate::suite::appends_a_batch_once(&*log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn refuses_what_is_no_batch_of_the_node() {
            let (log, _kept) = $log.await;
            crate::suite::refuses_what_is_no_batch_of_the_node(&*log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn finds_positions_by_time() {
            let (log, _kept) = $log.await;
            crate::suite::finds_positions_by_time(&*log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn wakes_readers_that_wait() {
            let (log, _kept) = $log.await;
            crate::suite::wakes_readers_that_wait(log).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn shows_every_reader_everything() {
            let (log, _kept) = $log.await;
            crate::suite::shows_every_reader_everything(log).await;
        }
    };
}
pub(crate) use promises;

mod memory {
    use std::sync::Arc;

    use ebpf_hello_collector::log::{Log, Memory};

    crate::promises!(async { (Arc::new(Memory::default()) as Arc<dyn Log>, ()) });

    #[tokio::test]
    async fn counts_what_is_gone() {
        crate::suite::counts_what_is_gone(&Memory::new(64 << 10)).await;
    }
}
