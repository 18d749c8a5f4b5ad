//! The few words that everything is made of.

pub(super) const PATHS: [&str; 14] = [
    "/", "/a", "/a/", "/a/b", "/ab", "/A", "/a/B", "/b", "/b/1", "/b/12", "/a.b", "/a%2Fb",
    "/a;v=1", "/a//b",
];
pub(super) const PREFIXES: [&str; 8] = ["/", "/a", "/a/", "/b", "/B", "/a/b", "/a.", "/b/"];
/// Expressions, and what they match.
pub(super) const PATTERNS: [(&str, &str); 9] = [
    ("/a.*", "/a/x"),
    (r"/b/\d+", "/b/12"),
    ("/(a|b)(/.*)?", "/b/x/y"),
    (".*b", "/a/b"),
    ("/[^/]+", "/ab"),
    ("/A/?", "/A/"),
    (".*", "/anything"),
    ("/(?i:ab)", "/AB"),
    (r"/a\.b$", "/a.b"),
];
/// Headers of requests that conditions and changes are about.
pub(super) const HEADERS: [&str; 4] = ["x-a", "x-b", "x-c", "user-agent"];
pub(super) const QUERIES: [&str; 3] = ["p", "q", "P"];
pub(super) const VALUES: [&str; 7] = ["1", "2", "12", "a b", "21", "A", "a,b"];
pub(super) const METHODS: [&str; 8] = [
    "GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD",
];
pub(super) const ORIGINS: [&str; 4] = [
    "https://a.test",
    "https://b.a.test",
    "null",
    "http://a.test",
];
