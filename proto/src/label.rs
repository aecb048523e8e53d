//! Short names of enum values, for the ledger's line and for metric labels.
//!
//! Proto style gives an enum value its type's prefix (`LOSS_REASON_RINGBUF_FULL`); people and
//! dashboards read `ringbuf_full`.

use crate::v1::{Abi, Handler, LossReason, LossStage, SuppressedReason};

macro_rules! label {
    ($type:ty, $prefix:literal, $example:literal) => {
        impl $type {
            #[doc = concat!("The name without `", $prefix, "`, in lower case, such as `", $example, "`.")]
            ///
            /// The set of labels is the set of the enum's values: bounded, safe as a metric label.
            #[must_use]
            pub fn label(self) -> String {
                let name = self.as_str_name();
                name.strip_prefix($prefix).unwrap_or(name).to_ascii_lowercase()
            }
        }
    };
}

label!(Abi, "ABI_", "x86_64");
label!(Handler, "HANDLER_", "trace");
label!(LossReason, "LOSS_REASON_", "ringbuf_full");
label!(LossStage, "LOSS_STAGE_", "kernel");
label!(SuppressedReason, "SUPPRESSED_REASON_", "container_scope");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_the_ledger_and_the_metrics_say() {
        assert_eq!(LossReason::RingbufFull.label(), "ringbuf_full");
        assert_eq!(LossReason::SpoolFull.label(), "spool_full");
        assert_eq!(LossStage::Kernel.label(), "kernel");
        assert_eq!(SuppressedReason::ContainerScope.label(), "container_scope");
        assert_eq!(Handler::ProcessExec.label(), "process_exec");
    }
}
