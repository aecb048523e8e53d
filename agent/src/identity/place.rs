//! What a cgroup's path says of whose it is. Pure.
//!
//! The kubelet names a pod's cgroup, the runtime those of the containers in it:
//!
//! ```text
//! cgroupfs  …/kubepods[/burstable|/besteffort]/podUID/ID
//! systemd   …/kubepods[-QOS]-podU_I_D.slice/RUNTIME-ID.scope[/container]
//! mixed     …/kubepods[-QOS]-podU_I_D.slice:RUNTIME:ID        a slice's name that nobody took for one
//! ```
//!
//! What stands before is a cgroup root, a node that is a container itself, or nothing. The first pod on the way down is
//! the answer: a cluster within a pod is that pod's.

/// Longest UID that is taken for one: what the API server allows in `metadata.uid` is a UUID (36), in a static pod's
/// manifest anything.
const UID: usize = 128;
/// Longest container id: runtimes make 64 hexadecimal digits.
const ID: usize = 128;

/// How runtimes begin a container's cgroup: containerd's CRI, CRI-O, cri-dockerd, and containerd's older CRI.
const RUNTIMES: [&str; 4] = ["cri-containerd", "crio", "docker", "containerd"];

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
///
/// A name that only looks like a pod's is none: not without `kubepods`, and not below `user.slice`, where users make
/// cgroups of their own and could take any name.
///
/// ```
/// use ebpf_hello_agent::identity::place;
///
/// let found = place("/kubepods.slice/kubepods-pod8b2e_41.slice/cri-containerd-ab12.scope").unwrap();
/// assert_eq!(found.pod, "8b2e-41");
/// assert_eq!(found.container.as_deref(), Some("ab12"));
/// assert_eq!(place("/system.slice/podman.service"), None);
/// ```
pub fn place(path: &str) -> Option<Place> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    // The two parts above the one that is looked at.
    let mut above = ["", ""];
    while let Some(part) = parts.next() {
        if part == "user.slice" {
            return None;
        }
        if let Some(pod) = by_directory(part, above) {
            let container = parts.next().and_then(container);
            return Some(Place { pod, container });
        }
        if let Some((slice, rest)) = part.split_once(".slice")
            && let Some(pod) = by_slice(slice)
        {
            let container = match rest {
                "" => parts.next().and_then(container),
                rest => unit(rest),
            };
            return Some(Place { pod, container });
        }
        above = [above[1], part];
    }
    None
}

/// The cgroupfs driver's `podUID`, below `kubepods` or one of its two classes.
fn by_directory(part: &str, above: [&str; 2]) -> Option<String> {
    let is_below = match above {
        [_, "kubepods"] => true,
        ["kubepods", class] => ["burstable", "besteffort"].contains(&class),
        _ => false,
    };
    let uid = part.strip_prefix("pod").filter(|_| is_below)?;
    let is_uid = is_word(uid, UID, |byte| byte == b'-');
    is_uid.then(|| uid.to_owned())
}

/// The systemd driver's `kubepods[-QOS]-podUID`, where a dash would be another slice and is therefore an underscore.
fn by_slice(slice: &str) -> Option<String> {
    let (class, uid) = slice.rsplit_once("-pod")?;
    let parent = class
        .strip_suffix("-burstable")
        .or_else(|| class.strip_suffix("-besteffort"))
        .unwrap_or(class);
    // A cgroup root of the kubelet's stands before: `kubelet-kubepods`.
    let is_below = parent == "kubepods" || parent.ends_with("-kubepods");
    (is_below && is_word(uid, UID, |byte| byte == b'_')).then(|| uid.replace('_', "-"))
}

/// `ID`, `RUNTIME-ID` or `RUNTIME-ID.scope`.
fn container(part: &str) -> Option<String> {
    let of_runtime = RUNTIMES
        .iter()
        .find_map(|runtime| part.strip_prefix(runtime)?.strip_prefix('-'));
    let id = of_runtime.map_or(part, |unit| unit.strip_suffix(".scope").unwrap_or(unit));
    is_word(id, ID, |_| false).then(|| id.to_owned())
}

/// `:RUNTIME:ID`, what follows the slice where the runtime was given systemd's form and did not know it.
fn unit(rest: &str) -> Option<String> {
    let (runtime, id) = rest.strip_prefix(':')?.split_once(':')?;
    (RUNTIMES.contains(&runtime) && is_word(id, ID, |_| false)).then(|| id.to_owned())
}

fn is_word(text: &str, longest: usize, also: fn(u8) -> bool) -> bool {
    (1..=longest).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || also(byte))
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::any, prop_assert, proptest};

    use super::*;

    /// `PATH POD CONTAINER` a line, `-` for none.
    const CORPUS: &str = include_str!("../../testdata/cgroups.txt");

    #[test]
    fn every_layout_is_read_as_the_corpus_says() {
        let mut read = 0;
        for line in CORPUS.lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [path, pod, container] = fields[..] else {
                panic!("not a path, a pod and a container: {line}");
            };
            let expected = (pod != "-").then(|| Place {
                pod: pod.to_owned(),
                container: (container != "-").then(|| container.to_owned()),
            });
            assert_eq!(place(path), expected, "{path}");
            // Nobody's path depends on where it is mounted, or on a slash at its end.
            assert_eq!(place(&format!("{path}/")), expected, "{path}/");
            read += 1;
        }
        assert!(read > 50, "only {read} lines");
    }

    #[test]
    fn what_is_too_long_is_no_name() {
        let long = "a".repeat(ID + 1);
        assert_eq!(place(&format!("/kubepods/pod{long}/b")), None);
        let found = place(&format!("/kubepods/podb/{long}")).map(|place| place.container);
        assert_eq!(found, Some(None));
    }

    proptest! {
        #[test]
        fn no_path_is_too_odd(path in any::<String>()) {
            let _ = place(&path);
        }

        #[test]
        fn what_is_found_stands_in_the_path(
            path in "(/(kubepods|kubepods\\.slice|burstable|pod[a-f0-9-]{0,9}|kubepods-(burstable-)?pod[a-f0-9_]{0,9}\\.slice(:crio:[a-f0-9]{0,3})?|(cri-containerd-|crio-|crio-conmon-)?[a-f0-9]{0,9}(\\.scope)?|user\\.slice|\\PC{0,6})){0,7}",
        ) {
            if let Some(found) = place(&path) {
                prop_assert!(path.replace('_', "-").contains(&found.pod) && !found.pod.is_empty());
                prop_assert!(path.contains("kubepods"));
                if let Some(container) = found.container {
                    prop_assert!(path.contains(&container) && !container.is_empty());
                }
            }
        }
    }
}
