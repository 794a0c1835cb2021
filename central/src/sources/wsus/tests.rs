use std::sync::atomic::{AtomicU32, Ordering};

use tierway_common::{
    daemon::chain::Chain,
    schema::{Install, Update},
};

use self::server::{Held, Trouble, UpdateServer};
use super::{soap::Delta, *};
use crate::sources::{fetch::HttpFetch, testing::Server, windows::model::Identity};

mod server;

const PRODUCT: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const OTHER_PRODUCT: &str = "aaaaaaaa-0000-0000-0000-000000000002";
const SECURITY: &str = "0fa1201d-4330-4fa8-8ae9-b877473b6441";
const DETECTOID: &str = "dddddddd-0000-0000-0000-000000000001";
/// One that a file really has, in base64 and as a server's path has it.
const SHA1: &str = "6LHXWIXPjwU6Ewe9ycP4e/DPeto=";
const SHA256: &str = "LCa0azinP1GYbm1kCr0Rl12x5b4sy0P/3HDkRg5aTfs=";

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn fresh() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("00000000-0000-4000-8000-{:012}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn identity(id: &str, revision: u32) -> Identity {
    Identity { id: id.parse().unwrap(), revision }
}

fn guid(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

fn held(xml: String, listed: Option<(&str, &str)>) -> Held {
    Held {
        xml,
        listed: listed.map(|(product, class)| (product.to_owned(), class.to_owned())),
        is_category: false,
        came: 0,
        files: vec![(SHA1.to_owned(), "http://download.example/a.exe".to_owned())],
        raw: None,
    }
}

fn category(id: &str, title: &str, kind: &str) -> (Identity, Held) {
    let rule = match kind {
        "Detectoid" => {
            "<upd:ApplicabilityRules><upd:IsInstalled><lar:True/></upd:IsInstalled></upd:ApplicabilityRules>"
        }
        _ => "",
    };
    let xml = format!(
        "<upd:Update xmlns:upd=\"u\" xmlns:lar=\"l\"><upd:UpdateIdentity UpdateID=\"{id}\" RevisionNumber=\"100\"/>\
         <upd:Properties UpdateType=\"{kind}\" CreationDate=\"2020-01-01T00:00:00Z\"/>\
         <upd:LocalizedPropertiesCollection><upd:LocalizedProperties><upd:Language>en</upd:Language>\
         <upd:Title>{title}</upd:Title></upd:LocalizedProperties></upd:LocalizedPropertiesCollection>{rule}</upd:Update>"
    );
    (identity(id, 100), Held { is_category: true, files: vec![], ..held(xml, None) })
}

/// An update that puts version `revision` of a program in place.
fn update_xml(id: &str, revision: u32, product: &str, more_digest: &str) -> String {
    format!(
        r#"<upd:Update xmlns:upd="u" xmlns:bar="b" xmlns:cmd="c"><upd:UpdateIdentity UpdateID="{id}" RevisionNumber="{revision}"/>
        <upd:Properties UpdateType="Software" DefaultPropertiesLanguage="en" Handler="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/CommandLineInstallation" CreationDate="2026-01-02T00:00:00Z"><upd:KBArticleID>5000001</upd:KBArticleID></upd:Properties>
        <upd:LocalizedPropertiesCollection><upd:LocalizedProperties><upd:Language>en</upd:Language><upd:Title>Update {id} r{revision}</upd:Title></upd:LocalizedProperties></upd:LocalizedPropertiesCollection>
        <upd:Relationships><upd:Prerequisites><upd:UpdateIdentity UpdateID="{DETECTOID}"/><upd:AtLeastOne IsCategory="true"><upd:UpdateIdentity UpdateID="{product}"/></upd:AtLeastOne><upd:AtLeastOne IsCategory="true"><upd:UpdateIdentity UpdateID="{SECURITY}"/></upd:AtLeastOne></upd:Prerequisites></upd:Relationships>
        <upd:ApplicabilityRules><upd:IsInstalled><bar:FileVersion Csidl="37" Path="a.dll" Comparison="GreaterThanOrEqualTo" Version="1.0.0.{revision}"/></upd:IsInstalled><upd:IsInstallable><bar:FileExists Csidl="37" Path="a.dll"/></upd:IsInstallable></upd:ApplicabilityRules>
        <upd:Files><upd:File Digest="{SHA1}" DigestAlgorithm="SHA1" FileName="a.exe" Size="7">{more_digest}</upd:File></upd:Files>
        <upd:HandlerSpecificData xsi:type="cmd:CommandLineInstallation" xmlns:xsi="x"><cmd:InstallCommand Program="a.exe" Arguments="/q"/></upd:HandlerSpecificData></upd:Update>"#
    )
}

fn update(number: u32, revision: u32, product: &str) -> (Identity, Held) {
    let digest = format!("<upd:AdditionalDigest Algorithm=\"SHA256\">{SHA256}</upd:AdditionalDigest>");
    let xml = update_xml(&guid(number), revision, product, &digest);
    (identity(&guid(number), revision), held(xml, Some((product, SECURITY))))
}

/// A bundle of updates that no list names.
fn bundle(number: u32, parts: &[u32]) -> (Identity, Held) {
    let id = guid(number);
    let parts: String = parts
        .iter()
        .map(|part| format!("<upd:UpdateIdentity UpdateID=\"{}\" RevisionNumber=\"200\"/>", guid(*part)))
        .collect();
    let xml = format!(
        "<upd:Update xmlns:upd=\"u\"><upd:UpdateIdentity UpdateID=\"{id}\" RevisionNumber=\"200\"/>\
         <upd:Properties UpdateType=\"Software\" CreationDate=\"2026-01-03T00:00:00Z\"/>\
         <upd:Relationships><upd:Prerequisites><upd:AtLeastOne IsCategory=\"true\"><upd:UpdateIdentity UpdateID=\"{PRODUCT}\"/>\
         </upd:AtLeastOne></upd:Prerequisites><upd:BundledUpdates>{parts}</upd:BundledUpdates></upd:Relationships></upd:Update>"
    );
    (identity(&id, 200), Held { files: vec![], ..held(xml, Some((PRODUCT, SECURITY))) })
}

/// A server with two products, seven updates and a bundle of two parts; pages of three.
async fn server() -> UpdateServer {
    let server = UpdateServer::start().await;
    {
        let mut shared = server.shared.lock().unwrap();
        (shared.page, shared.updates_at_once) = (3, 4);
    }
    for (identity, held) in [
        category(PRODUCT, "Product", "Category"),
        category(OTHER_PRODUCT, "Other Product", "Category"),
        category(SECURITY, "Security Updates", "Category"),
        category(DETECTOID, "x64", "Detectoid"),
    ] {
        server.put(identity, held);
    }
    for number in 1..=6 {
        let (identity, held) = update(number, 200, PRODUCT);
        server.put(identity, held);
    }
    let (identity, held) = bundle(20, &[21, 22]);
    server.put(identity, held);
    for part in [21, 22] {
        let (identity, held) = update(part, 200, PRODUCT);
        server.put(identity, Held { listed: None, ..held });
    }
    let (identity, held) = update(30, 200, OTHER_PRODUCT);
    server.put(identity, held);
    server
}

struct Client {
    source: Wsus<HttpFetch>,
    state: State,
    catalogue: BTreeMap<String, Bytes>,
}

impl Client {
    fn new(server: &UpdateServer, folder: &Path, products: &[&str], attempts: u32) -> Self {
        let config = Config {
            name: "windows".parse().unwrap(),
            catalogue: "windows".parse().unwrap(),
            url: server.url.clone(),
            products: products.iter().map(|id| (*id).to_owned()).collect(),
            classifications: vec![SECURITY.to_owned()],
            account: default_account(),
            document_bytes_max: 1 << 20,
            sha1: Sha1::Refuse,
            plain_http: PlainHttp::Accept,
            proxy: None,
            timeout: Duration::from_secs(10),
        };
        let post = HttpFetch::new(None, Duration::from_secs(10)).unwrap();
        let retry = Retry { attempts, delay: Duration::from_millis(1) };
        let source = Wsus::new(config, folder.to_owned(), post, retry, fresh);
        Self { source, state: State::default(), catalogue: BTreeMap::new() }
    }

    /// Syncs, and keeps what came of it as central does: documents and state together, or neither.
    async fn sync(&mut self) -> Result<bool, SyncError> {
        let advisories = Advisories::default();
        let synced = self.source.sync(&self.state, &self.catalogue, &advisories, now()).await?;
        self.state = synced.state;
        if !synced.unchanged {
            self.catalogue = synced.catalogue;
        }
        Ok(synced.unchanged)
    }

    fn updates(&self) -> Vec<Update> {
        self.catalogue.values().map(|json| serde_json::from_slice(json).unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_gets_everything_in_batches_and_a_later_one_only_what_changed() {
    let (server, dir) = (server().await, tempfile::tempdir().unwrap());
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    assert!(!client.sync().await.unwrap());
    let updates = client.updates();
    assert_eq!(updates.len(), 7, "six updates and a bundle, whose parts are in it");
    let single = updates.iter().find(|update| update.id.name() == guid(1)).unwrap();
    let [(_, payload)] = single.install.payloads().try_into().unwrap();
    assert_eq!(payload.url, "http://download.example/a.exe");
    let bundle = updates.iter().find(|update| update.id.name() == guid(20)).unwrap();
    let Install::Bundle { parts } = &bundle.install else { panic!("{:?}", bundle.install) };
    assert_eq!(parts.len(), 2);
    assert_eq!(
        server.calls(),
        [
            "GetAuthConfig",
            "GetAuthorizationCookie",
            "GetCookie",
            "GetConfigData",
            "GetRevisionIdList true -",
            "GetUpdateData 4",
            "GetUpdateData 1",
            "GetRevisionIdList false - false false",
            "GetUpdateData 4",
            "GetUpdateData 1",
            "GetUpdateData 3",
            "GetUpdateData 2",
        ]
    );

    // Nothing new.
    let before = client.catalogue.clone();
    assert!(client.sync().await.unwrap());
    assert_eq!(
        server.calls()[3..],
        ["GetConfigData", "GetRevisionIdList true 14,date", "GetRevisionIdList false 14,date true true"]
    );

    // A new update, and a new revision of an old one.
    for (identity, held) in [update(7, 200, PRODUCT), update(1, 201, PRODUCT)] {
        server.put(identity, held);
    }
    assert!(!client.sync().await.unwrap());
    assert_eq!(server.calls().last().unwrap(), "GetUpdateData 2");
    assert_eq!(client.catalogue.len(), before.len() + 1);
    let changed = client.updates().into_iter().find(|update| update.id.name() == guid(1)).unwrap();
    assert!(changed.title.ends_with("r201"), "{}", changed.title);

    // Whoever reads it for the first time now has the same.
    let other = tempfile::tempdir().unwrap();
    let mut late = Client::new(&server, other.path(), &[PRODUCT], 3);
    late.sync().await.unwrap();
    assert_eq!(late.catalogue, client.catalogue);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_with_any_call_the_catalogue_is_the_same_in_the_end() {
    let server = server().await;
    let clean = tempfile::tempdir().unwrap();
    let mut reference = Client::new(&server, clean.path(), &[PRODUCT], 3);
    reference.sync().await.unwrap();
    let calls = server.calls();
    let troubles = [
        Trouble::HangUp,
        Trouble::Cut,
        Trouble::Status(503),
        Trouble::Fault("ServerBusy"),
        Trouble::Fault("CookieExpired"),
        Trouble::Fault("InvalidCookie"),
        Trouble::Fault("InvalidAuthorizationCookie"),
    ];
    let mut tried = 0;
    for (place, call) in calls.iter().enumerate() {
        for trouble in &troubles {
            let about_cookies = matches!(trouble, Trouble::Fault(code) if *code != "ServerBusy");
            if about_cookies && call.starts_with("GetAuth") {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
            server.shared.lock().unwrap().troubles = [(place, trouble.clone())].into();
            let synced = client.sync().await;
            assert!(synced.is_ok(), "{place} {call} {trouble:?}: {}", Chain(&synced.unwrap_err()));
            assert_eq!(client.catalogue, reference.catalogue, "{place} {call} {trouble:?}");
            assert!(server.shared.lock().unwrap().troubles.is_empty());
            server.calls();
            tried += 1;
        }
    }
    println!("{tried} troubles in {} calls", calls.len());
    assert!(tried >= 70, "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_dies_at_any_call_leaves_no_anchor_and_the_next_repeats_no_document() {
    let server = server().await;
    let clean = tempfile::tempdir().unwrap();
    let mut reference = Client::new(&server, clean.path(), &[PRODUCT], 1);
    reference.sync().await.unwrap();
    let first = server.calls();
    let all = std::mem::take(&mut server.shared.lock().unwrap().given);
    for (identity, held) in [update(7, 200, PRODUCT), update(1, 201, PRODUCT), bundle(23, &[21])] {
        server.put(identity, held);
    }
    let later_state = (reference.state.clone(), reference.catalogue.clone());
    let copy = |from: &Path, to: &Path| {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    let before = tempfile::tempdir().unwrap();
    copy(clean.path(), before.path());
    reference.sync().await.unwrap();
    let later = server.calls();
    let changed = std::mem::take(&mut server.shared.lock().unwrap().given);
    for (place, call) in first.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let mut client = Client::new(&server, dir.path(), &[PRODUCT], 1);
        server.shared.lock().unwrap().troubles = [(place, Trouble::Cut)].into();
        assert!(client.sync().await.is_err(), "{place} {call}");
        assert_eq!(client.state, State::default(), "{place} {call}");
        let given = server.shared.lock().unwrap().given;
        server.calls();
        client.sync().await.unwrap();
        assert_eq!(client.catalogue, reference.catalogue, "{place} {call}");
        server.calls();
        // What the cut answer carried is all that is given twice.
        let total = std::mem::take(&mut server.shared.lock().unwrap().given);
        let most = all + changed + 3;
        assert!(given < total && total <= most, "{place} {call}: {given} then {total} of {most}");
    }
    // The same of a sync by anchors: a copy of the folder as it was, for each call.
    for (place, call) in later.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let mut client = Client::new(&server, dir.path(), &[PRODUCT], 1);
        copy(before.path(), dir.path());
        (client.state, client.catalogue) = later_state.clone();
        server.shared.lock().unwrap().troubles = [(place, Trouble::HangUp)].into();
        assert!(client.sync().await.is_err(), "{place} {call}");
        assert_eq!(client.state, later_state.0, "{place} {call}");
        server.calls();
        client.sync().await.unwrap();
        assert_eq!(client.catalogue, reference.catalogue, "{place} {call}");
        server.calls();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_without_news_asks_no_document_what_its_parts_are() {
    let (server, dir) = (server().await, tempfile::tempdir().unwrap());
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    client.sync().await.unwrap();
    // One that whoever reads the documents finds to lack a part.
    let (identity, held) = bundle(40, &[41]);
    let document = Document { identity, urls: BTreeMap::new(), xml: held.xml };
    Packs::open(dir.path(), "x", "x").unwrap().append(&[document]).unwrap();
    let (part, held) = update(41, 200, PRODUCT);
    server.put(part, Held { listed: None, ..held });
    server.calls();
    client.sync().await.unwrap();
    let calls = server.calls();
    assert!(!calls.iter().any(|call| call.starts_with("GetUpdateData")), "{calls:?}");
    // With the first news it is found.
    let (identity, held) = update(7, 200, PRODUCT);
    server.put(identity, held);
    client.sync().await.unwrap();
    assert_eq!(server.calls()[6..], ["GetUpdateData 1", "GetUpdateData 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_unpacked_no_further_than_a_document_may_be_long() {
    let (server, dir) = (server().await, tempfile::tempdir().unwrap());
    {
        let mut shared = server.shared.lock().unwrap();
        (shared.page, shared.updates_at_once) = (100, 100);
    }
    let longest = update(1, 200, PRODUCT).1.xml.len();
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    // As it is packed each has twice as many bytes.
    client.source.config.document_bytes_max = u32::try_from(2 * longest).unwrap();
    client.sync().await.unwrap();
    assert_eq!((client.catalogue.len(), client.state.missing.len()), (7, 0));
    let calls = server.calls();
    let place = calls.iter().position(|call| call == "GetUpdateData 7").unwrap();
    assert_eq!(calls[place + 1], "GetUpdateData 5", "two are unpacked of seven that came");
}

#[test]
fn of_an_answer_only_what_was_asked_for_is_unpacked_and_each_once() {
    let item = |number: u32, blob: &str| {
        format!(
            "<ServerSyncUpdateData><Id><UpdateID>{}</UpdateID><RevisionNumber>200</RevisionNumber></Id>{blob}\
             </ServerSyncUpdateData>",
            guid(number)
        )
    };
    let text = |text: &str| format!("<XmlUpdateBlob>{text}</XmlUpdateBlob>");
    let asked: Vec<Identity> = [1, 2, 3, 4].iter().map(|number| identity(&guid(*number), 200)).collect();
    let given = |items: &[String], bytes_max| -> Vec<(Identity, bool)> {
        let answer = format!("<r><updates>{}</updates></r>", items.concat());
        let answer = super::super::windows::xml::document(answer.as_bytes()).unwrap();
        let documents = soap::update_data(&answer, &asked, bytes_max).unwrap();
        documents.into_iter().map(|(identity, document)| (identity, document.is_ok())).collect()
    };
    let is = |number: u32, is_ok| (identity(&guid(number), 200), is_ok);
    let all = [
        item(9, "<XmlUpdateBlobCompressed>?</XmlUpdateBlobCompressed>"),
        item(1, &text("long text")),
        item(1, &text("again")),
        item(2, ""),
        item(3, &text("long text")),
        item(4, &text("x")),
    ];
    assert_eq!(given(&all, 100), [is(1, true), is(2, false), is(3, true), is(4, true)]);
    assert_eq!(given(&all, 10), [is(1, true), is(2, false), is(3, true)]);
    assert_eq!(given(&all, 9), [is(1, true)]);
    assert_eq!(given(&all, 1), [is(1, true)], "the first in any case");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_wears_out_is_renewed_again_and_again_but_not_for_ever() {
    let (server, dir) = (server().await, tempfile::tempdir().unwrap());
    server.shared.lock().unwrap().cookie_calls = 1;
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    client.sync().await.unwrap();
    assert_eq!(client.catalogue.len(), 7);
    server.shared.lock().unwrap().cookie_calls = 0;
    let error = client.sync().await.unwrap_err();
    assert!(Chain(&error).to_string().contains("`CookieExpired`"), "{}", Chain(&error));
    assert!(server.calls().len() < 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_the_server_cannot_give_costs_only_itself_and_is_asked_for_again() {
    let (server, dir) = (server().await, tempfile::tempdir().unwrap());
    server.shared.lock().unwrap().ghosts.insert(identity(&guid(5000), 200));
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    client.sync().await.unwrap();
    assert_eq!(client.catalogue.len(), 7);
    assert_eq!(client.state.missing, [(guid(5000), 200)].into());
    let (_, held) = update(5000, 200, PRODUCT);
    let text = held.xml.replace(&guid(5001), &guid(5000));
    server.put(identity(&guid(5000), 200), Held { xml: text, listed: None, ..held });
    client.sync().await.unwrap();
    assert_eq!((client.catalogue.len(), client.state.missing.len()), (8, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_the_server_lost_costs_one_more_list_and_a_changed_server_a_whole_sync() {
    let (server, dir) = (server().await, tempfile::tempdir().unwrap());
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    client.sync().await.unwrap();
    server.calls();
    let given = server.shared.lock().unwrap().given;
    server.shared.lock().unwrap().forgot = 1_000;
    assert!(client.sync().await.unwrap());
    assert_eq!(
        server.calls()[4..],
        [
            "GetRevisionIdList true 14,date",
            "GetRevisionIdList true -",
            "GetRevisionIdList false 14,date true true",
            "GetRevisionIdList false - false false",
        ]
    );
    assert_eq!(server.shared.lock().unwrap().given, given, "every document is here");
    server.shared.lock().unwrap().troubles = [(4, Trouble::Fault("ServerChanged"))].into();
    let before = client.catalogue.clone();
    assert!(client.sync().await.unwrap());
    assert_eq!(client.catalogue, before);
    assert!(server.shared.lock().unwrap().given >= 2 * given, "all was read anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_product_is_read_whole_and_one_that_is_dropped_goes_with_its_updates() {
    let (server, dir) = (server().await, tempfile::tempdir().unwrap());
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    client.sync().await.unwrap();
    let kept = (client.state, client.catalogue);
    server.calls();
    let mut client = Client::new(&server, dir.path(), &[PRODUCT, OTHER_PRODUCT], 3);
    (client.state, client.catalogue) = kept;
    client.sync().await.unwrap();
    assert_eq!(client.catalogue.len(), 8);
    let calls = server.calls();
    assert!(calls.contains(&"GetRevisionIdList false 14,date true false true".to_owned()), "{calls:?}");
    let kept = (client.state, client.catalogue);
    let mut client = Client::new(&server, dir.path(), &[OTHER_PRODUCT], 3);
    (client.state, client.catalogue) = kept;
    client.sync().await.unwrap();
    assert_eq!(
        client.updates().iter().map(|update| update.id.name().to_owned()).collect::<Vec<_>>(),
        [guid(30)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_somebody_emptied_or_damaged_is_filled_again() {
    let (server, dir) = (server().await, tempfile::tempdir().unwrap());
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    client.sync().await.unwrap();
    let before = client.catalogue.clone();
    for damage in [
        |path: &Path| std::fs::remove_dir_all(path).unwrap(),
        |path: &Path| std::fs::write(path.join("000000000000.pack"), b"nonsense").unwrap(),
    ] {
        server.shared.lock().unwrap().given = 0;
        damage(dir.path());
        client.sync().await.unwrap();
        assert_eq!(client.catalogue, before);
        assert!(server.shared.lock().unwrap().given >= 12);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_named_by_sha1_alone_is_not_fetched() {
    let (server, dir) = (server().await, tempfile::tempdir().unwrap());
    let xml = update_xml(&guid(8), 200, PRODUCT, "");
    server.put(identity(&guid(8), 200), held(xml, Some((PRODUCT, SECURITY))));
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    client.sync().await.unwrap();
    let payloads: BTreeMap<_, _> = client
        .updates()
        .into_iter()
        .map(|update| (update.id.name().to_owned(), update.install.payloads().len()))
        .collect();
    assert_eq!((payloads[&guid(1)], payloads[&guid(8)]), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_by_sha1_alone_is_learned_once_where_that_is_allowed_and_only_when_it_is_the_right_one() {
    let (server, dir, files) = (server().await, tempfile::tempdir().unwrap(), Server::start().await);
    let content = b"program".as_slice();
    let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, content);
    let sha1 = STANDARD.encode(sha1);
    for (number, name) in [(8, "right.exe"), (9, "wrong.exe")] {
        let digest = if number == 8 { &sha1 } else { SHA1 };
        let xml = update_xml(&guid(number), 200, PRODUCT, "").replace(SHA1, digest);
        let files = vec![(digest.to_owned(), format!("{}/{name}", files.url))];
        server.put(identity(&guid(number), 200), Held { files, ..held(xml, Some((PRODUCT, SECURITY))) });
    }
    files.put("/right.exe", content);
    files.put("/wrong.exe", content);
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    client.source.config.sha1 = Sha1::Accept;
    client.sync().await.unwrap();
    let payloads: BTreeMap<_, _> = client
        .updates()
        .into_iter()
        .map(|update| (update.id.name().to_owned(), update.install.payloads()))
        .collect();
    let [(_, payload)] = payloads[&guid(8)].as_slice() else { panic!("{payloads:?}") };
    assert_eq!(payload.digest, Digest::of(content));
    assert!(payloads[&guid(9)].is_empty());
    let paths =
        |seen: Vec<crate::sources::testing::Seen>| seen.into_iter().map(|seen| seen.path).collect::<Vec<_>>();
    assert_eq!(paths(files.seen()).len(), 2);
    assert!(client.sync().await.unwrap());
    assert_eq!(paths(files.seen()), ["/wrong.exe"], "only what is not known is tried again");
    client.source.config.sha1 = Sha1::Refuse;
    assert!(!client.sync().await.unwrap());
    assert!(
        client
            .updates()
            .iter()
            .filter(|update| update.id.name() == guid(8))
            .all(|u| u.install.payloads().is_empty())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_had_keep_no_other_from_being_learned() {
    let (server, dir, files) = (server().await, tempfile::tempdir().unwrap(), Server::start().await);
    let content = b"program".as_slice();
    let right = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, content);
    files.put("/right.exe", content);
    let dead = |number: u8| {
        let mut sha1 = [0; 20];
        sha1[1] = number;
        (STANDARD.encode(sha1), format!("{}/dead.exe", files.url))
    };
    let count = u8::try_from(sha1::LEARNED_AT_ONCE_MAX).unwrap();
    let all = (0..count).map(dead).chain([(STANDARD.encode(right), format!("{}/right.exe", files.url))]);
    for (number, (sha1, url)) in (100..).zip(all) {
        let xml = update_xml(&guid(number), 200, PRODUCT, "").replace(SHA1, &sha1);
        let held = held(xml, Some((PRODUCT, SECURITY)));
        server.put(identity(&guid(number), 200), Held { files: vec![(sha1, url)], ..held });
    }
    let mut client = Client::new(&server, dir.path(), &[PRODUCT], 3);
    client.source.config.sha1 = Sha1::Accept;
    client.sync().await.unwrap();
    assert_eq!((client.state.learned.len(), files.seen().len()), (0, usize::from(count)));
    assert!(!client.sync().await.unwrap());
    assert_eq!(client.state.learned.values().collect::<Vec<_>>(), [&Digest::of(content)]);
    // After the last one those at the beginning are tried again.
    assert_eq!(files.seen().len(), usize::from(count));
    assert!(client.state.learned_to.is_some());
}

#[test]
fn files_are_learned_in_turn_and_not_too_much_at_once() {
    let file = |(sha1, bytes): (&str, u64)| {
        (sha1.to_owned(), sha1::Unknown { sha1: sha1.to_owned(), bytes, url: String::new() })
    };
    let gib = 1_u64 << 30;
    let unknown = [("a", gib), ("b", 8 * gib), ("c", 4 * gib), ("d", 4 * gib), ("e", 1)].map(file).into();
    for (after, wanted) in
        [("", "a"), ("a", "b"), ("b", "cd"), ("bb", "cd"), ("c", "dea"), ("d", "ea"), ("e", "a"), ("x", "a")]
    {
        let next: String = sha1::next(&unknown, after, 0).into_iter().map(|file| file.sha1).collect();
        assert_eq!(next, wanted, "after `{after}`");
    }
    assert!(sha1::next(&unknown, "", 100_000).is_empty());
}

#[test]
fn a_file_without_an_address_is_where_a_wsus_has_it() {
    let sha1 = "e8b1d75885cf8f053a1307bdc9c3f87bf0cf7ada";
    let wanted = "https://wsus.example:8531/Content/DA/E8B1D75885CF8F053A1307BDC9C3F87BF0CF7ADA.exe";
    assert_eq!(content_url("https://wsus.example:8531", sha1, "a.exe").as_deref(), Some(wanted));
    assert_eq!(content_url("https://sws.update.microsoft.com", sha1, "a.exe"), None);
    assert_eq!(content_url("https://wsus.example", sha1, "none"), None);
}

#[test]
fn many_small_packs_are_put_together_without_what_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut packs = Packs::open(dir.path(), "a", "x").unwrap();
    let document = |number: u32, revision: u32| Document {
        identity: identity(&guid(number), revision),
        urls: BTreeMap::new(),
        xml: format!("<a>{number} {revision}</a>"),
    };
    for number in 0..202 {
        packs.append(&[document(number % 10, number)]).unwrap();
    }
    let read = |packs: &Packs| {
        let mut found = Vec::new();
        packs
            .current(&mut |document| {
                found.push(document);
                Ok(())
            })
            .unwrap();
        found.sort_by(|one, other| one.identity.cmp(&other.identity));
        found
    };
    let (before, digest) = (read(&packs), packs.digest());
    assert_eq!(before.len(), 10);
    packs.tidy().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "one pack and the name");
    packs.append(&[document(50, 1)]).unwrap();
    let again = Packs::open(dir.path(), "b", "x").unwrap();
    assert_eq!((again.name(), again.len(), read(&again).len()), ("a", 11, 11));
    assert!(read(&again).iter().filter(|document| document.xml != "<a>50 1</a>").eq(&before));
    assert_ne!(again.digest(), digest);
}

#[test]
fn what_cannot_be_asked_for_is_refused_at_once() {
    let config = |text: &str| -> Config {
        toml::from_str(&format!("name = \"a\"\ncatalogue = \"a\"\n{text}")).unwrap()
    };
    let ids = format!("products = [\"{PRODUCT}\"]\nclassifications = [\"{SECURITY}\"]");
    for (text, wanted) in [
        (format!("url = \"http://wsus.example:8530\"\n{ids}"), "is not authenticated"),
        (format!("url = \"/srv/wsus\"\n{ids}"), "`/srv/wsus` must be an https address"),
        (format!("url = \"wsus\"\n{ids}"), "`wsus` must be an https address"),
        ("url = \"https://a\"\nproducts = []\nclassifications = []".to_owned(), "`products` must be 1 to"),
        (
            format!("url = \"https://a\"\n{}", ids.replace(SECURITY, "x")),
            "`classifications` must be 1 to 1000 GUIDs, found `x`",
        ),
    ] {
        let error = config(&text).check().unwrap_err().to_string();
        assert!(error.contains(wanted) && !error.contains("path"), "{text}: {error}");
    }
    config(&format!("url = \"https://sws.update.microsoft.com\"\n{ids}")).check().unwrap();
}

/// Exchanges with real servers, where they are beside the checkout.
#[test]
fn what_is_asked_and_answered_is_what_real_servers_exchange() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if !folder.is_dir() {
        println!("skipped: comparing with real exchanges, since there are none in `../shared/data`");
        return;
    }
    let read = |name: &str| std::fs::read(folder.join("wsusss-exchanges").join(name)).unwrap();
    let text = |name: &str| String::from_utf8(read(name)).unwrap();
    let element = |name: &str, what: &str| {
        super::super::windows::xml::document(&read(name)).unwrap().find(what).unwrap().clone()
    };
    let result = |operation, name: &str| soap::result(operation, &read(name)).unwrap();

    // Byte for byte what a client asked, with the same cookies.
    let asked = soap::Question::authorisation("probe.lab.invalid", "6f1c2f6e-3f0b-4d3a-9b1e-0d2f6a1c5e12");
    assert_eq!(asked.envelope(), text("000002-GetAuthorizationCookie.request.xml").trim());
    let shown = element("000003-GetCookie.request.xml", "AuthorizationCookie");
    let asked = soap::Question::cookie(&soap::authorisation(&shown).unwrap(), None);
    assert_eq!(asked.envelope(), text("000003-GetCookie.request.xml").trim());
    let name = "000006-GetRevisionIdList-GetConfig-true.request.xml";
    let cookie = soap::cookie(&element(name, "cookie")).unwrap();
    let filter = soap::Filter { anchor: None, wanted: soap::Wanted::Categories };
    assert_eq!(soap::Question::revision_ids(&cookie, &filter).envelope(), text(name).trim());
    let name = "000009-GetRevisionIdList.request.xml";
    let cookie = soap::cookie(&element(name, "cookie")).unwrap();
    let products = [("8c3fcc84-7410-4a95-8b89-a166a0190486".parse().unwrap(), Delta::Whole)];
    let classifications = [("e0789628-ce08-4437-be74-2495b842f43b".parse().unwrap(), Delta::Whole)];
    let wanted = soap::Wanted::Updates { products: &products, classifications: &classifications };
    let filter = soap::Filter { anchor: None, wanted };
    assert_eq!(soap::Question::revision_ids(&cookie, &filter).envelope(), text(name).trim());

    let config = result("GetAuthConfig", "000001-GetAuthConfig.response.xml").unwrap();
    assert_eq!(soap::authorisation_path(&config).unwrap(), "DssAuthWebService/DssAuthWebService.asmx");
    for (name, anchor) in [
        ("000005-GetConfigData.response.xml", "9438,2026-10-04 16:33:26.670"),
        ("microsoft-GetConfigData-20261006.response.xml", "2026-10-05 17:27:44.393"),
    ] {
        let limits = soap::limits(&result("GetConfigData", name).unwrap()).unwrap();
        assert_eq!((limits.updates_at_once, limits.anchor.as_deref()), (100, Some(anchor)), "{name}");
    }
    let listed = result("GetRevisionIdList", "000011-GetRevisionIdList-delta-empty.response.xml").unwrap();
    let (anchor, ids) = soap::revision_ids(&listed).unwrap();
    assert_eq!((anchor.as_str(), ids.len()), ("9438,2026-10-04 16:33:26.848", 0));
    let fault = result("GetRevisionIdList", "000018-fault-InvalidParameters.response.xml").unwrap_err();
    assert_eq!((fault.code.as_str(), fault.message.as_str()), ("InvalidParameters", "filter"));

    for (name, id) in [
        ("000014-GetUpdateData.response.xml", "266f6222-c89d-43f2-9f8a-69340271e677"),
        ("000015-GetUpdateData-uncompressed.response.xml", "ccb78947-6453-4ecc-9de8-bc0305c98f2d"),
    ] {
        let asked = [identity(id, 200)];
        let given = soap::update_data(&result("GetUpdateData", name).unwrap(), &asked, 1 << 20).unwrap();
        let [(found, document)] = given.try_into().unwrap();
        let document = document.unwrap();
        assert_eq!(found, identity(id, 200), "{name}");
        let whole =
            std::fs::read_to_string(folder.join(format!("wsus-update-xml/full/{id}-r200.xml"))).unwrap();
        let of = |text: &str| update::read([text.as_bytes()], &mut Tally::default()).unwrap();
        assert_eq!(of(&document.xml), of(&whole), "{name}");
    }
}
