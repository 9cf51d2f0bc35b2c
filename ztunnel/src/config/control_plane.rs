//! Where state and certificates come from over gRPC, and how both sides are recognised.

use std::path::PathBuf;

use grpc_channel::{Address, ControlPlane, CredentialError, Credentials, Header, Token};
use tls::{Compliance, RootSource, ServerRootsError, ServerTrust};

use super::schema;
use super::values::Reader;
use super::{Authority, MeshSource, Setting};

/// A control plane as configured; nothing is read or connected yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlaneSettings {
    /// Where it listens.
    pub address: Address,
    /// Who vouches for it.
    pub roots: RootSource,
    /// Another name that its certificate may have.
    pub alternate: Option<String>,
    /// Who we are to it.
    pub token: TokenSetting,
    /// What an operator adds to each call.
    pub headers: Vec<Header>,
}

/// Where the token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSetting {
    /// As set.
    Set(Token),
    /// The usual file, if there is one when the agent starts.
    IfPresent(PathBuf),
}

/// A control plane that cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// Its name or roots.
    #[error("how the control plane is recognised")]
    Trust(#[from] ServerRootsError),
    /// Our token, cluster or headers.
    #[error("what the control plane is sent")]
    Credentials(#[from] CredentialError),
}

impl ControlPlaneSettings {
    /// The channel to it. Looks whether the usual token file is there.
    pub fn channel(
        &self,
        cluster_id: &str,
        compliance: Compliance,
    ) -> Result<ControlPlane, ControlPlaneError> {
        let token = match &self.token {
            TokenSetting::Set(token) => Some(token.clone()),
            TokenSetting::IfPresent(path) => path.exists().then(|| Token::File(path.clone())),
        };
        let trust = self.trust(compliance)?;
        let credentials = Credentials::new(token, cluster_id, self.headers.clone())?;
        Ok(ControlPlane::new(self.address.clone(), trust, credentials))
    }

    fn trust(&self, compliance: Compliance) -> Result<ServerTrust, ServerRootsError> {
        let alternates = self.alternate.iter().map(String::as_str);
        ServerTrust::new(self.roots.clone(), self.address.host(), alternates, compliance)
    }
}

/// The settings of one control plane.
struct Group {
    address: &'static Setting,
    roots: &'static Setting,
    alternate: &'static Setting,
    headers: &'static Setting,
}

const XDS: Group = Group {
    address: &schema::XDS_ADDRESS,
    roots: &schema::XDS_ROOT_CA,
    alternate: &schema::ALT_XDS_HOSTNAME,
    headers: &schema::XDS_HEADER,
};

const CA: Group = Group {
    address: &schema::CA_ADDRESS,
    roots: &schema::CA_ROOT_CA,
    alternate: &schema::ALT_CA_HOSTNAME,
    headers: &schema::CA_HEADER,
};

/// The source of workloads, services and policies: a file or a control plane, not both.
pub(super) fn mesh_source(r: &mut Reader<'_>) -> Option<MeshSource> {
    let plane = control_plane(r, &XDS)?;
    let path = r.optional(&schema::LOCAL_XDS_PATH, super::values::path)?;
    let on_demand = r.parse(&schema::XDS_ON_DEMAND, super::values::boolean)?;
    match (path, plane) {
        (Some(path), None) => Some(MeshSource::File(path)),
        (None, Some(plane)) => Some(MeshSource::ControlPlane { plane: Box::new(plane), on_demand }),
        (Some(_), Some(_)) => {
            r.refuse_set(&schema::XDS_ADDRESS, "cannot be used together with LOCAL_XDS_PATH");
            None
        }
        (None, None) => {
            r.refuse_set(&schema::LOCAL_XDS_PATH, "must be set, or XDS_ADDRESS");
            None
        }
    }
}

/// The certificate authority: the embedded one or a control plane, not both.
pub(super) fn authority(r: &mut Reader<'_>) -> Option<Authority> {
    let plane = control_plane(r, &CA)?;
    let folder = r.optional(&schema::WARREN_DEV_CA_DIR, super::values::path)?;
    match (folder, plane) {
        (Some(folder), None) => Some(Authority::Development(folder)),
        (None, Some(plane)) => Some(Authority::ControlPlane(Box::new(plane))),
        (Some(_), Some(_)) => {
            r.refuse_set(&schema::CA_ADDRESS, "cannot be used together with WARREN_DEV_CA_DIR");
            None
        }
        (None, None) => {
            r.refuse_set(&schema::WARREN_DEV_CA_DIR, "must be set, or CA_ADDRESS");
            None
        }
    }
}

#[expect(clippy::option_option, reason = "the outer level is an error, the inner an unset address")]
fn control_plane(r: &mut Reader<'_>, group: &Group) -> Option<Option<ControlPlaneSettings>> {
    let address = r.optional(group.address, |text| Address::parse(text).map_err(|e| e.to_string()));
    let roots = r.parse(group.roots, roots);
    let alternate = r.optional(group.alternate, super::values::text);
    let token = r.optional(&schema::AUTH_TOKEN, token);
    let headers = r.prefixed(group.headers, |name, value| {
        Header::parse(&name.replace('_', "-"), value).map_err(|error| error.to_string())
    });
    let Some(address) = address? else { return Some(None) };
    let usual = TokenSetting::IfPresent(schema::TOKEN_FILE.into());
    let settings = ControlPlaneSettings {
        address,
        roots: roots?,
        alternate: alternate?,
        token: token?.map_or(usual, TokenSetting::Set),
        headers: headers?,
    };
    // A name that no certificate can have is a mistake now, not at the first connection.
    if let Err(error) = settings.trust(Compliance::Default) {
        r.refuse_set(group.alternate, &error.to_string());
        return None;
    }
    Some(Some(settings))
}

/// `SYSTEM`, PEM text, or a path.
fn roots(text: &str) -> Result<RootSource, String> {
    match text {
        "SYSTEM" => Ok(RootSource::System),
        pem if pem.trim_start().starts_with("-----BEGIN") => Ok(RootSource::Pem(pem.to_owned())),
        path if path.starts_with('/') => Ok(RootSource::File(path.into())),
        _ => Err("expected SYSTEM, PEM text or an absolute path".to_owned()),
    }
}

/// A path, or the token itself.
fn token(text: &str) -> Result<Token, String> {
    if text.starts_with('/') {
        return Ok(Token::File(text.into()));
    }
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(Token::Literal(text.to_owned()))
    } else {
        Err("expected an absolute path or a token of visible ASCII".to_owned())
    }
}
