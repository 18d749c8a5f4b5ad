//! Dumps of iptables-save: any text is read, and what makes no sense is named with its line.

use nodegate_iptables::{lint::lint, parse::parse, rules::Dialect, services::of_rules};

/// Reads a text, says what Services it is of, and writes it again.
pub fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let dump = parse(text);
    let lines = text.lines().count().max(1);
    for error in &dump.errors {
        assert!(
            (1..=lines).contains(&error.line),
            "{error} of {lines} lines"
        );
        assert!(!error.message.is_empty());
    }
    for ruleset in &dump.rulesets {
        let services = of_rules(ruleset);
        let _ = lint(ruleset, &services);
        for dialect in [Dialect::Restore, Dialect::Save] {
            let _ = ruleset.text(dialect);
        }
    }
}
