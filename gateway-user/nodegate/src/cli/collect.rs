//! `nodegate collect`

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use nodegate_source::kubernetes::{
    access::Access,
    collect::{CollectedObject, collect},
    server::Server,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

/// Write down what nodegate would read from the API server, as manifests.
///
/// `check`, `explain` and `iptables render` then work anywhere on the state of a real cluster. Secrets are
/// left out, and so are environments and volumes of pods; the names of hosts, Services and pods, labels and
/// annotations are not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate collect -o cluster && nodegate check cluster
  nodegate collect -o cluster.tar.gz
  nodegate collect | nodegate check -
  nodegate collect --kubeconfig admin.conf > cluster.yaml

Exit status: 0 all kinds were read, 1 some were not (standard error says which,
and why), 2 the API server could not be asked.")]
pub struct Collect {
    /// Reach the API server as the current context of this file says [default: by the pod's ServiceAccount]
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Connect to these servers instead, in turn
    #[arg(
        long = "api-server",
        env = "NODEGATE_API_SERVER",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    servers: Vec<Server>,
    /// A directory, or with `.tar`, `.tar.gz` or `.tgz` an archive [default: standard output]
    #[arg(short, long, value_name = "DIR|ARCHIVE")]
    output: Option<PathBuf>,
}

/// Manifests by the names of their files.
type Files = BTreeMap<PathBuf, String>;

impl Collect {
    /// Collects, and says what is missing.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let access = Access {
            kubeconfig: self.kubeconfig.clone(),
            servers: self.servers.clone(),
        };
        let tell = io::stderr().is_terminal();
        let collected = super::block_on(async {
            let progress = |plural| {
                if tell {
                    eprintln!("reading {plural}");
                }
            };
            Ok(collect(&access, progress).await?)
        })?;
        match &self.output {
            None => {
                let files = files(&collected.objects)?;
                let text = files.into_values().collect::<Vec<_>>().join("---\n");
                io::stdout().write_all(text.as_bytes())?;
            }
            Some(path) => write(path, &files(&collected.objects)?)
                .with_context(|| path.display().to_string())?,
        }
        for trouble in &collected.troubles {
            eprintln!("{trouble}");
        }
        // A cluster without Istio's kinds lacks nothing.
        let is_missing = |trouble: &Diagnostic| trouble.severity > Severity::Info;
        let is_whole = !collected.troubles.iter().any(is_missing);
        Ok(ExitCode::from(u8::from(!is_whole)))
    }
}

/// A file for each kind in each namespace.
fn files(objects: &[CollectedObject]) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for object in objects {
        let file = format!("{}.yaml", object.plural);
        let text = files
            .entry(Path::new(&object.namespace).join(file))
            .or_default();
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&serde_yaml::to_string(&object.value)?);
    }
    Ok(files)
}

fn write(path: &Path, files: &Files) -> anyhow::Result<()> {
    let name = path.to_string_lossy();
    if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        let encoder = GzEncoder::new(File::create(path)?, Compression::default());
        archive(encoder, files)?.finish()?;
        return Ok(());
    }
    if name.ends_with(".tar") {
        return Ok(archive(File::create(path)?, files)?.sync_all()?);
    }
    for (file, text) in files {
        let file = path.join(file);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(file, text)?;
    }
    Ok(())
}

fn archive<W: io::Write>(to: W, files: &Files) -> io::Result<W> {
    let mut archive = tar::Builder::new(to);
    for (file, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, file, text.as_bytes())?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(namespace: &str, name: &str) -> CollectedObject {
        let text = format!("{{kind: Service, metadata: {{name: {name}}}}}");
        CollectedObject {
            plural: "services",
            namespace: namespace.into(),
            name: name.into(),
            value: serde_yaml::from_str(&text).unwrap(),
        }
    }

    #[test]
    fn a_directory_and_an_archive_hold_the_same() {
        let objects = [object("a", "x"), object("a", "y"), object("b", "z")];
        let files = files(&objects).unwrap();
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &files).unwrap();
        let first = fs::read_to_string(directory.path().join("a/services.yaml")).unwrap();
        assert_eq!(
            first,
            "kind: Service\nmetadata:\n  name: x\n---\nkind: Service\nmetadata:\n  name: y\n"
        );
        let path = directory.path().join("c.tar.gz");
        write(&path, &files).unwrap();
        let decoder = flate2::read::GzDecoder::new(File::open(path).unwrap());
        let mut archive = tar::Archive::new(decoder);
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().into_owned();
            let text = io::read_to_string(&mut entry).unwrap();
            assert_eq!(files[&name], text);
            assert_eq!(
                fs::read_to_string(directory.path().join(name)).unwrap(),
                text
            );
        }
    }
}
