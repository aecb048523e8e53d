//! Waiting for what must come.

use std::time::{Duration, Instant};

/// Patience with a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Panics
/// There is none within [`PATIENCE`]; the last reason is told.
pub async fn eventually<T, E: std::fmt::Display>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(reason) => assert!(Instant::now() < end, "{what}: {reason}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
