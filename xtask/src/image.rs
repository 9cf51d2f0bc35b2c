//! `cargo xtask image`: the product's images as OCI archives, built from this clone alone. No
//! container registry, no container engine, no base image.
//!
//! Each image is one layer of static binaries and a list of what they were made from. An archive is
//! the same bytes for the same binaries: there is no time in it.

mod archive;
mod materials;
mod test_images;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::arguments::Usage;
use crate::step::{output, run, step};
use crate::workspace::{cargo, target};
use crate::{ebpf, setup};

use archive::{Image, Layer};

/// Names the folder of archives to the tests.
pub(crate) const IMAGES_VARIABLE: &str = "WARREN_IMAGES";
/// Where images are called to come from. They are loaded from archives, never pulled from there.
const REGISTRY: &str = "ghcr.io/warren-mesh";
/// What the program of a static libc needs told: there is no loader in the image.
const STATIC: &str = "-C target-feature=+crt-static";
/// The user of the control plane, which needs no more rights than anybody.
const NOBODY: &str = "65532:65532";
/// Packages whose binaries go into images.
const PACKAGES: [&str; 4] = ["ztunnel", "control-plane", "cli", "warren-cni"];

/// What goes into one image.
struct Recipe {
    name: &'static str,
    binaries: &'static [&'static str],
    user: &'static str,
}

const RECIPES: [Recipe; 2] = [
    Recipe { name: "control-plane", binaries: &["control-plane", "warren"], user: NOBODY },
    // Root, with few capabilities: it enters namespaces and loads programs.
    Recipe { name: "ztunnel", binaries: &["ztunnel", "warren", "warren-cni"], user: "0:0" },
];

pub(crate) fn verb(arguments: &[String]) -> anyhow::Result<()> {
    let profile = match arguments {
        [] => "release",
        [flag] if flag == "--fast" => crate::programs::PROFILE,
        _ => return Err(Usage::new("image takes --fast or nothing").into()),
    };
    setup::install()?;
    ebpf::build()?;
    for image in build(profile)? {
        println!("{}", image.display());
    }
    Ok(())
}

/// The folder of archives.
pub(crate) fn folder() -> PathBuf {
    target().join("images")
}

/// Builds the product's images.
pub(crate) fn build(profile: &str) -> anyhow::Result<Vec<PathBuf>> {
    let platform = platform()?;
    step("static binaries", || compile(profile, &platform))?;
    let binaries = target().join(&platform).join(profile);
    step("images", || {
        let pack = |recipe| pack(recipe, &binaries, &platform);
        RECIPES.iter().map(pack).collect()
    })
}

/// The images that the nodes of the tier `cluster` get, and where they are.
pub(crate) fn build_for_cluster(tools: &Path, programs: &Path) -> anyhow::Result<PathBuf> {
    build(crate::programs::PROFILE)?;
    test_images::pack(tools, programs)?;
    Ok(folder())
}

/// The platform that is built for: this machine's. Named to cargo, so that flags for the binaries do
/// not reach what runs while they are built.
fn platform() -> anyhow::Result<String> {
    let text = output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say its host")
}

fn compile(profile: &str, platform: &str) -> anyhow::Result<()> {
    let variable = platform.to_uppercase().replace('-', "_");
    let packages = PACKAGES.iter().flat_map(|name| ["--package", name]);
    run(cargo()
        .args(["build", "--bins", "--profile", profile, "--target", platform])
        .args(packages)
        .env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), STATIC)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS"))
}

fn pack(recipe: &Recipe, binaries: &Path, platform: &str) -> anyhow::Result<PathBuf> {
    let mut layer = Layer::default();
    for binary in recipe.binaries {
        let stripped = stripped(&binaries.join(binary))?;
        layer.program(&format!("usr/local/bin/{binary}"), &stripped)?;
    }
    let materials = materials::list(recipe.name, &packages_of(recipe), platform)?;
    layer.file("usr/share/doc/warren/materials.cdx.json", materials.as_bytes())?;
    let image = Image {
        name: format!("{REGISTRY}/{}:{}", recipe.name, env!("CARGO_PKG_VERSION")),
        entrypoint: vec![format!("/usr/local/bin/{}", recipe.binaries[0])],
        user: recipe.user.to_owned(),
        layer,
    };
    let place = folder().join(format!("{}.tar", recipe.name));
    image.write(&place)?;
    let list = place.with_extension("cdx.json");
    fs::write(&list, materials).with_context(|| format!("write {}", list.display()))?;
    println!("    {} ({} MB)", image.name, fs::metadata(&place).context("its size")?.len() >> 20);
    Ok(place)
}

fn packages_of(recipe: &Recipe) -> Vec<&'static str> {
    let package = |binary: &&'static str| if *binary == "warren" { "cli" } else { *binary };
    recipe.binaries.iter().map(package).collect()
}

/// A binary without its line tables, which are most of it. Names stay, for backtraces.
fn stripped(binary: &Path) -> anyhow::Result<Vec<u8>> {
    if output(Command::new("readelf").args(["--program-headers", "--wide"]).arg(binary))?
        .contains("INTERP")
    {
        bail!("{} is not static", binary.display());
    }
    let place = binary.with_extension("stripped");
    run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&place).arg(binary))?;
    let bytes = fs::read(&place).with_context(|| format!("read {}", place.display()));
    fs::remove_file(&place).context("remove a stripped binary")?;
    bytes
}
