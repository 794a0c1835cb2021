//! Where a vendor's files are: an address that TLS authenticates, or a path at which somebody puts them.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What to do with an address that anybody on the way can answer for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlainHttp {
    /// It is refused.
    #[default]
    Refuse,
    /// What comes is believed.
    Accept,
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this absolute path.
    File(PathBuf),
    /// At this address.
    Url(String),
}

/// A place that is none, or a file at one that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// An address without TLS.
    #[error("`{url}` is not authenticated: use https, or say `plain_http = \"accept\"`")]
    PlainHttp {
        /// The address.
        url: String,
    },
    /// Neither an address nor a path.
    #[error("`{url}` must be an https address or an absolute path")]
    Neither {
        /// What is there instead.
        url: String,
    },
    /// No address, where only one can be.
    #[error("`{url}` must be an https address")]
    NotUrl {
        /// What is there instead.
        url: String,
    },
    /// No absolute path, where only one can be.
    #[error("`{path}` must be an absolute path")]
    NotPath {
        /// What is there instead.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("could not read `{path}`")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too long.
    #[error("`{path}` is longer than {bytes_max} bytes")]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
}

impl Place {
    /// From what a configuration says.
    ///
    /// # Errors
    ///
    /// [`PlaceError::PlainHttp`], [`PlaceError::Neither`].
    pub fn of(url: &str, plain_http: PlainHttp) -> Result<Self, PlaceError> {
        if url.starts_with("https://") || (url.starts_with("http://") && plain_http == PlainHttp::Accept) {
            return Ok(Self::Url(url.to_owned()));
        }
        if url.starts_with("http://") {
            return Err(PlaceError::PlainHttp { url: url.to_owned() });
        }
        let path = Path::new(url);
        if path.is_absolute() {
            Ok(Self::File(path.to_owned()))
        } else {
            Err(PlaceError::Neither { url: url.to_owned() })
        }
    }

    /// An address, where nothing else can be.
    ///
    /// # Errors
    ///
    /// [`PlaceError::PlainHttp`], [`PlaceError::NotUrl`].
    pub fn url(url: &str, plain_http: PlainHttp) -> Result<String, PlaceError> {
        match Self::of(url, plain_http) {
            Ok(Self::Url(url)) => Ok(url),
            Err(error @ PlaceError::PlainHttp { .. }) => Err(error),
            _ => Err(PlaceError::NotUrl { url: url.to_owned() }),
        }
    }
}

/// A whole file of at most so many bytes; blocks.
///
/// # Errors
///
/// [`PlaceError::Read`], [`PlaceError::TooLong`].
pub fn read(path: &Path, bytes_max: u64) -> Result<Bytes, PlaceError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| PlaceError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > bytes_max {
        return Err(PlaceError::TooLong { path: path.to_owned(), bytes_max });
    }
    Ok(bytes.into())
}
