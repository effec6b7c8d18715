//! Connections to a registry, with TLS where its URL says so.

use std::{
    error::Error as StdError,
    fmt::{Display, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_rustls::ConfigBuilderExt;
use hyper_util::client::legacy::connect::HttpConnector;
use larder_core::{Error, ErrorKind};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Files for TLS with a registry, each PEM.
///
/// ```
/// use larder_cluster::TlsFiles;
///
/// let tls = TlsFiles { ca: Some("/etc/larder/etcd-ca.pem".into()), ..TlsFiles::default() };
/// assert!(tls.cert.is_none(), "no certificate of our own");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsFiles {
    /// The certificates that the registry is trusted by; `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// This node's certificate and those behind it.
    pub cert: Option<PathBuf>,
    /// The certificate's key.
    pub key: Option<PathBuf>,
}

/// How connections are made.
pub(crate) fn connector(connect_time_max: Duration) -> HttpConnector {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(connect_time_max));
    http
}

/// An error and what it came of, in one sentence.
pub(crate) fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string doesn't fail.
        let _written = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// How they are secured; nothing is read where no URL is `https`.
///
/// # Errors
///
/// [`ErrorKind::Invalid`], with the file that is wrong.
pub(crate) fn tls_config(is_https: bool, files: &TlsFiles) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(format!("TLS can't be had: {error}")))?;
    if !is_https {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let builder = match &files.ca {
        Some(file) => builder.with_root_certificates(roots(file)?),
        None => builder.with_native_roots().map_err(|error| {
            invalid(format!(
                "this system has no certificates to check an https URL against ({error}): install them \
                 (ca-certificates), or name a file with those of the registry"
            ))
        })?,
    };
    let (cert, key) = match (&files.cert, &files.key) {
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => (cert, key),
        _ => return Err(invalid("a certificate and its key go together: give both or neither".into())),
    };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, "private key", &error))?;
    builder.with_client_auth_cert(certificates(cert)?, private).map_err(|error| {
        let (cert, key) = (cert.display(), key.display());
        invalid(format!("the certificate {cert} can't be used with the key {key}: {error}"))
    })
}

fn roots(file: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| unreadable(file, "certificate", &error))?;
    }
    Ok(roots)
}

/// The certificates of a PEM file, at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(unreadable(file, "certificate", &"there is none in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unreadable(file, "certificate", &error)),
    }
}

fn unreadable(file: &Path, what: &str, why: &dyn Display) -> Error {
    invalid(format!("{} has no PEM {what} to read: {why}", file.display()))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let ca = file("ca.pem", &made.cert.pem());
        let key = file("key.pem", &made.signing_key.serialize_pem());
        let empty = file("empty.pem", "");
        for (files, what) in [
            (TlsFiles { ca: empty.clone(), ..TlsFiles::default() }, "empty.pem has no PEM certificate"),
            (TlsFiles { ca: Some("/nowhere.pem".into()), ..TlsFiles::default() }, "/nowhere.pem has no PEM"),
            (TlsFiles { ca: ca.clone(), cert: ca.clone(), key: None }, "go together"),
            (TlsFiles { ca: ca.clone(), cert: ca.clone(), key: empty }, "empty.pem has no PEM private key"),
        ] {
            let error = tls_config(true, &files).unwrap_err();
            assert!(error.is_invalid() && error.message().contains(what), "{error}");
            assert!(tls_config(false, &files).is_ok(), "nothing is read");
        }
        assert!(tls_config(true, &TlsFiles { ca: ca.clone(), cert: ca, key }).is_ok());
    }
}
