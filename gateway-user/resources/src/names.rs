//! The syntax of names and hosts.

/// RFC 1123 label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63.
pub(crate) fn is_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A label of DNS, in upper or lower case (`IsDNS1123Label` of istio's pkg/config/labels).
pub(crate) fn is_dns_label(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(good)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A domain (`ValidateFQDN` of istio's pkg/config/validation/agent).
pub(crate) fn is_domain(name: &str) -> bool {
    let labels: Vec<_> = name.split('.').collect();
    let (last, others) = labels.split_last().unwrap_or((&"", &[]));
    let ends =
        is_dns_label(last) && last.parse::<i64>().is_err() || last.is_empty() && !others.is_empty();
    (1..=255).contains(&name.len()) && ends && others.iter().all(|label| is_dns_label(label))
}

/// A domain whose first label may be, or begin with, the wildcard `*` (`ValidateWildcardDomain` of istio's
/// pkg/config/validation/agent).
pub(crate) fn is_wildcard_domain(name: &str) -> bool {
    let (first, rest) = match name.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    let plain = first.strip_prefix("*-").or_else(|| first.strip_prefix('*'));
    let is_good = first == "*" || first.len() <= 63 && is_dns_label(plain.unwrap_or(first));
    name.len() <= 255 && is_good && rest.is_none_or(|rest| rest.is_empty() || is_domain(rest))
}

/// A host that can be served, and that is no domain to Istio.
pub(crate) fn is_lax_host(host: &str) -> bool {
    is_host(&host.to_ascii_lowercase()) && !is_wildcard_domain(host)
}

/// The value of a label, which may be empty (`labelValueRegexp` of istio's pkg/config/labels).
pub(crate) fn is_label_value(value: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let ends = [value.bytes().next(), value.bytes().last()];
    value.len() <= 63
        && value.bytes().all(good)
        && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
}

/// The name of a label: a domain and a slash may stand before it (`tagRegexp` of istio's pkg/config/labels).
pub(crate) fn is_label_key(key: &str) -> bool {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    let is_domain = |domain: &str| domain.len() <= 253 && domain.split('.').all(is_dns_label);
    !name.is_empty() && is_label_value(name) && domain.is_none_or(is_domain)
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
    fn domains_and_labels_as_istio_has_them() {
        for (name, plain, wildcard) in [
            ("web.x", true, true),
            ("web.x.", true, true),
            ("Web", true, true),
            ("*.x", false, true),
            ("*-a.x", false, true),
            ("*", false, true),
            ("a_b.x", false, false),
            ("-a.x", false, false),
            ("1.2.3.4", false, false),
            ("a..b", false, false),
            ("", false, false),
        ] {
            assert_eq!(
                (is_domain(name), is_wildcard_domain(name)),
                (plain, wildcard),
                "{name}"
            );
        }
        assert!(is_label_key("a.b/c_d") && !is_label_key("") && !is_label_key("a b"));
        assert!(is_label_value("") && is_label_value("v1.0") && !is_label_value("-a"));
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
