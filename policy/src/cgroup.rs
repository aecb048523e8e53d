//! `matchCgroup`: which cgroups of a hierarchy, by path.

use glob::{MatchOptions, Pattern, PatternError};

/// A glob over cgroup paths.
#[derive(Clone, Debug)]
pub(crate) struct CgroupGlob {
    pattern: Pattern,
    /// Bytes of the pattern that stand for themselves: what it selects begins with them.
    literal: usize,
}

// === impl CgroupGlob ===

impl CgroupGlob {
    /// `text` begins with `/`.
    pub(crate) fn new(text: &str) -> Result<Self, PatternError> {
        let text = match text.trim_end_matches('/') {
            "" => "/",
            text => text,
        };
        Ok(CgroupGlob {
            pattern: Pattern::new(text)?,
            literal: text.find(['?', '*', '[']).unwrap_or(text.len()),
        })
    }

    /// It selects the cgroup it matches and everything below it, because a child cgroup starts with
    /// its parent's outcome in the kernel.
    pub(crate) fn selects(&self, path: &str) -> bool {
        // Nearly all of many filters and cgroups part here.
        if !path.starts_with(&self.pattern.as_str()[..self.literal]) {
            return false;
        }
        let options = MatchOptions {
            require_literal_separator: true,
            ..MatchOptions::default()
        };
        let path = path.trim_end_matches('/');
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        ends.map(|end| if end == 0 { "/" } else { &path[..end] })
            .any(|ancestor| self.pattern.matches_with(ancestor, options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_selects_what_it_matches_and_what_is_below() {
        for (glob, selected, others) in [
            ("/", &["/", "/a", "/a/b"][..], &[][..]),
            ("/a", &["/a", "/a/", "/a/b"], &["/", "/b", "/ab", "/b/a"]),
            ("/a/", &["/a", "/a/b"], &["/ab"]),
            ("/a/*", &["/a/b", "/a/b/c"], &["/", "/a", "/b/a"]),
            ("/a*/c?", &["/a/c1", "/ab/c2/d"], &["/a/c", "/a", "/ab/d"]),
            ("/[ab]/c", &["/a/c", "/b/c/d"], &["/c/c", "/a"]),
            ("/*", &["/", "/a", "/b/c"], &[]),
        ] {
            let glob = CgroupGlob::new(glob).unwrap();
            for path in selected {
                assert!(glob.selects(path), "{glob:?} {path}");
            }
            for path in others {
                assert!(!glob.selects(path), "{glob:?} {path}");
            }
        }
    }
}
