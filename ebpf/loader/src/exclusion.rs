//! No feedback loop: what we do ourselves is not reported.

/// Whose doings are counted as ours and not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Nobody's.
    Nobody,
    /// Every process that runs this executable.
    SelfOnly,
    /// These, our ancestors, and those among our ancestors' children that read our output.
    SelfAndAncestors,
}

impl Exclusion {
    /// The arguments of the `identify` program.
    pub(crate) fn arguments(self) -> [u64; 12] {
        let mut arguments = [0; 12];
        arguments[0] = u64::from(self != Exclusion::Nobody);
        arguments[1] = u64::from(self == Exclusion::SelfAndAncestors);
        arguments
    }
}
