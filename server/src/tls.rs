//! A certificate and its key, for HTTPS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{} has no {what} in PEM form, which begins with a line `-----BEGIN ...-----`",
        .path.display()
    )]
    Missing { path: PathBuf, what: &'static str },
    #[error("{} is no valid PEM file: {source}", .path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error(
        "the certificate {} cannot be used with the key {}: {source}",
        .certificate.display(),
        .key.display()
    )]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// A certificate chain and its key, ready to be served with (TLS 1.2 and 1.3).
#[derive(Debug, Clone)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// Reads PEM files: the chain, with the server's own certificate first, and the key.
    ///
    /// # Errors
    /// When a file cannot be read, has not what is wanted, or the two do not belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = chain(certificate)?;
        let secret = secret(key)?;
        let pair = |source| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(pair)?
            .with_no_client_auth()
            .with_single_cert(chain, secret);
        let mut config = config.map_err(pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(chain) if chain.is_empty() => {
            Err(TlsError::Missing { path: path.to_owned(), what: "certificate" })
        }
        Ok(chain) => Ok(chain),
        Err(source) => Err(TlsError::Pem { path: path.to_owned(), source }),
    }
}

fn secret(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let path_of = || path.to_owned();
    match PrivateKeyDer::from_pem_slice(&read(path)?) {
        Ok(secret) => Ok(secret),
        Err(pem::Error::NoItemsFound) => {
            Err(TlsError::Missing { path: path_of(), what: "private key" })
        }
        Err(source) => Err(TlsError::Pem { path: path_of(), source }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}
