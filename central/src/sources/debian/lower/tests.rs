use tierway_common::{
    facts::{Domain, Facts},
    rules::evaluate::{Verdict, verdict},
    schema::Payload,
};

use super::*;

/// `name version architecture source source-version listed-for`.
fn binary(text: &str) -> Binary {
    let parts: Vec<&str> = text.split(' ').collect();
    let [name, version, architecture, source, source_version, listed] = parts[..] else { panic!("{text}") };
    let payload = Payload {
        digest: Digest::of([name, version, architecture].join(" ").as_bytes()),
        bytes: 1,
        url: String::new(),
    };
    Binary {
        package: DebPackage {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
            payload,
            control: BTreeMap::new(),
        },
        version: version.parse().unwrap(),
        source: source.to_owned(),
        source_version: source_version.parse().unwrap(),
        listed: listed.to_owned(),
    }
}

fn updates(binaries: &[&str], also_all: &[&str]) -> BTreeMap<UpdateId, Update> {
    let target = Target {
        catalogue: &"debian-12".parse().unwrap(),
        os_version: "12",
        architectures: &["amd64".to_owned(), "i386".to_owned()],
        also_all: &also_all.iter().map(|name| (*name).to_owned()).collect(),
    };
    let binaries = binaries.iter().map(|text| binary(text)).collect();
    lower(&target, binaries, &|_| Timestamp::UNIX_EPOCH).unwrap()
}

fn facts(os: &str, installed: &[&str]) -> Facts {
    let (family, version) = os.split_once(' ').unwrap();
    let complete = || Domain::Complete { source: String::new() };
    let values = installed.iter().map(|text| {
        let (package, version) = text.split_once(' ').unwrap();
        (format!("package:deb:{package}"), version.to_owned())
    });
    let os = [("os:family", family), ("os:version", version), ("os:architecture", "amd64")];
    Facts {
        domains: [("os".to_owned(), complete()), ("package:deb".to_owned(), complete())].into(),
        values: os.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().chain(values).collect(),
    }
}

/// Which updates are needed and installed on a Debian 12 of architecture amd64 with these packages.
fn check(binaries: &[&str], also_all: &[&str], installed: &[&str], expected: &str) {
    let facts = facts("debian 12", installed);
    let verdicts: Vec<String> = updates(binaries, also_all)
        .into_values()
        .filter_map(|update| match verdict(&update, &facts) {
            Verdict::Needed => Some(format!("{} needed", update.id.name())),
            Verdict::Installed => Some(format!("{} installed", update.id.name())),
            Verdict::NotApplicable => None,
            Verdict::Unknown { reason } => Some(format!("{} unknown: {reason}", update.id.name())),
        })
        .collect();
    assert_eq!(verdicts.join(", "), expected, "{binaries:?} on {installed:?}");
}

const SSL: [&str; 3] = [
    "openssl 3-2 amd64 openssl 3-2 amd64",
    "libssl 3-2 amd64 openssl 3-2 amd64",
    "ssl-doc 3-2 all openssl 3-2 amd64",
];

#[test]
fn an_update_is_needed_as_long_as_one_of_its_installed_packages_is_older() {
    check(&SSL, &[], &[], "");
    check(&SSL, &[], &["other:amd64 1"], "");
    check(&SSL, &[], &["openssl:amd64 3-1"], "openssl_3-2 needed");
    check(&SSL, &[], &["openssl:amd64 3-2", "libssl:amd64 3-1"], "openssl_3-2 needed");
    check(&SSL, &[], &["openssl:amd64 3-2", "libssl:amd64 3-2"], "openssl_3-2 installed");
    check(&SSL, &[], &["openssl:amd64 3-10"], "openssl_3-2 installed");
    check(&SSL, &[], &["openssl:amd64 3-2~rc1"], "openssl_3-2 needed");
    check(&SSL, &[], &["ssl-doc:all 3-1"], "openssl_3-2 needed");
}

#[test]
fn an_update_is_for_its_own_release_only() {
    let update = updates(&SSL, &[]).into_values().next().unwrap();
    for os in ["debian 11", "debian 13", "ubuntu 12"] {
        assert_eq!(verdict(&update, &facts(os, &["openssl:amd64 1"])), Verdict::NotApplicable, "{os}");
    }
    let unread = Facts { domains: BTreeMap::new(), ..facts("debian 12", &[]) };
    assert!(matches!(verdict(&update, &unread), Verdict::Unknown { .. }));
}

#[test]
fn each_binary_compares_with_its_own_version_not_that_of_the_source() {
    let rebuilt = ["lib 2+b1 amd64 lib 2 amd64", "meta 7.2 amd64 lib 2 amd64"];
    check(&rebuilt, &[], &["lib:amd64 2"], "lib_2 needed");
    check(&rebuilt, &[], &["lib:amd64 2+b1", "meta:amd64 7.1"], "lib_2 needed");
    check(&rebuilt, &[], &["lib:amd64 2+b1", "meta:amd64 7.2"], "lib_2 installed");
}

#[test]
fn a_package_of_another_architecture_is_not_taken_for_this_one() {
    let only_amd64 = ["lib 2 amd64 lib 2 amd64"];
    check(&only_amd64, &[], &["lib:i386 1"], "");
    check(&only_amd64, &[], &["lib:amd64 2", "lib:i386 1"], "lib_2 installed");
    let both = ["lib 2 amd64 lib 2 amd64", "lib 2+b1 i386 lib 2 i386"];
    check(&both, &[], &["lib:amd64 2", "lib:i386 2"], "lib_2 needed");
    check(&both, &[], &["lib:amd64 2", "lib:i386 2+b1"], "lib_2 installed");
}

#[test]
fn a_package_that_changed_from_or_to_all_is_still_the_same() {
    check(&["tool 2 all tool 2 amd64"], &[], &["tool:amd64 1"], "tool_2 needed");
    check(&["tool 2 amd64 tool 2 amd64"], &["tool"], &["tool:all 1"], "tool_2 needed");
    check(&["tool 2 amd64 tool 2 amd64"], &["tool"], &["tool:all 2"], "tool_2 installed");
    check(&["tool 2 i386 tool 2 i386"], &["tool"], &["tool:all 1"], "");
}

#[test]
fn only_the_newest_of_a_name_counts_but_older_abis_stay() {
    let kernel = [
        "image-40 6.1.40 amd64 linux 6.1.40 amd64",
        "linux-doc 6.1.40 all linux 6.1.40 amd64",
        "image-41 6.1.41 amd64 linux 6.1.41 amd64",
        "linux-doc 6.1.41 all linux 6.1.41 amd64",
        "image 6.1.41 amd64 signed 6.1.41+1 amd64",
        "image 6.1.40 amd64 signed 6.1.40+1 amd64",
    ];
    let made = updates(&kernel, &[]);
    let names: Vec<&str> = made.keys().map(UpdateId::name).collect();
    assert_eq!(
        names,
        ["linux_6.1.40", "linux_6.1.41", "signed_6.1.41+1"],
        "nothing is left of the older signed"
    );
    check(&kernel, &[], &["image-40:amd64 6.1.39"], "linux_6.1.40 needed");
    check(&kernel, &[], &["linux-doc:all 6.1.40"], "linux_6.1.41 needed");
    let current = ["image-40:amd64 6.1.40", "image:amd64 6.1.40", "linux-doc:all 6.1.41"];
    check(&kernel, &[], &current, "linux_6.1.40 installed, linux_6.1.41 installed, signed_6.1.41+1 needed");
}

#[test]
fn a_package_that_moved_to_another_source_counts_where_it_is_newest() {
    let moved = ["tool 1 amd64 old 1 amd64", "tool 2 amd64 new 2 amd64", "rest 1 amd64 old 1 amd64"];
    check(&moved, &[], &["tool:amd64 0"], "new_2 needed");
    check(&moved, &[], &["tool:amd64 2", "rest:amd64 0"], "new_2 installed, old_1 needed");
}

#[test]
fn a_suite_that_contradicts_itself_or_cannot_be_named_is_refused() {
    let target = Target {
        catalogue: &"debian-12".parse().unwrap(),
        os_version: "12",
        architectures: &["amd64".to_owned()],
        also_all: &BTreeSet::new(),
    };
    let fail = |binaries: Vec<Binary>| lower(&target, binaries, &|_| Timestamp::UNIX_EPOCH).unwrap_err();
    let one = binary("a 1 amd64 a 1 amd64");
    let mut other = one.clone();
    other.package.payload.digest = Digest::of(b"other");
    assert!(fail(vec![one.clone(), other]).to_string().contains("`a_1_amd64`"));
    let long = Binary { source: "a".repeat(200), ..one.clone() };
    assert!(matches!(fail(vec![long]), LowerError::Id { .. }));
    let many = (0..20_000).map(|n| binary(&format!("p{n} 1 amd64 a 1 amd64"))).collect();
    assert!(matches!(fail(many), LowerError::Rule { .. }));
    assert_eq!(
        lower(&target, vec![one.clone(), one], &|_| Timestamp::UNIX_EPOCH).unwrap().len(),
        1,
        "the same twice is once"
    );
}
