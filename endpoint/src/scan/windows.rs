//! Probes of Windows, most of which read the registry.
//!
//! The registry and the service of `wmi` are arguments, so that everything that is made of it is tested on any system; only
//! [`registry`] and [`wmi`] call Windows. What a program would have to be asked for is not read, it stays unknown.

pub mod files;
mod language;
pub mod managers;
pub mod os;
pub mod place;
pub mod products;
pub mod programs;
pub mod questions;
pub mod reboot;
pub mod registry;
pub mod resource;
pub mod servicing;
pub mod wmi;

use tierway_common::facts::{Domain, Facts};

use self::{registry::Registry, wmi::Wmi};
use super::{Asked, Collected, Problem, hash::Budget};

/// Reads the domains `os`, `package:msi`, `package:cbs`, `update`, `program`, `flag`, `number`, `manager` and, as far as
/// `asked`, `file`, `registry`, `registry-loop`, `msi` and `wmi`.
///
/// `machine` is the architecture as Windows names it.
#[must_use]
pub fn scan(registry: &dyn Registry, wmi: &impl Wmi, asked: &Asked, machine: &str) -> (Facts, Vec<Problem>) {
    let mut collected = Collected::default();
    os::scan(registry, machine, &mut collected);
    products::scan(registry, &mut collected);
    servicing::scan(registry, &mut collected);
    programs::scan(registry, &mut collected);
    flags(registry, &mut collected);
    managers::scan(registry, &mut collected);
    let mut budget = Budget::new();
    files::scan(registry, asked, &mut budget, &mut collected);
    questions::scan(registry, asked, &mut budget, &mut collected);
    wmi::scan(wmi, asked, (wmi::QUERY_LIMIT, wmi::SCAN_LIMIT), &mut collected);
    (collected.facts, collected.problems)
}

fn flags(registry: &dyn Registry, collected: &mut Collected) {
    let (signs, problems) = reboot::signs(registry);
    if problems.is_empty() || !signs.is_empty() {
        let pending = crate::signs::reboot_needed(&signs);
        collected.set("flag:reboot-pending", if pending { "true" } else { "false" });
    }
    collected.problems.extend(problems);
    match registry.has("HKLM\\Cluster") {
        Ok(there) => collected.set("flag:clustered", if there { "true" } else { "false" }),
        Err(reason) => collected.problem(reason),
    }
    collected.domain("flag", Domain::Asked { source: "the registry".to_owned() });
}
