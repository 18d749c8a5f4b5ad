//! A YAML value → a typed object, naming the field that does not fit.

use nodegate_values::spelling::nearest;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::{
    fields,
    mismatch::Mismatch,
    steps::{Path, Step},
};

/// A field that the type does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) path: String,
    /// The field that was probably meant.
    pub(super) nearest: Option<String>,
}

/// Reads `value` as a `T`, noting the fields that `T` does not have.
pub(super) fn decode<T: DeserializeOwned>(mut value: Value) -> Result<(T, Vec<Unknown>), Mismatch> {
    // The API server treats `key: null` in an object as if the key were not there.
    drop_nulls(&mut value);
    let mut ignored = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let decoded = serde_ignored::deserialize(deserializer, |path| ignored.push(steps(&path)));
    match decoded {
        Ok(decoded) => Ok((
            decoded,
            ignored.iter().map(|path| unknown::<T>(path)).collect(),
        )),
        Err(error) => Err(Mismatch::of(field_path(&track.path()), &error.to_string())),
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

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Mapping(mapping) => {
            mapping.retain(|_, value| !value.is_null());
            mapping.values_mut().for_each(drop_nulls);
        }
        Value::Sequence(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
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

fn field_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let steps: Vec<_> = path
        .iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    Path(&steps).to_string()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn service(text: &str) -> Result<(Service, Vec<Unknown>), Mismatch> {
        decode(serde_yaml::from_str(text).unwrap())
    }

    #[test]
    fn unknown_fields_are_named_with_what_was_meant() {
        let text = "{kind: Service, apiVersion: v1, spec: {ports: [{port: 1}, {port: 2, nodPort: 3}], zzz: 1}}";
        let (_, unknown) = service(text).unwrap();
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
        let error = service(text).unwrap_err();
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
        let (service, unknown) = service(text).unwrap();
        assert_eq!(unknown, []);
        assert_eq!(service.spec.unwrap().ports, None);
    }
}
