//! Rules and facts out of one small world, for property tests: small, so that tests and facts meet.

use proptest::{collection, option, prelude::*};

use super::expr::{
    AttributeTest, Compare, DataOrdering, Expr, FileTest, FlagTest, LOOP_TARGET, LoopTest, Manager, MsiPart,
    MsiTest, NumberTest, OsTest, PackageTest, Quantity, RegistryTest, UnknownTest, UpdateTest, WindowsTest,
    WmiTest,
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
        "Debian",
        "2026-01-02T03:04:05Z",
        "2026-01-02",
    ])
    .prop_map(str::to_owned)
}

fn compare() -> impl Strategy<Value = Compare> {
    (value(), 0..9).prop_map(|(value, how)| match how {
        0 => Compare::Lt(value),
        1 => Compare::Le(value),
        2 => Compare::Eq(value),
        3 => Compare::Ge(value),
        4 => Compare::Gt(value),
        5 => Compare::Ne(value),
        6 => Compare::Begins(value),
        7 => Compare::Contains(value),
        _ => Compare::Ends(value),
    })
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    prop::sample::select(words).prop_map(str::to_owned)
}

const MANAGERS: [Manager; 4] = [Manager::Deb, Manager::Rpm, Manager::Msi, Manager::Cbs];
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
    let windows = (
        option::of(compare()),
        option::of(word(&["server"])),
        option::of(Just(512)),
        option::of(word(&["de-de"])),
        option::of(word(&["de-de"])),
    )
        .prop_map(|(service_pack, product_type, suite, language, mui)| {
            Expr::Windows(Box::new(WindowsTest { service_pack, product_type, suite, language, mui }))
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
    let file = (
        word(PATHS),
        option::of(compare()),
        option::of(compare()),
        option::of(word(&["00", "11"])),
        option::of(compare()),
        option::of(compare()),
    )
        .prop_map(|(path, version, size, sha256, created, modified)| {
            Expr::File(FileTest { path, version, size, sha256, created, modified, language: None })
        });
    let registry = (
        word(NAMES),
        option::of(word(NAMES)),
        option::of(word(&["REG_SZ"])),
        option::of(compare()),
        option::of(ordering()),
    )
        .prop_map(|(key, value, kind, data, ordering)| {
            Expr::Registry(RegistryTest { key, value, kind, data, ordering })
        });
    let attribute = (word(NAMES), compare(), option::of(ordering()))
        .prop_map(|(name, value, ordering)| Expr::Attribute(AttributeTest { name, value, ordering }));
    let part = prop_oneof![
        word(NAMES).prop_map(MsiPart::Feature),
        word(NAMES).prop_map(MsiPart::Component),
        word(NAMES).prop_map(MsiPart::Patch),
    ];
    let msi = (word(NAMES), part).prop_map(|(product, part)| Expr::Msi(MsiTest { product, part }));
    let quantity = prop::sample::select(vec![Quantity::Any, Quantity::All, Quantity::None]);
    let each = (word(NAMES), quantity).prop_map(|(key, of)| {
        let test = RegistryTest { key: LOOP_TARGET.to_owned(), ..RegistryTest::default() };
        Expr::RegistryLoop(LoopTest { key, of, test: Box::new(Expr::Registry(test)) })
    });
    prop_oneof![
        1 => any::<bool>().prop_map(Expr::Const),
        2 => os,
        1 => windows,
        6 => package,
        2 => file,
        2 => registry,
        2 => attribute,
        1 => msi,
        1 => each,
        1 => (word(NAMES), word(NAMES))
            .prop_map(|(namespace, query)| Expr::Wmi(WmiTest { namespace, query })),
        1 => word(NAMES).prop_map(|reason| Expr::Unknown(UnknownTest { reason })),
        1 => word(NAMES).prop_map(|id| Expr::Update(UpdateTest { id })),
        1 => word(NAMES).prop_map(|name| Expr::Flag(FlagTest { name })),
        1 => (word(NAMES), compare()).prop_map(|(name, value)| Expr::Number(NumberTest { name, value })),
    ]
}

fn ordering() -> impl Strategy<Value = DataOrdering> {
    prop::sample::select(vec![
        DataOrdering::Deb,
        DataOrdering::Rpm,
        DataOrdering::Windows,
        DataOrdering::Semver,
        DataOrdering::Number,
        DataOrdering::Caseless,
    ])
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
    let mut keys: Vec<String> = [
        "family",
        "version",
        "codename",
        "build",
        "architecture",
        "service-pack",
        "product-type",
        "suite-512",
    ]
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
        keys.extend(
            ["version", "size", "sha256", "created", "modified"].map(|part| format!("file:{path}#{part}")),
        );
    }
    for name in NAMES {
        keys.extend(["registry", "update", "flag", "number"].map(|kind| format!("{kind}:{name}")));
        for at in ["", "@value:", "@type:"] {
            keys.extend([format!("registry:{at}{name}#"), format!("registry:{at}{name}#p")]);
        }
        keys.extend([format!("attribute:{name}"), format!("msi:{name}/patch/p"), format!("wmi:{name}:p")]);
        keys.push(format!("undecidable:{name}"));
        let each = r#"{"registry":{"key":"HKEY_LOOP_TARGET"}}"#;
        keys.push(format!("registry-loop:any {name}: {each}"));
    }
    keys
}

/// A value that often suits its key.
fn fact() -> impl Strategy<Value = (String, String)> {
    (prop::sample::select(keys()), value(), any::<bool>(), 0..4).prop_map(|(key, any, yes, odd)| {
        let text = match key.split_once(':').map(|(kind, rest)| (kind, rest.contains('#'))) {
            _ if odd == 0 => any,
            Some(("file" | "registry" | "msi", false)) => if yes { "present" } else { "absent" }.to_owned(),
            Some(("registry", true)) if key.contains("@value") => {
                if yes { "present" } else { "absent" }.to_owned()
            }
            Some(("flag" | "wmi" | "registry-loop", _)) => yes.to_string(),
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
    const DOMAINS: [&str; 15] = [
        "os",
        "package:deb",
        "package:rpm",
        "package:msi",
        "package:cbs",
        "file",
        "registry",
        "registry-loop",
        "update",
        "flag",
        "number",
        "attribute",
        "msi",
        "wmi",
        "undecidable",
    ];
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
