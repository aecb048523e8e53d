//! `matchCgroup`: which cgroups of a hierarchy, by path.

use glob::{MatchOptions, Pattern, PatternError};

/// A glob over cgroup paths.
#[derive(Clone, Debug)]
pub(crate) struct CgroupGlob {
    pattern: Pattern,
    /// Bytes of the pattern that stand for themselves: what it selects begins with them.
    literal: usize,
    /// The parent and the name of what it matches, where that name stands for itself.
    last: Option<(Pattern, String)>,
}

/// `*` is any part of one directory's name.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// What stands for something else in a pattern.
const SPECIAL: [char; 3] = ['?', '*', '['];

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
            literal: text.find(SPECIAL).unwrap_or(text.len()),
            last: last(text),
        })
    }

    /// It selects the cgroup it matches and everything below it, because a child cgroup starts with
    /// its parent's outcome in the kernel.
    pub(crate) fn selects(&self, path: &str) -> bool {
        // Nearly all of many filters and cgroups part here.
        if !path.starts_with(&self.pattern.as_str()[..self.literal]) {
            return false;
        }
        let path = path.trim_end_matches('/');
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        ends.map(|end| if end == 0 { "/" } else { &path[..end] })
            .any(|ancestor| self.pattern.matches_with(ancestor, OPTIONS))
    }

    /// The one name that it asks for in the cgroup at `parent`: its last part, where that is literal
    /// and what stands before it matches `parent`.
    pub(crate) fn name_in(&self, parent: &str) -> Option<&str> {
        let (above, name) = self.last.as_ref()?;
        let literal = self.literal.min(above.as_str().len());
        // As in `selects`.
        let may_match = parent.starts_with(&above.as_str()[..literal]);
        (may_match && above.matches_with(parent, OPTIONS)).then_some(name)
    }
}

fn last(text: &str) -> Option<(Pattern, String)> {
    let (above, name) = text.rsplit_once('/')?;
    if name.is_empty() || name.contains(SPECIAL) {
        return None;
    }
    let above = if above.is_empty() { "/" } else { above };
    // What stands before a slash is no glob where the slash was in brackets.
    Some((Pattern::new(above).ok()?, name.to_owned()))
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

    #[test]
    fn a_name_is_asked_for_where_its_parent_matches() {
        for (glob, parent, name) in [
            ("/web", "/", Some("web")),
            ("/web/", "/", Some("web")),
            ("/web", "/web", None),
            ("/pods/*/app", "/pods/one", Some("app")),
            ("/pods/*/app", "/pods/one/two", None),
            ("/pods/*/app", "/pods", None),
            ("/pods/app-*", "/pods", None),
            ("/a[/]b", "/a", None),
            ("/", "/", None),
        ] {
            let glob = CgroupGlob::new(glob).unwrap();
            assert_eq!(glob.name_in(parent), name, "{glob:?} {parent}");
        }
    }
}
