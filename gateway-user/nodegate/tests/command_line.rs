//! The command itself: its exit status, and what it prints where.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

fn nodegate(arguments: &[&str]) -> Command {
    let mut command = nodegate_programs::own(env!("CARGO_BIN_EXE_nodegate"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = nodegate(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_version_names_the_commit_and_the_profile() {
    let (status, out, _) = run(&["--version"]);
    assert_eq!(status, Some(0));
    let version = env!("CARGO_PKG_VERSION");
    let rest = out.strip_prefix(&format!("nodegate {version} (commit "));
    let (commit, profile) = rest.unwrap().trim_end().split_once(", ").unwrap();
    let is_digits = commit.len() == 12 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_digits || commit == "unknown", "{out}");
    let expected = if cfg!(debug_assertions) {
        "debug)"
    } else {
        "release)"
    };
    assert_eq!(profile, expected);
}

#[test]
fn errors_go_to_standard_error_and_name_the_fix() {
    let nowhere = ["--admin", "/nowhere/admin.sock"];
    for (command, told) in [
        (
            ["status"].as_slice(),
            "no nodegate answers at /nowhere/admin.sock",
        ),
        (&["trace"], "no nodegate answers at /nowhere/admin.sock"),
        (
            &["explain", "node", "10.0.0.1:80"],
            "no nodegate answers at",
        ),
        (&["iptables", "render"], "no nodegate answers at"),
    ] {
        let (status, stdout, stderr) = run(&[command, &nowhere].concat());
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{command:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
        assert!(stderr.contains("(fix: "), "{stderr}");
    }
}

#[test]
fn a_pin_directory_with_a_typo_costs_nobody_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("settings");
    fs::write(&file, "mine").unwrap();
    for drain in ["0s", "1s"] {
        let pins = ["--pin-dir", path(directory.path())];
        let (status, stdout, stderr) = run(&[&["cleanup", "--drain", drain], &pins[..]].concat());
        assert_eq!((status, stdout.as_str()), (Some(2), ""));
        assert!(stderr.contains("BPF file system"), "{stderr}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    }
}

#[test]
fn an_admin_socket_with_a_typo_costs_nobody_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let manifests = path(directory.path());
    let file = directory.path().join("letter.txt");
    fs::write(&file, "mine").unwrap();
    let command = ["run", "--role", "proxy", "--manifests", manifests];
    let (status, _, stderr) = run(&[&command[..], &["--admin", path(&file)]].concat());
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("no socket"), "{stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn an_empty_dump_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump");
    fs::write(&file, "").unwrap();
    let (status, stdout, stderr) = run(&["iptables", "show", path(&file)]);
    assert_eq!((status, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("no tables (fix: "), "{stderr}");
}

/// A gateway with a policy that nobody enforces, and what a request to it gets.
fn guarded(options: &[&str]) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let manifests = directory.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec: {{hosts: ['*'], gateways: [g], http: [{{directResponse: {{status: 200, body: {{string: open}}}}}}]}}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: deny, namespace: istio-system}}\nspec: {{}}\n"
    );
    fs::write(manifests.join("a.yaml"), text).unwrap();
    let admin = directory.path().join("admin.sock");
    let command = [
        "run",
        "--role",
        "proxy",
        "--source",
        "manifests",
        "--manifests",
    ];
    let mut child = nodegate(
        &[
            &command[..],
            &[path(&manifests), "--admin", path(&admin)],
            options,
        ]
        .concat(),
    )
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    patience::until(|| admin.exists().then_some(())).unwrap();
    let (_, status, _) = run(&["status", "--sync", "--admin", path(&admin)]);
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    (answer, status)
}

#[test]
fn a_policy_that_nobody_enforces_is_told_and_may_close_the_gateway() {
    let (answer, status) = guarded(&[]);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let told = "AuthorizationPolicy istio-system/deny: not enforced by this version, and it is for this gateway: it keeps nobody out";
    assert!(status.contains(told), "{status}");
    let (answer, status) = guarded(&["--unenforced-policies", "refuse"]);
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.ends_with("RBAC: access denied"), "{answer}");
    assert!(
        status.contains("all requests to it are answered with 403"),
        "{status}"
    );
}

/// As in `nodegate … | head`.
#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("many.yaml");
    let service = |number| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec: {{port: 1}}\n---\n"
        )
    };
    fs::write(&file, (0..2000).map(service).collect::<String>()).unwrap();
    for command in [
        ["completions", "bash"].as_slice(),
        &["check", "-o", "json", path(&file)],
    ] {
        let mut child = nodegate(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 10]).unwrap();
        drop(out);
        let ended = child.wait_with_output().unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(told, "", "{command:?}");
        // 13: SIGPIPE. Or all of it was in the pipe by then.
        let signal = ended.status.signal();
        assert!(matches!(signal, None | Some(13)), "{:?}", ended.status);
    }
}
