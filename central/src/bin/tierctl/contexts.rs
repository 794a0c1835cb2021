//! `contexts.toml`: which centrals an operator knows, and as whom to talk to them.
//!
//! ```toml
//! current = "default"
//!
//! [[context]]
//! name = "default"
//! server = "central.example.org:7443"
//! identity = "operator.pem"   # key, then certificates, leaf first; relative to this file
//! roots = "roots.pem"         # central's root certificate
//! ```

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tierway_common::{daemon::config, files, transport::tls::IdentityFiles};

use crate::{environment::Environment, failure::Failure};

/// Which central, and where that is written down.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ConnectionArgs {
    /// Which context to use instead of the current one
    #[arg(long, global = true, value_name = "NAME", help_heading = "Connection")]
    pub(crate) context: Option<String>,
    /// File with the contexts [default: `tierway/contexts.toml` in `$XDG_CONFIG_HOME` or `~/.config`]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub(crate) config: Option<PathBuf>,
}

/// One context, ready to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) name: String,
    /// `host:port`.
    pub(crate) server: String,
    /// HTTP proxy, `host:port`.
    pub(crate) proxy: Option<String>,
    /// Absolute, or relative to the working directory.
    pub(crate) identity: IdentityFiles,
}

/// The file as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// Used when `--context` is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default, rename = "context")]
    pub(crate) contexts: Vec<Entry>,
}

/// A context as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proxy: Option<String>,
    pub(crate) identity: PathBuf,
    pub(crate) roots: PathBuf,
}

impl ConnectionArgs {
    /// The file with the contexts.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when neither an argument nor the environment says where.
    pub(crate) fn file(&self, environment: &Environment) -> Result<PathBuf, Failure> {
        match (&self.config, &environment.config_dir) {
            (Some(file), _) => Ok(file.clone()),
            (None, Some(dir)) => Ok(dir.join("tierway").join("contexts.toml")),
            (None, None) => {
                Err(Failure::Usage("neither `--config` nor `HOME` says where the contexts are".into()))
            }
        }
    }

    /// The context asked for, or the current one, or the only one.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when there is none, with what to do.
    pub(crate) fn context(&self, environment: &Environment) -> Result<Context, Failure> {
        let file = self.file(environment)?;
        let contexts = Contexts::load(&file)?;
        let name = contexts.chosen(self.context.as_deref()).ok_or_else(|| {
            Failure::Usage(format!(
                "no context is chosen in `{}`; see `tierctl context set --help`",
                file.display()
            ))
        })?;
        Ok(contexts.find(name, &file)?.resolve(&file))
    }
}

impl Contexts {
    /// Reads the file; there are none when it does not exist.
    pub(crate) fn load(file: &Path) -> Result<Self, Failure> {
        match config::load(file) {
            Err(config::ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            other => other.map_err(Failure::local("read the contexts")),
        }
    }

    /// The name asked for, else the current, else the only one.
    pub(crate) fn chosen<'a>(&'a self, asked: Option<&'a str>) -> Option<&'a str> {
        asked.or(self.current.as_deref()).or(match &self.contexts[..] {
            [only] => Some(&only.name),
            _ => None,
        })
    }

    /// The entry of that name.
    pub(crate) fn find(&self, name: &str, file: &Path) -> Result<&Entry, Failure> {
        self.contexts.iter().find(|entry| entry.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.contexts.iter().map(|entry| entry.name.as_str()).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Failure::Usage(format!("there is no context `{name}` in `{}`, known: {known}", file.display()))
        })
    }

    /// Puts the entry in the place of the one with its name, or at the end; the first one is current.
    pub(crate) fn set(&mut self, entry: Entry) {
        if self.contexts.is_empty() {
            self.current = Some(entry.name.clone());
        }
        match self.contexts.iter_mut().find(|old| old.name == entry.name) {
            Some(old) => *old = entry,
            None => self.contexts.push(entry),
        }
    }

    /// Takes out the entry of that name; when it was current, none is.
    pub(crate) fn remove(&mut self, name: &str) {
        self.contexts.retain(|entry| entry.name != name);
        self.current.take_if(|current| current == name);
    }

    /// Replaces the file: a reader sees the old one or the new one.
    pub(crate) fn save(&self, file: &Path) -> Result<(), Failure> {
        let what = || format!("write the contexts `{}`", file.display());
        let text = toml::to_string(self).map_err(Failure::local(what()))?;
        if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Failure::local(what()))?;
        }
        files::replace(file, text.as_bytes(), 0o600).map_err(Failure::local(what()))
    }
}

impl Entry {
    /// With paths that hold from the working directory; `file` is where the entry is written.
    pub(crate) fn resolve(&self, file: &Path) -> Context {
        let dir = file.parent().unwrap_or(Path::new(""));
        let Self { name, server, proxy, identity, roots } = self.clone();
        let identity = IdentityFiles { identity: dir.join(identity), roots: dir.join(roots) };
        Context { name, server, proxy, identity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.into(),
            server: "c.example:7443".into(),
            proxy: None,
            identity: "op.pem".into(),
            roots: "/abs/roots.pem".into(),
        }
    }

    #[test]
    fn the_context_is_the_one_asked_for_or_the_current_or_the_only_one() {
        for (names, current, asked, chosen) in [
            (vec![], None, None, None),
            (vec!["a"], None, None, Some("a")),
            (vec!["a", "b"], None, None, None),
            (vec!["a", "b"], Some("b"), None, Some("b")),
            (vec!["a", "b"], Some("b"), Some("a"), Some("a")),
        ] {
            let contexts = Contexts {
                current: current.map(str::to_owned),
                contexts: names.into_iter().map(entry).collect(),
            };
            assert_eq!(contexts.chosen(asked), chosen, "{contexts:?}");
        }
    }

    #[test]
    fn relative_paths_start_at_the_file_they_are_written_in() {
        let context = entry("a").resolve(Path::new("/home/ana/.config/tierway/contexts.toml"));
        assert_eq!(context.identity.identity, Path::new("/home/ana/.config/tierway/op.pem"));
        assert_eq!(context.identity.roots, Path::new("/abs/roots.pem"));
    }

    #[test]
    fn contexts_are_the_same_after_a_round_trip_and_only_their_owner_can_read_them() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/contexts.toml");
        let mut contexts = Contexts::load(&file).unwrap();
        contexts.set(entry("a"));
        contexts.set(entry("b"));
        contexts.set(Entry { server: "d.example:1".into(), ..entry("b") });
        contexts.save(&file).unwrap();
        let read = Contexts::load(&file).unwrap();
        assert_eq!(read, contexts);
        assert_eq!((read.current.as_deref(), read.contexts.len()), (Some("a"), 2));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
