//! TLS to an origin: whose certificates are trusted.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::ConfigError;

/// When TLS is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Never,
    #[cfg(feature = "postgres")]
    IfOffered,
    Always,
}

/// A client that trusts the certificates of `ca_file`, or else the system's, which have to be there if TLS is always used.
pub(crate) fn client(wanted: Wanted, ca_file: Option<&Path>) -> Result<ClientConfig, ConfigError> {
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::new("url", format!("can't be reached by TLS: {error}")))?;
    let roots = match (ca_file, wanted) {
        (Some(file), _) => certificates(file)?,
        (None, Wanted::Always) => of_the_system()?,
        #[cfg(feature = "postgres")]
        (None, Wanted::IfOffered) => of_the_system().unwrap_or_else(|_| RootCertStore::empty()),
        (None, Wanted::Never) => RootCertStore::empty(),
    };
    Ok(tls.with_root_certificates(roots).with_no_client_auth())
}

fn of_the_system() -> Result<RootCertStore, ConfigError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have certificates that rustls can't read.
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        let message = format!(
            "asks for TLS, and this system has no certificates to check it against{why}: install them (ca-certificates), or name \
             a ca_file"
        );
        return Err(ConfigError::new("url", message));
    }
    Ok(roots)
}

/// Reads the certificates of a PEM file, at least one.
fn certificates(file: &Path) -> Result<RootCertStore, ConfigError> {
    let fail = |error: &dyn std::fmt::Display| {
        ConfigError::new("ca_file", format!("{} has no PEM certificates to read: {error}", file.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| fail(&error))? {
        let certificate = certificate.map_err(|error| fail(&error))?;
        roots.add(certificate).map_err(|error| fail(&error))?;
    }
    if roots.is_empty() {
        return Err(fail(&"there is none in it"));
    }
    Ok(roots)
}
