//! Container images without a registry and without a daemon: archives in the format of OCI
//! (image-spec, image-layout.md), the same for the same files.

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header, HeaderMode};

use crate::rootfs::Rootfs;

/// What an image's containers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    entrypoint: Vec<String>,
    arguments: Vec<String>,
}

impl Process {
    /// A program, and the arguments that it gets when nobody gives others.
    pub fn new(entrypoint: &[&str], arguments: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Self {
            entrypoint: owned(entrypoint),
            arguments: owned(arguments),
        }
    }
}

/// The archive of an image; makes it if it is not there.
pub fn once(
    file: &Path,
    name: &str,
    fill: impl FnOnce(&Rootfs) -> anyhow::Result<Process>,
) -> anyhow::Result<PathBuf> {
    if file.is_file() {
        return Ok(file.to_owned());
    }
    // Another command may do the same: the last one's counts, and they are equal.
    let work = file.with_extension(format!("{}.new", std::process::id()));
    let make = || -> anyhow::Result<()> {
        let root = Rootfs::new(work.join("root"))?;
        let process = fill(&root)?;
        let archive = work.join("image");
        pack(root.path(), name, &process, &work, &archive)?;
        Ok(fs::rename(&archive, file)?)
    };
    let made = make().with_context(|| format!("making the image {name}"));
    // What is left takes room, and nothing else.
    let _ = fs::remove_dir_all(&work);
    made.map(|()| file.to_owned())
}

/// What a manifest says of something in the archive.
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            digest: HEXLOWER.encode(&Sha256::digest(bytes)),
            size: bytes.len() as u64,
        }
    }

    fn of_file(file: &Path) -> io::Result<Self> {
        let mut digest = Sha256::new();
        let size = io::copy(&mut File::open(file)?, &mut digest)?;
        Ok(Self {
            digest: HEXLOWER.encode(&digest.finalize()),
            size,
        })
    }

    fn described(&self, kind: &str) -> Value {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", self.digest),
            "size": self.size,
        })
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

/// Packs a root directory as an image of one layer.
fn pack(
    root: &Path,
    name: &str,
    process: &Process,
    work: &Path,
    archive: &Path,
) -> anyhow::Result<()> {
    let layer_file = work.join("layer");
    let mut layer = Builder::new(File::create(&layer_file)?);
    layer.mode(HeaderMode::Deterministic);
    layer.follow_symlinks(false);
    append(&mut layer, root, Path::new(""))?;
    layer.into_inner()?.flush()?;
    let layer = Blob::of_file(&layer_file)?;

    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": process.entrypoint,
            "Cmd": process.arguments,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
    })
    .to_string();
    let config_blob = Blob::of_bytes(config.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_blob.described("config.v1+json"),
        "layers": [layer.described("layer.v1.tar")],
    })
    .to_string();
    let manifest_blob = Blob::of_bytes(manifest.as_bytes());
    let mut described = manifest_blob.described("manifest.v1+json");
    described["annotations"] = json!({
        // What containerd calls it; the other one is OCI's, which many read as a tag alone.
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described],
    });

    let mut tar = Builder::new(File::create(archive)?);
    tar.mode(HeaderMode::Deterministic);
    text(&mut tar, "oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    text(&mut tar, "index.json", &index.to_string())?;
    text(&mut tar, &manifest_blob.path(), &manifest)?;
    text(&mut tar, &config_blob.path(), &config)?;
    tar.append_path_with_name(&layer_file, layer.path())?;
    Ok(tar.into_inner()?.flush()?)
}

/// Adds all that is below a directory, in the order of the names.
fn append(tar: &mut Builder<File>, root: &Path, below: &Path) -> anyhow::Result<()> {
    let directory = root.join(below);
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable();
    for name in names {
        let (name, path) = (below.join(&name), directory.join(&name));
        tar.append_path_with_name(&path, &name)
            .with_context(|| path.display().to_string())?;
        if path.symlink_metadata()?.is_dir() {
            append(tar, root, &name)?;
        }
    }
    Ok(())
}

fn text(tar: &mut Builder<File>, name: &str, text: &str) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, text.as_bytes())
}

/// What Go calls this machine's architecture, and with it OCI.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(directory: &Path) -> PathBuf {
        let file = directory.join("x.tar");
        once(&file, "localhost/x:1", |root| {
            fs::write(root.path().join("etc/x"), "x")?;
            root.link("/etc/y", Path::new("x"))?;
            Ok(Process::new(&["/x"], &[]))
        })
        .unwrap()
    }

    #[test]
    fn an_image_of_the_same_files_is_the_same() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let read = |directory: &Path| fs::read(image(directory)).unwrap();
        assert_eq!(read(one.path()), read(two.path()));
        // Nothing is left but the image.
        assert_eq!(fs::read_dir(one.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_archive_has_what_its_index_names() {
        let directory = tempfile::tempdir().unwrap();
        let mut archive = tar::Archive::new(File::open(image(directory.path())).unwrap());
        let mut files = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            io::copy(&mut entry, &mut bytes).unwrap();
            files.insert(path, bytes);
        }
        let blob = |described: &Value| {
            let digest = described["digest"].as_str().unwrap();
            let digest = digest.strip_prefix("sha256:").unwrap();
            let bytes = &files[&format!("blobs/sha256/{digest}")];
            assert_eq!(described["size"], bytes.len());
            assert_eq!(HEXLOWER.encode(&Sha256::digest(bytes)), digest);
            bytes.as_slice()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(blob(&manifest["config"])).unwrap();
        let layer = &manifest["layers"][0];
        assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
        let mut layer = tar::Archive::new(blob(layer));
        let names: Vec<_> = layer
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(names.contains(&"etc/x".to_owned()), "{names:?}");
        assert!(names.contains(&"etc/y".to_owned()), "{names:?}");
        assert!(names.is_sorted(), "{names:?}");
    }
}
