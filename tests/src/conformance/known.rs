//! The tests that can't pass here.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};

/// Tests that can't pass here, with their reasons.
pub type Known = BTreeMap<String, String>;

/// Reads the table: a name, and below it, indented, the reason. Lines that begin with `#` are comments.
///
/// # Errors
/// Names the line that is no such thing.
pub fn parse(text: &str) -> anyhow::Result<Known> {
    let mut known = Known::new();
    let mut last = None;
    for (index, line) in text.lines().enumerate() {
        let place = || format!("line {}: `{line}`", index + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(' ') {
            let name = last.as_ref();
            let name = name.with_context(|| format!("{} is a reason of no test", place()))?;
            let reason: &mut String = known.entry(String::clone(name)).or_default();
            if !reason.is_empty() {
                reason.push(' ');
            }
            reason.push_str(line.trim());
        } else {
            let name = line.trim().to_owned();
            let new = known.insert(name.clone(), String::new()).is_none();
            ensure!(new, "{} stands there twice", place());
            last = Some(name);
        }
    }
    for (name, reason) in &known {
        ensure!(
            !reason.is_empty(),
            "`{name}` has no reason (fix: write it below, indented)"
        );
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::KNOWN;

    #[test]
    fn names_have_reasons() {
        let known = parse("# all\n\na: b\n    one\n    two\nc\n  three\n").unwrap();
        let pairs: Vec<_> = known.iter().collect();
        let expected = [("a: b", "one two"), ("c", "three")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(
            pairs,
            expected
                .iter()
                .map(|(a, b)| (a, b))
                .collect::<Vec<(&String, &String)>>()
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(said("a\nb\n  why\n").contains("`a` has no reason"));
        assert!(said("  why\n").contains("line 1"));
        assert!(said("a\n  why\na\n  why\n").contains("line 3"));
    }

    #[test]
    fn the_table_can_be_read() {
        let known = parse(KNOWN).unwrap();
        assert!(
            known.keys().all(|name| name.starts_with("[sig-network] ")),
            "{known:?}"
        );
    }
}
