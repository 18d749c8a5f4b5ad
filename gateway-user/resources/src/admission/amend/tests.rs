use std::path::PathBuf;

use super::*;
use crate::object::ManifestPlace;

const FILES: usize = 10;

/// An object, or what should be one. There are few names, so that they meet.
fn document() -> String {
    let name = fastrand::usize(0..12);
    let number = fastrand::usize(0..4);
    match fastrand::u8(0..40) {
        0 => "kind: [\n".into(),
        1 => format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p{name}}}\nspec: 7\n"),
        2 => "apiVersion: v1\nkind: Pod\nmetadata: {name: Not_A_Name}\n".into(),
        3 => format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p{name}}}\nspek: {number}\n"),
        4..6 => format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{name}}}\nspec: {{type: NodePort, ports: [{{port: 80, nodePort: {}}}]}}\n",
            30_000 + number
        ),
        6 => format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{number}}}\nspec: {{hosts: [a.example], http: [{{route: [{{destination: {{host: s{name}}}}}]}}]}}\n"
        ),
        7 => format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n{name}}}\n"),
        8 => format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{name}, labels: {{istio-injection: enabled}}}}\n"
        ),
        9 => format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: t{name}}}\nstringData: {{ca.crt: '{number}'}}\n"
        ),
        10..20 => format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{name}, labels: {{version: v{number}}}}}\n"
        ),
        _ => format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: e{name}{number}, labels: {{kubernetes.io/service-name: s{name}}}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.0.0.{}]}}]\n",
            fastrand::u8(1..9)
        ),
    }
}

fn manifest(file: usize) -> Option<Manifest> {
    let documents = fastrand::usize(0..4);
    let comment = "# moves what follows\n".repeat(fastrand::usize(0..2));
    let text = (0..documents).fold(comment, |text, _| format!("{text}---\n{}", document()));
    (documents > 0).then(|| Manifest::parse(PathBuf::from(format!("{file}.yaml")), &text))
}

/// Some files change at a time.
fn step(files: &mut BTreeMap<usize, Manifest>) -> Vec<(Option<Manifest>, Option<Manifest>)> {
    let changed: BTreeSet<_> = (0..fastrand::usize(1..3))
        .map(|_| fastrand::usize(0..FILES))
        .collect();
    let change = |file| {
        let after = manifest(file);
        let before = match after.clone() {
            Some(after) => files.insert(file, after),
            None => files.remove(&file),
        };
        (before, after)
    };
    changed.into_iter().map(change).collect()
}

/// Where objects are written.
fn places<'o>(objects: impl Iterator<Item = &'o Arc<Object>>) -> Vec<&'o ManifestPlace> {
    objects.map(|object| &object.origin).collect()
}

#[test]
fn it_is_what_a_look_at_everything_gives() {
    let (mut amended, mut admitted) = (0, 0);
    for seed in 0..25 {
        fastrand::seed(seed);
        let mut files = BTreeMap::new();
        let (mut store, mut whole) = (Store::default(), Store::default());
        for turn in 0..60 {
            let changes = step(&mut files);
            let amendments: Vec<_> = changes
                .iter()
                .map(|(before, after)| Amendment {
                    before: before.as_ref(),
                    after: after.as_ref(),
                })
                .collect();
            let resources = if let Some(resources) = store.amend(&amendments) {
                amended += 1;
                resources
            } else {
                admitted += 1;
                store.admit(files.values(), Vec::new())
            };
            let expected = whole.admit(files.values(), Vec::new());
            assert_eq!(resources, expected, "{seed} {turn}");
            assert_eq!(
                places(resources.objects.values()),
                places(expected.objects.values()),
                "{seed} {turn}"
            );
            assert_eq!(
                places(store.accepted.values()),
                places(whole.accepted.values()),
                "{seed} {turn}"
            );
        }
    }
    // Each of both ways has been gone often.
    assert!(amended > 150 && admitted > 150, "{amended} {admitted}");
}

#[test]
fn what_has_not_changed_is_shared() {
    let slice = |name: usize, last: u8| {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: e{name}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.0.0.{last}]}}]\n"
        );
        Manifest::parse(PathBuf::from(format!("{name}.yaml")), &text)
    };
    let all: Vec<_> = (0..500).map(|name| slice(name, 1)).collect();
    let mut store = Store::default();
    let first = store.admit(&all, Vec::new());
    let after = slice(77, 2);
    let amendment = Amendment {
        before: Some(&all[77]),
        after: Some(&after),
    };
    let second = store.amend(&[amendment]).unwrap();
    let changed = |second: &Resources| {
        let changes = second.objects.changes_since(&first.objects);
        let names = changes.map(|change| change.key.name.clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(changed(&second), ["e77"]);
    assert!(second.diagnostics.is(&first.diagnostics));
    // A look at everything makes no copies either.
    let all = all.iter().enumerate();
    let all = all.map(|(name, slice)| if name == 77 { &after } else { slice });
    assert_eq!(*store.admit(all, Vec::new()), *second);
    assert_eq!(changed(store.current()), ["e77"]);
}
