//! Words that were probably meant.

/// The candidate that `word` is a likely misspelling of.
pub fn nearest<S: AsRef<str>>(
    word: &str,
    candidates: impl IntoIterator<Item = S>,
) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::osa_distance(
                &word.to_ascii_lowercase(),
                &candidate.as_ref().to_ascii_lowercase(),
            );
            (distance, candidate.as_ref().to_owned())
        })
        // A third of the letters wrong is no longer a misspelling.
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(3))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_close_words_are_suggested() {
        let hosts = [
            "nginx.simple.svc.cluster.local",
            "simple.simple.svc.cluster.local",
        ];
        assert_eq!(
            nearest("ngnix.simple.svc.cluster.local", hosts).as_deref(),
            Some("nginx.simple.svc.cluster.local")
        );
        assert_eq!(nearest("x", ["port", "name"]), None);
        assert_eq!(
            nearest("rout", ["route", "retries"]).as_deref(),
            Some("route")
        );
    }
}
