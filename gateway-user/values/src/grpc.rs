//! gRPC's statuses (google.rpc.Code).

const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A text that is not the name of a status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a gRPC status")]
pub struct NotAStatus(String);

/// The number of a status that is given by name.
///
/// # Errors
///
/// If there is no status of this name.
pub fn code(name: &str) -> Result<u32, NotAStatus> {
    (0..)
        .zip(NAMES)
        .find(|(_, known)| *known == name)
        .map(|(code, _)| code)
        .ok_or_else(|| NotAStatus(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_google_rpc() {
        assert_eq!(code("OK"), Ok(0));
        assert_eq!(code("UNAVAILABLE"), Ok(14));
        assert_eq!(code("UNAUTHENTICATED"), Ok(16));
        assert!(code("unavailable").is_err());
    }
}
