//! Who a certificate belongs to.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use crate::id::{IdError, SiteId, TenantId};

/// What a certificate lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A computer that is patched.
    Endpoint,
    /// A site's relay.
    Relay,
    /// Central itself.
    Central,
    /// A person or program that administers.
    Operator,
}

impl Role {
    /// As in URIs, tokens and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Relay => "relay",
            Self::Central => "central",
            Self::Operator => "operator",
        }
    }
}

/// Why a certificate's holder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// Not a certificate of this system.
    #[error("the certificate names no tierway identity")]
    NoUri,
    /// A URI of another form.
    #[error("`{0}` is not a tierway identity")]
    Form(String),
    /// An id in the URI is not valid.
    #[error("the certificate's identity is not valid")]
    Id(#[from] IdError),
    /// Not X.509.
    #[error("the certificate could not be read: {0}")]
    Der(String),
}

/// Whom a certificate belongs to: `spiffe://tierway/tenant/<tenant>/site/<site>/<role>/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Tenant.
    pub tenant: TenantId,
    /// Site.
    pub site: SiteId,
    /// Role.
    pub role: Role,
    /// Endpoint id, relay id, operator name.
    pub id: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, site, role, id } = self;
        write!(f, "spiffe://tierway/tenant/{tenant}/site/{site}/{}/{id}", role.as_str())
    }
}

impl FromStr for Holder {
    type Err = HolderError;
    fn from_str(uri: &str) -> Result<Self, HolderError> {
        let form = || HolderError::Form(uri.chars().take(200).collect());
        let path = uri.strip_prefix("spiffe://tierway/").ok_or_else(form)?;
        let ["tenant", tenant, "site", site, role, id] = path.split('/').collect::<Vec<_>>()[..] else {
            return Err(form());
        };
        let role = match role {
            "endpoint" => Role::Endpoint,
            "relay" => Role::Relay,
            "central" => Role::Central,
            "operator" => Role::Operator,
            _ => return Err(form()),
        };
        // Checked as the strictest id there is; it stands in keys and logs.
        let id = id.parse::<crate::id::OperatorId>()?.to_string();
        Ok(Self { tenant: tenant.parse()?, site: site.parse()?, role, id })
    }
}

/// What a verified peer certificate says; an extension of every request on its connection.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    /// Whom it belongs to.
    pub holder: Holder,
    /// Certificate serial, lower-case hex.
    pub serial: String,
    /// Begin of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Raw public key; 32 bytes for Ed25519, which all of ours are.
    pub public_key: Vec<u8>,
    /// The certificate itself.
    pub certificate: CertificateDer<'static>,
}

impl PeerIdentity {
    /// Reads a certificate; its signature is not checked here.
    ///
    /// # Errors
    ///
    /// [`HolderError`] when it is none of ours.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, HolderError> {
        let (_, x509) = x509_parser::certificate::X509Certificate::from_der(certificate)
            .map_err(|error| HolderError::Der(error.to_string()))?;
        let names = x509
            .subject_alternative_name()
            .map_err(|error| HolderError::Der(error.to_string()))?
            .ok_or(HolderError::NoUri)?;
        let uri = names
            .value
            .general_names
            .iter()
            .find_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .ok_or(HolderError::NoUri)?;
        let time = |at: x509_parser::time::ASN1Time| {
            Timestamp::from_second(at.timestamp()).map_err(|error| HolderError::Der(error.to_string()))
        };
        Ok(Self {
            holder: uri.parse()?,
            serial: hex::encode(x509.raw_serial()),
            not_before: time(x509.validity().not_before)?,
            not_after: time(x509.validity().not_after)?,
            public_key: x509.public_key().subject_public_key.data.to_vec(),
            certificate: certificate.clone().into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_the_same_after_a_round_trip() {
        let uri = "spiffe://tierway/tenant/default/site/osaka/endpoint/0b7c";
        let holder: Holder = uri.parse().unwrap();
        assert_eq!(
            (holder.role, holder.site.as_str(), holder.to_string().as_str()),
            (Role::Endpoint, "osaka", uri)
        );
    }

    #[test]
    fn a_uri_of_another_form_is_refused() {
        for uri in [
            "",
            "spiffe://elsewhere/tenant/a/site/b/endpoint/c",
            "spiffe://tierway/tenant/a/site/b/king/c",
            "spiffe://tierway/tenant/a/site/b/endpoint/c/d",
            "spiffe://tierway/tenant/a b/site/b/endpoint/c",
            "spiffe://tierway/tenant/a/site/b/endpoint/",
        ] {
            assert!(uri.parse::<Holder>().is_err(), "{uri}");
        }
    }
}
