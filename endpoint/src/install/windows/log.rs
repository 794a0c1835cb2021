//! The logs that installers leave: which line says why, and how many logs are kept.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// Logs of installers that are kept, the newest; a large product's has 10 MB.
const LOGS_MAX: usize = 20;
/// What is read of one, from its beginning: some 40,000 lines.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// Of the line that is told.
const LINE_CHARS_MAX: usize = 300;

/// What Windows Installer writes when an action failed.
const FAILED: &str = "Return value 3.";

/// The beginning of the log at `path`, at most [`LOG_BYTES_MAX`].
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The line of a log that says why an installation failed, as far as there is one: the error before the first
/// action that failed, or else the action. Logs of Windows Installer are UTF-16 or in the system's code page.
pub(super) fn complaint(log: &[u8]) -> Option<String> {
    let text = match log {
        [0xff, 0xfe, rest @ ..] => {
            let units: Vec<u16> =
                rest.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        _ => String::from_utf8_lossy(log).into_owned(),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let failed = lines.iter().position(|line| line.contains(FAILED))?;
    let is_error = |line: &&&str| {
        let numbered = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        line.strip_prefix("Error ").is_some_and(numbered)
            || line.contains("Note: 1: 17")
            || line.contains(": Error ")
            || line.starts_with("CustomAction ")
    };
    let error = lines[..failed].iter().rev().take(40).find(is_error);
    let line = error.copied().unwrap_or(lines[failed]);
    Some(line.chars().take(LINE_CHARS_MAX).collect())
}

/// Makes the folder of logs, and removes the oldest beyond [`LOGS_MAX`].
pub(super) fn keep_newest(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut logs: Vec<_> = fs::read_dir(folder)?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((fs::metadata(&path).ok()?.modified().ok()?, path))
        })
        .collect();
    logs.sort();
    for (_, path) in logs.iter().rev().skip(LOGS_MAX) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
MSI (s) (08:54) [10:00:00:000]: Executing op: FileCopy
Error 1304. Error writing to file: C:\\Program Files\\X\\x.dll. Verify that you have access to that directory.
MSI (s) (08:54) [10:00:01:000]: User policy value 'DisableRollback' is 0
Action ended 10:00:01: InstallFinalize. Return value 3.
Error 1722. Later
Action ended 10:00:01: INSTALL. Return value 3.
";

    #[test]
    fn the_error_before_the_first_action_that_failed_is_told() {
        let wide: Vec<u8> =
            [0xff, 0xfe].into_iter().chain(LOG.encode_utf16().flat_map(u16::to_le_bytes)).collect();
        for log in [LOG.as_bytes(), &wide] {
            let told = complaint(log).unwrap();
            assert!(told.starts_with("Error 1304. Error writing to file"), "{told}");
        }
        let bare = "Action ended 1:00:01: LaunchConditions. Return value 3.\n";
        assert_eq!(complaint(bare.as_bytes()).as_deref(), Some(bare.trim()));
        assert_eq!(complaint(b"Action ended: INSTALL. Return value 1."), None);
        assert_eq!(complaint(&[0xff, 0xfe, 0x41]), None);
    }

    #[test]
    fn of_a_log_without_end_the_beginning_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.log");
        fs::write(&path, LOG).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(LOG_BYTES_MAX * 4).unwrap();
        let bytes = read(&path).unwrap();
        assert_eq!(bytes.len() as u64, LOG_BYTES_MAX);
        assert!(complaint(&bytes).unwrap().starts_with("Error 1304."));
    }

    #[test]
    fn only_the_newest_logs_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        keep_newest(&logs).unwrap();
        for number in 0..LOGS_MAX + 3 {
            let path = logs.join(format!("{number}.log"));
            let file = File::create(&path).unwrap();
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000 + number as u64);
            file.set_modified(at).unwrap();
        }
        keep_newest(&logs).unwrap();
        assert_eq!(fs::read_dir(&logs).unwrap().count(), LOGS_MAX);
        assert!(!logs.join("2.log").exists() && logs.join("3.log").exists());
    }
}
