//! The syntax of names and hosts.

/// RFC 1123 label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63.
pub(crate) fn is_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// RFC 1123 subdomain: labels with dots between, at most 253. A label may be longer than 63 here:
/// the API server looks at the whole only.
pub(crate) fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        label
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// RFC 1035 label: as RFC 1123, but it begins with a letter.
pub(crate) fn is_service_name(name: &str) -> bool {
    is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// A lower-case host: labels with dots between, of which the first may be, or begin with, the
/// wildcard `*` (`ValidateWildcardDomain` of istio's pkg/config/validation/agent). Istio's labels
/// may hold underscores.
pub(crate) fn is_host(host: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    let (first, rest) = match host.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (host, None),
    };
    let first_is_good = match first.strip_prefix('*') {
        Some(rest) => rest.bytes().all(plain),
        None => !first.is_empty() && first.len() <= 63 && first.bytes().all(plain),
    };
    let rest_is_good = rest.is_none_or(|rest| {
        let rest = rest.strip_suffix('.').unwrap_or(rest);
        rest.split('.')
            .all(|label| (1..=63).contains(&label.len()) && label.bytes().all(plain))
    });
    host.len() <= 255 && first_is_good && rest_is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for host in [
            "*",
            "*.baihl.io",
            "*-a.x",
            "simple.baihl.io",
            "nginx",
            "10.0.0.1",
            "my_svc.x",
        ] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "", "a.*", "a*.b", "*.*", "a..b", "a b", "http://x", "a:80", ".a", "**",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn names() {
        assert!(
            is_service_name("nginx-1") && !is_service_name("1nginx") && !is_service_name("a.b")
        );
        assert!(
            is_subdomain("a.b-1")
                && !is_subdomain("A")
                && !is_subdomain("a..b")
                && !is_subdomain("-a")
        );
        assert!(is_label("1a") && !is_label("") && !is_label(&"a".repeat(64)) && !is_label("a-"));
    }
}
