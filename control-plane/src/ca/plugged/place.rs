//! Where an operator's authority is read from.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{CA_CERT, CA_KEY, CA_ROOT, CERT_CHAIN, CRL, ROOT_CERT, TLS_CERT, TLS_KEY};
use crate::ca::store::{SecretStore, StoreError, Texts};

/// Largest file read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
const NAMES: [&str; 8] = [CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT, CRL, TLS_CERT, TLS_KEY, CA_ROOT];

/// Where the texts are.
#[derive(Clone)]
pub enum PluggedPlace {
    /// Files.
    Folder(PathBuf),
    /// A Secret, or a file of texts.
    Store(Arc<dyn SecretStore>),
}

impl PluggedPlace {
    pub(super) async fn read(&self) -> Result<Texts, StoreError> {
        match self {
            Self::Folder(folder) => read_folder(folder),
            Self::Store(store) => {
                let mut texts = store.get().await?.map(|stored| stored.texts).unwrap_or_default();
                texts.retain(|name, _| NAMES.contains(&name.as_str()));
                Ok(texts)
            }
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Store(store) => store.place(),
        }
    }
}

fn read_folder(folder: &Path) -> Result<Texts, StoreError> {
    let mut texts = Texts::new();
    for name in NAMES {
        let path = folder.join(name);
        let failed = |operation, source| StoreError::File { operation, path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("cannot open", error)),
        };
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|error| failed("cannot read", error))?;
        if u64::try_from(text.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            let problem = format!("larger than {FILE_BYTES_MAX} bytes");
            return Err(StoreError::Content { place: path.display().to_string(), problem });
        }
        texts.insert(name.to_owned(), text);
    }
    Ok(texts)
}
