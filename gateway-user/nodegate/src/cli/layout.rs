//! Text that fits the terminal.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use clap::Args;

/// Where there is no terminal, as in a file that somebody reads later.
const WITHOUT_TERMINAL: usize = 80;

/// Narrower than this nothing can be read, whatever the terminal says.
const NARROWEST: usize = 40;

/// How far what does not fit is moved in.
const FURTHER: usize = 2;

#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct WidthArgs {
    /// Break no lines, however narrow the terminal is
    #[arg(long)]
    wide: bool,
}

/// How wide lines may be; none: as wide as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout(Option<usize>);

// === impl WidthArgs ===

impl WidthArgs {
    /// For text that people read, wherever it goes.
    pub(super) fn for_reading(self, out: &(impl AsFd + IsTerminal)) -> Layout {
        let width = width(out).unwrap_or(WITHOUT_TERMINAL);
        Layout((!self.wide).then_some(width))
    }

    /// For lines that a program may read: where there is no terminal, they stay whole.
    pub(super) fn for_lines(self, out: &(impl AsFd + IsTerminal)) -> Layout {
        Layout(width(out).filter(|_| !self.wide))
    }
}

fn width(out: &(impl AsFd + IsTerminal)) -> Option<usize> {
    if !out.is_terminal() {
        return None;
    }
    let (width, _) = terminal_size::terminal_size_of(out)?;
    Some(usize::from(width.0).max(NARROWEST))
}

// === impl Layout ===

impl Layout {
    /// As wide as it is.
    #[cfg(test)]
    pub(super) const WIDE: Self = Self(None);

    /// Breaks lines at spaces where they are too long. What goes on is below the text of the line: behind its
    /// indentation, or behind its first column, which is as wide as `column`.
    pub(super) fn fit(self, text: &str, column: usize) -> String {
        let Some(width) = self.0 else {
            return text.to_owned();
        };
        let mut fitted = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            one(line, width, column, &mut fitted);
        }
        fitted
    }
}

fn one(line: &str, width: usize, column: usize, fitted: &mut String) {
    if line.trim_end().chars().count() <= width {
        return fitted.push_str(line);
    }
    let spaces = line.len() - line.trim_start().len();
    let is_row = column > 0 && line.get(..column).is_some_and(|start| start.ends_with(' '));
    let indent = if is_row && spaces < column {
        column
    } else {
        spaces + FURTHER
    };
    let mut used = 0;
    let mut is_first = true;
    // The first column, or the indentation, is no word.
    let (start, rest) = line.split_at(if is_row && spaces < column {
        column
    } else {
        spaces
    });
    fitted.push_str(start);
    used += start.chars().count();
    for word in rest.trim_end().split(' ') {
        let length = word.chars().count();
        if !is_first && used + 1 + length > width {
            let kept = fitted.trim_end().len();
            fitted.truncate(kept);
            fitted.push('\n');
            fitted.extend(std::iter::repeat_n(' ', indent));
            used = indent;
            if length == 0 {
                continue;
            }
        } else if !is_first {
            fitted.push(' ');
            used += 1;
        }
        fitted.push_str(word);
        used += length;
        is_first = false;
    }
    if line.ends_with('\n') {
        fitted.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_goes_on_below_its_text() {
        let narrow = Layout(Some(30));
        let row = "result      refused: the Service has no endpoints\n";
        assert_eq!(
            narrow.fit(row, 12),
            "result      refused: the\n            Service has no\n            endpoints\n"
        );
        let rule = "      -A KUBE-SVC-G6D3V5KS3PXPUEDS -j KUBE-SEP-LAV34IONK7IOT5SV\nshort\n";
        assert_eq!(
            narrow.fit(rule, 12),
            "      -A\n        KUBE-SVC-G6D3V5KS3PXPUEDS\n        -j\n        KUBE-SEP-LAV34IONK7IOT5SV\nshort\n"
        );
        assert_eq!(Layout::WIDE.fit(row, 12), row);
    }

    #[test]
    fn no_word_is_lost_and_no_line_is_too_long_that_has_spaces() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..500 {
            let words: Vec<_> = (0..random.usize(1..30))
                .map(|_| "x".repeat(random.usize(1..12)))
                .collect();
            let indent = " ".repeat(random.usize(0..16));
            let text = format!("{indent}{}\n", words.join(" "));
            let fitted = Layout(Some(40)).fit(&text, 12);
            let again: Vec<_> = fitted.split_whitespace().collect();
            assert_eq!(again, words);
            assert!(
                fitted.lines().all(|line| line.chars().count() <= 40),
                "{fitted}"
            );
        }
    }
}
