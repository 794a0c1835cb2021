//! A month's advisories as CVRF: XML with a part for each vulnerability.

use std::{cell::Cell, collections::BTreeSet, io::Read};

use tierway_common::schema::Severity;

use crate::sources::{
    advisories::{Advisories, Fix, article},
    windows::{
        model::severity,
        update::ReadError,
        xml::{self, Element},
    },
};

/// What every such document is.
const ROOT: &str = "cvrfdoc";

/// Adds what a document says.
///
/// # Errors
///
/// [`ReadError`]; what was read until then is added.
pub(super) fn read(input: impl Read, bytes_max: u64, advisories: &mut Advisories) -> Result<(), ReadError> {
    let is_cvrf = Cell::new(false);
    let wanted = |name: &str| {
        is_cvrf.set(is_cvrf.get() || name == ROOT);
        name == "Vulnerability"
    };
    xml::each(input, bytes_max, &wanted, &mut |element| -> Result<(), ReadError> {
        vulnerability(&element, advisories);
        Ok(())
    })?;
    if is_cvrf.get() { Ok(()) } else { Err(ReadError::Missing { what: ROOT }) }
}

fn products(element: &Element) -> BTreeSet<&str> {
    element.all("ProductID").map(Element::text).collect()
}

fn vulnerability(element: &Element, advisories: &mut Advisories) {
    let Some(name) = element.text_of("CVE") else { return };
    let threats = element.child("Threats").into_iter().flat_map(|threats| threats.all("Threat"));
    let rated: Vec<(BTreeSet<&str>, Severity)> = threats
        .filter(|threat| threat.attribute("Type") == Some("Severity"))
        .map(|threat| (products(threat), severity(threat.text_of("Description").unwrap_or_default())))
        .collect();
    for fix in element.child("Remediations").into_iter().flat_map(|fixes| fixes.all("Remediation")) {
        if fix.attribute("Type") != Some("Vendor Fix") {
            continue;
        }
        let Some(number) = fix.text_of("Description").and_then(article) else { continue };
        let fixed = products(fix);
        // What is said of no product in particular is said of all.
        let concerns =
            |rated: &BTreeSet<&str>| rated.is_empty() || fixed.is_empty() || !rated.is_disjoint(&fixed);
        let worst =
            rated.iter().filter(|(products, _)| concerns(products)).map(|(_, severity)| *severity).max();
        let older = fix.text_of("Supercedence").unwrap_or_default();
        advisories.add(
            &number,
            &Fix {
                closes: [name.to_owned()].into(),
                severity: worst.unwrap_or(Severity::Unspecified),
                supersedes: older
                    .split([',', ';', ' '])
                    .filter_map(article)
                    .filter(|older| *older != number)
                    .collect(),
            },
        );
    }
}
