//! An OCI image archive: one layer, its config, its manifest, an index, in a tar file.
//!
//! Layers are not compressed: a node that loads an archive only has to copy it, and whoever pushes it
//! to a registry compresses on the way.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image.
pub(super) struct Image {
    /// Registry, repository and tag.
    pub(super) name: String,
    pub(super) entrypoint: Vec<String>,
    /// `user:group`, as numbers: the image has no names of users.
    pub(super) user: String,
    pub(super) layer: Layer,
}

/// The files of an image.
pub(super) struct Layer {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: Builder::new(Vec::new()), folders: BTreeSet::new() }
    }
}

impl Layer {
    /// A file that may be executed.
    pub(super) fn program(&mut self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        self.add(path, EntryType::Regular, 0o755, content)
    }

    /// A file.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        self.add(path, EntryType::Regular, 0o644, content)
    }

    /// A folder of everybody's.
    pub(super) fn temporary(&mut self, path: &str) -> anyhow::Result<()> {
        self.add(path, EntryType::Directory, 0o1777, &[])
    }

    /// Another name of a file.
    pub(super) fn link(&mut self, path: &str, target: &str) -> anyhow::Result<()> {
        self.parents(path)?;
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target).with_context(|| format!("pack {path}"))
    }

    fn add(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        content: &[u8],
    ) -> anyhow::Result<()> {
        self.parents(path)?;
        let mut header = header(kind, mode, content.len());
        self.tar.append_data(&mut header, path, content).with_context(|| format!("pack {path}"))
    }

    fn parents(&mut self, path: &str) -> anyhow::Result<()> {
        let above: Vec<_> = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
        for folder in above {
            if self.folders.insert(folder.clone()) {
                let mut header = header(EntryType::Directory, 0o755, 0);
                let packed = self.tar.append_data(&mut header, &folder, &[][..]);
                packed.with_context(|| format!("pack {folder}"))?;
            }
        }
        Ok(())
    }
}

/// Of root's, and of no time.
fn header(kind: EntryType, mode: u32, length: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(u64::try_from(length).unwrap_or(u64::MAX));
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

impl Image {
    /// Writes the archive.
    pub(super) fn write(&self, place: &Path) -> anyhow::Result<()> {
        let mut blobs = Blobs::default();
        let layer = self.layer.tar.get_ref();
        // The archive's end, which the builder would write when it is taken apart.
        let layer = [layer.as_slice(), &[0; 1024]].concat();
        let diff = digest(&layer);
        let layer = blobs.add(LAYER, layer);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "User": self.user,
                "Labels": { "org.opencontainers.image.licenses": "Apache-2.0" },
            },
            "rootfs": { "type": "layers", "diff_ids": [diff] },
        });
        let config = blobs.add(CONFIG, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        });
        let mut manifest = blobs.add(MANIFEST, manifest.to_string().into_bytes());
        manifest["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        manifest["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string();
        blobs.write(place, &index)
    }
}

#[derive(Default)]
struct Blobs(Vec<(String, Vec<u8>)>);

impl Blobs {
    /// Keeps a blob; returns its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = digest(&content);
        let descriptor =
            json!({ "mediaType": media_type, "digest": digest, "size": content.len() });
        self.0.push((digest, content));
        descriptor
    }

    fn write(&self, place: &Path, index: &str) -> anyhow::Result<()> {
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        // A reader never sees half an archive.
        let fresh = place.with_extension("new");
        let write = || {
            let mut tar = Builder::new(File::create(&fresh)?);
            let mut put = |path: &str, content: &[u8]| {
                tar.append_data(
                    &mut header(EntryType::Regular, 0o644, content.len()),
                    path,
                    content,
                )
            };
            put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            put("index.json", index.as_bytes())?;
            for (digest, content) in &self.0 {
                put(&format!("blobs/{}", digest.replace(':', "/")), content)?;
            }
            tar.into_inner()?.sync_all()?;
            fs::rename(&fresh, place)
        };
        write().with_context(|| format!("write {}", place.display()))
    }
}

fn digest(content: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(content) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// As OCI calls this machine's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_what_its_index_names() {
        let write = |place: &Path| {
            let mut layer = Layer::default();
            layer.program("usr/bin/a", b"program").expect("packs");
            layer.link("bin/b", "/usr/bin/a").expect("packs");
            layer.temporary("tmp").expect("packs");
            let image = Image {
                name: "warren.test/a:1".to_owned(),
                entrypoint: vec!["/usr/bin/a".to_owned()],
                user: "0:0".to_owned(),
                layer,
            };
            image.write(place).expect("writes");
            fs::read(place).expect("is there")
        };
        let folder = std::env::temp_dir().join(format!("warren-archive-{}", std::process::id()));
        let bytes = write(&folder.join("a.tar"));
        assert_eq!(bytes, write(&folder.join("b.tar")), "no time and no chance in it");
        let mut names = Vec::new();
        let mut contents = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().expect("a tar file") {
            let mut entry = entry.expect("an entry");
            names.push(entry.path().expect("a name").display().to_string());
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).expect("its content");
            contents.push(content);
        }
        let index: Value = serde_json::from_slice(&contents[1]).expect("the index");
        let named = index["manifests"][0]["digest"].as_str().expect("a digest");
        let at =
            names.iter().position(|name| *name == format!("blobs/{}", named.replace(':', "/")));
        let manifest = &contents[at.expect("the manifest is there")];
        assert_eq!(digest(manifest), named);
        fs::remove_dir_all(folder).expect("removes");
    }

    #[test]
    fn digests_are_the_published_ones() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), empty);
    }
}
