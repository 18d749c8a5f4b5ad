//! A YAML value → a typed object, naming the field that does not fit.

use nodegate_values::spelling::nearest;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::{
    fields,
    mismatch::Mismatch,
    nulls::{self, Nulls},
    steps::{Path, Step},
};

/// A field that the type does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) path: String,
    /// The field that was probably meant.
    pub(super) nearest: Option<String>,
}

/// How many values of a wrong type are told of one object.
const MISMATCHES: usize = 16;

/// A value that was read.
#[derive(Debug)]
pub(super) struct Decoded<T> {
    pub(super) value: T,
    /// Fields that `T` does not have.
    pub(super) unknown: Vec<Unknown>,
    /// Paths of conditions that are null, which is as if they were not there.
    pub(super) null_conditions: Vec<String>,
}

/// Reads `value` as a `T`; fails with all that is of a wrong type. `custom`: whether it is a custom resource.
pub(super) fn decode<T: DeserializeOwned>(
    mut value: Value,
    custom: bool,
) -> Result<Decoded<T>, Vec<Mismatch>> {
    let Nulls {
        refused: mut mismatches,
        conditions,
    } = nulls::take::<T>(&mut value, custom);
    loop {
        let mut ignored = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let deserializer = serde_path_to_error::Deserializer::new(&value, &mut track);
        let decoded = serde_ignored::deserialize(deserializer, |path| ignored.push(steps(&path)));
        let error = match decoded {
            Ok(_) if !mismatches.is_empty() => return Err(mismatches),
            Ok(decoded) => {
                return Ok(Decoded {
                    value: decoded,
                    unknown: ignored.iter().map(|path| unknown::<T>(path)).collect(),
                    null_conditions: conditions,
                });
            }
            Err(error) => error,
        };
        let path = steps_to(&track.path());
        let mismatch = Mismatch::of(Path(&path).to_string(), &error.to_string());
        let is_told = mismatches.iter().any(|told| told.path == mismatch.path);
        if !is_told {
            mismatches.push(mismatch);
        }
        // What else is wrong shows without it.
        if is_told || mismatches.len() >= MISMATCHES || !remove(&mut value, &path) {
            return Err(mismatches);
        }
    }
}

/// Removes what is at the end of the path; says whether it was there.
fn remove(value: &mut Value, path: &[Step]) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return false;
    };
    let parent = parents.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key.as_str()),
        Step::Index(index) => value.get_mut(*index),
    });
    match (parent, last) {
        (Some(Value::Mapping(mapping)), Step::Key(key)) => {
            mapping.shift_remove(key.as_str()).is_some()
        }
        // In its place, so that others keep their number.
        (Some(Value::Sequence(items)), Step::Index(index)) if *index < items.len() => {
            let empty = match items[*index] {
                Value::Null => return false,
                _ => Value::Null,
            };
            items[*index] = empty;
            true
        }
        _ => false,
    }
}

fn unknown<T: DeserializeOwned>(path: &[Step]) -> Unknown {
    let nearest = match path.split_last() {
        Some((Step::Key(key), parent)) => nearest(key, fields::of::<T>(parent)),
        _ => None,
    };
    Unknown {
        path: Path(path).to_string(),
        nearest,
    }
}

fn steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    let (parent, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(Step::Index(*index))),
        Path::Map { parent, key } => (parent, Some(Step::Key(key.clone()))),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut steps = steps(parent);
    steps.extend(step);
    steps
}

fn steps_to(path: &serde_path_to_error::Path) -> Vec<Step> {
    use serde_path_to_error::Segment;
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn service(text: &str) -> Result<Decoded<Service>, Vec<Mismatch>> {
        decode(serde_yaml::from_str(text).unwrap(), false)
    }

    #[test]
    fn unknown_fields_are_named_with_what_was_meant() {
        let text = "{kind: Service, apiVersion: v1, spec: {ports: [{port: 1}, {port: 2, nodPort: 3}], zzz: 1}}";
        let Decoded { unknown, .. } = service(text).unwrap();
        let expected = [
            ("spec.ports[1].nodPort", Some("nodePort".to_owned())),
            ("spec.zzz", None),
        ];
        for (unknown, (path, nearest)) in unknown.iter().zip(expected) {
            assert_eq!((unknown.path.as_str(), &unknown.nearest), (path, &nearest));
        }
        assert_eq!(unknown.len(), 2);
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        let text = "{kind: Service, apiVersion: v1, spec: {ports: [{port: http}]}}";
        let errors = service(text).unwrap_err();
        let [error] = &errors[..] else {
            panic!("{errors:?}");
        };
        assert_eq!(error.path, "spec.ports[0].port");
        assert_eq!(
            error.message,
            "the text \"http\" stands where a number belongs"
        );
        assert_eq!(error.fix, None);
    }

    #[test]
    fn null_is_absent() {
        let text = "{kind: Service, apiVersion: v1, metadata: {creationTimestamp: null}, spec: {ports: null}}";
        let Decoded { value, unknown, .. } = service(text).unwrap();
        assert_eq!(unknown, []);
        assert_eq!(value.spec.unwrap().ports, None);
    }

    #[test]
    fn all_that_is_of_a_wrong_type_is_told() {
        let text = "{kind: Service, apiVersion: v1, spec: {type: [], ports: [{port: http}, {port: 1, nodePort: x}, 7], clusterIP: 5}}";
        let errors = service(text).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        let expected = [
            "spec.type",
            "spec.ports[0].port",
            "spec.ports[1].nodePort",
            "spec.ports[2]",
            "spec.clusterIP",
        ];
        assert_eq!(paths, expected);
    }
}
