//! Dumps that nobody should have to read: cut off, binary, megabytes long, or made to hurt. Each gives
//! errors with the line, costs not much more than a good one of its length, and never panics.

#[path = "support/cpu_time.rs"]
mod cpu_time;

use std::{fs, net::SocketAddr, path::PathBuf};

use nodegate_iptables::{
    config::KubeProxyConfig,
    diff::diff,
    lint::lint,
    parse::{Dump, parse},
    ports::ports,
    rules::Dialect,
    services::of_rules,
};
use nodegate_model::service::{IpFamily, Protocol};

use cpu_time::times_as_dear;

/// How many times what a good dump of its length costs one may cost: 2.5 is what the worst of them does,
/// which is nothing but what is dear. Where each line is compared with each other one, it is hundreds.
const DEARER: f64 = 10.0;

fn fixture() -> String {
    let path = "tests/dialects/1.25-cilium.save";
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a fixture")
}

/// Does all that is done with a dump, and looks at what it costs.
fn use_up(text: &str) -> Dump {
    let good = fixture();
    let length = (text.len() as f64 / good.len() as f64).max(1.0);
    let mut dump = None;
    let dearer = times_as_dear(
        || drop(read(&good)),
        || dump = Some(read(text)),
        DEARER * length,
    ) / length;
    assert!(
        dearer <= DEARER,
        "{} bytes cost {dearer:.0} times what as many of a good dump cost",
        text.len()
    );
    dump.expect("it was read")
}

/// Reads a dump and uses it; the errors must be fit for people.
fn read(text: &str) -> Dump {
    let dump = parse(text);
    let lines = text.lines().count();
    for error in &dump.errors {
        assert!((1..=lines.max(1)).contains(&error.line), "{error}");
        assert!(error.message.len() < 300, "{} bytes", error.message.len());
    }
    for ruleset in &dump.rulesets {
        let services = of_rules(ruleset);
        lint(ruleset, &services);
        diff(&[], &KubeProxyConfig::default(), ruleset);
        ruleset.text(Dialect::Save);
    }
    ports(&dump.rulesets, "node-a");
    dump
}

#[test]
fn wherever_it_is_cut_off_it_is_noticed() {
    let text = fixture();
    assert!(use_up(&text).errors.is_empty());
    let last = text.rfind("COMMIT").expect("a table");
    for end in (1..last).step_by(61) {
        let cut = &text[..end];
        // Between two tables there is no telling.
        let tables = cut.lines().filter(|line| line.starts_with('*')).count();
        let whole = cut.lines().filter(|line| *line == "COMMIT").count();
        let dump = use_up(cut);
        assert_eq!(dump.errors.is_empty(), tables == whole, "at byte {end}");
    }
}

#[test]
fn random_bytes() {
    let mut random = fastrand::Rng::with_seed(7);
    for size in [1, 10, 1_000, 1_000_000] {
        let bytes: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
        let dump = use_up(&String::from_utf8_lossy(&bytes));
        assert!(
            dump.rulesets
                .iter()
                .all(|ruleset| ruleset.tables.len() < size)
        );
        // As if it were a table.
        let text = format!("*nat\n{}\nCOMMIT\n", String::from_utf8_lossy(&bytes));
        assert!(size == 1 || !use_up(&text).errors.is_empty());
    }
}

#[test]
fn bytes_turned_around() {
    let good = fixture();
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..300 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..random.usize(1..40) {
            let at = random.usize(..bytes.len());
            match random.u8(..5) {
                0 => bytes[at] = *random.choice(b"\"\\!-[]*:/\n\r \x00\xff").expect("some"),
                1 => bytes.insert(at, random.u8(..)),
                2 => _ = bytes.remove(at),
                3 => {
                    // A piece of it once more, somewhere else.
                    let end = (at + random.usize(..200)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = random.usize(..bytes.len());
                    bytes.splice(to..to, piece);
                }
                _ => bytes.swap(at, random.usize(..good.len() / 2)),
            }
        }
        use_up(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn lines_of_megabytes() {
    const LENGTH: usize = 4_000_000;
    let long = |unit: &str| unit.repeat(LENGTH / unit.len());
    for (line, expected) in [
        (format!("*{}", long("n")), Some(2)),
        (format!(":{} - [0:0]", long("C")), None),
        (format!("-A {}", long("C")), None),
        (long("x"), Some(2)),
        (long("-"), Some(2)),
        (long("["), Some(2)),
        (format!("-{}", long("Z")), Some(2)),
        (format!("-A C {}", long("-m ")), None),
        (format!("-A C {}", long("! ")), None),
        (format!("-A C {}", long("-s 10.0.0.0/8 ")), None),
        (format!("-A C --{}", long("option")), None),
        (
            format!("-A C -m comment --comment {:?}", long("a\" \\")),
            None,
        ),
        (
            format!("-A C -m comment --comment \"{}", long("never ends ")),
            Some(2),
        ),
        (
            format!("-A C -m comment --comment \"{}", long("\\")),
            Some(2),
        ),
        (format!("-A C -j {}", long("C")), None),
        (format!("-A C -p tcp --dport {}", long("9")), None),
        (
            format!(
                "-A C -m statistic --mode random --probability 0.{}",
                long("3")
            ),
            None,
        ),
        (
            format!("-A C -j DNAT --to-destination {}", long("1.")),
            None,
        ),
        (format!("-A C -j MARK --set-xmark 0x{}", long("f")), None),
    ] {
        let dump = use_up(&format!("*nat\n{line}\nCOMMIT\n"));
        if let Some(number) = expected {
            let numbers: Vec<_> = dump.errors.iter().map(|error| error.line).collect();
            assert!(numbers.contains(&number), "{}: {numbers:?}", &line[..20]);
        }
    }
}

fn table(lines: impl IntoIterator<Item = String>) -> String {
    let lines: Vec<_> = lines.into_iter().collect();
    format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n{}\nCOMMIT\n",
        lines.join("\n")
    )
}

#[test]
fn chains_that_lead_in_circles() {
    let cluster_ip = r#"-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "ns/a:p cluster IP" -m tcp --dport 80 -j "#;
    let dump = use_up(&table([
        "-A PREROUTING -j KUBE-SERVICES".to_owned(),
        "-A KUBE-SERVICES -j PREROUTING".to_owned(),
        format!("{cluster_ip}KUBE-EXT-A"),
        "-A KUBE-EXT-A -j KUBE-EXT-A".to_owned(),
        "-A KUBE-EXT-A -j KUBE-FW-A".to_owned(),
        "-A KUBE-FW-A -j KUBE-EXT-A".to_owned(),
        "-A KUBE-SVC-A -j KUBE-SVC-A".to_owned(),
    ]));
    assert_eq!(dump.errors, []);
    let services = of_rules(&dump.rulesets[0]);
    assert_eq!(services.len(), 1);
    let made = ports(&dump.rulesets, "node-a");
    assert_eq!(made.services, []);
    assert_eq!(made.broken.len(), 1);
}

/// Each rule of each chain leads to the next one: as many ways as there are rules, to the power of the depth.
#[test]
fn chains_with_more_ways_than_anybody_can_go() {
    const RULES: usize = 2_000;
    let mut lines = vec![
        r#"-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "ns/a:p loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-0"#
            .to_owned(),
    ];
    for (from, to) in [
        ("KUBE-FW-0", "KUBE-FW-1"),
        ("KUBE-FW-1", "KUBE-EXT-2"),
        ("KUBE-EXT-2", "KUBE-EXT-3"),
        ("KUBE-EXT-3", "KUBE-SVC-4"),
        ("KUBE-SVC-4", "KUBE-SEP-5"),
    ] {
        lines.extend((0..RULES).map(|_| format!("-A {from} -j {to}")));
    }
    lines.push("-A KUBE-SEP-5 -p tcp -j DNAT --to-destination 10.0.0.1:80".into());
    let dump = use_up(&table(lines));
    let services = of_rules(&dump.rulesets[0]);
    let service = services.values().next().expect("a Service");
    let expected: SocketAddr = "10.0.0.1:80".parse().expect("an address");
    assert!(service.cluster.iter().all(|one| *one == expected));
    assert_eq!(service.cluster.len(), RULES);
}

#[test]
fn very_many_of_everything() {
    const MANY: usize = 20_000;
    // Chains, one after the other, and as many that are not there.
    let chain = (0..MANY).map(|n| format!("-A KUBE-SVC-{n} -j KUBE-SVC-{}", n + 1));
    use_up(&table(chain));
    let missing = (0..MANY).map(|n| format!("-A PREROUTING -j KUBE-SEP-{n}"));
    use_up(&table(missing));
    // Tables, most of them twice.
    let tables: Vec<_> = (0..MANY)
        .map(|n| format!("*t{}\nCOMMIT\n", n % 100))
        .collect();
    let dump = use_up(&tables.concat());
    assert_eq!(dump.rulesets[0].tables.len(), 100);
    assert_eq!(dump.errors.len(), MANY - 100);
    // Claimants of one node port.
    let claim = |n: usize| {
        format!(
            r#"-A KUBE-NODEPORTS -p tcp -m comment --comment "ns/a{n}:p" -m tcp --dport 30000 -j KUBE-SVC-A"#
        )
    };
    let dump = use_up(&table((0..MANY).map(claim)));
    assert_eq!(of_rules(&dump.rulesets[0]).len(), MANY);
}

#[test]
fn what_looks_like_something_else() {
    for (text, services) in [
        // No slash, or nothing beside it; another protocol; a network in place of an address.
        (
            r#"-A KUBE-SERVICES -d 10.0.0.1/32 -p tcp -m comment --comment "x cluster IP" -m tcp --dport 80 -j KUBE-SVC-A"#,
            0,
        ),
        (
            r#"-A KUBE-SERVICES -d 10.0.0.1/32 -p tcp -m comment --comment "/ cluster IP" -m tcp --dport 80 -j KUBE-SVC-A"#,
            1,
        ),
        (
            r#"-A KUBE-SERVICES -d 10.0.0.1/32 -p icmp -m comment --comment "a/b cluster IP" -j KUBE-SVC-A"#,
            0,
        ),
        (
            r#"-A KUBE-SERVICES -d 10.0.0.0/8 -p tcp -m comment --comment "a/b cluster IP" -m tcp --dport 80 -j KUBE-SVC-A"#,
            0,
        ),
        (
            r#"-A KUBE-SERVICES -d 10.0.0.1/32 -p tcp -m comment --comment "a/b cluster IP" -m tcp --dport 80:90 -j KUBE-SVC-A"#,
            0,
        ),
        // An address of the other family.
        (
            r#"-A KUBE-SERVICES -d 10.0.0.1/32 -p tcp -m comment --comment "a/b cluster IP" -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SVC-A -j KUBE-SEP-A
-A KUBE-SEP-A -p tcp -j DNAT --to-destination [fd00::1]:80"#,
            1,
        ),
        (r"-A KUBE-SERVICES -d fd00::1/999 -j KUBE-SVC-A", 0),
    ] {
        let dump = use_up(&table([text.to_owned()]));
        let ruleset = &dump.rulesets[0];
        assert_eq!(ruleset.family, IpFamily::V4);
        let found = of_rules(ruleset);
        assert_eq!(found.len(), services, "{text}");
        assert!(found.keys().all(|key| key.protocol == Protocol::Tcp));
    }
}
