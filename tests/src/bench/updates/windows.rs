//! The same updates for Windows: each package is a product of Windows Installer, and is installed by its MSI.

use bytes::Bytes;
use serde_json::json;
use tierway_common::{schema::Update, trust::digest::Digest};

use super::{INSTALLED, SOURCES, draw, replaced, source};

/// Their catalogue.
pub const CATALOGUE: &str = "windows-11";

/// What Windows Installer keeps of a product, and what the list of programs shows of it.
const PRODUCTS: &str =
    r"HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows\CurrentVersion\Installer\UserData\S-1-5-18\Products";
const UNINSTALL: &str = r"HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall";

fn version(source: usize, step: usize) -> String {
    let drawn = draw(&format!("version {source}"));
    format!("{}.{}.{}.{step}", drawn[0] % 9, drawn[1] % 30, drawn[2] % 20)
}

/// The digits of the product code of a package.
fn digits(name: &str) -> String {
    hex::encode_upper(&draw(&format!("product {name}"))[..16])
}

/// A product code, of its digits.
fn code(digits: &str) -> String {
    let part = |from: usize, to: usize| &digits[from..to];
    format!("{{{}-{}-{}-{}-{}}}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// As Windows Installer names keys: three parts backwards, of the others each byte.
fn packed(digits: &str) -> String {
    let (front, back) = digits.split_at(16);
    let parts = [&front[..8], &front[8..12], &front[12..]].into_iter();
    let bytes = (0..back.len()).step_by(2).map(|at| &back[at..at + 2]);
    parts.chain(bytes).flat_map(|part| part.chars().rev()).collect()
}

/// The document of an update, and its key in the tree, as [`super::document`].
#[must_use]
pub fn document(number: usize, revision: usize) -> (String, Bytes) {
    let source_number = number % SOURCES;
    let (name, version) = (source(source_number), version(source_number, 2 + number / SOURCES));
    let id = |number: usize| {
        let of = number % SOURCES;
        format!("{CATALOGUE}/{}_{}", source(of), self::version(of, 2 + number / SOURCES))
    };
    let drawn = draw(&format!("update {number}"));
    let products: Vec<String> = (0..1 + usize::from(drawn[0]) % 2)
        .map(|index| if index == 0 { name.clone() } else { format!("{name}-common") })
        .collect();
    let there = |name: &String| json!({"package": {"manager": "msi", "name": code(&digits(name))}});
    let current = |name: &String| {
        let older = json!({"manager": "msi", "name": code(&digits(name)), "version": {"lt": version}});
        json!({"not": {"package": older}})
    };
    let file = |name: &String| {
        json!({
            "name": format!("{name}-{version}-x64.msi"),
            "bytes": 10_000 + u64::from(drawn[1]) * 4_321,
            "sha256": Digest::of(format!("payload {name} {version} {revision}").as_bytes()),
            "url": format!("https://download.example.com/updates/{}/{name}-{version}-x64.msi", &name[..1]),
        })
    };
    let (older, newer) = replaced(number);
    let document = json!({
        "id": id(number),
        "title": format!("{name}: security update"),
        "product": name,
        "version": version,
        "severity": "important",
        "released": format!("2026-{:02}-{:02}T10:00:00Z", 1 + drawn[2] % 12, 1 + drawn[3] % 28),
        "references": [format!("KB{}", 5_000_000 + number), format!("CVE-2026-{}", 10_000 + u32::from(drawn[4]) * 37)],
        "applicable": {"all": [
            {"os": {"family": "windows"}},
            {"any": products.iter().map(there).collect::<Vec<_>>()},
        ]},
        "installed": {"all": products.iter().map(current).collect::<Vec<_>>()},
        "supersedes": older.into_iter().map(id).collect::<Vec<_>>(),
        "superseded_by": newer.into_iter().map(id).collect::<Vec<_>>(),
        "install": {"windows": {
            "handler": {"msi": {
                "product_code": code(&digits(&name)),
                "file": format!("{name}-{version}-x64.msi"),
                "command_line": "REBOOT=ReallySuppress",
            }},
            "files": products.iter().map(file).collect::<Vec<_>>(),
        }},
    });
    let update: Update = serde_json::from_value(document).expect("a document");
    let json = serde_json::to_vec(&update).expect("JSON");
    (format!("update/{}", update.id.name()), json.into())
}

/// What `reg import` reads: a computer with [`INSTALLED`] products that has most updates.
#[must_use]
pub fn registry() -> String {
    let product = |number: usize| {
        let number = number * (SOURCES / INSTALLED);
        let step = if draw(&format!("installed {number}"))[0] < 8 { 3 } else { 9 };
        let (name, version) = (source(number), version(number, step));
        let digits = digits(&name);
        let properties = format!(
            "\"DisplayName\"=\"{name}\"\r\n\"DisplayVersion\"=\"{version}\"\r\n\"Language\"=dword:00000409\r\n"
        );
        format!(
            "[{PRODUCTS}\\{}\\InstallProperties]\r\n{properties}\r\n[{UNINSTALL}\\{}]\r\n{properties}\r\n",
            packed(&digits),
            code(&digits),
        )
    };
    let products: String = (0..INSTALLED).map(product).collect();
    format!("Windows Registry Editor Version 5.00\r\n\r\n{products}")
}
