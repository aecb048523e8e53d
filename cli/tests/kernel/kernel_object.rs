//! What the kernel itself says of a process's BPF programs, maps and links.

use std::{collections::BTreeSet, fs};

use crate::generator::generate;

/// Ids of BPF objects; each kind has its own numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) programs: BTreeSet<u32>,
    pub(crate) maps: BTreeSet<u32>,
    pub(crate) links: BTreeSet<u32>,
}

/// Lines of every descriptor's information (proc_pid_fdinfo(5)), as `key` and `value`.
fn descriptors(pid: u32) -> Vec<(String, String)> {
    let directory = format!("/proc/{pid}/fdinfo");
    fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{directory}: {error}"))
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The raw tracepoints that a process holds links to.
pub(crate) fn tracepoints_of(pid: u32) -> Vec<String> {
    descriptors(pid)
        .into_iter()
        .filter(|(key, _)| key == "tp_name")
        .map(|(_, value)| value)
        .collect()
}

/// Every BPF object that a process holds a descriptor of.
pub(crate) fn objects_of(pid: u32) -> Objects {
    let mut objects = Objects::default();
    for (key, value) in descriptors(pid) {
        let ids = match key.as_str() {
            "prog_id" => &mut objects.programs,
            "map_id" => &mut objects.maps,
            "link_id" => &mut objects.links,
            _ => continue,
        };
        ids.insert(value.parse().unwrap());
    }
    objects
}

// === impl Objects ===

impl Objects {
    /// Those that the kernel still lists. Opens none: see the generator's objects.rs.
    pub(crate) fn alive(&self) -> Objects {
        let listed = generate(&["objects"]);
        let keep = |list: &str, of: &BTreeSet<u32>| {
            let ids: BTreeSet<u32> = listed.ids(list);
            ids.intersection(of).copied().collect()
        };
        Objects {
            programs: keep("programs", &self.programs),
            maps: keep("maps", &self.maps),
            links: keep("links", &self.links),
        }
    }
}
