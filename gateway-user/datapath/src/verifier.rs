//! Programs through the kernel's verifier.

use aya::programs::ProgramError;

/// So often a program is loaded, as libbpf does (`PROG_LOAD_ATTEMPTS`).
const ATTEMPTS: usize = 5;

/// Loads a program, and again where a signal came for this process while the verifier was at work: it ends
/// with EAGAIN then (`do_check` in kernel/bpf/verifier.c), which says nothing about the program.
pub(crate) fn uninterrupted(
    load: impl FnMut() -> Result<(), ProgramError>,
) -> Result<(), ProgramError> {
    again(load, |error| {
        matches!(error, ProgramError::LoadError { io_error, .. }
            if io_error.raw_os_error() == Some(libc::EAGAIN))
    })
}

/// Does something, and again for as long as it fails so, but not forever.
fn again<E>(
    mut attempt: impl FnMut() -> Result<(), E>,
    is_interrupted: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if is_interrupted(&error) => {}
            result => return result,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it is tried until it succeeds, or fails for good; with what.
    fn tried(outcomes: &[Result<(), &'static str>]) -> (usize, Result<(), &'static str>) {
        let mut outcomes = outcomes.iter().cycle();
        let mut count = 0;
        let result = again(
            || {
                count += 1;
                *outcomes.next().unwrap()
            },
            |error| *error == "signal",
        );
        (count, result)
    }

    #[test]
    fn only_what_a_signal_has_interrupted_is_done_again() {
        assert_eq!(tried(&[Ok(())]), (1, Ok(())));
        assert_eq!(tried(&[Err("signal"), Err("signal"), Ok(())]), (3, Ok(())));
        assert_eq!(tried(&[Err("refused"), Ok(())]), (1, Err("refused")));
        assert_eq!(tried(&[Err("signal"), Err("refused")]), (2, Err("refused")));
        assert_eq!(tried(&[Err("signal")]), (ATTEMPTS, Err("signal")));
    }
}
