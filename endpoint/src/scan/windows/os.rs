//! Which Windows it is.

use tierway_common::facts::Domain;

use super::{
    language,
    registry::{Registry, number, text},
};
use crate::scan::Collected;

const CURRENT: &str = r"HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const OPTIONS: &str = r"HKLM\SYSTEM\CurrentControlSet\Control\ProductOptions";
const CONTROL: &str = r"HKLM\SYSTEM\CurrentControlSet\Control\Windows";
const LANGUAGE: &str = r"HKLM\SYSTEM\CurrentControlSet\Control\Nls\Language";
const INTERFACE: &str = r"HKLM\SYSTEM\CurrentControlSet\Control\MUI\UILanguages";
const LOCALES: &str = r"HKCR\MIME\Database\Rfc1766";
const ENVIRONMENT: &str = r"HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment";

/// The first build of Windows 11, whose registry still says 10.
const BUILD_OF_11: u64 = 22_000;

/// Bits of the suite mask by the names that the registry gives them.
const SUITES: [(&str, u32); 12] = [
    ("Small Business", 0x1),
    ("Enterprise", 0x2),
    ("BackOffice", 0x4),
    ("CommunicationServer", 0x8),
    ("Terminal Server", 0x10),
    ("Small Business(Restricted)", 0x20),
    ("EmbeddedNT", 0x40),
    ("DataCenter", 0x80),
    ("Personal", 0x200),
    ("Blade", 0x400),
    ("Storage Server", 0x2000),
    ("Compute Server", 0x4000),
];

/// Reads the domain `os`, and what the domain `number` has of the processor.
pub(super) fn scan(registry: &dyn Registry, machine: &str, collected: &mut Collected) {
    let domain = match read(registry, machine, collected) {
        Ok(()) => Domain::Complete { source: CURRENT.to_owned() },
        Err(reason) => Domain::Failed { source: CURRENT.to_owned(), reason },
    };
    collected.domain("os", domain);
    let level = |name| text(registry, ENVIRONMENT, name).ok().flatten();
    let decimal = level("PROCESSOR_LEVEL").and_then(|text| text.parse::<u32>().ok());
    let hex = level("PROCESSOR_REVISION").and_then(|text| u32::from_str_radix(&text, 16).ok());
    for (fact, value) in [("number:processor-level", decimal), ("number:processor-revision", hex)] {
        if let Some(value) = value {
            collected.set(fact, value.to_string());
        }
    }
    collected.domain("number", Domain::Asked { source: ENVIRONMENT.to_owned() });
}

fn read(registry: &dyn Registry, machine: &str, collected: &mut Collected) -> Result<(), String> {
    collected.set("os:family", "windows");
    collected.set("os:architecture", machine.to_ascii_lowercase());
    let build = text(registry, CURRENT, "CurrentBuildNumber")?
        .or(text(registry, CURRENT, "CurrentBuild")?)
        .and_then(|build| build.parse::<u64>().ok())
        .ok_or("the registry does not say which build of Windows this is")?;
    let old = || -> Result<(u64, u64), String> {
        let version = text(registry, CURRENT, "CurrentVersion")?;
        let parsed = version.as_deref().and_then(|version| version.split_once('.'));
        let parsed = parsed.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        parsed.ok_or_else(|| "the registry does not say which Windows this is".to_owned())
    };
    // Since Windows 10; the older text stays at 6.3 there.
    let (major, minor) = match number(registry, CURRENT, "CurrentMajorVersionNumber")? {
        Some(major) => (major, number(registry, CURRENT, "CurrentMinorVersionNumber")?.unwrap_or(0)),
        None => old()?,
    };
    let version = format!("{major}.{minor}.{build}");
    let revision = number(registry, CURRENT, "UBR")?;
    collected.set("os:version", revision.map_or(version.clone(), |ubr| format!("{version}.{ubr}")));
    collected.set("os:build", build.to_string());
    let names = [("os:codename", "DisplayVersion"), ("os:edition", "EditionID"), ("os:name", "ProductName")];
    for (fact, name) in names {
        if let Some(value) = text(registry, CURRENT, name)?.filter(|value| !value.is_empty()) {
            let value = match value.strip_prefix("Windows 10") {
                Some(rest) if name == "ProductName" && build >= BUILD_OF_11 => format!("Windows 11{rest}"),
                _ => value,
            };
            collected.set(fact, value);
        }
    }
    let pack = number(registry, CONTROL, "CSDVersion")?.unwrap_or(0);
    collected.set("os:service-pack", format!("{}.{}", pack >> 8, pack & 0xff));
    let kind = text(registry, OPTIONS, "ProductType")?;
    let kind = match kind.as_deref().map(str::to_ascii_lowercase).as_deref() {
        Some("winnt") => "workstation",
        Some("lanmannt") => "domain-controller",
        Some("servernt") => "server",
        other => {
            return Err(format!("the registry names the product type `{}`", other.unwrap_or("")));
        }
    };
    collected.set("os:product-type", kind);
    let suites = registry.value(OPTIONS, "ProductSuite")?.map(|data| data.texts()).unwrap_or_default();
    for (_, bit) in SUITES.iter().filter(|(name, _)| suites.iter().any(|suite| suite == name)) {
        collected.set(format!("os:suite-{bit}"), "present");
    }
    languages(registry, collected)
}

fn languages(registry: &dyn Registry, collected: &mut Collected) -> Result<(), String> {
    let installed = registry.subkeys(INTERFACE)?.unwrap_or_default();
    for language in &installed {
        collected.set(format!("os:mui-{}", language.to_ascii_lowercase()), "present");
    }
    // A number such as `0409`. Of one that no Windows is known to come in, the list of the mail programs has the name,
    // before the `;`; it is not the first to be asked, for it shortens some (`de`), and may be missing.
    let number = text(registry, LANGUAGE, "InstallLanguage")?;
    let named = match &number {
        Some(number) => match language::name(number) {
            Some(name) => Some(name.to_owned()),
            None => text(registry, LOCALES, number)?,
        },
        None => None,
    };
    let named = named.and_then(|named| Some(named.split(';').next()?.trim().to_ascii_lowercase()));
    let language = named.or_else(|| match installed.as_slice() {
        [only] => Some(only.to_ascii_lowercase()),
        _ => None,
    });
    let language = language.filter(|language| !language.is_empty());
    let language = language.ok_or("the registry does not say which language this Windows has")?;
    collected.set("os:language", language);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::registry::Written, *};

    fn windows_10() -> Written {
        let mut registry = Written::default();
        registry
            .text(CURRENT, "CurrentBuildNumber", "19045")
            .text(CURRENT, "CurrentVersion", "6.3")
            .number(CURRENT, "CurrentMajorVersionNumber", 10)
            .number(CURRENT, "CurrentMinorVersionNumber", 0)
            .number(CURRENT, "UBR", 3448)
            .text(CURRENT, "ProductName", "Windows 10 Pro")
            .text(CURRENT, "EditionID", "Professional")
            .text(CURRENT, "DisplayVersion", "22H2")
            .number(CONTROL, "CSDVersion", 0)
            .text(OPTIONS, "ProductType", "WinNT")
            .texts(OPTIONS, "ProductSuite", &["Terminal Server"])
            .text(LANGUAGE, "InstallLanguage", "0407")
            .text(LOCALES, "0407", "de;German (Germany)")
            .key(&format!("{INTERFACE}\\de-DE"))
            .key(&format!("{INTERFACE}\\en-US"));
        registry
    }

    fn check(registry: &Written, wanted: &[(&str, Option<&str>)]) -> Collected {
        let mut collected = Collected::default();
        scan(registry, "AMD64", &mut collected);
        for (key, value) in wanted {
            assert_eq!(collected.facts.values.get(*key).map(String::as_str), *value, "{key}");
        }
        collected
    }

    #[test]
    fn windows_10_is_told_with_its_revision_kind_and_languages() {
        let collected = check(
            &windows_10(),
            &[
                ("os:family", Some("windows")),
                ("os:version", Some("10.0.19045.3448")),
                ("os:build", Some("19045")),
                ("os:codename", Some("22H2")),
                ("os:edition", Some("Professional")),
                ("os:name", Some("Windows 10 Pro")),
                ("os:architecture", Some("amd64")),
                ("os:service-pack", Some("0.0")),
                ("os:product-type", Some("workstation")),
                ("os:suite-16", Some("present")),
                ("os:suite-2", None),
                ("os:language", Some("de-de")),
                ("os:mui-en-us", Some("present")),
            ],
        );
        assert_eq!(collected.problems, []);
    }

    #[test]
    fn windows_11_and_a_server_with_a_service_pack_are_told_from_it() {
        let mut registry = windows_10();
        registry.text(CURRENT, "CurrentBuildNumber", "22631");
        check(&registry, &[("os:name", Some("Windows 11 Pro"))]);
        let mut registry = Written::default();
        registry
            .text(CURRENT, "CurrentBuild", "7601")
            .text(CURRENT, "CurrentVersion", "6.1")
            .number(CONTROL, "CSDVersion", 0x100)
            .text(OPTIONS, "ProductType", "ServerNT")
            .key(&format!("{INTERFACE}\\en-US"));
        check(
            &registry,
            &[
                ("os:version", Some("6.1.7601")),
                ("os:service-pack", Some("1.0")),
                ("os:product-type", Some("server")),
                ("os:language", Some("en-us")),
            ],
        );
    }

    #[test]
    fn a_language_that_no_windows_comes_in_has_the_name_that_the_registry_lists() {
        let mut registry = windows_10();
        registry.text(LANGUAGE, "InstallLanguage", "042E").text(LOCALES, "042E", "hsb;Upper Sorbian");
        check(&registry, &[("os:language", Some("hsb"))]);
        registry.text(LANGUAGE, "InstallLanguage", "042F");
        let collected = check(&registry, &[("os:language", None)]);
        assert_eq!(collected.problems[0].0, "the registry does not say which language this Windows has");
    }

    #[test]
    fn what_the_registry_does_not_say_makes_the_rest_unknown() {
        let mut registry = windows_10();
        registry.forbidden.push(OPTIONS.to_owned());
        let collected = check(&registry, &[("os:product-type", None)]);
        assert!(matches!(&collected.facts.domains["os"], Domain::Failed { reason, .. }
            if reason.ends_with("Access is denied.")));
    }
}
