//! What a raw tracepoint hands to a program. The kernel declares each as
//! `typedef void (*btf_trace_<name>)(void *__data, …)` (`include/trace/bpf_probe.h`).

use super::{Btf, Kind, LookupError, parse::Body};

/// One argument of a raw tracepoint: `ctx.args[n]` of the program, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// What it is.
    pub kind: Kind,
    /// Its size in bytes. The program sees every argument as 8 bytes.
    pub size: u32,
}

// === impl Btf ===

impl Btf {
    /// The arguments of a raw tracepoint (`"sched_process_exit"`), in the order in which a
    /// program sees them: the kernel's own first one, `__data`, is not among them. BTF has their
    /// types, not their names. `None` when the kernel has no such tracepoint.
    ///
    /// # Errors
    ///
    /// A [`LookupError`] when the BTF is damaged.
    pub fn tracepoint_parameters(&self, name: &str) -> Result<Option<Vec<Parameter>>, LookupError> {
        let typedef = format!("btf_trace_{name}");
        let Some(&id) = self.typedefs.get(typedef.as_bytes()) else {
            return Ok(None);
        };
        let Body::Pointer { target } = self.resolve(id)?.1.body else {
            return Ok(None);
        };
        let Body::Prototype { parameters } = &self.resolve(target)?.1.body else {
            return Ok(None);
        };
        // The parser made the range from the list it lies in.
        let declared = self.fields.get(parameters.clone()).unwrap_or_default();
        let after_data = declared.iter().skip(1);
        after_data
            .map(|field| {
                Ok(Parameter {
                    kind: self.kind(field.type_id)?,
                    size: self.size(field.type_id)?,
                })
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Whether `sched_process_exit` says that the exiting task is the last of its process: its
    /// second argument is `bool group_dead` (Linux 6.16).
    ///
    /// # Errors
    ///
    /// A [`LookupError`] when the BTF is damaged.
    pub fn has_group_dead(&self) -> Result<bool, LookupError> {
        let parameters = self
            .tracepoint_parameters("sched_process_exit")?
            .unwrap_or_default();
        Ok(parameters
            .get(1)
            .is_some_and(|parameter| parameter.kind == Kind::Bool))
    }
}
