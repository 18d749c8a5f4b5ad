//! What is printed for programs, against `docs/json.md`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Stdio,
};

use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/json.md");

/// A cluster with a gateway, of which some things are wrong.
const MANIFESTS: &str = include_str!("json/cluster.yaml");

/// A field of a table.
struct Field<'d> {
    kind: &'d str,
    may_be_missing: bool,
}

/// The fields below a heading.
fn fields(heading: &str) -> BTreeMap<&'static str, Field<'static>> {
    let section = DOCUMENT
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let fields = rows.map(|row| {
        let (path, rest) = row.split_once("` | ").unwrap();
        let kind = rest.split(" | ").next().unwrap();
        let field = Field {
            kind: kind.trim_end_matches('?'),
            may_be_missing: kind.ends_with('?'),
        };
        (path, field)
    });
    fields.collect()
}

fn nodegate(arguments: &[&str]) -> Value {
    let mut command = nodegate_programs::own(env!("CARGO_BIN_EXE_nodegate"));
    let output = command.args(arguments).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Holds a value to the fields; gives the paths that were seen.
fn hold(
    value: &Value,
    path: &str,
    fields: &BTreeMap<&str, Field<'_>>,
    seen: &mut BTreeSet<String>,
) {
    if !path.is_empty() && !path.ends_with("[]") {
        let field = fields
            .get(path)
            .unwrap_or_else(|| panic!("{path} is not in docs/json.md"));
        seen.insert(path.to_owned());
        if value.is_null() {
            assert!(field.may_be_missing, "{path} is null");
            return;
        }
        let fits = match field.kind {
            "open" => return,
            "text" => value.is_string(),
            "number" => value.is_number(),
            "flag" => value.is_boolean(),
            "list" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{path} is of type {other}"),
        };
        assert!(fits, "{path} is {value}, and no {}", field.kind);
    }
    match value {
        Value::Object(below) => {
            let is_map = fields.contains_key(format!("{path}.*").as_str());
            for (key, value) in below {
                let path = match path {
                    "" => key.clone(),
                    path if is_map => format!("{path}.*"),
                    path => format!("{path}.{key}"),
                };
                hold(value, &path, fields, seen);
            }
            for (name, field) in fields {
                let own = name
                    .strip_prefix(path)
                    .map(|rest| rest.trim_start_matches('.'));
                let is_own = own.is_some_and(|own| {
                    !own.is_empty()
                        && !own.contains(['.', '[', '*'])
                        && name.len() - own.len() <= path.len() + 1
                });
                let starts = path.is_empty() || name.starts_with(&format!("{path}."));
                if is_own && starts && !field.may_be_missing {
                    let key = own.unwrap();
                    assert!(below.contains_key(key), "{name} is missing");
                }
            }
        }
        Value::Array(items) => {
            let is_known = fields
                .keys()
                .any(|name| name.starts_with(&format!("{path}[].")));
            if is_known {
                for item in items {
                    hold(item, &format!("{path}[]"), fields, seen);
                }
            }
        }
        _ => {}
    }
}

fn write(directory: &Path) -> String {
    let file = directory.join("cluster.yaml");
    fs::write(&file, MANIFESTS).unwrap();
    file.to_str().unwrap().to_owned()
}

/// All fields of the table but those that are known to be missing are among what was seen.
fn all_seen(fields: &BTreeMap<&str, Field<'_>>, seen: &BTreeSet<String>, unseen: &[&str]) {
    let missing: Vec<_> = fields
        .keys()
        .filter(|name| !seen.contains(**name) && !unseen.contains(name))
        .collect();
    assert!(
        missing.is_empty(),
        "in docs/json.md, and never printed: {missing:?}"
    );
}

#[test]
fn check_is_as_documented() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path());
    let fields = fields("check");
    let mut seen = BTreeSet::new();
    let value = nodegate(&["check", "-o", "json", &file]);
    assert_eq!(value["schema"], 1);
    hold(&value, "", &fields, &mut seen);
    all_seen(&fields, &seen, &[]);
}

#[test]
fn explain_is_as_documented() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path());
    let fields = fields("explain");
    let mut seen = BTreeSet::new();
    for (to, host) in [
        ("http://192.168.170.11:31380/", "a.example"),
        ("http://192.168.170.11:31380/x//y", "a.example"),
        ("http://192.168.170.11:31380/", "b.example"),
        ("http://192.168.170.11:31380/", "none"),
        ("192.168.170.11:1", "none"),
    ] {
        let words = [
            "explain",
            "external",
            to,
            "--manifests",
            &file,
            "-o",
            "json",
        ];
        let words = match host {
            "none" => words.to_vec(),
            host => [&words[..], &["--host", host]].concat(),
        };
        hold(&nodegate(&words), "", &fields, &mut seen);
    }
    for mode in ["kernel", "proxy"] {
        let words = ["explain", "external", "192.168.170.11:32432", "-o", "json"];
        let choices = ["--manifests", &file, "--tcp-shifting", mode];
        let value = nodegate(&[&words[..], &choices].concat());
        assert_eq!(value["shift"]["against_kernel"].is_null(), mode == "kernel");
        hold(&value, "", &fields, &mut seen);
    }
    all_seen(
        &fields,
        &seen,
        &[
            "gateway.behind",
            "gateway.tls",
            "gateway.destinations[].names",
        ],
    );
}

#[test]
fn status_is_as_documented() {
    let directory = tempfile::tempdir().unwrap();
    let manifests = directory.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n";
    fs::write(manifests.join("a.yaml"), node).unwrap();
    let admin = directory.path().join("admin.sock");
    let mut command = nodegate_programs::own(env!("CARGO_BIN_EXE_nodegate"));
    let mut child = command
        .args([
            "run",
            "--role",
            "proxy",
            "--source",
            "manifests",
            "--manifests",
        ])
        .arg(&manifests)
        .arg("--admin")
        .arg(&admin)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let socket = admin.to_str().unwrap();
    patience::until(|| admin.exists().then_some(())).unwrap();
    let value = nodegate(&["status", "--sync", "-o", "json", "--admin", socket]);
    child.kill().unwrap();
    child.wait().unwrap();
    let fields = fields("status");
    let mut seen = BTreeSet::new();
    hold(&value, "", &fields, &mut seen);
    all_seen(&fields, &seen, &[]);
}
