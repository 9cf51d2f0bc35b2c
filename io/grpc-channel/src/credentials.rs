//! Who we are to a control plane: metadata of every call.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

/// Longest token, in bytes: Kubernetes's have about 1,000. A longer one is refused.
pub const TOKEN_MAX: usize = 16 * 1024;
/// Most headers an operator may add; a further one is refused.
pub const HEADERS_MAX: usize = 32;

/// Names that calls set themselves, or that HTTP/2 and gRPC reserve.
const RESERVED: [&str; 8] =
    ["authorization", "clusterid", "content-type", "te", "user-agent", "host", "connection", "via"];

/// A service account's token.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// A file, read for each call: the kubelet replaces it.
    File(PathBuf),
    /// The token itself.
    Literal(String),
}

impl fmt::Debug for Token {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Literal(_) => f.debug_tuple("Literal").finish_non_exhaustive(),
        }
    }
}

/// Why a header was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a metadata name, or one that is not the operator's to set.
    #[error("{0:?} cannot be used as a header's name")]
    Name(String),
    /// Not visible ASCII.
    #[error("the value of header {0:?} is not visible ASCII")]
    Value(String),
}

/// One header an operator adds to every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    name: MetadataKey<Ascii>,
    value: MetadataValue<Ascii>,
}

impl Header {
    /// Parses a header. Names become lower case, as HTTP/2 wants.
    pub fn parse(name: &str, value: &str) -> Result<Self, HeaderError> {
        let wrong = || HeaderError::Name(name.to_owned());
        let lower = name.to_ascii_lowercase();
        if RESERVED.contains(&lower.as_str()) || lower.starts_with("grpc-") {
            return Err(wrong());
        }
        let key = MetadataKey::from_bytes(lower.as_bytes()).map_err(|_| wrong())?;
        let value = value.parse().map_err(|_| HeaderError::Value(name.to_owned()))?;
        Ok(Self { name: key, value })
    }
}

/// Why a call could not be made in our name.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The token's file could not be read.
    #[error("reading the token in {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Empty, too long, or not visible ASCII.
    #[error("the token is not 1 to {TOKEN_MAX} visible ASCII characters")]
    Token,
    /// The cluster's name is not visible ASCII.
    #[error("the cluster's name {0:?} cannot be sent")]
    Cluster(String),
    /// More than [`HEADERS_MAX`].
    #[error("more than {HEADERS_MAX} headers")]
    Headers,
}

/// Token, cluster and headers. Cheap enough to clone once a user.
#[derive(Clone, Debug)]
pub struct Credentials {
    token: Option<Token>,
    cluster: MetadataValue<Ascii>,
    headers: Vec<Header>,
}

impl Credentials {
    /// What is sent with each call: `authorization`, if there is a token, `clusterid`, and the
    /// operator's headers.
    pub fn new(
        token: Option<Token>,
        cluster_id: &str,
        headers: Vec<Header>,
    ) -> Result<Self, CredentialError> {
        if headers.len() > HEADERS_MAX {
            return Err(CredentialError::Headers);
        }
        let cluster = cluster_id.parse();
        let cluster = cluster.map_err(|_| CredentialError::Cluster(cluster_id.to_owned()))?;
        Ok(Self { token, cluster, headers })
    }

    /// The metadata of one call, with the token as it is now.
    pub async fn metadata(&self) -> Result<MetadataMap, CredentialError> {
        let mut metadata = MetadataMap::new();
        for Header { name, value } in &self.headers {
            metadata.append(name.clone(), value.clone());
        }
        metadata.insert("clusterid", self.cluster.clone());
        if let Some(token) = &self.token {
            metadata.insert("authorization", bearer(token).await?);
        }
        Ok(metadata)
    }
}

async fn bearer(token: &Token) -> Result<MetadataValue<Ascii>, CredentialError> {
    let bytes = match token {
        Token::Literal(text) => text.clone().into_bytes(),
        Token::File(path) => read(path)
            .await
            .map_err(|source| CredentialError::Read { path: path.clone(), source })?,
    };
    let token = trimmed(&bytes);
    if token.is_empty() || token.len() > TOKEN_MAX || !token.iter().all(u8::is_ascii_graphic) {
        return Err(CredentialError::Token);
    }
    let value = [b"Bearer ", token].concat();
    let mut value = MetadataValue::try_from(value).map_err(|_| CredentialError::Token)?;
    // Kept out of logs, and out of HPACK's table.
    value.set_sensitive(true);
    Ok(value)
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(TOKEN_MAX).unwrap_or(u64::MAX).saturating_add(3);
    tokio::fs::File::open(path).await?.take(limit).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Without one line end: editors and `echo` add it, tokens do not have it. Anything else is sent
/// as it is, or refused.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(token: Option<Token>, headers: Vec<Header>) -> Vec<(String, String)> {
        let credentials = Credentials::new(token, "Kubernetes", headers).expect("valid");
        let metadata = credentials.metadata().await.expect("readable").into_headers();
        let text = |value: &http::HeaderValue| value.to_str().expect("ASCII").to_owned();
        let mut all: Vec<_> =
            metadata.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.sort();
        all
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    #[tokio::test]
    async fn a_call_carries_token_cluster_and_headers() {
        let headers = vec![
            Header::parse("X-Tenant", "shop").expect("header"),
            Header::parse("x-tenant", "bank").expect("header"),
        ];
        let token = Some(Token::Literal("abc.def".to_owned()));
        let want = pairs([
            ("authorization", "Bearer abc.def"),
            ("clusterid", "Kubernetes"),
            ("x-tenant", "bank"),
            ("x-tenant", "shop"),
        ]);
        assert_eq!(sent(token, headers).await, want);
        assert_eq!(sent(None, Vec::new()).await, pairs([("clusterid", "Kubernetes")]));
    }

    #[tokio::test]
    async fn the_token_is_read_for_each_call() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("token");
        let credentials =
            Credentials::new(Some(Token::File(path.clone())), "c", Vec::new()).expect("valid");
        let error = credentials.metadata().await.expect_err("no file");
        assert!(matches!(error, CredentialError::Read { .. }), "{error}");
        let longest = "x".repeat(TOKEN_MAX);
        for (content, want) in [
            ("one", Some("Bearer one")),
            ("two\n", Some("Bearer two")),
            ("three\r\n", Some("Bearer three")),
            (longest.as_str(), Some(format!("Bearer {longest}")).as_deref()),
            ("four\n\n", None),
            (" five", None),
            ("", None),
            ("\n", None),
            ("s\u{e9}x", None),
            ("x".repeat(TOKEN_MAX + 1).as_str(), None),
        ] {
            std::fs::write(&path, content).expect("write");
            let got = credentials.metadata().await;
            let got = got.as_ref().ok().and_then(|m| m.get("authorization"));
            assert_eq!(got.map(|v| v.to_str().expect("ASCII")), want, "{content:?}");
        }
    }

    #[test]
    fn headers_that_are_not_the_operators_are_refused() {
        for (name, value) in [
            ("authorization", "x"),
            ("ClusterId", "x"),
            ("grpc-timeout", "1S"),
            ("a b", "x"),
            ("", "x"),
            (":path", "x"),
            ("x-bin", "x"),
            ("x", "line\nbreak"),
        ] {
            assert!(Header::parse(name, value).is_err(), "{name}: {value}");
        }
        let one = Header::parse("x", "1").expect("header");
        assert!(Credentials::new(None, "c", vec![one.clone(); HEADERS_MAX]).is_ok());
        assert!(Credentials::new(None, "c", vec![one; HEADERS_MAX + 1]).is_err());
        assert!(Credentials::new(None, "c\n", Vec::new()).is_err());
    }

    #[test]
    fn a_token_is_not_printed() {
        let token = Token::Literal("secret".to_owned());
        assert!(!format!("{token:?}").contains("secret"));
    }
}
