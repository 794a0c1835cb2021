//! What exit codes of the installers of Windows mean by themselves.
//!
//! Sources: the error codes of Windows Installer, of the Windows Update agent (`wusa`) and of component
//! servicing as Microsoft documents them. Whatever a code says, the scan that follows has the last word.

use tierway_common::{
    programs::End,
    schema::{CommandLine, ExitCode, ExitResult},
};

use crate::install::codes::Outcome;

/// By which table an exit code is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Engine<'a> {
    /// Windows Installer's, under what the update's own metadata say.
    Installer(&'a [ExitCode]),
    /// Of `wusa`.
    Updates,
    /// Of `dism`.
    Servicing,
    /// A program's own, as its vendor describes it.
    Own(&'a CommandLine),
}

/// Another installation is in progress: the one code of Windows Installer that no description can talk away,
/// since nothing was done.
const BUSY: i32 = 1618;

impl Engine<'_> {
    /// What the end of the program means.
    pub(super) fn said(self, end: End) -> Outcome {
        let code = match end {
            End::Exited(code) => code,
            End::TimedOut => return Outcome::TimedOut,
            End::Signalled(signal) => return Outcome::Killed(signal),
        };
        match self {
            Self::Installer(named) => named
                .iter()
                .find(|named| named.code == code && code != BUSY)
                .map_or_else(|| of_installer(code), described),
            Self::Updates => of_updates(code),
            Self::Servicing => of_servicing(code),
            Self::Own(command) => own(command, code),
        }
    }
}

fn described(named: &ExitCode) -> Outcome {
    match named.result {
        ExitResult::Succeeded if named.reboot => Outcome::SuccessRebootRequired,
        ExitResult::Succeeded => Outcome::Success,
        ExitResult::Cancelled => Outcome::Cancelled,
        ExitResult::Failed if named.reboot => Outcome::RebootFirst,
        ExitResult::Failed => Outcome::Failed(named.code),
    }
}

/// What the vendor names counts; of what he does not, the codes that every installer of Windows shares come
/// before his word for all others, where that word is that it failed.
fn own(command: &CommandLine, code: i32) -> Outcome {
    if let Some(named) = command.exit_codes.iter().find(|named| named.code == code) {
        return described(named);
    }
    let otherwise = ExitCode { code, result: command.otherwise, reboot: command.reboot_otherwise };
    match described(&otherwise) {
        Outcome::Failed(_) if matches!(code, 0 | 1618 | 1641 | 3010) => of_installer(code),
        other => other,
    }
}

/// Windows Installer.
fn of_installer(code: i32) -> Outcome {
    match code {
        0 => Outcome::Success,
        3010 | 3011 => Outcome::SuccessRebootRequired,
        1641 => Outcome::RebootInitiated,
        // Busy; its service does not answer or cannot be started; safe mode.
        1618 | 1601 | 1631 | 1652 => Outcome::LockBusy,
        // Waits for a restart that is under way.
        3017..=3019 => Outcome::RebootFirst,
        1605 | 1614 | 1642 | 1647 | 1633 | 1654 => Outcome::NotApplicable,
        // Another version of it is there.
        1638 => Outcome::AlreadyInstalled,
        1602 | 1604 => Outcome::Cancelled,
        1625 | 1640 | 1643 | 1644 | 1645 => Outcome::BlockedByPolicy,
        1612 | 1619 | 1620 | 1635 | 1636 => Outcome::PayloadCorrupt,
        1632 | 112 => Outcome::NeedsMoreSpace,
        code => Outcome::Failed(code),
    }
}

/// `wusa`; its codes are results of the Windows Update agent.
fn of_updates(code: i32) -> Outcome {
    match code.cast_unsigned() {
        0 => Outcome::Success,
        3010 | 0x0024_0005 | 0x0024_2015 => Outcome::SuccessRebootRequired,
        1641 => Outcome::RebootInitiated,
        0x0024_0006 => Outcome::AlreadyInstalled,
        // Of an old one 1 means that too, or that it is there already.
        1 | 0x8024_0017 => Outcome::NotApplicable,
        1618 | 0x8024_0016 | 0x8024_0009 | 0x8024_0019 | 0x8024_001e => Outcome::LockBusy,
        0x8024_000b => Outcome::Cancelled,
        _ => of_servicing(code),
    }
}

/// `dism` and what is below it.
fn of_servicing(code: i32) -> Outcome {
    match code.cast_unsigned() {
        0 => Outcome::Success,
        3010 => Outcome::SuccessRebootRequired,
        1641 => Outcome::RebootInitiated,
        0x800f_081e => Outcome::NotApplicable,
        // A newer servicing stack or an earlier package is missing.
        0x800f_0823 | 0x800f_0831 => Outcome::DependencyUnsatisfied,
        0x800f_0821 | 0x800f_082f => Outcome::RebootFirst,
        // A file is open in another program; another servicing is at work.
        0x8007_0020 | 32 | 1618 => Outcome::LockBusy,
        0x8007_0070 | 112 => Outcome::NeedsMoreSpace,
        _ => Outcome::Failed(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_systems_own_installers_are_told_apart() {
        let exited = |code: u32| End::Exited(code.cast_signed());
        for (engine, code, outcome) in [
            (Engine::Installer(&[]), 0, Outcome::Success),
            (Engine::Installer(&[]), 3010, Outcome::SuccessRebootRequired),
            (Engine::Installer(&[]), 1641, Outcome::RebootInitiated),
            (Engine::Installer(&[]), 1618, Outcome::LockBusy),
            (Engine::Installer(&[]), 1638, Outcome::AlreadyInstalled),
            (Engine::Installer(&[]), 1642, Outcome::NotApplicable),
            (Engine::Installer(&[]), 1603, Outcome::Failed(1603)),
            (Engine::Installer(&[]), 1625, Outcome::BlockedByPolicy),
            (Engine::Updates, 0x0024_0006, Outcome::AlreadyInstalled),
            (Engine::Updates, 0x0024_0005, Outcome::SuccessRebootRequired),
            (Engine::Updates, 0x8024_0017, Outcome::NotApplicable),
            (Engine::Updates, 0x800f_0831, Outcome::DependencyUnsatisfied),
            (Engine::Servicing, 0x800f_081e, Outcome::NotApplicable),
            (Engine::Servicing, 0x8007_0070, Outcome::NeedsMoreSpace),
            (Engine::Servicing, 0x800f_0922, Outcome::Failed(0x800f_0922_u32.cast_signed())),
        ] {
            assert_eq!(engine.said(exited(code)), outcome, "{engine:?} {code:x}");
        }
        assert_eq!(Engine::Updates.said(End::TimedOut), Outcome::TimedOut);
    }

    #[test]
    fn a_package_names_its_own_codes_but_cannot_talk_away_that_the_installer_was_busy() {
        let code = |code, result, reboot| ExitCode { code, result, reboot };
        let named = [
            code(1603, ExitResult::Succeeded, false),
            code(1618, ExitResult::Succeeded, false),
            code(7, ExitResult::Succeeded, true),
        ];
        let engine = Engine::Installer(&named);
        assert_eq!(engine.said(End::Exited(1603)), Outcome::Success);
        assert_eq!(engine.said(End::Exited(1618)), Outcome::LockBusy);
        assert_eq!(engine.said(End::Exited(7)), Outcome::SuccessRebootRequired);
        let command = CommandLine {
            program: "setup.exe".to_owned(),
            arguments: String::new(),
            exit_codes: vec![code(5, ExitResult::Cancelled, false), code(9, ExitResult::Failed, true)],
            otherwise: ExitResult::Failed,
            reboot_otherwise: false,
        };
        for (code, outcome) in [
            (5, Outcome::Cancelled),
            (9, Outcome::RebootFirst),
            (0, Outcome::Success),
            (3010, Outcome::SuccessRebootRequired),
            (1603, Outcome::Failed(1603)),
        ] {
            assert_eq!(Engine::Own(&command).said(End::Exited(code)), outcome, "{code}");
        }
        let lenient = CommandLine { otherwise: ExitResult::Succeeded, ..command };
        assert_eq!(Engine::Own(&lenient).said(End::Exited(77)), Outcome::Success);
    }
}
