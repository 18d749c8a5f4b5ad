//! `nodegate check` beside `istioctl analyze`, by the cases of Istio's own tests, and on Istio's samples.
//!
//! They are in Istio's module, where Go's module cache has it: without it, nothing is run.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_resources::admission::Store;
use nodegate_source::directory::Directory;
use nodegate_values::diagnostic::{Diagnostic, Severity};

/// Where the module has its cases.
const CASES: &str = "pkg/config/analysis/analyzers";

/// What becomes of a message of Istio's here.
enum Said {
    /// A message about the object has one of these texts.
    So(&'static [&'static str]),
    /// It is not said, for this reason.
    Not(&'static str),
}

/// All messages of Istio's cases about kinds that are read here.
const MESSAGES: &[(&str, Said)] = &[
    (
        "ConflictingGateways",
        Said::So(&["is taken by the", "is that of this"]),
    ),
    (
        "ConflictingMeshGatewayVirtualServiceHosts",
        Said::So(&["names no Gateway", "only sidecars", "no Gateway"]),
    ),
    (
        "ConflictingServiceEntryProtocol",
        Said::So(&["the oldest that a gateway sees counts"]),
    ),
    ("Deprecated", Said::So(&["is deprecated"])),
    (
        "DestinationRuleSubsetNotSelectPods",
        Said::So(&["has no endpoints"]),
    ),
    (
        "ExternalNameServiceTypeInvalidPortName",
        Said::So(&["the name says no protocol"]),
    ),
    (
        "GatewayDuplicateCertificate",
        Said::So(&["shows the certificate of Secret"]),
    ),
    (
        "GatewayPortNotDefinedOnService",
        Said::So(&[
            "so nobody outside reaches this server",
            "no Service leads to",
        ]),
    ),
    (
        "IngressRouteRulesNotAffected",
        Said::So(&["only sidecars go by the subsets"]),
    ),
    (
        "InvalidGatewayCredential",
        Said::So(&[
            "has no tls.crt and tls.key",
            "has expired",
            "is none in PEM",
            "can't be read",
        ]),
    ),
    (
        "InvalidWebhook",
        Said::Not("webhooks of sidecars are none of a gateway's"),
    ),
    (
        "JwtClaimBasedRoutingWithoutRequestAuthN",
        Said::So(&["@request.auth.claims"]),
    ),
    (
        "NegativeConditionStatus",
        Said::Not("what another controller has written into a status is its own word"),
    ),
    (
        "NoServerCertificateVerificationDestinationLevel",
        Said::So(&["no authorities are named"]),
    ),
    (
        "NoServerCertificateVerificationPortLevel",
        Said::So(&["no authorities are named"]),
    ),
    (
        "PortNameIsNotUnderNamingConvention",
        Said::So(&["the name says no protocol", "needs a name for each"]),
    ),
    (
        "ReferencedResourceNotFound",
        Said::So(&[
            "no Service has the host",
            "has no port",
            "there is no Gateway",
            "has a subset",
            "nobody serves this Gateway",
            "is exported to",
            "no servers",
            "is not in the gateway's namespace",
        ]),
    ),
    (
        "ReferencedInternalGateway",
        Said::So(&["there is no Gateway"]),
    ),
    (
        "ServiceEntryAddressesRequired",
        Said::So(&["TCP without `addresses`"]),
    ),
    ("UnknownDestinationRuleHost", Said::So(&["no Service has"])),
    // The Service of the case has a protocol that no API server lets pass.
    (
        "VirtualServiceDestinationPortSelectorRequired",
        Said::So(&["none is named", "no Service has the host"]),
    ),
    (
        "VirtualServiceHostNotFoundInGateway",
        Said::So(&["no server of Gateway"]),
    ),
    (
        "VirtualServiceIneffectiveMatch",
        Said::So(&["has no effect", "never taken"]),
    ),
    ("VirtualServiceUnreachableRule", Said::So(&["never taken"])),
    ("AlphaAnnotation", Said::Not("annotations for sidecars")),
    (
        "DeprecatedAnnotation",
        Said::Not("annotations for sidecars"),
    ),
    ("InvalidAnnotation", Said::Not("annotations for sidecars")),
    ("MisplacedAnnotation", Said::Not("annotations for sidecars")),
    ("UnknownAnnotation", Said::Not("annotations for sidecars")),
    (
        "MultiClusterInconsistentService",
        Said::Not("there is one cluster"),
    ),
    ("SchemaValidationError", Said::So(&[""])),
    (
        "UnknownMeshNetworksServiceRegistry",
        Said::Not("there is one cluster"),
    ),
];

/// A message about one object of one file that is not said, and why.
struct LeftOut {
    file: &'static str,
    message: &'static str,
    object: &'static str,
    why: &'static str,
}

const LEFT_OUT: &[LeftOut] = &[
    LeftOut {
        file: "gateway-no-port.yaml",
        message: "GatewayPortNotDefinedOnService",
        object: "Gateway default/httpbin-gateway",
        why: "the gateway's Service is not among the manifests: which ports it has is not known",
    },
    LeftOut {
        file: "virtualservice_destinationhosts.yaml",
        message: "ReferencedResourceNotFound",
        object: "VirtualService hello/hello-export-to-bogus",
        why: "the namespaces of a VirtualService's exportTo say who goes by it, and not what it sees",
    },
    LeftOut {
        file: "destinationrule-simple-destination-credentialname.yaml",
        message: "NoServerCertificateVerificationDestinationLevel",
        object: "DestinationRule default/db-tls",
        why: "a gateway reads the Secret of credentialName also where there is no workloadSelector",
    },
    LeftOut {
        file: "destinationrule-simple-port-credentialname.yaml",
        message: "NoServerCertificateVerificationPortLevel",
        object: "DestinationRule default/db-tls",
        why: "a gateway reads the Secret of credentialName also where there is no workloadSelector",
    },
    LeftOut {
        file: "destinationrule-subsets-not-select-pods.yaml",
        message: "DestinationRuleSubsetNotSelectPods",
        object: "DestinationRule default/subsets-not-select-pods",
        why: "no pod is among the manifests: which there are is not known",
    },
];

/// The kinds that a gateway goes by.
const KINDS: [&str; 6] = [
    "Service",
    "Gateway",
    "VirtualService",
    "DestinationRule",
    "ServiceEntry",
    "WorkloadEntry",
];

/// A case of Istio's tests.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    files: Vec<PathBuf>,
    /// The message, and `Kind namespace/name`.
    expected: Vec<(String, String)>,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let Some(module) = module() else {
        eprintln!(
            "skipped: Istio's module is not in Go's module cache (`cargo xtask cluster setup --istio` gets it)"
        );
        let trials = ["analyzers", "samples"];
        let trials = trials.map(|name| Trial::test(name, || Ok(())).with_ignored_flag(true));
        return libtest_mimic::run(&arguments, trials.into()).exit_code();
    };
    let module = Arc::new(module);
    let mut trials = Vec::new();
    for case in cases(&module.join(CASES)) {
        let name = format!("analyzers {}", case.name);
        trials.push(Trial::test(name, move || said(&case)));
    }
    for sample in SAMPLES {
        let module = Arc::clone(&module);
        let name = format!("samples {}", sample[0]);
        trials.push(Trial::test(name, move || quiet(&module, sample)));
    }
    trials.push(Trial::test("samples are read", move || {
        read(&module.join("samples"))
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The newest version of Istio's module.
fn module() -> Option<PathBuf> {
    let cache = env::var_os("GOMODCACHE").map(PathBuf::from);
    let path = env::var_os("GOPATH").map(|path| Path::new(&path).join("pkg/mod"));
    let home = env::var_os("HOME").map(|home| Path::new(&home).join("go/pkg/mod"));
    let cache = cache.or(path).or(home)?.join("istio.io");
    let entries = fs::read_dir(cache).ok()?.filter_map(Result::ok);
    let found = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("istio@")) && path.join(CASES).is_dir()
    });
    found.max()
}

/// Reads the table of `analyzers_test.go`.
fn cases(directory: &Path) -> Vec<Case> {
    let source = fs::read_to_string(directory.join("analyzers_test.go")).expect("the tests");
    let table = source.split("var testGrid = ").nth(1).expect("the table");
    let table = table.split("\n}\n").next().expect("its end");
    let mut cases = Vec::new();
    for (index, text) in table.split("\n\t{\n").skip(1).enumerate() {
        let quoted = |line: &str| line.split('"').nth(1).map(str::to_owned);
        let name = text.lines().find(|line| line.trim().starts_with("name:"));
        let mut case = Case {
            name: format!("{index:03} {}", name.and_then(quoted).unwrap_or_default()),
            files: Vec::new(),
            expected: Vec::new(),
        };
        for line in text.lines().map(str::trim) {
            if let Some(file) = quoted(line).filter(|file| file.starts_with("testdata/")) {
                case.files.push(directory.join(file));
            }
            if let Some(rest) = line.strip_prefix("{msg.") {
                let message = rest.split(',').next().unwrap_or_default().to_owned();
                case.expected
                    .extend(quoted(rest).map(|object| (message, object)));
            }
        }
        // Others are about several clusters, or have their objects in the code.
        if !case.files.is_empty() {
            cases.push(case);
        }
    }
    assert!(cases.len() > 90, "{}", cases.len());
    cases
}

fn check(paths: Vec<PathBuf>) -> Vec<Diagnostic> {
    let mut directory = Directory::new(paths).expect("files");
    let scan = directory.scan();
    let resources = Store::default().admit(directory.manifests(), scan.diagnostics);
    let ours = BTreeMap::from([
        ("app".to_owned(), "istio-ingressgateway".to_owned()),
        ("istio".to_owned(), "ingressgateway".to_owned()),
    ]);
    nodegate_compile::check(&resources, &ours)
}

/// Whether all is said of a case that istioctl says, but for what is left out by decision.
fn said(case: &Case) -> Result<(), Failed> {
    let found = check(case.files.clone());
    let mut missed = BTreeSet::new();
    for (message, object) in &case.expected {
        let (kind, name) = object.split_once(' ').unwrap_or((object, ""));
        if !KINDS.contains(&kind) {
            continue;
        }
        let name = if name.contains('/') {
            name.to_owned()
        } else {
            format!("default/{name}")
        };
        let about = |it: &&Diagnostic| {
            let key = it.object.as_ref();
            key.is_some_and(|key| {
                key.kind == kind && format!("{}/{}", key.namespace, key.name) == name
            })
        };
        // One that is refused is not in force, and says why.
        if found
            .iter()
            .filter(about)
            .any(|it| it.severity == Severity::Error)
        {
            continue;
        }
        let is_left_out = |of: &&LeftOut| {
            let is_there = case.files.iter().any(|file| file.ends_with(of.file));
            is_there && of.message == message && of.object == format!("{kind} {name}")
        };
        if let Some(of) = LEFT_OUT.iter().find(is_left_out) {
            assert!(!of.why.is_empty());
            continue;
        }
        let texts: Vec<_> = found
            .iter()
            .filter(about)
            .map(ToString::to_string)
            .collect();
        let entry = MESSAGES.iter().find(|(known, _)| known == message);
        match entry {
            Some((_, Said::So(parts))) => {
                let is_said = |text: &String| parts.iter().any(|part| text.contains(part));
                if !texts.iter().any(is_said) {
                    missed.insert(format!("{message} of {kind} {name}; said is {texts:#?}"));
                }
            }
            Some((_, Said::Not(why))) => assert!(!why.is_empty()),
            None => drop(missed.insert(format!("{message} is not in the table"))),
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    let missed: Vec<_> = missed.into_iter().collect();
    Err(missed.join("\n").into())
}

/// Files that are applied together, and of which nothing is wrong.
const SAMPLES: &[&[&str]] = &[
    &[
        "samples/bookinfo/platform/kube/bookinfo.yaml",
        "samples/bookinfo/networking/bookinfo-gateway.yaml",
    ],
    &[
        "samples/httpbin/httpbin.yaml",
        "samples/httpbin/httpbin-gateway.yaml",
    ],
    &[
        "samples/helloworld/helloworld.yaml",
        "samples/helloworld/helloworld-gateway.yaml",
    ],
    &[
        "samples/tcp-echo/tcp-echo-services.yaml",
        "samples/tcp-echo/tcp-echo-all-v1.yaml",
    ],
    &[
        "samples/websockets/app.yaml",
        "samples/websockets/route.yaml",
    ],
];

fn quiet(module: &Path, files: &[&str]) -> Result<(), Failed> {
    let found = check(files.iter().map(|file| module.join(file)).collect());
    let loud = found.iter().filter(|it| it.severity > Severity::Info);
    let loud: Vec<_> = loud.map(ToString::to_string).collect();
    if loud.is_empty() {
        return Ok(());
    }
    Err(loud.join("\n").into())
}

/// Every sample that kubectl takes is read, and no field of it is unknown.
fn read(directory: &Path) -> Result<(), Failed> {
    // Values of charts and configurations of other programs: no objects.
    let none = [
        "swagger.yaml",
        "Chart.yaml",
        "values.yaml",
        "spire-base.yaml",
        "spire-east.yaml",
        "spire-west.yaml",
    ];
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)?.filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                // Templates are no YAML.
                if name != "templates" {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|end| end == "yaml")
                && !none.contains(&name.as_str())
            {
                count += 1;
                let found = check(vec![path]);
                let bad = found.iter().filter(|it| {
                    it.object.is_none() && it.severity == Severity::Error
                        || it.message.contains("unknown field")
                });
                wrong.extend(bad.map(ToString::to_string));
            }
        }
    }
    assert!(count > 50, "{count}");
    if wrong.is_empty() {
        return Ok(());
    }
    Err(wrong.join("\n").into())
}
