//! Normal forms of paths.

use http::Uri;
use nodegate_route::path::normalize;

/// A normal form is a path of the same request, and has no other normal form.
pub fn run(input: &[u8]) {
    let Ok(uri) = Uri::try_from(input) else {
        return;
    };
    let Ok(Some(normal)) = normalize(&uri) else {
        return;
    };
    assert_eq!(normal.query(), uri.query());
    assert_eq!(normal.authority(), uri.authority());
    let path = normal.path();
    assert!(path.starts_with('/') && !path.contains('\\'), "{path}");
    for segment in path.split('/') {
        let decoded = segment.to_ascii_lowercase().replace("%2e", ".");
        assert!(decoded != "." && decoded != "..", "{path}");
    }
    assert_eq!(normalize(&normal), Ok(None), "{uri} became {normal}");
}
