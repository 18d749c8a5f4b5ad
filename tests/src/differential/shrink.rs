//! Parts of a case that can be left out, to see which it is about.

use serde_json::Value;

use super::case::Case;

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Item(usize),
    Field(String),
}

/// Where a part is: the object, and the way into it.
pub(super) type Place = Vec<Step>;

/// What an object is not one without. Without a subset, chance would choose between endpoints.
const NEEDED: [&str; 7] = [
    "apiVersion",
    "kind",
    "metadata",
    "hosts",
    "gateways",
    "subset",
    "name",
];

/// All parts that may be left out, large ones first.
pub(super) fn parts(case: &Case) -> Vec<Place> {
    let mut found = Vec::new();
    for (index, object) in case.objects.iter().enumerate() {
        let place = vec![Step::Item(index)];
        if case.objects.len() > 1 {
            found.push(place.clone());
        }
        within(object, &place, &mut found);
    }
    found.sort_by_key(Vec::len);
    found
}

fn within(value: &Value, place: &Place, found: &mut Vec<Place>) {
    let mut visit = |step: Step, value: &Value, can_go: bool| {
        let mut place = place.clone();
        place.push(step);
        if can_go {
            found.push(place.clone());
        }
        within(value, &place, found);
    };
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                visit(Step::Item(index), item, items.len() > 1);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let needed = NEEDED.contains(&name.as_str());
                if !needed {
                    // What says nothing is another mistake than the one that is looked for.
                    let can_go = name != "spec" && fields.len() > 1;
                    visit(Step::Field(name.clone()), field, can_go);
                }
            }
        }
        _ => {}
    }
}

/// The case without these parts.
pub(super) fn without(case: &Case, parts: &[Place]) -> Case {
    let mut parts = parts.to_vec();
    // Later items first, so that the others stay where they are; a part goes before what it is in.
    parts.sort();
    let mut case = case.clone();
    for place in parts.iter().rev() {
        remove(&mut case.objects, place);
    }
    case
}

fn remove(objects: &mut Vec<Value>, place: &Place) {
    let Some((Step::Item(index), way)) = place.split_first() else {
        return;
    };
    let Some((last, way)) = way.split_last() else {
        objects.remove(*index);
        return;
    };
    let mut value = &mut objects[*index];
    for step in way {
        value = match step {
            Step::Item(index) => &mut value[*index],
            Step::Field(name) => &mut value[name.as_str()],
        };
    }
    match (last, value) {
        (Step::Item(index), Value::Array(items)) => drop(items.remove(*index)),
        (Step::Field(name), Value::Object(fields)) => drop(fields.remove(name)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn case() -> Case {
        let service = json!({
            "kind": "VirtualService",
            "spec": {"hosts": ["a"], "http": [
                {"match": [{"port": 1}, {"port": 2}], "timeout": "1s"},
                {"redirect": {"uri": "/"}},
            ]},
        });
        Case {
            objects: vec![
                service,
                json!({"kind": "ServiceEntry", "spec": {"hosts": ["b"]}}),
            ],
            requests: Vec::new(),
        }
    }

    #[test]
    fn large_parts_come_first_and_what_is_needed_stays() {
        let parts = parts(&case());
        assert_eq!(&parts[..2], [[Step::Item(0)], [Step::Item(1)]]);
        assert!(
            parts
                .iter()
                .all(|place| !place.contains(&Step::Field("hosts".into())))
        );
        let field = |name: &str| Step::Field(name.into());
        let whole_spec = vec![Step::Item(0), field("spec")];
        assert!(!parts.contains(&whole_spec));
        // Without it the redirect would say nothing.
        let mut only = whole_spec;
        only.extend([
            field("http"),
            Step::Item(1),
            field("redirect"),
            field("uri"),
        ]);
        assert!(!parts.contains(&only));
    }

    #[test]
    fn parts_within_each_other_and_beside_each_other_go_together() {
        let field = |name: &str| Step::Field(name.into());
        let http = |more: &[Step]| {
            let mut place = vec![Step::Item(0), field("spec"), field("http")];
            place.extend(more.to_vec());
            place
        };
        let less = without(
            &case(),
            &[
                http(&[Step::Item(0), field("match"), Step::Item(0)]),
                http(&[Step::Item(0), field("match"), Step::Item(1)]),
                http(&[Step::Item(0), field("timeout")]),
                http(&[Step::Item(1)]),
                http(&[Step::Item(1), field("redirect")]),
                vec![Step::Item(1)],
            ],
        );
        let left =
            json!({"kind": "VirtualService", "spec": {"hosts": ["a"], "http": [{"match": []}]}});
        assert_eq!(less.objects, [left]);
    }
}
