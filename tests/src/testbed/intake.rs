//! From files to objects that are worth storing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::ensure;

use super::Report;
use crate::{
    admission::{self, Store},
    nodegate::{self, Diagnostic},
    object::{self, Document, Object},
};

/// The objects of some files, and what is wrong with the rest.
#[derive(Debug, Default)]
pub(super) struct Intake {
    pub(super) objects: Vec<Object>,
    report: Report,
}

/// Reads files and directories. What is no object, or what `nodegate check` calls an error, is left
/// out and reported; so are warnings, but for those that the objects in `present`, a directory of
/// manifests, put right.
pub(super) fn read(
    paths: &[PathBuf],
    namespace: Option<&str>,
    nodegate: &Path,
    present: Option<&Path>,
) -> anyhow::Result<Intake> {
    for path in paths {
        ensure!(path.exists(), "{} is not there", path.display());
    }
    let files = object::files(paths)?;
    let mut intake = Intake::default();
    // What it would refuse, the running nodegate refuses as well: the testbed goes on without.
    let diagnostics = nodegate::check(nodegate, &files).unwrap_or_else(|error| {
        intake.report.warnings.push(format!("{error:#}"));
        Vec::new()
    });
    let mut warnings = Vec::new();
    for diagnostic in &diagnostics {
        match diagnostic.severity.as_str() {
            "error" => intake.report.errors.push(diagnostic.text()),
            "warning" => warnings.push(diagnostic.text()),
            _ => {}
        }
    }
    let errors: Vec<&Diagnostic> = diagnostics
        .iter()
        .filter(|d| d.severity == "error")
        .collect();
    for document in object::documents(&files)? {
        match object::read(&document, namespace.unwrap_or("default")) {
            Ok(objects) => intake.objects.extend(
                objects
                    .into_iter()
                    .filter(|object| !errors.iter().any(|e| concerns(e, &document, object))),
            ),
            Err(error) => {
                let known = errors.iter().any(|diagnostic| is_in(diagnostic, &document));
                if !known {
                    intake.report.errors.push(document.complaint(&error));
                }
            }
        }
    }
    if let Some(present) = present.filter(|_| !warnings.is_empty()) {
        let together = [files, beside(present, &intake.objects)?].concat();
        if let Ok(left) = nodegate::check(nodegate, &together) {
            let left: Vec<_> = left.iter().map(Diagnostic::text).collect();
            warnings.retain(|warning| left.contains(warning));
        }
    }
    intake.report.warnings.append(&mut warnings);
    Ok(intake)
}

/// The files of objects that are there already, but for those that take their places.
fn beside(present: &Path, objects: &[Object]) -> anyhow::Result<Vec<PathBuf>> {
    let replaced: Vec<_> = objects
        .iter()
        .map(|object| object.key.file_name())
        .collect();
    let mut files = object::files(&[present.to_owned()])?;
    files.retain(|file| {
        let name = file.file_name().and_then(|name| name.to_str());
        name.is_none_or(|name| !replaced.iter().any(|replaced| replaced == name))
    });
    Ok(files)
}

/// Whether a message is about this object. Its place counts more than its name: the namespace may
/// come from the command line, which `check` does not see.
fn concerns(diagnostic: &Diagnostic, document: &Document, object: &Object) -> bool {
    let named = diagnostic.object.as_ref();
    if diagnostic.location.is_some() {
        return is_in(diagnostic, document)
            && named.is_none_or(|named| {
                named.kind == object.key.kind && named.name == object.key.name
            });
    }
    named.is_some_and(|named| {
        named.kind == object.key.kind
            && named.namespace == object.key.namespace
            && named.name == object.key.name
    })
}

fn is_in(diagnostic: &Diagnostic, document: &Document) -> bool {
    diagnostic.location.as_ref().is_some_and(|place| {
        let same = place.file == document.file
            || fs::canonicalize(&place.file).ok() == fs::canonicalize(&document.file).ok();
        same && (document.lines.0..=document.lines.1).contains(&place.line)
    })
}

impl Intake {
    /// Stores the objects.
    pub(super) fn admit(self, store: &mut Store, created: &str) -> Report {
        let mut report = self.report;
        report.outcomes = admission::admit(store, self.objects, created);
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
kind: Service
metadata: {name: a}
---
kind: Service
metadata: {name: b}
---
kind: [
";

    fn checker(directory: &Path, json: &str) -> PathBuf {
        let script = directory.join("nodegate");
        fs::write(
            &script,
            // As every script here: of the shell's own words.
            format!("#!/bin/sh\nprintf '%s\\n' '{json}'\nexit 1\n"),
        )
        .unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        script
    }

    #[test]
    fn what_check_calls_an_error_is_left_out_and_the_rest_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.yaml");
        fs::write(&file, FILE).unwrap();
        let json = serde_json::json!({"diagnostics": [
            {"severity": "error", "location": {"file": file, "line": 5},
             "object": {"kind": "Service", "namespace": "default", "name": "b"},
             "field": "spec.ports", "message": "none", "fix": "add one"},
            {"severity": "warning", "location": null, "object": null, "field": null, "message": "w", "fix": null},
        ]});
        let nodegate = checker(directory.path(), &json.to_string());
        let intake = read(std::slice::from_ref(&file), Some("other"), &nodegate, None).unwrap();
        let keys: Vec<String> = intake
            .objects
            .iter()
            .map(|object| object.key.to_string())
            .collect();
        assert_eq!(keys, ["Service other/a"]);
        assert_eq!(intake.report.warnings, ["w"]);
        assert_eq!(intake.report.errors.len(), 2, "{:?}", intake.report.errors);
        assert!(intake.report.errors[0].ends_with("spec.ports: none (fix: add one)"));
        assert!(intake.report.errors[1].contains("x.yaml:6"));
    }

    /// As of a VirtualService whose Gateway was applied before.
    #[test]
    fn warnings_that_what_is_there_puts_right_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.yaml");
        fs::write(&file, "kind: Service\nmetadata: {name: a}\n").unwrap();
        let present = directory.path().join("present");
        fs::create_dir(&present).unwrap();
        for name in ["service_default_a.yaml", "service_default_b.yaml"] {
            fs::write(present.join(name), "").unwrap();
        }
        // Warns of the second message only where `b` is looked at, and `a` is not looked at twice.
        let warning = |message: &str| {
            serde_json::json!({"severity": "warning", "location": null, "object": null,
                "field": null, "message": message, "fix": null})
        };
        let alone = serde_json::json!({"diagnostics": [warning("stays"), warning("goes")]});
        let together = serde_json::json!({"diagnostics": [warning("stays"), warning("others'")]});
        let script = directory.path().join("nodegate");
        fs::write(
            &script,
            format!(
                "#!/bin/sh\ncase \"$*\" in\n*service_default_a*) exit 2;;\n*service_default_b*) echo '{}';;\n*) echo '{}';;\nesac\n",
                together.to_string().replace('\'', ""),
                alone.to_string().replace('\'', "")
            ),
        )
        .unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let intake = read(std::slice::from_ref(&file), None, &script, Some(&present)).unwrap();
        assert_eq!(intake.report.warnings, ["stays"]);
        let intake = read(&[file], None, &script, None).unwrap();
        assert_eq!(intake.report.warnings, ["stays", "goes"]);
    }

    #[test]
    fn without_check_only_what_does_not_parse_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.yaml");
        fs::write(&file, FILE).unwrap();
        let intake = read(&[file], None, Path::new("/nonexistent/nodegate"), None).unwrap();
        assert_eq!(intake.objects.len(), 2);
        assert_eq!(intake.report.errors.len(), 1);
        assert_eq!(intake.report.warnings.len(), 1);
        assert!(read(&["/nonexistent.yaml".into()], None, Path::new("x"), None).is_err());
    }
}
