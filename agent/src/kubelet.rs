//! Where kubelet makes the cgroups of pods, and what they will be called: so that a pod's policy is there before its
//! first process. Pure.
//!
//! ```text
//!             cgroupfs                          systemd (a slice's name repeats its parent's)
//! Guaranteed  …/kubepods/podUID                 …/kubepods.slice/kubepods-podUID.slice
//! Burstable   …/kubepods/burstable/podUID       …/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice
//! BestEffort  …/kubepods/besteffort/podUID      …/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID.slice
//! ```
//!
//! Both may be nested (`--cgroup-root`): `/kubelet/kubepods`, `/kubelet.slice/kubelet-kubepods.slice`. A static pod's
//! UID is the hash of its configuration. In a slice's name the dashes of a UID are underscores
//! (`pkg/kubelet/cm/cgroup_manager_linux.go` in Kubernetes).

use crate::identity::{Pod, Qos};

/// The cgroup that kubelet made for all pods (`defaultNodeAllocatableCgroupName`).
const ROOT: &str = "kubepods";
const SLICE: &str = ".slice";

/// A cgroup that holds pods of one class, and no process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodParent<'p> {
    /// Of the pods that are directly in it.
    qos: Qos,
    /// Its name without `.slice`, where systemd made it.
    slice: Option<&'p str>,
}

// === impl PodParent ===

impl<'p> PodParent<'p> {
    /// Reads the path of a cgroup from the root of its hierarchy; `None` where it holds no pods.
    pub(crate) fn at(path: &'p str) -> Option<PodParent<'p>> {
        let (above, name) = path.rsplit_once('/')?;
        // Users make cgroups of their own there.
        if above.split('/').any(|part| part == "user.slice") {
            return None;
        }
        if let Some(slice) = name.strip_suffix(SLICE) {
            let qos = class(slice, '-')?;
            return Some(PodParent {
                qos,
                slice: Some(slice),
            });
        }
        let qos = match name {
            ROOT => Qos::Guaranteed,
            "burstable" | "besteffort" if above.rsplit('/').next() == Some(ROOT) => {
                class(&path[above.len() - ROOT.len()..], '/')?
            }
            _ => return None,
        };
        Some(PodParent { qos, slice: None })
    }

    /// The name that the cgroup of a pod will have in it; `None` for a pod of another class.
    pub(crate) fn name_of(&self, pod: &Pod) -> Option<String> {
        if pod.qos != self.qos || pod.cgroup_uid.is_empty() {
            return None;
        }
        Some(match self.slice {
            None => format!("pod{}", pod.cgroup_uid),
            Some(slice) => format!("{slice}-pod{}{SLICE}", pod.cgroup_uid.replace('-', "_")),
        })
    }
}

/// The class of `kubepods`, `kubepods/burstable` or `kubepods/besteffort`, below whatever.
fn class(name: &str, separator: char) -> Option<Qos> {
    let mut parts = name.rsplit(separator);
    let (qos, root) = match parts.next()? {
        "burstable" => (Qos::Burstable, parts.next()?),
        "besteffort" => (Qos::BestEffort, parts.next()?),
        root => (Qos::Guaranteed, root),
    };
    (root == ROOT).then_some(qos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, qos: Qos) -> Pod {
        Pod {
            cgroup_uid: uid.to_owned(),
            qos,
            ..Pod::default()
        }
    }

    #[test]
    fn a_pod_is_expected_where_kubelet_makes_it() {
        const UID: &str = "1b2c-3d";
        for (parent, qos, name) in [
            ("/kubepods", Qos::Guaranteed, "pod1b2c-3d"),
            ("/kubepods/burstable", Qos::Burstable, "pod1b2c-3d"),
            (
                "/kubelet/kubepods/besteffort",
                Qos::BestEffort,
                "pod1b2c-3d",
            ),
            (
                "/kubepods.slice",
                Qos::Guaranteed,
                "kubepods-pod1b2c_3d.slice",
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice",
                Qos::Burstable,
                "kubepods-burstable-pod1b2c_3d.slice",
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice",
                Qos::BestEffort,
                "kubelet-kubepods-besteffort-pod1b2c_3d.slice",
            ),
        ] {
            let found = PodParent::at(parent).unwrap_or_else(|| panic!("{parent}"));
            for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                let expected = (class == qos).then(|| name.to_owned());
                assert_eq!(found.name_of(&pod(UID, class)), expected, "{parent}");
            }
        }
    }

    #[test]
    fn a_static_pods_hash_is_its_uid() {
        let parent = PodParent::at("/kubepods.slice/kubepods-burstable.slice").unwrap();
        assert_eq!(
            parent.name_of(&pod("a39b5e2f", Qos::Burstable)).as_deref(),
            Some("kubepods-burstable-poda39b5e2f.slice")
        );
    }

    #[test]
    fn other_cgroups_hold_no_pods() {
        for path in [
            "/",
            "/burstable",
            "/system.slice",
            "/user.slice/kubepods",
            "/a/burstable",
            "/xkubepods/burstable",
            "/mykubepods.slice",
            "/kubepods/pod1/burstable",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice",
        ] {
            assert_eq!(PodParent::at(path), None, "{path}");
        }
    }
}
