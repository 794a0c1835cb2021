//! Where a file lies on Windows: below a folder that each computer has elsewhere.
//!
//! A path in a rule may begin with a place in percent signs: a folder of the system
//! (`%system32%\drivers\x.sys`) or what a value in the registry says
//! (`%HKLM\SOFTWARE\Vendor#InstallDir%\x.dll`). Only the computer itself can say where that is.

use std::fmt;

/// A folder of the system, by the number that Windows gives it (CSIDL).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Folder {
    /// Of fonts.
    Fonts,
    /// Of programs' data for all users.
    ProgramData,
    /// Of Windows.
    Windows,
    /// Of the system's own programs.
    System,
    /// Of programs.
    ProgramFiles,
    /// Of the system's own 32-bit programs.
    SystemX86,
    /// Of 32-bit programs.
    ProgramFilesX86,
    /// What programs share.
    CommonFiles,
    /// What 32-bit programs share.
    CommonFilesX86,
}

/// Each folder with its number and its name in paths.
const FOLDERS: [(Folder, u32, &str); 9] = [
    (Folder::Fonts, 20, "fonts"),
    (Folder::ProgramData, 35, "programdata"),
    (Folder::Windows, 36, "windir"),
    (Folder::System, 37, "system32"),
    (Folder::ProgramFiles, 38, "programfiles"),
    (Folder::SystemX86, 41, "syswow64"),
    (Folder::ProgramFilesX86, 42, "programfiles(x86)"),
    (Folder::CommonFiles, 43, "commonprogramfiles"),
    (Folder::CommonFilesX86, 44, "commonprogramfiles(x86)"),
];

impl Folder {
    /// The folder of that number; `None` for folders of a user and unknown ones.
    #[must_use]
    pub fn of_csidl(number: u32) -> Option<Self> {
        FOLDERS.iter().find(|(_, csidl, _)| *csidl == number).map(|(folder, ..)| *folder)
    }

    /// Its name in paths, without the percent signs.
    #[must_use]
    pub fn name(self) -> &'static str {
        FOLDERS.iter().find(|(folder, ..)| *folder == self).map_or("", |(_, _, name)| name)
    }
}

/// What a path begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// Nothing that must be looked up.
    Absolute,
    /// A folder of the system.
    Folder(Folder),
    /// What a text in the registry says.
    Registry {
        /// Such as `HKLM\SOFTWARE\Vendor`.
        key: &'a str,
        /// Name of the value; empty for the default one.
        value: &'a str,
    },
}

impl fmt::Display for Place<'_> {
    /// As in paths, with the percent signs; nothing for an absolute path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute => Ok(()),
            Self::Folder(folder) => write!(f, "%{}%", folder.name()),
            Self::Registry { key, value } => write!(f, "%{key}#{value}%"),
        }
    }
}

impl<'a> Place<'a> {
    /// The path of `rest` below this place.
    #[must_use]
    pub fn join(&self, rest: &str) -> String {
        match self {
            Self::Absolute => rest.to_owned(),
            _ => format!("{self}\\{}", rest.trim_start_matches(['\\', '/'])),
        }
    }

    /// Splits a path of a rule into the place that it begins with and the rest, without the separator between.
    /// A place that nobody knows belongs to an absolute path, which then names nothing.
    #[must_use]
    pub fn split(path: &'a str) -> (Self, &'a str) {
        let split = || {
            let (name, rest) = path.strip_prefix('%')?.split_once('%')?;
            let place = match name.rsplit_once('#') {
                Some((key, value)) => Self::Registry { key, value },
                None => Self::Folder(FOLDERS.iter().find(|(_, _, known)| *known == name)?.0),
            };
            Some((place, rest.strip_prefix('\\').unwrap_or(rest)))
        };
        split().unwrap_or((Self::Absolute, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joined_path_is_split_into_what_it_was_joined_of() {
        for (place, rest, path) in [
            (Place::Folder(Folder::System), r"drivers\x.sys", r"%system32%\drivers\x.sys"),
            (Place::Folder(Folder::ProgramFilesX86), "a%b", r"%programfiles(x86)%\a%b"),
            (
                Place::Registry { key: r"HKLM\SOFTWARE\V", value: "Dir" },
                "x.dll",
                r"%HKLM\SOFTWARE\V#Dir%\x.dll",
            ),
            (Place::Registry { key: r"HKLM\K", value: "" }, "x", r"%HKLM\K#%\x"),
            (Place::Absolute, r"C:\x", r"C:\x"),
        ] {
            assert_eq!(place.join(rest), path);
            assert_eq!(Place::split(path), (place, rest));
        }
        assert_eq!(Place::Folder(Folder::System).join(r"\conhost.exe"), r"%system32%\conhost.exe");
        assert_eq!(Place::split(r"%nowhere%\x"), (Place::Absolute, r"%nowhere%\x"));
    }

    #[test]
    fn every_folder_has_a_number_and_a_name_of_its_own() {
        for (folder, csidl, name) in FOLDERS {
            assert_eq!((Folder::of_csidl(csidl), folder.name()), (Some(folder), name));
        }
        assert_eq!(Folder::of_csidl(26), None);
    }
}
