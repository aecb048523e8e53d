//! "Did you mean …?": the names nearest to one that does not exist.

/// At most this many are offered.
const OFFERED: usize = 3;

/// The candidates nearest to `word`, best first, none that is far off.
pub(crate) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Vec<&'c str> {
    let word = word.to_lowercase();
    // One slip in a short word, a third of a long one; beyond that a guess is noise.
    let limit = (word.chars().count() / 3).clamp(1, 4);
    let mut close: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &candidate.to_lowercase());
            (distance <= limit).then_some((distance, candidate))
        })
        .collect();
    close.sort();
    close.dedup();
    close
        .into_iter()
        .map(|(_, candidate)| candidate)
        .take(OFFERED)
        .collect()
}

/// `: did you mean "openat", "open" or "openat2"?`, or what to do where nothing is near.
pub(crate) fn suggest(nearest: &[&str], otherwise: &str) -> String {
    let quoted: Vec<String> = nearest.iter().map(|name| format!("{name:?}")).collect();
    match quoted.split_last() {
        None => otherwise.to_owned(),
        Some((only, [])) => format!(": did you mean {only}?"),
        Some((last, rest)) => format!(": did you mean {} or {last}?", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_the_nearest_first_and_nothing_far() {
        let names = ["openat", "openat2", "open", "close", "timer_create"];
        assert_eq!(nearest("openta", names), ["openat", "open", "openat2"]);
        assert_eq!(nearest("timer_crate", names), ["timer_create"]);
        assert_eq!(nearest("EXECVE", ["execve"]), ["execve"]);
        assert_eq!(nearest("frobnicate", names), Vec::<&str>::new());
    }
}
