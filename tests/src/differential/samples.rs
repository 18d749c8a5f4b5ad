//! Istio's own samples, with the requests that its documentation makes of them.
//!
//! What a sample says to sidecars is said to the sample's Gateway, too: its hosts are then asked for there.

use std::fs;

use anyhow::{Context as _, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{
    Options,
    case::Case,
    finding::Finding,
    ground::address,
    judge,
    names::LABEL,
    parts::{Part, Tally},
    request::Request,
    shares::{are_alike, endpoints},
    stage::{Question, Stage},
};
use crate::cluster::parts::ISTIO_SAMPLES;

/// The Gateway of the first sample.
const BOOKINFO: &str = "bookinfo-gateway";
/// How many requests are made where weights decide.
const MANY: usize = 100;

/// The names of a Service's versions, and the endpoint of each.
type Versions = &'static [(&'static str, u16)];

/// Services of the samples: port, and the endpoint of each version.
const SERVICES: [(&str, u16, Versions); 7] = [
    ("productpage", 9080, &[("v1", 9001)]),
    ("details", 9080, &[("v1", 9002)]),
    ("ratings", 9080, &[("v1", 9003)]),
    ("reviews", 9080, &[("v1", 9005), ("v2", 9006), ("v3", 9002)]),
    ("helloworld", 5000, &[("v1", 9005)]),
    ("httpbin", 8000, &[("v1", 9002)]),
    ("tcp-echo", 9000, &[("v1", 9005), ("v2", 9006)]),
];

/// Some samples together, as a page of the documentation applies them, and what it then asks.
struct Page {
    name: &'static str,
    files: &'static [&'static str],
    asks: &'static [Ask],
}

/// A request of the documentation.
#[derive(Clone, Copy)]
struct Ask {
    port: u16,
    host: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

const fn get(port: u16, host: &'static str, target: &'static str) -> Ask {
    Ask {
        port,
        host,
        target,
        headers: &[],
    }
}

const fn jason(host: &'static str) -> Ask {
    Ask {
        headers: &[("end-user", "jason")],
        ..get(8080, host, "/reviews/0")
    }
}

const GATEWAY: &str = "bookinfo/networking/bookinfo-gateway.yaml";
const RULES: &str = "bookinfo/networking/destination-rule-all.yaml";

const PAGES: [Page; 9] = [
    Page {
        name: "getting started",
        files: &[GATEWAY],
        asks: &[
            get(8080, "gateway.test", "/productpage"),
            get(
                8080,
                "gateway.test",
                "/static/bootstrap/css/bootstrap.min.css",
            ),
            get(8080, "gateway.test", "/api/v1/products/0/ratings"),
            get(8080, "gateway.test", "/login"),
            get(8080, "gateway.test", "/productpage/"),
            get(8080, "gateway.test", "/"),
        ],
    },
    Page {
        name: "request routing: all v1",
        files: &[
            GATEWAY,
            RULES,
            "bookinfo/networking/virtual-service-all-v1.yaml",
        ],
        asks: &[
            get(8080, "gateway.test", "/productpage"),
            get(8080, "reviews", "/reviews/0"),
            get(8080, "reviews.default.svc.cluster.local", "/reviews/0"),
            get(8080, "details", "/details/0"),
            jason("reviews"),
        ],
    },
    Page {
        name: "request routing: by the user",
        files: &[
            GATEWAY,
            RULES,
            "bookinfo/networking/virtual-service-reviews-test-v2.yaml",
        ],
        asks: &[get(8080, "reviews", "/reviews/0"), jason("reviews")],
    },
    Page {
        name: "fault injection",
        files: &[
            GATEWAY,
            RULES,
            "bookinfo/networking/virtual-service-ratings-test-abort.yaml",
        ],
        asks: &[get(8080, "ratings", "/ratings/0"), jason("ratings")],
    },
    Page {
        name: "traffic shifting",
        files: &[
            GATEWAY,
            "bookinfo/networking/destination-rule-reviews.yaml",
            "bookinfo/networking/virtual-service-reviews-80-20.yaml",
        ],
        asks: &[get(8080, "reviews", "/reviews/0")],
    },
    Page {
        name: "traffic shifting: by the user",
        files: &[
            GATEWAY,
            RULES,
            "bookinfo/networking/virtual-service-reviews-jason-v2-v3.yaml",
        ],
        asks: &[get(8080, "reviews", "/reviews/0"), jason("reviews")],
    },
    Page {
        name: "helloworld",
        files: &["helloworld/helloworld-gateway.yaml"],
        asks: &[
            get(80, "gateway.test", "/hello"),
            get(80, "gateway.test", "/hello/"),
        ],
    },
    Page {
        name: "ingress gateways",
        files: &["httpbin/httpbin-gateway.yaml"],
        asks: &[
            get(80, "httpbin.example.com", "/status/200"),
            get(80, "httpbin.example.com", "/headers"),
            get(80, "httpbin.example.com", "/delay/2"),
        ],
    },
    Page {
        name: "tcp traffic shifting",
        files: &[
            "tcp-echo/tcp-echo-all-v1.yaml",
            "tcp-echo/tcp-echo-20-v2.yaml",
        ],
        asks: &[get(31400, "tcp-echo", "/")],
    },
];

/// Compares all pages.
pub(super) fn compare(stage: &mut Stage, options: &Options) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(Part::Samples);
    for (index, page) in PAGES.iter().enumerate() {
        let case = page.case(stage)?;
        let name = format!("p{index}");
        let applied = stage.apply(&[(name.clone(), &case)])?;
        ensure!(
            applied.there.contains(&name),
            "{}: {:?}",
            page.name,
            applied.refusals
        );
        tally.add("pages", 1);
        tally.add("objects", case.objects.len());
        tally.add("requests", case.requests.len() * MANY);
        for request in &case.requests {
            let question = Question {
                name: &name,
                request,
            };
            let pairs = stage.ask_all(&vec![question; MANY])?;
            let counts = endpoints(&pairs);
            if !are_alike(&counts) {
                let [istio, nodegate] = &counts;
                tally.differs(format!(
                    "{}, {}{}: {istio:?} with Istio, {nodegate:?} with nodegate",
                    page.name, request.host, request.target
                ));
            }
            // Where all go the same way, they are the same in all.
            let goes_one_way = counts.iter().all(|counts| counts.len() == 1);
            let pair = pairs.into_iter().next().filter(|_| goes_one_way);
            let Some(pair) = pair else { continue };
            let finding = Finding {
                number: index as u64,
                case: case.clone(),
                request: request.clone(),
                divergences: judge(request, &pair).unknown,
                pair,
            };
            if !finding.divergences.is_empty() {
                let place = options.directory.join("samples");
                let file = finding.write(options.seed, tally.unknown.len(), &place)?;
                tally.differs(format!("{}: {}", page.name, file.display()));
            }
        }
    }
    Ok(tally)
}

impl Page {
    /// Its objects, with the services that they lead to, and requests.
    fn case(&self, stage: &Stage) -> anyhow::Result<Case> {
        let place = stage.cluster().part(ISTIO_SAMPLES);
        let mut objects: Vec<_> = SERVICES.iter().map(service).collect();
        for name in self.files {
            let file = place.join(name);
            let text =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            for document in serde_yaml::Deserializer::from_str(&text) {
                let object = Value::deserialize(document)?;
                if !object.is_null() {
                    put(&mut objects, object);
                }
            }
        }
        for object in &mut objects {
            object["metadata"]["namespace"] = json!("default");
            object["metadata"]["labels"] = json!({LABEL: "case"});
            let is_for_sidecars =
                object["kind"] == "VirtualService" && object["spec"]["gateways"].is_null();
            if is_for_sidecars {
                object["spec"]["gateways"] = json!(["mesh", BOOKINFO]);
            }
        }
        let requests = self.asks.iter().map(Ask::request).collect();
        Ok(Case { objects, requests })
    }
}

/// Puts an object among others, in the place of one of the same name.
fn put(objects: &mut Vec<Value>, object: Value) {
    let is_same = |other: &Value| {
        other["kind"] == object["kind"] && other["metadata"]["name"] == object["metadata"]["name"]
    };
    objects.retain(|other| !is_same(other));
    objects.push(object);
}

impl Ask {
    fn request(&self) -> Request {
        let headers = self.headers.iter();
        Request {
            method: "GET".into(),
            target: self.target.into(),
            version: "HTTP/1.1",
            host: self.host.into(),
            port: Some(self.port),
            headers: headers
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Request::default()
        }
    }
}

/// A service of the samples, under the name that it has in the cluster.
fn service((name, port, endpoints): &(&str, u16, &[(&str, u16)])) -> Value {
    let protocol = if *name == "tcp-echo" { "TCP" } else { "HTTP" };
    let port_name = protocol.to_lowercase();
    let endpoints = endpoints.iter().map(|(version, port)| {
        json!({"address": address(), "ports": {&port_name: port}, "labels": {"version": version}})
    });
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": name},
        "spec": {
            "hosts": [format!("{name}.default.svc.cluster.local")],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": port, "name": port_name, "protocol": protocol}],
            "endpoints": endpoints.collect::<Vec<_>>(),
        },
    })
}
