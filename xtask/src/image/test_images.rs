//! Images of the tier `cluster` alone: the sandbox's, the cluster's DNS server, and the pods that
//! tests talk with.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::archive::{Image, Layer};
use super::folder;
use crate::step::{output, step};

/// The program of the test pods, of the crate `tests`.
const POD: &str = "cluster-pod";

/// Packs them. `tools` is the tier's folder of tools, `programs` that of the built test programs.
pub(super) fn pack(tools: &Path, programs: &Path) -> anyhow::Result<()> {
    step("images for tests", || {
        let busybox = tools.join("root/bin/busybox");
        let mut layer = Layer::default();
        shell(&mut layer, &busybox)?;
        write("pause", &["/bin/sleep", "infinity"], layer)?;

        let mut layer = Layer::default();
        layer.program("coredns", &read(&tools.join("bin/coredns"))?)?;
        write("coredns", &["/coredns"], layer)?;

        let mut layer = Layer::default();
        shell(&mut layer, &busybox)?;
        let program = programs.join(POD);
        for library in libraries(&program)? {
            layer.program(library.trim_start_matches('/'), &read(Path::new(&library))?)?;
        }
        layer.program("bin/pod", &read(&program)?)?;
        layer.temporary("tmp")?;
        write("pod", &["/bin/pod"], layer)
    })
}

/// busybox under all of its names.
fn shell(layer: &mut Layer, busybox: &Path) -> anyhow::Result<()> {
    layer.program("bin/busybox", &read(busybox)?)?;
    let names = output(Command::new(busybox).arg("--list"))?;
    for name in names.lines().filter(|name| *name != "busybox") {
        layer.link(&format!("bin/{name}"), "busybox")?;
    }
    Ok(())
}

/// The shared libraries of a program, its loader among them, by path.
fn libraries(program: &Path) -> anyhow::Result<Vec<String>> {
    let text = output(Command::new("ldd").arg(program))?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

fn write(name: &str, entrypoint: &[&str], layer: Layer) -> anyhow::Result<()> {
    let image = Image {
        name: format!("warren.test/{name}:test"),
        entrypoint: entrypoint.iter().map(ToString::to_string).collect(),
        user: "0:0".to_owned(),
        layer,
    };
    image.write(&folder().join(format!("{name}.tar")))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}
