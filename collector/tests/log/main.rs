//! What every log promises, on each kind of log.

mod suite;

mod memory {
    use std::sync::Arc;

    use ebpf_hello_collector::log::{Log, Memory};

    use crate::suite;

    fn log() -> Arc<dyn Log> {
        Arc::new(Memory::default())
    }

    #[tokio::test]
    async fn keeps_the_order() {
        suite::keeps_the_order(&*log()).await;
    }

    #[tokio::test]
    async fn appends_a_batch_once() {
        suite::appends_a_batch_once(&*log()).await;
    }

    #[tokio::test]
    async fn refuses_what_is_no_batch_of_the_node() {
        suite::refuses_what_is_no_batch_of_the_node(&*log()).await;
    }

    #[tokio::test]
    async fn finds_positions_by_time() {
        suite::finds_positions_by_time(&*log()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn wakes_readers_that_wait() {
        suite::wakes_readers_that_wait(log()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn shows_every_reader_everything() {
        suite::shows_every_reader_everything(log()).await;
    }

    #[tokio::test]
    async fn counts_what_is_gone() {
        let log = Memory::new(64 << 10);
        suite::counts_what_is_gone(&log).await;
    }
}
