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

/// The name of a status as Envoy writes it, such as `InvalidArgument` (`Grpc::Utility::
/// grpcStatusToString`).
pub fn camel_name(code: u32) -> Option<String> {
    let name = NAMES.get(code as usize)?;
    match code {
        0 => return Some((*name).to_owned()),
        // Envoy spells it otherwise here.
        1 => return Some("Canceled".to_owned()),
        _ => {}
    }
    let words = name.split('_').flat_map(|word| {
        let (first, rest) = word.split_at(1);
        [first.to_owned(), rest.to_ascii_lowercase()]
    });
    Some(words.collect())
}

/// The status for an HTTP status (gRPC's http-grpc-status-mapping.md).
pub const fn of_http(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
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
        assert_eq!(camel_name(0).as_deref(), Some("OK"));
        assert_eq!(camel_name(1).as_deref(), Some("Canceled"));
        assert_eq!(camel_name(3).as_deref(), Some("InvalidArgument"));
        assert_eq!(camel_name(17), None);
    }
}
