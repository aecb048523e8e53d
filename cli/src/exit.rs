//! Exit status: what failed, as a number that scripts can tell apart.

use std::process::ExitCode;

use ebpf_hello_agent::AgentError;
use ebpf_hello_loader::LoadError;

/// No running instance could be reached.
#[derive(Debug)]
pub(crate) struct Unreachable;

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot reach a running instance")
    }
}

impl std::error::Error for Unreachable {}

/// Reports an error with its whole cause, and chooses the status.
pub(crate) fn code(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            crate::page::tell(&format!("ebpf-hello: {error:#}"));
            ExitCode::from(status(&error))
        }
    }
}

fn status(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Unreachable>().is_some() {
        return 6;
    }
    let load = error.chain().find_map(|cause| {
        cause
            .downcast_ref::<LoadError>()
            .or(match cause.downcast_ref::<AgentError>() {
                Some(AgentError::Load(load)) => Some(load),
                _ => None,
            })
    });
    match load {
        Some(LoadError::Option { .. }) => 2,
        Some(LoadError::Privilege(_)) => 3,
        Some(LoadError::Kernel(_) | LoadError::Layout(_)) => 4,
        Some(LoadError::Rejected { .. }) => 5,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_found_through_its_contexts() {
        let load = |error: LoadError| {
            status(&anyhow::Error::from(AgentError::from(error)).context("cannot start"))
        };
        assert_eq!(load(LoadError::Privilege("x".into())), 3);
        assert_eq!(load(LoadError::Kernel("x".into())), 4);
        assert_eq!(status(&anyhow::anyhow!("anything")), 1);
        assert_eq!(
            status(&anyhow::Error::from(Unreachable).context("socket")),
            6
        );
    }
}
