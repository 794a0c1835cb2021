//! Rules and facts out of one small world, for property tests: small, so that tests and facts meet.

use proptest::{collection, option, prelude::*};

use super::expr::{
    Compare, Expr, FileTest, FlagTest, Manager, NumberTest, Ordering, OsTest, PackageTest, RegistryTest,
    UpdateTest,
};
use crate::facts::{Domain, Facts};

/// Values of versions, numbers and words, some of which are nonsense in some ordering.
fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "1",
        "1.0",
        "2",
        "2.0-1",
        "10",
        "1:1",
        "1.0~rc1",
        "1.0.0",
        "1.0.0-a",
        "not a version",
        "",
        "debian",
        "12",
        "true",
        "false",
        "present",
        "absent",
        "installed",
    ])
    .prop_map(str::to_owned)
}

fn compare() -> impl Strategy<Value = Compare> {
    (value(), 0..6).prop_map(|(value, how)| match how {
        0 => Compare::Lt(value),
        1 => Compare::Le(value),
        2 => Compare::Eq(value),
        3 => Compare::Ge(value),
        4 => Compare::Gt(value),
        _ => Compare::Ne(value),
    })
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    prop::sample::select(words).prop_map(str::to_owned)
}

const MANAGERS: [Manager; 3] = [Manager::Deb, Manager::Rpm, Manager::Msi];
const PACKAGES: &[&str] = &["a", "b", "a:b", "ab"];
const ARCHITECTURES: &[&str] = &["amd64", "i386", "b"];
const PATHS: &[&str] = &["/x", "/y", "/x#version"];
const NAMES: &[&str] = &["p", "q"];

fn leaf() -> impl Strategy<Value = Expr> {
    let os = (
        option::of(word(&["debian", "windows"])),
        option::of(compare()),
        option::of(word(&["bookworm", "trixie"])),
        option::of(compare()),
        option::of(word(&["amd64"])),
    )
        .prop_map(|(family, version, codename, build, architecture)| {
            Expr::Os(OsTest { family, version, codename, build, architecture })
        });
    let package = (
        prop::sample::select(&MANAGERS[..]),
        word(PACKAGES),
        option::of(word(ARCHITECTURES)),
        option::of(compare()),
    )
        .prop_map(|(manager, name, architecture, version)| {
            Expr::Package(PackageTest { manager, name, architecture, version })
        });
    let file = (word(PATHS), option::of(compare()), option::of(compare()), option::of(word(&["00", "11"])))
        .prop_map(|(path, version, size, sha256)| Expr::File(FileTest { path, version, size, sha256 }));
    let ordering =
        prop::sample::select(vec![Ordering::Deb, Ordering::Rpm, Ordering::Windows, Ordering::Semver]);
    let registry = (word(NAMES), option::of(word(NAMES)), option::of(compare()), option::of(ordering))
        .prop_map(|(key, value, data, ordering)| Expr::Registry(RegistryTest { key, value, data, ordering }));
    prop_oneof![
        1 => any::<bool>().prop_map(Expr::Const),
        2 => os,
        6 => package,
        2 => file,
        2 => registry,
        1 => word(NAMES).prop_map(|id| Expr::Update(UpdateTest { id })),
        1 => word(NAMES).prop_map(|name| Expr::Flag(FlagTest { name })),
        1 => (word(NAMES), compare()).prop_map(|(name, value)| Expr::Number(NumberTest { name, value })),
    ]
}

/// Rules up to depth 5 or so.
pub(super) fn expr() -> impl Strategy<Value = Expr> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Expr::All),
            collection::vec(inner.clone(), 0..4).prop_map(Expr::Any),
            inner.prop_map(|child| Expr::Not(Box::new(child))),
        ]
    })
}

fn domain() -> impl Strategy<Value = Option<Domain>> {
    prop_oneof![
        1 => Just(None),
        3 => Just(Some(Domain::Complete { source: "here".to_owned() })),
        1 => Just(Some(Domain::Asked { source: "there".to_owned() })),
        1 => Just(Some(Domain::Failed { source: "nowhere".to_owned(), reason: "it is gone".to_owned() })),
    ]
}

fn keys() -> Vec<String> {
    let mut keys: Vec<String> = ["family", "version", "codename", "build", "architecture"]
        .iter()
        .map(|part| format!("os:{part}"))
        .collect();
    for manager in MANAGERS {
        for name in PACKAGES {
            for architecture in ARCHITECTURES {
                keys.push(format!("package:{}:{name}:{architecture}", manager.as_str()));
            }
        }
    }
    for path in PATHS {
        keys.push(format!("file:{path}"));
        keys.extend(["version", "size", "sha256"].map(|part| format!("file:{path}#{part}")));
    }
    for name in NAMES {
        keys.extend(["registry", "update", "flag", "number"].map(|kind| format!("{kind}:{name}")));
        keys.extend([format!("registry:{name}#"), format!("registry:{name}#p")]);
    }
    keys
}

/// A value that often suits its key.
fn fact() -> impl Strategy<Value = (String, String)> {
    (prop::sample::select(keys()), value(), any::<bool>(), 0..4).prop_map(|(key, any, yes, odd)| {
        let text = match key.split_once(':').map(|(kind, rest)| (kind, rest.contains('#'))) {
            _ if odd == 0 => any,
            Some(("file" | "registry", false)) => if yes { "present" } else { "absent" }.to_owned(),
            Some(("flag", _)) => yes.to_string(),
            Some(("update", _)) => "installed".to_owned(),
            Some(("number", _)) => if yes { "1" } else { "10" }.to_owned(),
            _ if key.ends_with("family") => "debian".to_owned(),
            _ if key.ends_with("codename") => "bookworm".to_owned(),
            _ if key.ends_with("sha256") => "00".to_owned(),
            _ => any,
        };
        (key, text)
    })
}

/// Facts with domains of every kind.
pub(super) fn facts() -> impl Strategy<Value = Facts> {
    const DOMAINS: [&str; 9] =
        ["os", "package:deb", "package:rpm", "package:msi", "file", "registry", "update", "flag", "number"];
    (collection::vec(domain(), DOMAINS.len()), collection::vec(fact(), 0..24)).prop_map(
        |(domains, values)| Facts {
            domains: domains
                .into_iter()
                .zip(DOMAINS)
                .filter_map(|(domain, name)| Some((name.to_owned(), domain?)))
                .collect(),
            values: values.into_iter().collect(),
        },
    )
}
