//! Every id in Tierway, as a type of its own, checked once when it is parsed.
//!
//! Ids are short ASCII texts without spaces, control characters, `\0`, quotes or backslashes, so they
//! can stand in keys, paths, URIs, logs and commands as they are.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest id in bytes: it must fit into a key many times and into one line of a table.
pub const ID_BYTES_MAX: usize = 160;

/// A text that cannot be the id it was given as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {what}: {reason}")]
pub struct IdError {
    what: &'static str,
    text: String,
    reason: &'static str,
}

fn check(what: &'static str, text: &str, extra: &[u8]) -> Result<(), IdError> {
    let error = |reason| Err(IdError { what, text: text.chars().take(ID_BYTES_MAX).collect(), reason });
    if text.is_empty() {
        return error("it is empty");
    }
    if text.len() > ID_BYTES_MAX {
        return error("it is longer than 160 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+~:".contains(&b) || extra.contains(&b)) {
        return error("only letters, digits and `-_.+~:` are allowed");
    }
    if text.starts_with(['.', '-']) || text.contains("..") {
        return error("it must not start with `.` or `-` or contain `..`");
    }
    Ok(())
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $extra:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check($what, text, $extra)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// A customer of one central; `default` where there is one only.
    TenantId, "tenant", b"";
    /// A computer that Tierway patches: a UUID given at enrolment.
    EndpointId, "endpoint id", b"";
    /// A relay: a UUID given at enrolment.
    RelayId, "relay id", b"";
    /// A place with a relay, by its name.
    SiteId, "site name", b"";
    /// Endpoints that are treated alike, by name.
    GroupId, "group name", b"";
    /// A word by which endpoints are grouped.
    TagId, "tag", b"=";
    /// A service level, by name.
    LevelId, "service level", b"";
    /// A change window, by name.
    WindowId, "window name", b"";
    /// A ring plan, by name.
    RingPlanId, "ring plan", b"";
    /// A template, by name.
    TemplateId, "template", b"";
    /// A set of documents that one authenticated tree holds, such as `debian-12` or `policy-default`.
    CatalogueId, "catalogue", b"";
    /// An update: catalogue, `/`, and its name in it, such as `debian-12/openssl_3.0.17-1~deb12u3`.
    UpdateId, "update id", b"/";
    /// The public part of an enrolment token.
    TokenId, "token id", b"";
    /// A source of updates, as named in central's configuration.
    SourceId, "source name", b"";
    /// A person or program with an operator's certificate.
    OperatorId, "operator name", b"@";
}

impl UpdateId {
    /// The part before the first `/`: the catalogue.
    #[must_use]
    pub fn catalogue(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(catalogue, _)| catalogue)
    }

    /// The part after the first `/`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_leave_its_key_or_path_is_refused() {
        for text in ["", "a b", "a/b", "../x", "a..b", ".x", "-x", "a\0b", "é", "a\"b", &"x".repeat(161)] {
            assert!(text.parse::<GroupId>().is_err(), "{text:?}");
        }
        assert!("web-servers_1.2+x~y:z".parse::<GroupId>().is_ok());
    }

    #[test]
    fn an_update_id_names_its_catalogue() {
        let id: UpdateId = "debian-12/openssl_3.0.17-1~deb12u3".parse().unwrap();
        assert_eq!((id.catalogue(), id.name()), ("debian-12", "openssl_3.0.17-1~deb12u3"));
    }
}
