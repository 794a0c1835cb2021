use tierway_common::{
    facts::Facts,
    rules::{Verdict, verdict},
};

use super::*;
use crate::sources::windows::{rules::Tally, update::read};

const CATALOGUE: &str = "windows";

/// A name made of a small number.
fn guid(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

/// An update that is installed when flag `<number>` is and installable when flag `<number>-fits` is, in words of
/// the licence values, which are facts that anybody can make up.
fn flags(number: u32) -> String {
    let flag = |name: &str| format!("<LicenseDword Value=\"{name}\" Comparison=\"EqualTo\" Data=\"1\"/>");
    format!(
        "<ApplicabilityRules><IsInstalled>{}</IsInstalled><IsSuperseded>{}</IsSuperseded><IsInstallable>{}\
         </IsInstallable></ApplicabilityRules>",
        flag(&number.to_string()),
        flag(&format!("{number}-replaced")),
        flag(&format!("{number}-fits"))
    )
}

fn piece(number: u32, kind: &str, rest: &str) -> String {
    let id = guid(number);
    format!(
        "<UpdateIdentity UpdateID=\"{id}\" RevisionNumber=\"1\"/><Properties UpdateType=\"{kind}\"/>{rest}"
    )
}

fn relations(inner: &str) -> String {
    format!("<Relationships>{inner}</Relationships>")
}

fn named(number: u32) -> String {
    format!("<UpdateIdentity UpdateID=\"{}\" RevisionNumber=\"1\"/>", guid(number))
}

fn revisions(pieces: &[String]) -> Revisions {
    let mut revisions = Revisions::default();
    for piece in pieces {
        revisions.add(read([piece.as_bytes()], &mut Tally::default()).unwrap());
    }
    revisions
}

fn lowered(pieces: &[String]) -> Lowered {
    lower(&CATALOGUE.parse().unwrap(), &revisions(pieces), &|_| Timestamp::UNIX_EPOCH)
}

/// Which of the licence values are 1; all others that are asked are 0.
fn facts(set: &[&str], all: &[&str]) -> Facts {
    let value = |name: &&str| {
        let value = if set.contains(name) { "1" } else { "0" };
        (format!("number:license:{name}"), value.to_owned())
    };
    Facts { values: all.iter().map(value).collect(), ..Facts::default() }
}

/// Checks the verdict on update 1 for each set of values that are 1.
fn check(pieces: &[String], all: &[&str], cases: &[(&[&str], Verdict)]) {
    let lowered = lowered(pieces);
    let update = &lowered.updates[&format!("{CATALOGUE}/{}", guid(1)).parse().unwrap()];
    for (set, wanted) in cases {
        assert_eq!(verdict(update, &facts(set, all)), *wanted, "{set:?}");
    }
}

fn not_in_catalogue(what: &str, number: u32) -> Verdict {
    Verdict::Unknown { reason: format!("the {what} `{}` is not in the catalogue", guid(number)) }
}

#[test]
fn an_update_is_offered_when_it_is_installable_and_neither_installed_nor_replaced() {
    let pieces = [piece(1, "Software", &flags(1))];
    check(
        &pieces,
        &["1", "1-fits", "1-replaced"],
        &[
            (&[], Verdict::NotApplicable),
            (&["1-fits"], Verdict::Needed),
            (&["1", "1-fits"], Verdict::Installed),
            (&["1"], Verdict::Installed),
            (&["1-fits", "1-replaced"], Verdict::NotApplicable),
            (&["1", "1-replaced"], Verdict::Installed),
        ],
    );
    let none = [piece(1, "Software", "")];
    check(&none, &[], &[(&[], Verdict::NotApplicable)]);
}

#[test]
fn every_group_of_prerequisites_needs_one_that_is_installed_with_its_own() {
    let one = format!(
        "<Prerequisites>{}<AtLeastOne>{}{}</AtLeastOne><AtLeastOne IsCategory=\"true\">{}</AtLeastOne>\
         </Prerequisites>",
        named(2),
        named(3),
        named(4),
        named(5)
    );
    let four = format!("<Prerequisites>{}</Prerequisites>", named(6));
    let pieces = [
        piece(1, "Software", &(relations(&one) + &flags(1))),
        piece(2, "Detectoid", &flags(2)),
        piece(3, "Detectoid", &flags(3)),
        piece(4, "Detectoid", &(relations(&four) + &flags(4))),
        piece(5, "Category", ""),
        piece(6, "Detectoid", &flags(6)),
    ];
    let all = ["1", "1-fits", "1-replaced", "2", "3", "4", "6"];
    check(
        &pieces,
        &all,
        &[
            (&["1-fits", "2", "3"], Verdict::Needed),
            (&["1-fits", "3"], Verdict::NotApplicable),
            (&["1-fits", "2", "4"], Verdict::NotApplicable),
            (&["1-fits", "2", "4", "6"], Verdict::Needed),
            (&["1", "2", "3"], Verdict::Installed),
            (&["1", "3"], Verdict::NotApplicable),
        ],
    );
    check(&pieces[..5], &all, &[(&["1-fits", "2", "4"], not_in_catalogue("prerequisite", 6))]);
    check(&pieces[..5], &all, &[(&["1-fits", "2", "3"], Verdict::Needed)]);
}

#[test]
fn prerequisites_that_go_round_in_circles_are_unknown() {
    let on = |number| relations(&format!("<Prerequisites>{}</Prerequisites>", named(number)));
    let pieces = [
        piece(1, "Software", &(on(2) + &flags(1))),
        piece(2, "Detectoid", &(on(3) + &flags(2))),
        piece(3, "Detectoid", &(on(2) + &flags(3))),
    ];
    let reason = "its prerequisites go round in circles".to_owned();
    let all = ["1", "1-fits", "1-replaced", "2", "3"];
    check(&pieces, &all, &[(&["1-fits", "2", "3"], Verdict::Unknown { reason })]);
    check(&pieces, &all, &[(&["1-fits", "2"], Verdict::NotApplicable)]);
}

#[test]
fn a_bundle_is_installed_when_every_group_has_an_installed_part_and_none_is_missing() {
    let bundle = format!(
        "<BundledUpdates><AtLeastOne>{}{}</AtLeastOne>{}</BundledUpdates>",
        named(2),
        named(3),
        named(4)
    );
    let pieces = [
        piece(1, "Software", &relations(&bundle)),
        piece(2, "Software", &flags(2)),
        piece(3, "Software", &flags(3)),
        piece(4, "Software", &flags(4)),
    ];
    let all = ["2", "2-fits", "2-replaced", "3", "3-fits", "3-replaced", "4", "4-fits", "4-replaced"];
    check(
        &pieces,
        &all,
        &[
            (&[], Verdict::NotApplicable),
            (&["2-fits"], Verdict::Needed),
            (&["2", "4-fits"], Verdict::Needed),
            (&["2", "4"], Verdict::Installed),
            (&["2", "3-fits", "4"], Verdict::Needed),
            // The second group matters to nobody here: nothing is to be installed.
            (&["2"], Verdict::NotApplicable),
            (&["2-replaced", "2-fits"], Verdict::NotApplicable),
        ],
    );
    let found = lowered(&pieces);
    assert_eq!(found.updates.len(), 1, "parts make no documents of their own");
    let Install::Bundle { parts } = &found.updates.values().next().unwrap().install else { panic!() };
    let names: Vec<_> = parts.iter().map(|part| part.name.clone()).collect();
    assert_eq!(names, [guid(2), guid(3), guid(4)]);
    check(&pieces[..3], &all, &[(&["2"], not_in_catalogue("part", 4))]);
}

#[test]
fn a_bundle_of_very_many_parts_is_not_left_out() {
    let names: String = (2..302).map(named).collect();
    let bundle = format!("<BundledUpdates><AtLeastOne>{names}</AtLeastOne></BundledUpdates>");
    let heavy = |number: u32| {
        let many: String = (0..10)
            .map(|_| format!("<LicenseDword Value=\"{number}\" Comparison=\"EqualTo\" Data=\"1\"/>"))
            .collect();
        format!(
            "<ApplicabilityRules><IsInstalled><And>{many}</And></IsInstalled><IsInstallable>\
             <LicenseDword Value=\"{number}-fits\" Comparison=\"EqualTo\" Data=\"1\"/></IsInstallable>\
             </ApplicabilityRules>"
        )
    };
    let mut pieces = vec![piece(1, "Software", &relations(&bundle))];
    pieces.extend((2..302).map(|number| piece(number, "Software", &heavy(number))));
    let found = lowered(&pieces);
    assert_eq!((found.updates.len(), found.left_out.len()), (1, 0));
    let names: Vec<String> = (2..302).flat_map(|n| [n.to_string(), format!("{n}-fits")]).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    check(
        &pieces,
        &all,
        &[
            (&[], Verdict::NotApplicable),
            (&["7-fits"], Verdict::Needed),
            (&["7", "9-fits"], Verdict::Needed),
            (&["7", "9"], Verdict::Installed),
        ],
    );
}

#[test]
fn supersedence_names_both_ends_and_only_what_is_there() {
    let older = |numbers: &[u32]| {
        let named: String = numbers.iter().map(|number| named(*number)).collect();
        relations(&format!("<SupersededUpdates>{named}</SupersededUpdates>"))
    };
    let found = lowered(&[
        piece(1, "Software", &(older(&[2, 3, 99]) + &flags(1))),
        piece(2, "Software", &flags(2)),
        piece(3, "Detectoid", &flags(3)),
    ]);
    let id = |number| format!("{CATALOGUE}/{}", guid(number)).parse::<UpdateId>().unwrap();
    assert_eq!(found.updates[&id(1)].supersedes, [id(2)]);
    assert_eq!(found.updates[&id(2)].superseded_by, [id(1)]);
}

#[test]
fn a_higher_revision_replaces_a_lower_one_and_a_withdrawn_update_is_gone() {
    let at = |revision: u32, more: &str| {
        let id = guid(1);
        let text = format!(
            "<upd:Update xmlns:upd=\"u\"><upd:UpdateIdentity UpdateID=\"{id}\" RevisionNumber=\"{revision}\"/>\
             <upd:Properties UpdateType=\"Software\" {more}/></upd:Update>"
        );
        read([text.as_bytes()], &mut Tally::default()).unwrap()
    };
    let mut revisions = Revisions::default();
    for revision in [at(2, ""), at(1, ""), at(3, "PublicationState=\"Expired\"")] {
        revisions.add(revision);
        let found = lower(&CATALOGUE.parse().unwrap(), &revisions, &|_| Timestamp::UNIX_EPOCH);
        let versions: Vec<_> = found.updates.values().map(|update| update.version.clone()).collect();
        let highest = revisions.iter().next().unwrap().identity.revision;
        assert_eq!(versions, if highest == 3 { vec![] } else { vec!["2".to_owned()] });
    }
}
