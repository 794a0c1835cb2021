//! How updates of Windows, and of programs on it, are installed: what the vendor's metadata say, as data.

use serde::{Deserialize, Serialize};

use super::Payload;
use crate::{rules::expr::Expr, trust::digest::Digest};

/// One update that one handler installs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowsInstall {
    /// By what.
    pub handler: Handler,
    /// Everything that the handler needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<WindowsFile>,
    /// Whether the computer must be restarted.
    #[serde(default)]
    pub reboot: RebootBehavior,
    /// What else may go on meanwhile.
    #[serde(default)]
    pub impact: Impact,
    /// It may ask the person at the computer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub asks_user: bool,
    /// It needs a network.
    #[serde(default, skip_serializing_if = "is_false")]
    pub needs_network: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What installs an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handler {
    /// A program of the update itself, started without a shell.
    CommandLine(CommandLine),
    /// Windows Installer, a product.
    Msi {
        /// Product code, in braces and upper case, where the metadata name it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        product_code: Option<String>,
        /// Which of the files.
        file: String,
        /// Properties, as in `msiexec`'s command line.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        command_line: String,
        /// What its exit codes mean, before what Windows Installer's own say.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exit_codes: Vec<ExitCode>,
    },
    /// Windows Installer, a patch.
    Msp {
        /// Patch code, in braces and upper case, where the metadata name it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        patch_code: Option<String>,
        /// Which of the files, where the metadata name it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        /// Properties.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        command_line: String,
        /// Properties of the removal.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        uninstall_command_line: String,
    },
    /// Windows's component servicing, from a `.cab` or `.msu`.
    Cbs {
        /// Full identity of the package, `name~token~architecture~language~version`, where the metadata name it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        package: Option<String>,
    },
    /// Described only: nothing of ours installs it.
    Described {
        /// The vendor's name of the handler, such as `OSInstaller`.
        name: String,
        /// Why not, as a sentence without a period.
        reason: String,
    },
}

impl Handler {
    /// In one word, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::CommandLine(_) => "exe",
            Self::Msi { .. } => "msi",
            Self::Msp { .. } => "msp",
            Self::Cbs { .. } => "cbs",
            Self::Described { name, .. } => name,
        }
    }
}

/// A program and what its exit codes mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    /// One of the update's files.
    pub program: String,
    /// As one text, the way Windows hands it to the program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arguments: String,
    /// Exit codes that are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exit_codes: Vec<ExitCode>,
    /// What any other exit code means.
    #[serde(default)]
    pub otherwise: ExitResult,
    /// Whether any other exit code asks for a restart.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reboot_otherwise: bool,
}

/// What an exit code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitCode {
    /// As the program gives it.
    pub code: i32,
    /// What came of it.
    pub result: ExitResult,
    /// Whether a restart is needed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reboot: bool,
}

/// What came of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitResult {
    /// It failed.
    #[default]
    Failed,
    /// It did what it should.
    Succeeded,
    /// Somebody stopped it.
    Cancelled,
}

/// Whether the computer must be restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebootBehavior {
    /// Never.
    Never,
    /// When the handler says so.
    #[default]
    CanRequest,
    /// Always.
    Always,
}

/// What else may go on meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Impact {
    /// Nobody will notice.
    Minor,
    /// As usual.
    #[default]
    Normal,
    /// No other update beside it.
    Exclusive,
}

/// A file of an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowsFile {
    /// Name that the handler expects; no path.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of all of it, where the vendor says it; without it the file is not fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// SHA-1, lower-case hex: what the vendor's catalogues know the file by, and no proof of anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha1: Option<String>,
    /// Where the vendor has it; absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl WindowsFile {
    /// What to fetch; `None` without a digest that can be believed or without an address.
    #[must_use]
    pub fn payload(&self) -> Option<Payload> {
        Some(Payload { digest: self.sha256?, bytes: self.bytes, url: self.url.clone()? })
    }
}

/// One of several updates that come together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The vendor's name of it, unique in the catalogue.
    pub name: String,
    /// True on a computer that the part could matter to.
    pub applicable: Expr,
    /// True on a computer that has it.
    pub installed: Expr,
    /// How to install it.
    pub install: WindowsInstall,
}

#[cfg(test)]
mod tests {
    use crate::schema::Install;

    #[test]
    fn a_file_is_fetched_only_with_a_digest_that_can_be_believed_and_an_address() {
        let json = r#"{"bundle":{"parts":[{"name":"a","applicable":{"const":true},"installed":{"const":false},
            "install":{"handler":{"cbs":{}},"files":[
            {"name":"a.cab","bytes":3,"sha256":"0000000000000000000000000000000000000000000000000000000000000001",
             "url":"http://vendor.example/a.cab"},
            {"name":"b.cab","bytes":3,"sha1":"01","url":"http://vendor.example/b.cab"},
            {"name":"c.cab","bytes":3,
             "sha256":"0000000000000000000000000000000000000000000000000000000000000002"}]}}]}}"#;
        let install: Install = serde_json::from_str(json).unwrap();
        let names: Vec<_> = install.payloads().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a.cab"]);
        let again: Install = serde_json::from_str(&serde_json::to_string(&install).unwrap()).unwrap();
        assert_eq!(again, install);
    }
}
