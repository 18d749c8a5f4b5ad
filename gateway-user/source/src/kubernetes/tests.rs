//! What the ledger makes of what watches tell.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use nodegate_resources::{ResourceKind, manifest::Manifest, object::Body};

use super::{
    interest::{Interest, Objects, RedirectorInterest, Wanted, WantedKind},
    ledger::Ledger,
    trouble::Trouble,
    watch::{Found, News, Report},
};
use crate::source::Change;

fn services() -> Wanted {
    Wanted {
        kind: WantedKind::Service,
        objects: Objects::All,
    }
}

fn slices() -> Wanted {
    Wanted {
        kind: WantedKind::EndpointSlice,
        objects: Objects::All,
    }
}

fn report(wanted: Wanted, news: News) -> Report {
    Report {
        wanted,
        epoch: 0,
        news,
    }
}

pub(super) fn service(name: &str) -> Found {
    let mut service = Service::default();
    service.metadata.namespace = Some("shop".into());
    service.metadata.name = Some(name.into());
    Found {
        kind: WantedKind::Service,
        namespace: "shop".into(),
        name: name.into(),
        manifest: Manifest::of_body(Body::Service(Box::new(service))),
        version: None,
        json: None,
    }
}

fn lists(ledger: &mut Ledger, names: &[&str]) {
    ledger.take(report(services(), News::Begins));
    for name in names {
        let found = Box::new(service(name));
        ledger.take(report(services(), News::Object(found)));
    }
}

/// The names of what has come and what has gone, of Services of one namespace.
fn names(news: &[Change]) -> (BTreeSet<String>, BTreeSet<String>) {
    let last = |path: &std::path::Path| {
        let name = path.file_name().unwrap();
        name.to_string_lossy().into_owned()
    };
    let come = news.iter().filter_map(|change| match change {
        Change::Document(manifest) => Some(last(&manifest.file)),
        _ => None,
    });
    let gone = news.iter().filter_map(|change| match change {
        Change::Gone(name) => Some(last(name)),
        _ => None,
    });
    (come.collect(), gone.collect())
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn only_what_a_complete_list_lacks_is_gone() {
    let mut ledger = Ledger::new([services()]);
    lists(&mut ledger, &["one", "two"]);
    ledger.take(report(services(), News::Complete));
    assert!(ledger.is_settled());
    assert_eq!(names(&ledger.news()), (set(&["one", "two"]), set(&[])));

    lists(&mut ledger, &["two"]);
    assert_eq!(names(&ledger.news()), (set(&["two"]), set(&[])));
    // The list breaks off, and is made again.
    lists(&mut ledger, &["two", "three"]);
    let gone = ledger.take(report(services(), News::Complete));
    assert_eq!(gone, [("shop".to_owned(), "one".to_owned())]);
    let expected = (set(&["two", "three"]), set(&["one"]));
    assert_eq!(names(&ledger.news()), expected);
}

#[test]
fn a_kind_that_cannot_be_had_holds_nothing_up_and_loses_nothing() {
    let mut ledger = Ledger::new([services(), slices()]);
    lists(&mut ledger, &["one"]);
    ledger.take(report(services(), News::Complete));
    assert!(!ledger.is_settled());
    let unreachable = News::Trouble(Trouble::Unreachable("connection refused".into()));
    ledger.take(report(slices(), unreachable));
    assert!(!ledger.is_settled(), "it may come back at any moment");
    let forbidden = News::Trouble(Trouble::Forbidden("no".into()));
    ledger.take(report(slices(), forbidden));
    assert!(ledger.is_settled());
    let news = ledger.news();
    let Some(Change::Troubles(troubles)) = news.last() else {
        panic!("{news:?}");
    };
    assert_eq!(
        troubles[0].to_string(),
        "error: endpointslices may not be read: no (fix: add the rule {apiGroups: [\"discovery.k8s.io\"], resources: [endpointslices], verbs: [list, watch]} to its role)"
    );

    // Later the Services are forbidden, too, or not even defined.
    for trouble in [Trouble::Forbidden("no".into()), Trouble::NoSuchKind] {
        ledger.take(report(services(), News::Trouble(trouble)));
        assert_eq!(names(&ledger.news()), (set(&[]), set(&[])));
    }
}

#[test]
fn what_was_remembered_gives_way_to_what_is_heard() {
    let mut ledger = Ledger::new([services()]);
    ledger.remember(service("old"));
    ledger.remember(service("kept"));
    assert_eq!(names(&ledger.news()).0, set(&["old", "kept"]));
    lists(&mut ledger, &["kept"]);
    ledger.take(report(services(), News::Complete));
    assert_eq!(names(&ledger.news()), (set(&["kept"]), set(&["old"])));
    ledger.remember(service("older"));
    assert_eq!(names(&ledger.news()), (set(&[]), set(&[])));
}

#[test]
fn the_first_word_comes_also_where_there_is_nothing() {
    let mut ledger = Ledger::new([services()]);
    lists(&mut ledger, &[]);
    ledger.take(report(services(), News::Complete));
    assert_eq!(ledger.news().len(), 1);
    assert_eq!(ledger.news().len(), 0);
}

#[test]
fn secrets_are_watched_as_long_as_they_are_named() {
    let interest = Interest {
        redirector: Some(RedirectorInterest {
            node: "node1".into(),
            gateways: true,
            tcp_routes: true,
        }),
        routes: true,
        secrets: Some("istio-system".into()),
    };
    let mut ledger = Ledger::new(interest.wanted());
    let rule = |credential: &str| {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r, namespace: shop}}, spec: {{host: web, trafficPolicy: {{tls: {{mode: SIMPLE, credentialName: {credential}}}}}}}}}"
        );
        let value = serde_yaml::from_str(&text).unwrap();
        let kind = ResourceKind::DestinationRule;
        let found = Found {
            kind: WantedKind::DestinationRule,
            namespace: "shop".into(),
            name: "r".into(),
            manifest: Manifest::of_value(kind, "shop", "r", value),
            version: None,
            json: None,
        };
        report(
            Wanted {
                kind: WantedKind::DestinationRule,
                objects: Objects::All,
            },
            News::Object(Box::new(found)),
        )
    };
    let secrets = |names: [&str; 2]| names.map(|name| Wanted::secret("istio-system", name));
    ledger.take(rule("one"));
    let (new, old) = ledger.want_others(&interest);
    assert_eq!(new, secrets(["one", "one-cacert"]));
    assert_eq!(old, []);
    ledger.take(rule("two"));
    let (new, old) = ledger.want_others(&interest);
    assert_eq!(new, secrets(["two", "two-cacert"]));
    assert_eq!(old, secrets(["one", "one-cacert"]));
}
