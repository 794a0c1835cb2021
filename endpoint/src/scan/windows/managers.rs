//! Other programs that install updates on this Windows, by its services and policies.

use tierway_common::facts::Domain;

use super::registry::{Registry, number, text};
use crate::scan::Collected;

const SERVICES: &str = r"HKLM\SYSTEM\CurrentControlSet\Services";
const POLICY: &str = r"HKLM\SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";
const CLIENT: &str = r"HKLM\SOFTWARE\Microsoft\SMS\Mobile Client";

/// `Start` of a service that is never started.
const DISABLED: u64 = 4;

/// Reads the domain `manager`.
pub(super) fn scan(registry: &dyn Registry, collected: &mut Collected) {
    let source = || "services and policies in the registry".to_owned();
    let domain = match (windows_update(registry), configuration_manager(registry)) {
        (Ok(update), Ok(client)) => {
            for (name, does) in [("windows-update", update), ("configuration-manager", client)] {
                if let Some(does) = does {
                    collected.set(format!("manager:{name}"), does);
                }
            }
            Domain::Complete { source: source() }
        }
        (Err(reason), _) | (_, Err(reason)) => Domain::Failed { source: source(), reason },
    };
    collected.domain("manager", domain);
}

fn may_start(registry: &dyn Registry, service: &str) -> Result<bool, String> {
    let start = number(registry, &format!("{SERVICES}\\{service}"), "Start")?;
    Ok(start.is_some_and(|start| start != DISABLED))
}

/// What Windows Update does by itself; `None` when it does nothing.
fn windows_update(registry: &dyn Registry) -> Result<Option<String>, String> {
    if !may_start(registry, "wuauserv")? {
        return Ok(None);
    }
    let policy = |name: &str| number(registry, &format!("{POLICY}\\AU"), name);
    if policy("NoAutoUpdate")? == Some(1) {
        return Ok(None);
    }
    let does = match policy("AUOptions")? {
        None => "installs updates, no policy says otherwise",
        Some(2) => "offers updates, by policy",
        Some(3) => "downloads updates and offers them, by policy",
        Some(4) => "installs updates by a schedule, by policy",
        Some(_) => "does what the computer's administrator chose, by policy",
    };
    let server = match policy("UseWUServer")? {
        Some(1) => text(registry, POLICY, "WUServer")?,
        _ => None,
    };
    Ok(Some(server.map_or_else(|| does.to_owned(), |server| format!("{does}, from {server}"))))
}

/// Whose client of Configuration Manager this is; `None` when it is none.
fn configuration_manager(registry: &dyn Registry) -> Result<Option<String>, String> {
    if !may_start(registry, "CcmExec")? {
        return Ok(None);
    }
    let site = text(registry, CLIENT, "AssignedSiteCode")?.filter(|site| !site.is_empty());
    Ok(Some(
        site.map_or_else(|| "its client runs".to_owned(), |site| format!("its client runs, of site {site}")),
    ))
}

#[cfg(test)]
mod tests {
    use super::{super::registry::Written, *};

    fn check(registry: &Written, wanted: &[(&str, &str)]) {
        let mut collected = Collected::default();
        scan(registry, &mut collected);
        let found: Vec<_> =
            collected.facts.values.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn windows_update_and_configuration_manager_are_told_by_what_they_may_do() {
        let mut registry = Written::default();
        check(&registry, &[]);
        registry.number(&format!("{SERVICES}\\wuauserv"), "Start", 3);
        let free = "installs updates, no policy says otherwise";
        check(&registry, &[("manager:windows-update", free)]);
        registry
            .number(&format!("{POLICY}\\AU"), "AUOptions", 4)
            .number(&format!("{POLICY}\\AU"), "UseWUServer", 1)
            .text(POLICY, "WUServer", "http://wsus:8530")
            .number(&format!("{SERVICES}\\CcmExec"), "Start", 2)
            .text(CLIENT, "AssignedSiteCode", "P01");
        check(
            &registry,
            &[
                ("manager:configuration-manager", "its client runs, of site P01"),
                (
                    "manager:windows-update",
                    "installs updates by a schedule, by policy, from http://wsus:8530",
                ),
            ],
        );
        registry.number(&format!("{POLICY}\\AU"), "NoAutoUpdate", 1).number(
            &format!("{SERVICES}\\CcmExec"),
            "Start",
            4,
        );
        check(&registry, &[]);
    }
}
