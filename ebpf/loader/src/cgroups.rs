//! Cgroups, and the outcomes they have: those that are there by their id, those that are yet to
//! come by their name.

use std::path::PathBuf;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use ebpf_hello_abi::{CGROUP_NAME, CgroupName, map};
use procfs::process::Process;

use crate::{
    Kernel, LoadError,
    object::{NOEXIST, Shared, is_already_there, take},
};

/// Where cgroup v2 is mounted; `None` where it is not.
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = Process::myself().ok()?.mountinfo().ok()?;
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")
        .map(|mount| mount.mount_point)
}

/// What the programs look cgroups up in.
pub(crate) struct CgroupMaps {
    outcomes: HashMap<MapData, u64, u32>,
    names: HashMap<MapData, Shared<CgroupName>, u32>,
}

impl CgroupMaps {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(CgroupMaps {
            outcomes: take(ebpf, map::CGROUPS)?,
            names: take(ebpf, map::CGROUP_NAMES)?,
        })
    }
}

// === impl Kernel ===

impl Kernel {
    /// Gives a cgroup an outcome. With `only_if_new`, one that already has any keeps it.
    ///
    /// # Errors
    /// A failed map operation; a full map is one.
    pub fn bind_cgroup(
        &mut self,
        cgroup: u64,
        outcome: u32,
        only_if_new: bool,
    ) -> Result<(), LoadError> {
        let flags = if only_if_new { NOEXIST } else { 0 };
        match self.cgroups.outcomes.insert(cgroup, outcome, flags) {
            Err(error) if only_if_new && is_already_there(&error) => Ok(()),
            result => result.map_err(LoadError::map(map::CGROUPS)),
        }
    }

    /// Gives a cgroup the node's default.
    pub fn unbind_cgroup(&mut self, cgroup: u64) {
        // Gone already is as good.
        let _ = self.cgroups.outcomes.remove(&cgroup);
    }

    /// The outcome that a cgroup has of its own, be it inherited; `None` for the default.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn outcome_of(&self, cgroup: u64) -> Result<Option<u32>, LoadError> {
        match self.cgroups.outcomes.get(&cgroup, 0) {
            Ok(outcome) => Ok(Some(outcome)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(LoadError::map(map::CGROUPS)(error)),
        }
    }

    /// Every cgroup with an outcome of its own, inherited ones included.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn bound_cgroups(&self) -> Result<Vec<(u64, u32)>, LoadError> {
        self.cgroups
            .outcomes
            .iter()
            .collect::<Result<_, _>>()
            .map_err(LoadError::map(map::CGROUPS))
    }

    /// Gives a cgroup that is yet to come an outcome, before its first process: the next directory
    /// of this name in `parent` (a cgroup v2 id), or in any cgroup where that is `None`. The name
    /// stays bound when the directory goes. Where both fit, the one with a parent counts.
    ///
    /// # Errors
    /// A name that is empty, holds a slash or a NUL, or has more than 127 bytes; a failed map
    /// operation (8,192 names is a full map).
    pub fn bind_name(
        &mut self,
        parent: Option<u64>,
        name: &str,
        outcome: u32,
    ) -> Result<(), LoadError> {
        let key = key(parent, name)?;
        self.cgroups
            .names
            .insert(Shared(key), outcome, 0)
            .map_err(LoadError::map(map::CGROUP_NAMES))
    }

    /// Takes a name back. A cgroup that was made under it keeps its outcome.
    pub fn unbind_name(&mut self, parent: Option<u64>, name: &str) {
        if let Ok(key) = key(parent, name) {
            // Gone already is as good.
            let _ = self.cgroups.names.remove(&Shared(key));
        }
    }
}

fn key(parent: Option<u64>, name: &str) -> Result<CgroupName, LoadError> {
    let mut key = CgroupName {
        parent: parent.unwrap_or(0),
        name: [0; CGROUP_NAME],
    };
    match key.name.get_mut(..name.len()) {
        // The last byte is the NUL's.
        Some(room) if (1..CGROUP_NAME).contains(&name.len()) && !name.contains(['/', '\0']) => {
            room.copy_from_slice(name.as_bytes());
            Ok(key)
        }
        _ => Err(LoadError::Option {
            option: "cgroup name",
            expected: "one directory's, of 1 to 127 bytes",
            value: format!("{name:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_directorys_and_fits_with_its_nul() {
        let fits = "a".repeat(CGROUP_NAME - 1);
        assert_eq!(key(Some(7), &fits).unwrap().name.last(), Some(&0));
        assert_eq!(key(Some(7), "a").unwrap().parent, 7);
        for name in ["", "a/b", "a\0", &"a".repeat(CGROUP_NAME)] {
            let error = key(None, name).unwrap_err().to_string();
            assert!(error.starts_with("cgroup name must be"), "{error}");
        }
    }
}
