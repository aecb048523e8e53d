//! What a cgroup's path says of whose it is. Pure.

/// Whose a cgroup is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pod's UID as the cgroup carries it, dashes restored: `metadata.uid`, or for a static pod the hash of its
    /// configuration.
    pub pod: String,
    /// The container's id, without a runtime's prefix; `None` for the pod's own cgroup and others that are no
    /// container's.
    pub container: Option<String>,
}

/// Reads the path of a cgroup from the root of its hierarchy; `None` where it is no pod's.
pub fn place(path: &str) -> Option<Place> {
    let mut parts = path.split('/');
    let pod = parts.find_map(|part| part.strip_prefix("pod"))?;
    Some(Place {
        pod: pod.to_owned(),
        container: parts.next().map(ToOwned::to_owned),
    })
}
