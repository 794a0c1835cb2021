//! A Windows that is enrolled by its MSI, patched by an administrator's own MSI, upgraded and left clean: under
//! Wine, at a real relay over mutual TLS.

#[path = "../../../endpoint/tray/tests/desktop/display.rs"]
#[expect(
    dead_code,
    clippy::disallowed_methods,
    reason = "shared with the tests of the tray, which start a display"
)]
mod display;

use tierway_common::facts::Facts;
use tierway_proto::v1;
use tierway_tests::{
    fleet::{Fleet, until},
    skip::skip,
    tierctl::Tierctl,
    wine::{Wine, gives_way, msi, program, said, sample_package},
};

use self::display::{Colour, Display, Program, Seen};

/// Where the MSI puts the program.
const PROGRAM: &str = r"C:\Program Files\Tierway\tierway-endpoint.exe";
const TRAY: &str = r"C:\Program Files\Tierway\tierway-tray.exe";
/// Where each session looks for what it starts.
const RUN: &str = r"HKLM\Software\Microsoft\Windows\CurrentVersion\Run";
const STATE: &str = "ProgramData/Tierway/endpoint";
const APP: &str = "Program Files/Sample App/content.txt";

/// The head of the window when something is due and the person decides when, and when nothing is: see `tierway_tray::page::colour`.
const DUE: Colour = [0x1d, 0x4e, 0x89];
const CALM: Colour = [0x1f, 0x7a, 0x4d];
/// Columns and rows where the taskbar has its only icon.
const ICON: (std::ops::Range<u16>, std::ops::Range<u16>) = (620..640, 500..520);
/// Of a head, and no few of something else.
const HEAD_PIXELS: usize = 10_000;

/// A rule that asks WMI.
const ASKS_WMI: &str = r#"{
  "applicable": {"wmi": {"namespace": "root\\cimv2", "query": "select * from Win32_OperatingSystem"}},
  "installed": {"any": [
    {"wmi": {"namespace": "root\\cimv2", "query": "select * from Win32_ComputerSystem where Name='nobody'"}},
    {"wmi": {"namespace": "root\\nothing", "query": "select * from Win32_Nothing"}}
  ]}
}"#;

/// What central knows of the only endpoint.
fn facts(fleet: &Fleet) -> Facts {
    let state = &fleet.central.as_ref().unwrap().running.central.state;
    state.facts(0).unwrap().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_windows_is_enrolled_patched_upgraded_and_left_clean() {
    let what = "an endpoint on Windows";
    let Some(program) = program(what) else { return };
    let Some(display) = Display::start() else { return skip(what, "`Xvfb` is not installed") };
    let fleet = Fleet::start().await;
    let relay = fleet.relay("osaka").await;
    let tierctl = Tierctl::of(&fleet);
    let wine = Wine::start();
    let folder = fleet.folder("packages");
    std::fs::create_dir(&folder).unwrap();
    let older = sample_package(&folder, "1.0.0", "one");
    assert_eq!(wine.msiexec("/i", &older, &[]).code, Some(0));

    // A user was there before, whom nobody believes.
    std::fs::create_dir_all(wine.drive(STATE)).unwrap();
    std::fs::write(wine.drive(STATE).join("endpoint.toml"), "no configuration").unwrap();

    // Installed with its properties; the service enrols by itself.
    let token = fleet.token("endpoint", "osaka", relay.address).await.to_string();
    let first = msi("endpoint", &folder, &program, "1.0.0");
    let properties = [format!("SERVER={}", relay.address), format!("ENROLL_TOKEN={token}")];
    let installed = wine.msiexec("/i", &first, &properties);
    assert_eq!(installed.code, Some(0), "{installed:?}");
    said(&wine.run(&["sc", "query", "TierwayEndpoint"]), &["RUNNING"]);
    until("the endpoint has reported", async || facts(&fleet).values.contains_key("os:family")).await;
    assert!(!wine.drive(STATE).join("invitation.json").exists(), "the token was kept");
    let aside = std::fs::read_to_string(wine.drive(STATE).with_extension("found").join("endpoint.toml"));
    assert_eq!(aside.unwrap(), "no configuration");
    assert!(!wine.drive(STATE).join("endpoint.toml").exists());
    let enrolled = std::fs::read(wine.drive(STATE).join("identity/identity.pem")).unwrap();

    // Its inventory is what the registry says.
    let found = facts(&fleet);
    assert_eq!(found.values["os:family"], "windows");
    assert_eq!(found.values["os:version"].split('.').next(), Some("10"));
    assert_eq!(found.values["os:architecture"], "amd64");
    let mut shown: Vec<&str> = (found.values.iter())
        .filter(|(key, _)| key.starts_with("program:machine:{"))
        .map(|(_, shown)| shown.as_str())
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, ["Sample App 1.0.0", "Tierway Endpoint 1.0.0"]);
    let products = found.values.iter().filter(|(key, _)| key.starts_with("package:msi:")).count();
    assert_eq!(products, 2);
    said(&tierctl.ends(&["endpoint", "list"]), &["windows 10.0.", "osaka"]);

    // A newer version of what is there is found needed.
    let newer = sample_package(&folder, "1.1.0", "two");
    let added = tierctl.ends(&["package", "add", &newer.display().to_string(), "--only-upgrade"]);
    assert_eq!(added.code, Some(0), "{added:?}");
    fleet.published().await;
    relay.caught_up(&fleet).await;
    let check = || wine.run(&[PROGRAM, "check-now"]);
    said(&check(), &["1 "]);
    relay.forwarded().await;
    let listed = tierctl.ends(&["patch", "list", "-o", "csv", "--columns", "id"]);
    let patch = listed.output.lines().nth(1).unwrap_or_default().trim().to_owned();
    let id = fleet
        .admin()
        .await
        .list_endpoints(v1::ListEndpointsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .endpoints[0]
        .id
        .clone();
    fleet.until_state(&id, &patch, "needed").await;
    let needed = ["Sample App 1.1.0", ">= 1.1.0 ... not present", "not installed because: not approved"];
    said(&wine.run(&[PROGRAM, "why", &patch]), &needed);
    said(&tierctl.ends(&["why", &id, &patch]), &["needs", ">= 1.1.0"]);
    assert_eq!(std::fs::read_to_string(wine.drive(APP)).unwrap(), "one");

    // Approved where people are asked, it waits for the person, who sees so in a window.
    tierctl.prints(&[
        "level",
        "set",
        "asked",
        "--experience",
        "consent",
        "--grace",
        "1d",
        "--department",
        "IT department",
    ]);
    tierctl.prints(&["group", "set", "asked", "--endpoint", &id, "--level", "asked"]);
    fleet.approve(&[&patch]).await;
    relay.caught_up(&fleet).await;
    let waits = check();
    assert_eq!(std::fs::read_to_string(wine.drive(APP)).unwrap(), "one", "{waits:?}");
    let started = wine.registry(RUN, "Tierway").unwrap();
    assert!(started.contains(&format!("\"{TRAY}\" --background")), "{started}");
    let _icon = Program::start(wine.on_display(&display.name, &[TRAY, "--background"]));
    let icon =
        |seen: &Seen| ICON.0.clone().filter(|x| ICON.1.clone().any(|y| seen.at(*x, y) == DUE)).count() > 8;
    display.until("the icon in the taskbar says that something is due", icon).await;
    let _window = Program::start(wine.on_display(&display.name, &[TRAY]));
    let due = |seen: &Seen| seen.pixels_of(DUE) > HEAD_PIXELS && seen.colours() > 40;
    display.until("a person on Windows sees what is due", due).await;

    // Agreed, it is downloaded, verified, installed by Windows Installer, and found installed.
    let agreed = wine.run(&[PROGRAM, "user", "install-now"]);
    assert_eq!(agreed.code, Some(0), "{agreed:?}");
    let done = check();
    assert_eq!(std::fs::read_to_string(wine.drive(APP)).unwrap(), "two", "{done:?}");
    relay.forwarded().await;
    fleet.until_state(&id, &patch, "installed").await;
    said(&wine.run(&[PROGRAM, "why", &patch]), &[">= 1.1.0 ... 1.1.0"]);
    said(&tierctl.ends(&["why", &id, &patch]), &["has ", ">= 1.1.0"]);
    said(&wine.run(&[PROGRAM, "history"]), &["installed"]);
    assert!(facts(&fleet).values.values().any(|shown| shown == "Sample App 1.1.0"));

    // What a rule asks of WMI is told: what it has, what it has not; of what it does not answer, why. (Of a class that it
    // does not know Wine says that it has no row; Windows refuses it, as it does such a namespace.)
    let rule = folder.join("rule.json");
    std::fs::write(&rule, ASKS_WMI).unwrap();
    let (tool, rule) = (wine.drive("windows/notepad.exe"), rule.display().to_string());
    let add = ["package", "add", &tool.display().to_string(), "--version", "1.0", "--rule", &rule];
    let added = tierctl.ends(&add);
    assert_eq!(added.code, Some(0), "{added:?}");
    fleet.published().await;
    relay.caught_up(&fleet).await;
    said(&check(), &[r"could not ask `root\nothing` for `select * from Win32_Nothing`: "]);
    relay.forwarded().await;
    until("what WMI says is told", async || {
        let found = facts(&fleet);
        let answer = |key: &str| found.values.get(&format!("wmi:root\\{key}")).map(String::as_str);
        answer("cimv2:select * from Win32_OperatingSystem") == Some("true")
            && answer("cimv2:select * from Win32_ComputerSystem where Name='nobody'") == Some("false")
            && answer("nothing:select * from Win32_Nothing").is_none()
    })
    .await;

    // An upgrade without properties keeps identity and state, and closes the window, whose file would be in use; a downgrade
    // is refused.
    display.until("nothing is due any more", |seen| seen.pixels_of(CALM) > HEAD_PIXELS).await;
    let second = msi("endpoint", &folder, &program, "1.1.0");
    gives_way(&second);
    assert_eq!(wine.msiexec("/i", &second, &[]).code, Some(0));
    display.until("the window is closed", |seen| seen.pixels_of(CALM) == 0).await;
    assert!(wine.drive("Program Files/Tierway/tierway-tray.exe").exists());
    assert!(wine.registry(RUN, "Tierway").is_some());
    said(&wine.run(&["sc", "query", "TierwayEndpoint"]), &["RUNNING"]);
    assert_eq!(std::fs::read(wine.drive(STATE).join("identity/identity.pem")).unwrap(), enrolled);
    until("the upgraded endpoint answers", async || {
        wine.run(&[PROGRAM, "history"]).output.contains("installed")
    })
    .await;
    assert_eq!(wine.msiexec("/i", &first, &[]).code, Some(1603 & 0xff));
    said(&wine.run(&["sc", "query", "TierwayEndpoint"]), &["RUNNING"]);

    // Nothing is left of it but what it installed.
    assert_eq!(wine.msiexec("/x", &second, &[]).code, Some(0));
    // The service manager lets go of a service when its process has ended.
    until("the service is gone", async || wine.run(&["sc", "query", "TierwayEndpoint"]).code != Some(0))
        .await;
    for left in [STATE, "Program Files/Tierway"] {
        assert!(!wine.drive(left).exists(), "`{left}` was left");
    }
    let source = r"HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\Tierway";
    assert_eq!(wine.registry(source, "TypesSupported"), None);
    assert_eq!(wine.registry(RUN, "Tierway"), None);
    assert_eq!(std::fs::read_to_string(wine.drive(APP)).unwrap(), "two");
}
