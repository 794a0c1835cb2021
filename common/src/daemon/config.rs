//! Configuration files: TOML, read once at start, where an unknown key is an error that names it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// Longest configuration file: what is longer is a mistake.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("could not read the configuration `{path}`")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be; the source names line and key.
    #[error("the configuration `{path}` is not valid")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

/// Reads the file at `path` into `T`, which should deny unknown fields.
///
/// # Errors
///
/// [`ConfigError`], naming file, line and key.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(read)?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(read(io::Error::other(format!("it has {bytes} bytes, more than {CONFIG_BYTES_MAX}"))));
    }
    let text = fs::read_to_string(path).map_err(read)?;
    toml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::daemon::chain::Chain;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only read by serde")]
        listen: String,
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.toml");
        fs::write(&path, "listen = \"[::]:7447\"\nlissten = 1\n").unwrap();
        let text = Chain(&load::<Sample>(&path).unwrap_err()).to_string();
        for part in ["relay.toml", "line 2", "unknown field `lissten`"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
