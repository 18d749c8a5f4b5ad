//! Messages, through the decoder.

use crate::{istio::VirtualService, manifest::decode::decode};

#[test]
fn a_wrong_type_is_told_in_the_words_of_yaml_with_its_fix() {
    let told = |http: &str| {
        let text =
            format!("{{apiVersion: x, kind: x, metadata: {{name: x}}, spec: {{http: {http}}}}}");
        let value = serde_yaml::from_str(&text).unwrap();
        let mut errors = decode::<VirtualService>(value, true).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        let error = errors.remove(0);
        let fix = error.fix.map(|fix| format!(" ({fix})")).unwrap_or_default();
        format!("{}: {}{fix}", error.path, error.message)
    };
    assert_eq!(
        told("[{timeout: 2}]"),
        "spec.http[0].timeout: the number 2 stands where a text belongs (`timeout: 2s`)"
    );
    assert_eq!(
        told("[{name: 2}]"),
        "spec.http[0].name: the number 2 stands where a text belongs (`name: \"2\"`, with quotes)"
    );
    assert_eq!(
        told("[{route: [{weight: '80'}]}]"),
        "spec.http[0].route[0].weight: the text \"80\" stands where a number belongs (`weight: 80`, without quotes)"
    );
    assert_eq!(
        told("[{route: [{destination: {host: a, port: 80}}]}]"),
        "spec.http[0].route[0].destination.port: the number 80 stands where an object with fields belongs"
    );
    assert_eq!(
        told("[{route: [{weight: 1.5}]}]"),
        "spec.http[0].route[0].weight: the number 1.5 stands where a whole number belongs (such as `weight: 2`)"
    );
    assert_eq!(
        told("{route: []}"),
        "spec.http: an object with fields stands where a list belongs (begin each entry below `http:` with `- `)"
    );
}
