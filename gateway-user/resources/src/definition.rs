//! The custom resource definitions of Istio's kinds, for clusters without Istio.
//!
//! Their schemas are what the types of [`crate::istio`] expect: what such a cluster lets pass is what
//! nodegate can read. Names, short names and columns are those of Istio's own (`manifests/charts/base/files/
//! crd-all.gen.yaml`), so that `kubectl get gw,vs,dr` shows the same.

use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use crate::{
    ResourceKind,
    istio::{
        AuthorizationPolicy, DestinationRule, Gateway, RequestAuthentication, ServiceEntry,
        VirtualService, Workload,
    },
    manifest::{
        fields::{Shape, shape},
        steps::Step,
    },
};

/// A column of `kubectl get`: its title, and where its values are.
type Column = (&'static str, &'static str);

/// What a kind is called, and what `kubectl get` shows of it.
struct Words {
    kind: ResourceKind,
    singular: &'static str,
    plural: &'static str,
    short: &'static str,
    columns: &'static [Column],
}

const GATEWAY: Words = Words {
    kind: ResourceKind::Gateway,
    singular: "gateway",
    plural: "gateways",
    short: "gw",
    columns: &[],
};

const VIRTUAL_SERVICE: Words = Words {
    kind: ResourceKind::VirtualService,
    singular: "virtualservice",
    plural: "virtualservices",
    short: "vs",
    columns: &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")],
};

const DESTINATION_RULE: Words = Words {
    kind: ResourceKind::DestinationRule,
    singular: "destinationrule",
    plural: "destinationrules",
    short: "dr",
    columns: &[("Host", ".spec.host")],
};

const SERVICE_ENTRY: Words = Words {
    kind: ResourceKind::ServiceEntry,
    singular: "serviceentry",
    plural: "serviceentries",
    short: "se",
    columns: &[
        ("Hosts", ".spec.hosts"),
        ("Location", ".spec.location"),
        ("Resolution", ".spec.resolution"),
    ],
};

const WORKLOAD_ENTRY: Words = Words {
    kind: ResourceKind::WorkloadEntry,
    singular: "workloadentry",
    plural: "workloadentries",
    short: "we",
    columns: &[("Address", ".spec.address")],
};

const AUTHORIZATION_POLICY: Words = Words {
    kind: ResourceKind::AuthorizationPolicy,
    singular: "authorizationpolicy",
    plural: "authorizationpolicies",
    short: "ap",
    columns: &[("Action", ".spec.action")],
};

const REQUEST_AUTHENTICATION: Words = Words {
    kind: ResourceKind::RequestAuthentication,
    singular: "requestauthentication",
    plural: "requestauthentications",
    short: "ra",
    columns: &[],
};

/// All definitions, as YAML documents.
pub fn all() -> String {
    let definitions = [
        definition::<Gateway>(&GATEWAY),
        definition::<VirtualService>(&VIRTUAL_SERVICE),
        definition::<DestinationRule>(&DESTINATION_RULE),
        definition::<ServiceEntry>(&SERVICE_ENTRY),
        definition::<Workload>(&WORKLOAD_ENTRY),
        definition::<AuthorizationPolicy>(&AUTHORIZATION_POLICY),
        definition::<RequestAuthentication>(&REQUEST_AUTHENTICATION),
    ];
    let documents = definitions.map(|definition| {
        // A tree of texts and numbers.
        serde_yaml::to_string(&definition).unwrap_or_default()
    });
    documents.join("---\n")
}

fn definition<T: DeserializeOwned>(words: &Words) -> Value {
    let key = words.kind.key("", "");
    let (group, kind) = (&*key.group, &*key.kind);
    let versions = words.kind.versions().iter().enumerate();
    let versions = versions.map(|(index, version)| version_of::<T>(version, index == 0, words));
    object([
        ("apiVersion", text("apiextensions.k8s.io/v1")),
        ("kind", text("CustomResourceDefinition")),
        (
            "metadata",
            object([("name", text(&format!("{}.{group}", words.plural)))]),
        ),
        (
            "spec",
            object([
                ("group", text(group)),
                ("scope", text("Namespaced")),
                (
                    "names",
                    object([
                        ("kind", text(kind)),
                        ("listKind", text(&format!("{kind}List"))),
                        ("singular", text(words.singular)),
                        ("plural", text(words.plural)),
                        ("shortNames", list([text(words.short)])),
                        (
                            "categories",
                            list([text("istio-io"), text(&group.replace('.', "-"))]),
                        ),
                    ]),
                ),
                ("versions", list(versions)),
            ]),
        ),
    ])
}

fn version_of<T: DeserializeOwned>(version: &str, is_stored: bool, words: &Words) -> Value {
    let own = words.columns.iter().map(|(name, path)| {
        object([
            ("name", text(name)),
            ("type", text("string")),
            ("jsonPath", text(path)),
        ])
    });
    let age = object([
        ("name", text("Age")),
        ("type", text("date")),
        ("jsonPath", text(".metadata.creationTimestamp")),
    ]);
    let spec = [Step::Key("spec".into())];
    let anything = object([
        ("type", text("object")),
        ("x-kubernetes-preserve-unknown-fields", Value::Bool(true)),
    ]);
    let schema = object([
        ("type", text("object")),
        ("required", list([text("spec")])),
        (
            "properties",
            object([("spec", schema::<T>(&spec)), ("status", anything)]),
        ),
    ]);
    object([
        ("name", text(version)),
        ("served", Value::Bool(true)),
        ("storage", Value::Bool(is_stored)),
        ("additionalPrinterColumns", list(own.chain([age]))),
        ("subresources", object([("status", object([]))])),
        ("schema", object([("openAPIV3Schema", schema)])),
    ])
}

/// What `T` expects at `path`, as a structural schema.
fn schema<T: DeserializeOwned>(path: &[Step]) -> Value {
    let below = |step: Step| schema::<T>(&[path, &[step]].concat());
    match shape::<T>(path) {
        Some(Shape::Struct(fields)) => {
            let properties = fields
                .iter()
                .map(|field| (*field, below(Step::Key((*field).to_owned()))));
            object([("type", text("object")), ("properties", object(properties))])
        }
        Some(Shape::List) => object([("type", text("array")), ("items", below(Step::Index(0)))]),
        Some(Shape::Map) => object([
            ("type", text("object")),
            ("additionalProperties", below(Step::Key("key".into()))),
        ]),
        Some(Shape::Text) => object([("type", text("string"))]),
        Some(Shape::Flag) => object([("type", text("boolean"))]),
        Some(Shape::Integer) => object([("type", text("integer")), ("format", text("int64"))]),
        Some(Shape::Number) => object([("type", text("number")), ("format", text("double"))]),
        Some(Shape::Anything) | None => {
            object([("x-kubernetes-preserve-unknown-fields", Value::Bool(true))])
        }
    }
}

fn object<'k>(fields: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    let fields = fields.into_iter();
    let fields = fields.map(|(key, value)| (text(key), value));
    Value::Mapping(fields.collect::<Mapping>())
}

fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value::Sequence(values.into_iter().collect())
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
        path.split('.').fold(value, |value, key| &value[key])
    }

    #[test]
    fn a_schema_is_what_the_type_expects() {
        let spec = schema::<VirtualService>(&[Step::Key("spec".into())]);
        let route = at(&spec, "properties.http.items.properties");
        assert_eq!(at(route, "timeout.type"), "string");
        assert_eq!(
            at(route, "match.items.properties.ignoreUriCase.type"),
            "boolean"
        );
        let headers = at(route, "match.items.properties.headers");
        assert_eq!(headers["type"], "object");
        let condition = at(headers, "additionalProperties.properties.exact.type");
        assert_eq!(condition, "string");
        assert_eq!(at(route, "route.items.properties.weight.type"), "integer");
        assert_eq!(
            at(route, "mirrorPercentage.properties.value.type"),
            "number"
        );

        let spec = schema::<Gateway>(&[Step::Key("spec".into())]);
        let tls = at(&spec, "properties.servers.items.properties.tls.properties");
        assert_eq!(at(tls, "credentialName.type"), "string");
        let spec = schema::<Gateway>(&[Step::Key("spec".into())]);
        let server = at(&spec, "properties.servers.items.properties");
        let opaque = at(
            server,
            "defaultEndpoint.x-kubernetes-preserve-unknown-fields",
        );
        assert_eq!(*opaque, Value::Bool(true));
    }

    #[test]
    fn every_field_of_the_types_is_in_the_schema() {
        let fields = shape::<Gateway>(&[]);
        let Some(Shape::Struct(fields)) = fields else {
            panic!("{fields:?}");
        };
        assert!(fields.contains(&"spec"));
        let text = all();
        for name in [
            "localityLbSetting",
            "consecutive5xxErrors",
            "uriRegexRewrite",
        ] {
            assert!(text.contains(name), "{name}");
        }
        let documents = serde_yaml::Deserializer::from_str(&text).count();
        assert_eq!(documents, 7);
    }
}
