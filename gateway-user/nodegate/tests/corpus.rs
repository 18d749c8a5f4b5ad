//! The corpus of the fuzz targets, and what they have found, through the same functions.

#![expect(
    unreachable_pub,
    reason = "public for the fuzz targets, which are of another crate"
)]

use std::{fs, path::Path};

#[path = "../../../fuzz/src/heads.rs"]
mod heads;
#[path = "../../../fuzz/src/iptables.rs"]
mod iptables;
#[path = "../../../fuzz/src/manifest.rs"]
mod manifest;
#[path = "../../../fuzz/src/matcher.rs"]
mod matcher;
#[path = "../../../fuzz/src/path.rs"]
mod path;
#[path = "../../../fuzz/src/requests.rs"]
mod requests;
#[path = "../../../fuzz/src/rewrite.rs"]
mod rewrite;
#[path = "../../../fuzz/src/wire.rs"]
mod wire;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut count = 0;
    for entry in fs::read_dir(directory.join(target)).expect("a corpus") {
        let path = entry.expect("an entry").path();
        // The name is what a failure is known by.
        println!("{}", path.display());
        run(&fs::read(path).expect("a file"));
        count += 1;
    }
    assert!(count > 0);
}

/// Runs an input, and others that differ from it in a few bytes.
fn altered(input: &[u8], run: impl Fn(&[u8])) {
    run(input);
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..300 {
        let mut other = input.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..other.len());
            match random.u8(..4) {
                0 => other[at] = random.u8(..),
                1 => other[at] = b"\r\n :,#\t\0"[random.usize(..8)],
                2 => other.insert(at, b"\r\n :,#0x"[random.usize(..8)]),
                _ if other.len() > 1 => _ = other.remove(at),
                _ => {}
            }
        }
        run(&other);
    }
}

#[test]
fn dumps_of_iptables() {
    replay("iptables", iptables::run);
}

#[test]
fn heads_of_requests() {
    replay("request_head", |input| altered(input, heads::request));
}

#[test]
fn heads_of_responses() {
    replay("response_head", |input| altered(input, heads::response));
}

#[test]
fn manifests() {
    replay("manifest", manifest::run);
}

#[test]
fn matcher_finds_what_trying_in_order_finds() {
    replay("matcher", matcher::run);
    // Few inputs of the corpus are long; these are.
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..512).map(|_| random.u8(..)).collect();
        matcher::run(&bytes);
    }
}

#[test]
fn normal_forms_of_paths() {
    replay("path", path::run);
}

#[test]
fn rewritten_paths() {
    replay("rewrite", rewrite::run);
}

#[test]
fn requests_one_behind_the_other() {
    replay("requests", |input| altered(input, requests::run));
}

#[test]
fn bytes_of_http1_on_the_wire() {
    replay("wire_http1", wire::http1);
}

#[test]
fn bytes_of_http2_on_the_wire() {
    replay("wire_http2", wire::http2);
}
