use std::path::Path;

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command as CliCommand};

fn golden(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/01-ingress-gateway");
    root.join(file).display().to_string()
}

/// The exit status and what was printed.
fn run(words: &[&str]) -> anyhow::Result<(u8, String)> {
    let words = ["nodegate", "iptables"].iter().chain(words);
    let CliCommand::Iptables(command) = Cli::try_parse_from(words)?.command else {
        panic!("another command");
    };
    let mut out = Vec::new();
    let status = match command.command {
        IptablesCommand::Render(command) => command.run(&mut out),
        IptablesCommand::Show(command) => command.run(&mut out),
        IptablesCommand::Diff(command) => command.run(&mut out),
    }?;
    let status = (0..=2)
        .find(|code| status == ExitCode::from(*code))
        .unwrap();
    Ok((status, String::from_utf8(out)?))
}

/// The manifests, with kube-proxy's flags of the recording.
fn with_manifests<'w>(command: &'w str, more: &[&'w str], objects: &'w str) -> Vec<&'w str> {
    let flags = ["--hostname-override=node-a", "--cluster-cidr=10.0.0.0/8"];
    [&[command], &flags[..], more, &["--manifests", objects]].concat()
}

#[test]
fn what_kube_proxy_does_not_look_at_may_be_wrong() {
    let wrong = |api: &str, kind: &str, spec: &str| {
        let directory = tempfile::tempdir().unwrap();
        let object =
            format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: wrong}}\nspec: {spec}\n");
        fs::write(directory.path().join("wrong.yaml"), object).unwrap();
        let (objects, path) = (
            golden("objects.yaml"),
            directory.path().display().to_string(),
        );
        let mut words = with_manifests("render", &[], &objects);
        words.extend(["--manifests", &path]);
        run(&words).map(|(_, text)| text)
    };
    let routes = "{hosts: [a], http: [{redirect: {redirectCode: 200}}]}";
    let text = wrong("networking.istio.io/v1", "VirtualService", routes).unwrap();
    let objects = golden("objects.yaml");
    assert_eq!(
        text,
        run(&with_manifests("render", &[], &objects)).unwrap().1
    );
    let error = wrong("v1", "Service", "{ports: [{port: 70000}]}").unwrap_err();
    assert!(error.to_string().contains("70000"), "{error}");
}

#[test]
fn render_prints_what_iptables_restore_is_given() {
    let objects = golden("objects.yaml");
    let (status, text) = run(&with_manifests("render", &[], &objects)).unwrap();
    assert_eq!(status, 0);
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let recorded = fs::read_to_string(golden("restore-input")).unwrap();
    assert_eq!(sorted(&text), sorted(&recorded));
    let v6 = run(&with_manifests("render", &["--family", "6"], &objects)).unwrap();
    assert_eq!(v6.1, fs::read_to_string(golden("restore6-input")).unwrap());
}

#[test]
fn render_for_programs() {
    let objects = golden("objects.yaml");
    let more = ["-o", "json", "--form", "save"];
    let (_, text) = run(&with_manifests("render", &more, &objects)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json[0]["family"], "IPv4");
    assert_eq!(json[1]["family"], "IPv6");
    assert_eq!(json[0]["tables"][0]["name"], "filter");
    let input = &json[0]["tables"][0]["chains"][0];
    assert_eq!(
        (&input["name"], &input["policy"]),
        (&"INPUT".into(), &"ACCEPT".into())
    );
    assert_eq!(input["rules"][0], "-A INPUT -j KUBE-FIREWALL");
}

#[test]
fn show_lists_services() {
    let (status, text) = run(&["show", &golden("save.nft")]).unwrap();
    assert_eq!(status, 0);
    let http2 = text
        .split("\n\n")
        .find(|part| part.contains(":http2 "))
        .unwrap();
    assert_eq!(
        http2,
        "istio-system/istio-ingressgateway:http2 tcp\n  cluster IP 10.96.190.18:80               to all endpoints\n  node port 31373                          to all endpoints\n  all endpoints                            10.10.1.4:8080"
    );
    let (_, text) = run(&["show", "-o", "json", &golden("save.legacy")]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let service = &json[0]["services"][0];
    assert_eq!(
        service["service"],
        "istio-system/istio-ingressgateway:http2 tcp"
    );
    assert_eq!(service["frontends"][0]["kind"], "ClusterIP");
    assert_eq!(service["frontends"][0]["fate"], "Cluster");
    assert_eq!(json[0]["findings"], serde_json::json!([]));
}

#[test]
fn diff_says_by_its_status_whether_there_is_any() {
    let (objects, v4, v6) = (
        golden("objects.yaml"),
        golden("save.legacy"),
        golden("save6.legacy"),
    );
    let more = ["--dump", &v4, "--dump", &v6];
    let equal = run(&with_manifests("diff", &more, &objects)).unwrap();
    assert_eq!(equal, (0, "IPv4: equal\nIPv6: equal\n".to_owned()));

    let directory = tempfile::tempdir().unwrap();
    let dump = directory.path().join("dump").display().to_string();
    let text = fs::read_to_string(&v4).unwrap();
    fs::write(&dump, text.replace("10.10.1.4:8080", "10.10.1.5:8080")).unwrap();
    let (status, text) = run(&with_manifests("diff", &["--dump", &dump], &objects)).unwrap();
    assert_eq!(status, 1);
    assert_eq!(
        text,
        "IPv4: Service ports that differ: 1; other chains: 0\nistio-system/istio-ingressgateway:http2 tcp\n  endpoints missing: 10.10.1.4:8080; unexpected: 10.10.1.5:8080\n"
    );
    let more = ["-o", "json", "--dump", &dump];
    let (status, text) = run(&with_manifests("diff", &more, &objects)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let change = &json[0]["services"]["istio-system/istio-ingressgateway:http2 tcp"][0];
    assert_eq!(change["endpoints"]["missing"][0], "10.10.1.4:8080");
    assert_eq!(status, 1);
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let objects = golden("objects.yaml");
    let directory = tempfile::tempdir().unwrap();
    let dump = directory.path().join("dump").display().to_string();
    let message = |words: &[&str]| format!("{:#}", run(words).unwrap_err());
    let diff = with_manifests("diff", &["--dump", &dump], &objects);
    assert!(message(&diff).starts_with("reading "));
    fs::write(&dump, "*nat\n:X - [0:0]\n").unwrap();
    assert!(message(&diff).ends_with("is not a whole dump, so it cannot be compared"));
    assert_eq!(run(&["show", &dump]).unwrap().0, 2);
    fs::write(&dump, "").unwrap();
    assert!(message(&diff).contains("has no tables"));
    let elsewhere = [
        "render",
        "--hostname-override=node-x",
        "--manifests",
        &objects,
    ];
    assert!(message(&elsewhere).starts_with("no Node node-x among the manifests"));
    let bridge = with_manifests("render", &["--detect-local-mode=BridgeInterface"], &objects);
    assert_eq!(
        message(&bridge),
        "--detect-local-mode=BridgeInterface needs --pod-bridge-interface"
    );
    let bad = directory.path().join("bad.yaml");
    fs::write(
        &bad,
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0}]}\n",
    )
    .unwrap();
    let bad = bad.display().to_string();
    assert!(
        message(&["render", "--hostname-override=node-a", "--manifests", &bad])
            .contains("0 is not a port")
    );
}

#[test]
fn what_is_no_dump_is_told_by_its_lines() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("dump");
    fs::write(&file, b"*nat\n\xff\xfe\x00\n-A KUBE-SEP-A -j DNAT\n").unwrap();
    let file = file.display().to_string();
    let (status, text) = run(&["show", &file]).unwrap();
    assert_eq!(status, 2);
    assert!(text.contains("0 Service ports"), "{text}");
    let whole = [(file.clone(), parse(&fs_text(&file)))];
    let lines: Vec<_> = whole[0].1.errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [2, 3]);
    // What cannot be read as a whole is not compared.
    let error = run(&[
        "diff",
        "--dump",
        &file,
        "--hostname-override=node-a",
        "--manifests",
        &golden("objects.yaml"),
    ]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("is not a whole dump"), "{error}");
}

fn fs_text(file: &str) -> String {
    text(Path::new(file)).unwrap()
}

#[test]
fn a_comparison_needs_to_know_which_node() {
    let error = run(&["render", "--manifests", &golden("objects.yaml")]).unwrap_err();
    assert!(error.to_string().contains("--hostname-override"), "{error}");
    let error = run(&["diff", "--maps", "--services", "gateway"]).unwrap_err();
    assert!(error.to_string().contains("by their names only"), "{error}");
    // Either the one or the other.
    assert!(run(&["diff", "--maps", "--manifests", &golden("objects.yaml")]).is_err());
    let error = run(&["diff", "--admin", "/nowhere/admin.sock"]).unwrap_err();
    assert!(
        format!("{error:#}").contains("--manifests PATH"),
        "{error:#}"
    );
}

#[test]
fn what_the_standard_input_was_given_is_read() {
    let dump = fs::File::open(golden("objects.yaml")).unwrap();
    let text = redirected(dump).unwrap().unwrap();
    assert!(text.contains("kind: Service"), "{text}");
    let (reader, writer) = io::pipe().unwrap();
    drop(writer);
    assert_eq!(redirected(reader).unwrap(), None, "an empty pipe");
    let nothing = fs::File::open("/dev/null").unwrap();
    assert_eq!(redirected(nothing).unwrap(), None, "no file and no pipe");
}
