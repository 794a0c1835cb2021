//! A relay on Windows that is joined by its MSI, mirrors for a computer of its site, is upgraded and leaves nothing:
//! under Wine, at a real central over mutual TLS. And how the MSIs are signed.

use std::{fs, net::SocketAddr, path::Path};

use tierway_proto::v1;
use tierway_tests::{
    archive::Package,
    fleet::{Fleet, until},
    processes::free_address,
    programs,
    roots::{made_up, status},
    wine::{Wine, build_msi, gives_way, msi, program, said},
};
use tokio::net::TcpStream;

/// Where the MSI puts the program, and where it keeps its state.
const PROGRAM: &str = "Program Files/Tierway/tierway-relay.exe";
const STATE: &str = "ProgramData/Tierway/relay";
const PATCH: &str = "debian-12/hello_2.0";

async fn listens(address: SocketAddr) {
    until("the relay listens", async || TcpStream::connect(address).await.is_ok()).await;
}

/// Files below `folder`, however deep.
fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// A table of an MSI as text.
fn table(package: &Path, name: &str) -> String {
    let package = package.display().to_string();
    programs::run_if_there("msiinfo", &["export", &package, name]).unwrap().output
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_on_windows_is_joined_mirrors_for_its_site_is_upgraded_and_left_clean() {
    let Some(program) = program("a relay on Windows") else { return };
    let program = program.with_file_name("tierway-relay.exe");
    let mut fleet = Fleet::start().await;
    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    let wine = Wine::start();
    let folder = fleet.folder("packages");
    fs::create_dir(&folder).unwrap();

    // A user was there before, whom nobody believes.
    fs::create_dir_all(wine.drive(STATE)).unwrap();
    fs::write(wine.drive(STATE).join("relay.toml"), "no configuration").unwrap();

    // Installed with its properties, of which no log shows the token; the service joins by itself.
    let address = free_address();
    let token = fleet.token("relay", "osaka", fleet.address).await.to_string();
    let first = msi("relay", &folder, &program, "1.0.0");
    assert!(table(&first, "Property").contains("MsiHiddenProperties\tENROLL_TOKEN"));
    // 0x2000: what a custom action was started with is not logged.
    assert!(table(&first, "CustomAction").contains("Invite\t11282\t"));
    let properties =
        [format!("SERVER={}", fleet.address), format!("ENROLL_TOKEN={token}"), format!("LISTEN={address}")];
    let installed = wine.msiexec("/i", &first, &properties);
    assert_eq!(installed.code, Some(0), "{installed:?}");
    said(&wine.run(&["sc", "query", "TierwayRelay"]), &["RUNNING"]);
    listens(address).await;
    assert!(!wine.drive(STATE).join("invitation.json").exists(), "the token was kept");
    let aside = wine.drive(STATE).with_extension("found").join("relay.toml");
    assert_eq!(fs::read_to_string(aside).unwrap(), "no configuration");
    let joined = fs::read(wine.drive(STATE).join("identity/identity.pem")).unwrap();
    let request = v1::ListRelaysRequest {};
    let relays = fleet.admin().await.list_relays(request).await.unwrap().into_inner().relays;
    assert_eq!(relays.len(), 1);
    assert_eq!(relays[0].site, "osaka");

    // A computer of the site hears of an update, and gets its payload, only through it.
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let payloads = wine.drive(STATE).join("payloads");
    // The relay may fetch it ahead, as soon as the endpoint says that it will need it.
    let before = files(&payloads);
    let mut endpoint = fleet.enroll("web1", "osaka", address, &root).await;
    endpoint.start().await;
    until("the endpoint needs the update", async || endpoint.check().await.needed == 1).await;
    fleet.until_state(&endpoint.id, PATCH, "needed").await;
    fleet.approve(&[PATCH]).await;
    until("the relay has the payload", async || {
        endpoint.check().await;
        files(&payloads) > before
    })
    .await;

    // An upgrade without properties keeps identity and state, a downgrade is refused.
    let second = msi("relay", &folder, &program, "1.1.0");
    gives_way(&second);
    let upgraded = wine.msiexec("/i", &second, &[]);
    assert_eq!(upgraded.code, Some(0), "{upgraded:?}");
    said(&wine.run(&["sc", "query", "TierwayRelay"]), &["RUNNING"]);
    listens(address).await;
    assert_eq!(fs::read(wine.drive(STATE).join("identity/identity.pem")).unwrap(), joined);
    fs::write(root.join("var/lib/dpkg/status"), status(&[("hello", "2.0")])).unwrap();
    until("the endpoint has checked", async || endpoint.check().await.needed == 0).await;
    fleet.until_state(&endpoint.id, PATCH, "installed").await;
    assert_eq!(wine.msiexec("/i", &first, &[]).code, Some(1603 & 0xff));
    said(&wine.run(&["sc", "query", "TierwayRelay"]), &["RUNNING"]);

    // Nothing is left of it.
    assert_eq!(wine.msiexec("/x", &second, &[]).code, Some(0));
    // The service manager lets go of a service when its process has ended.
    until("the service is gone", async || wine.run(&["sc", "query", "TierwayRelay"]).code != Some(0)).await;
    assert!(TcpStream::connect(address).await.is_err());
    for left in [STATE, PROGRAM] {
        assert!(!wine.drive(left).exists(), "`{left}` was left");
    }
    let source = r"HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\Tierway Relay";
    assert_eq!(wine.registry(source, "TypesSupported"), None);
}

/// A certificate that may sign code, by its own authority: the chain and the key as files, and the authority's.
fn code_signer(folder: &Path) -> [String; 3] {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        PKCS_ECDSA_P256_SHA256,
    };

    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Example Authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Example Publisher");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let signer = params.signed_by(&key, &issuer).unwrap();
    let chain = signer.pem() + &authority.pem();
    [("chain.pem", chain), ("key.pem", key.serialize_pem()), ("authority.pem", authority.pem())].map(
        |(name, content)| {
            let path = folder.join(name);
            fs::write(&path, content).unwrap();
            path.display().to_string()
        },
    )
}

#[test]
fn an_msi_is_signed_with_the_certificate_that_is_given_and_one_that_was_changed_does_not_verify() {
    let Some(program) = program("signing for Windows") else { return };
    let folder = tempfile::tempdir().unwrap();
    let [chain, key, authority] = code_signer(folder.path());
    let made = build_msi("relay", folder.path(), &program, &["--certificate", &chain, "--key", &key]);
    assert_eq!((made.code, made.errors.as_str()), (Some(0), ""));
    let package = made.output.trim();
    let verify = |path: &str| {
        programs::run_if_there("osslsigncode", &["verify", "-CAfile", &authority, "-in", path]).unwrap()
    };
    let verified = verify(package);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    said(&verified, &["Signature verification: ok", "CN=Example Publisher"]);

    // So is the program in it.
    let within = folder.path().join("within");
    fs::create_dir(&within).unwrap();
    let unpacked = ["-C", &within.display().to_string(), package].map(str::to_owned);
    assert_eq!(programs::run_if_there("msiextract", &unpacked).unwrap().code, Some(0));
    let unpacked = within.join("Tierway/tierway-relay.exe");
    let verified = verify(&unpacked.display().to_string());
    assert_eq!(verified.code, Some(0), "{verified:?}");

    gives_way(Path::new(package));
    assert_ne!(verify(package).code, Some(0));

    // A key of somebody else's is refused.
    let other = tempfile::tempdir().unwrap();
    let [_, other, _] = code_signer(other.path());
    let refused = build_msi("relay", folder.path(), &program, &["--certificate", &chain, "--key", &other]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.errors.contains("could not sign `tierway-relay.exe`"), "{}", refused.errors);
}
