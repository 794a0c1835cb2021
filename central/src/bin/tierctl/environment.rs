//! The one place that reads environment variables, once, before anything else.

use std::path::PathBuf;

/// What the environment says about the person and the terminal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// Colours may be used where the output is a terminal: `NO_COLOR` is unset or empty
    /// (<https://no-color.org>) and `TERM` is not `dumb`.
    pub(crate) colour: bool,
    /// `$XDG_CONFIG_HOME`, or else `$HOME/.config`; none when neither is set to an absolute path.
    pub(crate) config_dir: Option<PathBuf>,
    /// Where other programs of Tierway are looked for, in this order: beside this one, then on `PATH`.
    pub(crate) programs: Vec<PathBuf>,
}

impl Environment {
    /// Reads it.
    pub(crate) fn read() -> Self {
        let read = Self::of(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()));
        let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let programs = beside.into_iter().chain(std::env::split_paths(&path)).collect();
        Self { programs, ..read }
    }

    /// The same from any source of variables.
    pub(crate) fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let absolute = |name: &str| set(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            colour: set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
            config_dir: absolute("XDG_CONFIG_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".config"))),
            programs: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_counts_only_when_it_is_not_empty() {
        for (variables, colour) in [
            (vec![], true),
            (vec![("NO_COLOR", "")], true),
            (vec![("NO_COLOR", "0")], false),
            (vec![("TERM", "dumb")], false),
            (vec![("TERM", "xterm")], true),
        ] {
            let environment = Environment::of(|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            });
            assert_eq!(environment.colour, colour, "{variables:?}");
        }
    }

    #[test]
    fn a_relative_config_home_is_passed_over_as_the_xdg_specification_asks() {
        let environment = Environment::of(|name| match name {
            "XDG_CONFIG_HOME" => Some("conf".into()),
            "HOME" => Some("/home/ana".into()),
            _ => None,
        });
        assert_eq!(environment.config_dir, Some(PathBuf::from("/home/ana/.config")));
    }
}
