//! Kubernetes objects as text: documents of a YAML stream, and the fields that an API server adds.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config;

/// What an object is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// `networking.istio.io`; empty for the core API.
    pub group: String,
    /// `Service`, `Gateway`, …
    pub kind: String,
    /// Empty for what has no namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl ObjectKey {
    /// The key of a core or built-in object.
    pub fn new(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The object's file in the manifest directory.
    pub(crate) fn file_name(&self) -> String {
        let mut kind = self.kind.to_lowercase();
        if !self.group.is_empty() {
            kind = format!("{kind}.{}", self.group);
        }
        // What an API server would refuse as a name must not become a path either.
        let safe = |text: &str| text.replace(['/', '\0'], "_");
        if self.namespace.is_empty() {
            format!("{}_{}.yaml", safe(&kind), safe(&self.name))
        } else {
            format!(
                "{}_{}_{}.yaml",
                safe(&kind),
                safe(&self.namespace),
                safe(&self.name)
            )
        }
    }
}

/// An object, with the text that it was written as.
#[derive(Clone, Debug)]
pub struct Object {
    /// What it is known by.
    pub key: ObjectKey,
    /// What it says.
    pub value: Value,
    /// What it says, as YAML; always parses to `value`.
    pub text: String,
}

/// A document of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// Which file.
    pub(crate) file: PathBuf,
    /// Its first and last line in the file, from 1.
    pub(crate) lines: (usize, usize),
    /// Its text, without the marker lines.
    pub(crate) text: String,
}

/// Kinds that live in no namespace.
const CLUSTER_SCOPED: &[&str] = &[
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "GatewayClass",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "StorageClass",
    "ValidatingWebhookConfiguration",
];

impl Object {
    /// An object of our own making.
    pub(crate) fn generated(key: ObjectKey, value: Value) -> anyhow::Result<Self> {
        let text = serde_yaml::to_string(&value).with_context(|| format!("writing {key}"))?;
        Ok(Self { key, value, text })
    }

    /// The object at a path of keys.
    pub(crate) fn at(&self, pointer: &str) -> Option<&Value> {
        self.value.pointer(pointer)
    }

    /// Adds fields to a mapping of the top level, such as `metadata`. The author's text and comments
    /// stay where the mapping is written in block style.
    pub(crate) fn add(&mut self, parent: &str, fields: &[(&str, Value)]) -> anyhow::Result<()> {
        if fields.is_empty() {
            return Ok(());
        }
        let mapping = self
            .value
            .as_object_mut()
            .context("an object is a mapping")?
            .entry(parent)
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        let mapping = mapping
            .as_object_mut()
            .with_context(|| format!("`{parent}` is not a mapping"))?;
        for (name, value) in fields {
            mapping.insert((*name).into(), value.clone());
        }
        self.text = match insert_text(&self.text, parent, fields) {
            Some(text) if parse(&text).is_ok_and(|value| value == self.value) => text,
            _ => serde_yaml::to_string(&self.value)?,
        };
        Ok(())
    }

    /// Replaces what the object says; its text is written anew.
    pub(crate) fn set(&mut self, value: Value) -> anyhow::Result<()> {
        if self.value != value {
            self.text = serde_yaml::to_string(&value)?;
            self.value = value;
        }
        Ok(())
    }
}

/// Puts fields right below the parent's line, indented like what follows it.
fn insert_text(text: &str, parent: &str, fields: &[(&str, Value)]) -> Option<String> {
    let heading = format!("{parent}:");
    let mut lines = text.lines();
    let mut out = String::with_capacity(text.len() + 64);
    for line in lines.by_ref() {
        out.push_str(line);
        out.push('\n');
        if line.trim_end() == heading {
            break;
        }
    }
    let rest: Vec<&str> = lines.collect();
    let first = rest
        .iter()
        .find(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))?;
    let indent = &first[..first.len() - first.trim_start().len()];
    if indent.is_empty() {
        return None;
    }
    for (name, value) in fields {
        // JSON is YAML's flow style.
        for part in [indent, name, ": ", &value.to_string(), "\n"] {
            out.push_str(part);
        }
    }
    for line in rest {
        out.push_str(line);
        out.push('\n');
    }
    Some(out)
}

fn parse(text: &str) -> anyhow::Result<Value> {
    Ok(serde_yaml::from_str(text)?)
}

/// Reads a document's objects: none when it is empty, several when it is a List.
pub(crate) fn read(document: &Document, namespace: &str) -> anyhow::Result<Vec<Object>> {
    let value = parse(&document.text)?;
    if value.is_null() {
        return Ok(Vec::new());
    }
    let kind = value.get("kind").and_then(Value::as_str);
    if let (Some("List"), Some(items)) = (kind, value.get("items").and_then(Value::as_array)) {
        return items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                let text = serde_yaml::to_string(item)?;
                object(item.clone(), text, namespace).with_context(|| format!("items[{index}]"))
            })
            .collect();
    }
    Ok(vec![object(value, document.text.clone(), namespace)?])
}

fn object(value: Value, text: String, namespace: &str) -> anyhow::Result<Object> {
    let string = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let Some(kind) = string("/kind") else {
        // Istio before 0.2 wrote {type, name, spec}: no metadata to fill in.
        if let (Some(kind), Some(name)) = (string("/type"), string("/name")) {
            let key = ObjectKey::new("config.istio.io", kind, "", name);
            return Ok(Object { key, value, text });
        }
        bail!("not a Kubernetes object: it has no `kind`");
    };
    let Some(name) = string("/metadata/name").filter(|name| !name.is_empty()) else {
        bail!("{kind} without metadata.name: give it one");
    };
    let group = string("/apiVersion")
        .and_then(|version| version.split_once('/'))
        .map_or("", |(group, _)| group);
    if CLUSTER_SCOPED.contains(&kind) {
        let key = ObjectKey::new(group, kind, "", name);
        return Ok(Object { key, value, text });
    }
    let written = string("/metadata/namespace").filter(|namespace| !namespace.is_empty());
    let key = ObjectKey::new(group, kind, written.unwrap_or(namespace), name);
    let absent = written.is_none();
    let mut object = Object { key, value, text };
    if absent {
        object.add("metadata", &[("namespace", namespace.into())])?;
    }
    Ok(object)
}

/// All documents of files and directories (`*.yaml` and `*.yml`, in the order of their names).
pub(crate) fn documents(paths: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for file in files(paths)? {
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        documents.extend(split(&file, &text));
    }
    Ok(documents)
}

/// The manifest files behind the paths.
pub(crate) fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            if !config::is_config(path) {
                files.push(path.clone());
            }
            continue;
        }
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).with_context(|| format!("reading {}", path.display()))? {
            let file = entry?.path();
            let manifest = file
                .extension()
                .is_some_and(|extension| extension == "yaml" || extension == "yml");
            if manifest && file.is_file() && !config::is_config(&file) {
                inside.push(file);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// Cuts a stream at its document markers, which YAML allows nowhere else (YAML 1.2.2 §9.1.2: a
/// line that begins with `---` or `...` ends even a block scalar).
fn split(file: &Path, text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut current = String::new();
    let mut first = 1;
    let mut count = 0;
    let mut push = |text: &mut String, lines: (usize, usize)| {
        if !text.trim().is_empty() {
            documents.push(Document {
                file: file.into(),
                lines,
                text: text.clone(),
            });
        }
        text.clear();
    };
    for (index, line) in text.lines().enumerate() {
        count = index + 1;
        let marker = |mark: &str| {
            line.strip_prefix(mark)
                .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
        };
        if let Some(rest) = marker("---").or_else(|| marker("...")) {
            push(&mut current, (first, index));
            first = count;
            // `--- {kind: …}` begins on the marker's line.
            if !rest.trim().is_empty() && !rest.trim().starts_with('#') {
                current.push_str(rest);
                current.push('\n');
            }
            continue;
        }
        current.push_str(line);
        current.push('\n');
    }
    push(&mut current, (first, count));
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> anyhow::Result<Object> {
        let documents = split(Path::new("x.yaml"), text);
        assert_eq!(documents.len(), 1);
        Ok(read(&documents[0], "default")?.remove(0))
    }

    #[test]
    fn streams_are_cut_at_markers_only() {
        let text = "a: 1\n---\nb: |\n  ---\n  text\n--- {c: 3}\n...\n# nothing\n---\n\n";
        let documents = split(Path::new("x.yaml"), text);
        let texts: Vec<&str> = documents.iter().map(|d| d.text.trim()).collect();
        assert_eq!(
            texts,
            ["a: 1", "b: |\n  ---\n  text", "{c: 3}", "# nothing"]
        );
        assert_eq!(documents[1].lines, (2, 5));
        assert!(read(&documents[3], "default").unwrap().is_empty());
    }

    #[test]
    fn a_missing_namespace_is_filled_in_and_comments_stay() {
        let text = "apiVersion: v1\nkind: Service # web\nmetadata:\n    # its name\n    name: web\nspec: {}\n";
        let object = one(text).unwrap();
        assert_eq!(object.key.to_string(), "Service default/web");
        assert!(
            object.text.contains("    namespace: \"default\"\n"),
            "{}",
            object.text
        );
        assert!(object.text.contains("# web") && object.text.contains("# its name"));
        assert_eq!(parse(&object.text).unwrap(), object.value);
    }

    #[test]
    fn flow_style_is_written_anew() {
        let object =
            one("{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: g}}")
                .unwrap();
        assert_eq!(object.key.group, "networking.istio.io");
        assert_eq!(
            parse(&object.text).unwrap()["metadata"]["namespace"],
            "default"
        );
    }

    #[test]
    fn a_block_scalar_that_looks_like_metadata_is_not_written_into() {
        let text = "kind: ConfigMap\ndata:\n  x: |\n    metadata:\n      name: no\nmetadata:\n  name: yes-it-is\n";
        let object = one(text).unwrap();
        assert_eq!(object.value["data"]["x"], "metadata:\n  name: no\n");
        assert_eq!(parse(&object.text).unwrap(), object.value);
    }

    #[test]
    fn cluster_scoped_and_old_istio_objects_stay_as_they_are() {
        for text in [
            "kind: Namespace\nmetadata:\n  name: x\n",
            "type: route-rule\nname: r\nspec: {}\n",
        ] {
            assert_eq!(one(text).unwrap().text, text);
        }
    }

    #[test]
    fn lists_are_taken_apart() {
        let documents = split(
            Path::new("x"),
            "kind: List\nitems:\n- {kind: Pod, metadata: {name: a}}\n- {kind: Pod, metadata: {name: b}}\n",
        );
        let keys: Vec<String> = read(&documents[0], "ns")
            .unwrap()
            .iter()
            .map(|object| object.key.to_string())
            .collect();
        assert_eq!(keys, ["Pod ns/a", "Pod ns/b"]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(one("just text").unwrap_err().to_string().contains("kind"));
        assert!(
            one("kind: Service")
                .unwrap_err()
                .to_string()
                .contains("metadata.name")
        );
        assert!(one("a: [").is_err());
    }
}
