//! Every field that an object may have has an effect, or there is a word about it.
//!
//! The fields are those of the definitions of Istio's kinds. Each is set by itself in an object that is served,
//! and what is compiled, or what is said, must be another thing then.

use std::collections::BTreeSet;

use nodegate_resources::definition;
use serde_yaml::Value;

use super::*;

/// Objects that lead a request, and a TCP connection, to endpoints.
const BASE: &str = include_str!("fields/base.yaml");

/// Fields that change nothing here, with the reason.
const WITHOUT: &[(&str, &str)] = &[
    (
        "Gateway.servers[].hosts[]",
        "one more counts as soon as a VirtualService has it",
    ),
    ("Gateway.servers[].name", "a name for people"),
    ("Gateway.servers[].port.name", "a name for people"),
    (
        "ServiceEntry.hosts[]",
        "one more counts as soon as a route leads to it",
    ),
    (
        "WorkloadEntry.labels.*",
        "one more counts as soon as a selector or a subset asks for it",
    ),
    (
        "VirtualService.http[].match[].statPrefix",
        "a name in the statistics of Envoy",
    ),
    ("ServiceEntry.location", "whether sidecars speak TLS to it"),
    (
        "ServiceEntry.addresses[]",
        "by which sidecars know its connections",
    ),
    ("WorkloadEntry.serviceAccount", "whom sidecars expect there"),
];

/// What is set: a value that is none of the defaults.
fn value(path: &str, schema: &Value) -> Value {
    let name = path
        .rsplit('.')
        .next()
        .unwrap_or(path)
        .trim_end_matches("[]");
    let text = |text: &str| Value::String(text.to_owned());
    match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => return Value::Bool(name != "enabled"),
        Some("integer") if name == "weight" => return 7.into(),
        Some("integer") if name == "number" || name == "port" => return 90.into(),
        Some("integer") => return 7.into(),
        Some("number") => return 7.5.into(),
        Some("string") => {}
        _ => return text("x"),
    }
    let lower = name.to_ascii_lowercase();
    let times = [
        "timeout", "interval", "time", "delay", "duration", "ttl", "maxage", "backoff", "secs",
    ];
    if times.iter().any(|end| lower.ends_with(end)) {
        return text("7s");
    }
    text(match name {
        "host" => "other",
        "exportTo" => "nowhere",
        "gateways" => "default/h",
        "hosts" => "b.example",
        "exact" | "prefix" => "/v",
        "regex" => "/v.*",
        "protocol" => "TCP",
        "simple" => "RANDOM",
        "mode" => "SIMPLE",
        "h2UpgradePolicy" => "UPGRADE",
        "resolution" => "NONE",
        "location" => "MESH_INTERNAL",
        "derivePort" => "FROM_REQUEST_PORT",
        "unmatchedPreflights" => "IGNORE",
        "retryOn" => "reset",
        "grpcStatus" => "NOT_FOUND",
        "address" | "addresses" => "10.0.0.99",
        "string" => "hello",
        "bytes" => "aGVsbG8=",
        "subset" => "v1",
        _ => "x-value",
    })
}

/// All leaves below a schema, each with its path and its own schema.
fn leaves(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    if let Some(Value::Mapping(properties)) = schema.get("properties") {
        for (name, below) in properties {
            let name = name.as_str().unwrap();
            leaves(below, &format!("{path}.{name}"), found);
        }
    } else if let Some(items) = schema.get("items") {
        leaves(items, &format!("{path}[]"), found);
    } else if let Some(values) = schema.get("additionalProperties") {
        leaves(values, &format!("{path}.*"), found);
    } else {
        found.push((path.to_owned(), schema.clone()));
    }
}

/// Sets what is at the end of a path; makes what is missing on the way.
fn set(value: &mut Value, path: &str, to: &Value) {
    let (step, rest) = match path.split_once('.') {
        Some((step, rest)) => (step, Some(rest)),
        None => (path, None),
    };
    let (name, is_list) = match step.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (step, false),
    };
    let name = if name == "*" { "x-key" } else { name };
    if !value.is_mapping() {
        *value = Value::Mapping(serde_yaml::Mapping::new());
    }
    let fields = value.as_mapping_mut().unwrap();
    let below = fields.entry(name.into()).or_insert(Value::Null);
    let below = if is_list {
        if !below.is_sequence() {
            *below = Value::Sequence(Vec::new());
        }
        let items = below.as_sequence_mut().unwrap();
        // Of names, one more; of objects, the first.
        if items.is_empty() || rest.is_none() {
            items.push(Value::Null);
        }
        let index = if rest.is_some() { 0 } else { items.len() - 1 };
        &mut items[index]
    } else {
        below
    };
    match rest {
        Some(rest) => set(below, rest, to),
        None => *below = to.clone(),
    }
}

/// What comes of the documents: what is served, and what is said.
fn outcome(documents: &[Value]) -> (serde_json::Value, BTreeSet<String>) {
    let texts: Vec<_> = documents
        .iter()
        .map(|it| serde_yaml::to_string(it).unwrap())
        .collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let resources = Cluster::with(&texts).resources();
    let labels = BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]);
    let identity = GatewayIdentity {
        namespace: "istio-system".into(),
        name: "gateway-0".into(),
        labels: labels.clone(),
        ..GatewayIdentity::default()
    };
    let node = NodeIdentity::default();
    let compiled = compile(&resources, &node, Some(&identity), &ServiceScope::All);
    let said = crate::check(&resources, &labels);
    let said = said.into_iter().map(|mut it| {
        // Lines move with every field.
        it.location = None;
        it.to_string()
    });
    (
        serde_json::to_value(&*compiled.gateway).unwrap(),
        said.collect(),
    )
}

#[test]
fn every_field_has_an_effect_or_a_word() {
    let documents: Vec<Value> = BASE
        .split("\n---\n")
        .map(|text| serde_yaml::from_str(text).unwrap())
        .collect();
    let base = outcome(&documents);
    let loud: Vec<_> = base
        .1
        .iter()
        .filter(|text| !text.starts_with("info: "))
        .collect();
    assert!(loud.is_empty(), "{loud:#?}");
    let mut silent = Vec::new();
    let mut count = 0;
    for definition in definition::all().split("---\n") {
        let definition: Value = serde_yaml::from_str(definition).unwrap();
        let kind = definition["spec"]["names"]["kind"]
            .as_str()
            .unwrap()
            .to_owned();
        if definition["spec"]["group"] == "security.istio.io" {
            // Of these the whole is told: none is enforced.
            continue;
        }
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut found = Vec::new();
        leaves(&schema["properties"]["spec"], "", &mut found);
        for (path, schema) in found {
            count += 1;
            let path = path.trim_start_matches('.');
            let name = format!("{kind}.{path}");
            let is_silent = documents
                .iter()
                .enumerate()
                .filter(|(_, it)| it["kind"] == kind.as_str())
                .all(|(index, _)| {
                    let mut changed = documents.clone();
                    set(&mut changed[index]["spec"], path, &value(path, &schema));
                    outcome(&changed) == base
                });
            if is_silent {
                silent.push(name);
            }
        }
    }
    assert!(count > 250, "{count}");
    let known: BTreeSet<_> = WITHOUT.iter().map(|(name, _)| (*name).to_owned()).collect();
    let silent: BTreeSet<_> = silent.into_iter().collect();
    let unknown: Vec<_> = silent.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "neither an effect nor a word: {unknown:#?}"
    );
    let gone: Vec<_> = known.difference(&silent).collect();
    assert!(gone.is_empty(), "no longer without: {gone:#?}");
}
