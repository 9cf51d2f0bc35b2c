//! Keys, certificates and tokens of an API server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// What an API server is started with and a client reaches it with.
#[derive(Debug)]
pub(crate) struct Credentials {
    folder: PathBuf,
    /// The authority of the serving certificate, as PEM.
    authority: String,
}

impl Credentials {
    /// The token of an admin. Members of `system:masters` may do everything.
    pub(crate) const TOKEN: &str = "admin-of-this-test-server";

    /// Makes all of them in `folder`.
    pub(crate) fn create(folder: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test API server's authority");
        let key = KeyPair::generate().context("make a key")?;
        let authority = params.self_signed(&key).context("sign an authority")?.pem();
        let issuer = Issuer::new(params, key);

        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])
            .context("name the server")?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        let key = KeyPair::generate().context("make a key")?;
        let certificate = params.signed_by(&key, &issuer).context("sign the server")?;
        let accounts = KeyPair::generate().context("make a key")?;

        let credentials = Self { folder: folder.to_owned(), authority };
        credentials.write("server.crt", &certificate.pem())?;
        credentials.write("server.key", &key.serialize_pem())?;
        credentials.write("accounts.key", &accounts.serialize_pem())?;
        credentials.write("accounts.pub", &accounts.public_key_pem())?;
        credentials.write("authority.crt", &credentials.authority)?;
        credentials
            .write("tokens.csv", &format!("{},admin,admin,system:masters\n", Self::TOKEN))?;
        Ok(credentials)
    }

    /// The roots of the serving certificate, as PEM.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The files of the serving certificate and its key.
    pub(crate) fn server(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("server.crt"), self.folder.join("server.key"))
    }

    /// The flags of kube-apiserver that name them.
    pub(super) fn flags(&self) -> Vec<String> {
        let flags = [
            ("tls-cert-file", "server.crt"),
            ("tls-private-key-file", "server.key"),
            ("service-account-signing-key-file", "accounts.key"),
            ("service-account-key-file", "accounts.pub"),
            ("token-auth-file", "tokens.csv"),
        ];
        let flag =
            |(flag, file): (&str, &str)| format!("--{flag}={}", self.folder.join(file).display());
        flags.into_iter().map(flag).collect()
    }

    /// A kubeconfig for the bearer of a token; the admin's without one. The authority is a file, so
    /// no crate for base64 is needed.
    pub(super) fn kubeconfig(&self, url: &str, token: Option<&str>) -> String {
        let authority = self.folder.join("authority.crt");
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "test",
                "cluster": { "server": url, "certificate-authority": authority },
            }],
            "users": [{ "name": "test", "user": { "token": token.unwrap_or(Self::TOKEN) } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "current-context": "test",
        })
        .to_string()
    }

    /// Writes a file that only this user reads.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        let write = || {
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        };
        write().with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}
