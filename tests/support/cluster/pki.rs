//! Keys, certificates and tokens of a cluster.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Where the API server listens: an address of the cluster's own network.
pub(super) const API_SERVER: &str = "https://172.30.0.1:6443";
/// Names of the API server: as processes of the cluster reach it, and as pods do.
const NAMES: [&str; 4] =
    ["172.30.0.1", "10.96.0.1", "kubernetes.default.svc", "kubernetes.default"];

/// Writes all of them for an admin, kube-proxy and so many nodes.
pub(super) fn write(folder: &Path, nodes: u32) -> anyhow::Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test cluster's authority");
    let key = KeyPair::generate().context("make a key")?;
    let authority = params.self_signed(&key).context("sign an authority")?.pem();
    let issuer = Issuer::new(params, key);

    let mut params = CertificateParams::new(NAMES.map(str::to_owned)).context("name the server")?;
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    let key = KeyPair::generate().context("make a key")?;
    let certificate = params.signed_by(&key, &issuer).context("sign the server")?;
    let accounts = KeyPair::generate().context("make a key")?;
    put(folder, "authority.crt", &authority)?;
    put(folder, "server.crt", &certificate.pem())?;
    put(folder, "server.key", &key.serialize_pem())?;
    put(folder, "accounts.key", &accounts.serialize_pem())?;
    put(folder, "accounts.pub", &accounts.public_key_pem())?;

    // Whom the API server takes each bearer for: token, user, id, groups.
    let mut bearers = vec![
        ("admin".to_owned(), "admin".to_owned(), "system:masters"),
        ("proxy".to_owned(), "system:kube-proxy".to_owned(), ""),
    ];
    let node = |number| (format!("node{number}"), format!("system:node:node{number}"));
    bearers.extend((1..=nodes).map(node).map(|(name, user)| (name, user, "system:nodes")));
    let mut tokens = String::new();
    for (name, user, groups) in bearers {
        let token = format!("{name}-of-this-test-cluster");
        // Writing to a string does not fail.
        let _ = writeln!(tokens, "{token},{user},{name},{groups}");
        put(folder, &format!("{name}.kubeconfig"), &kubeconfig(folder, &token))?;
    }
    put(folder, "tokens.csv", &tokens)
}

fn kubeconfig(folder: &Path, token: &str) -> String {
    let authority = folder.join("authority.crt");
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "test",
            "cluster": { "server": API_SERVER, "certificate-authority": authority },
        }],
        "users": [{ "name": "test", "user": { "token": token } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "current-context": "test",
    })
    .to_string()
}

/// Writes a file that only this user reads.
fn put(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    let write = || {
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
    };
    write().with_context(|| format!("write {}", path.display()))
}
