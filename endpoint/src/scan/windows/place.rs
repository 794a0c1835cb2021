//! Where the folders of a Windows are, by its registry.

use std::path::PathBuf;

use tierway_common::rules::place::{Folder, Place};

use super::registry::{Registry, text};

const CURRENT: &str = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion";
const SHELL: &str = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Explorer\Shell Folders";
const SYSTEM: &str = r"HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion";

/// Where a folder is.
///
/// # Errors
///
/// A sentence, when the registry does not say.
pub fn folder(registry: &dyn Registry, folder: Folder) -> Result<String, String> {
    let read = |key: &str, name: &str| {
        text(registry, key, name)?
            .map(|path| path.trim_end_matches('\\').to_owned())
            .filter(|path| !path.is_empty())
            .ok_or_else(|| format!("the registry does not say where `%{}%` is", folder.name()))
    };
    let windows = |below: &str| read(SYSTEM, "SystemRoot").map(|root| root + below);
    match folder {
        Folder::Windows => windows(""),
        Folder::System => windows("\\system32"),
        Folder::SystemX86 => windows("\\SysWOW64"),
        Folder::Fonts => windows("\\Fonts"),
        Folder::ProgramData => read(SHELL, "Common AppData"),
        Folder::ProgramFiles => read(CURRENT, "ProgramFilesDir"),
        Folder::ProgramFilesX86 => read(CURRENT, "ProgramFilesDir (x86)"),
        Folder::CommonFiles => read(CURRENT, "CommonFilesDir"),
        Folder::CommonFilesX86 => read(CURRENT, "CommonFilesDir (x86)"),
    }
}

/// The folder of the system's own programs; where it mostly is when the registry does not say.
#[must_use]
pub fn system_folder(registry: &dyn Registry) -> PathBuf {
    folder(registry, Folder::System).unwrap_or_else(|_| r"C:\windows\system32".to_owned()).into()
}

/// The absolute path that a rule's path means on this computer; `None` where it can name nothing: the value
/// of the registry that it begins with is not there, or it is a path of another kind of system.
///
/// # Errors
///
/// A sentence, when the registry cannot be read.
pub fn locate(registry: &dyn Registry, path: &str) -> Result<Option<String>, String> {
    let (place, rest) = Place::split(path);
    let base = match place {
        Place::Absolute => return Ok(is_absolute(rest).then(|| rest.to_owned())),
        Place::Folder(of) => folder(registry, of)?,
        Place::Registry { key, value } => match text(registry, key, value)? {
            Some(base) => base.trim().trim_matches('"').trim_end_matches('\\').to_owned(),
            None => return Ok(None),
        },
    };
    let joined = format!("{base}\\{rest}");
    Ok(is_absolute(&joined).then_some(joined))
}

/// Begins with a drive.
fn is_absolute(path: &str) -> bool {
    let bytes = path.as_bytes();
    matches!(bytes, [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::{super::registry::Written, *};

    #[test]
    fn a_path_of_a_rule_is_found_where_this_computer_has_it() {
        let mut registry = Written::default();
        registry
            .text(SYSTEM, "SystemRoot", "D:\\WIN")
            .text(CURRENT, "ProgramFilesDir", "E:\\Programs\\")
            .text("HKLM32\\SOFTWARE\\V", "Dir", "\"F:\\V\\\"")
            .text("HKLM\\SOFTWARE\\V", "Relative", "V");
        for (path, wanted) in [
            (r"%system32%\drivers\x.sys", Ok(Some(r"D:\WIN\system32\drivers\x.sys"))),
            (r"%programfiles%\x", Ok(Some(r"E:\Programs\x"))),
            (r"%HKLM32\SOFTWARE\V#Dir%\x.dll", Ok(Some(r"F:\V\x.dll"))),
            (r"%HKLM\SOFTWARE\V#Dir%\x.dll", Ok(None)),
            (r"%HKLM\SOFTWARE\V#Relative%\x.dll", Ok(None)),
            (r"c:\x", Ok(Some(r"c:\x"))),
            ("/etc/x", Ok(None)),
            (r"\\server\share\x", Ok(None)),
            (r"%programdata%\x", Err("the registry does not say where `%programdata%` is")),
        ] {
            let found = locate(&registry, path);
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(String::as_str), wanted, "{path}");
        }
    }
}
