//! An update server on the loopback that checks what it is asked, and makes trouble on demand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use quick_xml::escape::escape;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::sources::windows::{
    cabinet::tests::{Packing, cabinet},
    model::Identity,
    xml::{self, Element},
};

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A fault with this code.
    Fault(&'static str),
    /// The answer breaks off in its middle.
    Cut,
    /// The connection ends without an answer.
    HangUp,
    /// A page of something in between.
    Status(u16),
}

/// A document as the server has it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) xml: String,
    /// Product and classification by which it is listed; nothing for what only bundles name.
    pub(super) listed: Option<(String, String)>,
    /// A product, classification or detectoid.
    pub(super) is_category: bool,
    /// When it came, in the server's own count.
    pub(super) came: u64,
    /// SHA-1 in base64 → address.
    pub(super) files: Vec<(String, String)>,
    /// As it is, when it is not to be packed here.
    pub(super) raw: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) held: BTreeMap<Identity, Held>,
    /// Listed, and not to be had.
    pub(super) ghosts: BTreeSet<Identity>,
    pub(super) count: u64,
    /// The anchors of before this count are not known any more.
    pub(super) forgot: u64,
    /// So many documents come in one answer.
    pub(super) page: usize,
    pub(super) updates_at_once: usize,
    /// A cookie serves so many calls.
    pub(super) cookie_calls: usize,
    cookies: BTreeMap<String, usize>,
    authorised: usize,
    /// Number of a call → what goes wrong with it, once.
    pub(super) troubles: BTreeMap<usize, Trouble>,
    pub(super) calls: Vec<String>,
    /// Documents that were given.
    pub(super) given: usize,
}

#[derive(Clone, Debug)]
pub(super) struct UpdateServer {
    pub(super) url: String,
    pub(super) shared: Arc<Mutex<Shared>>,
}

impl UpdateServer {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared =
            Shared { page: 100, updates_at_once: 100, cookie_calls: usize::MAX, ..Shared::default() };
        let server = Self { url, shared: Arc::new(Mutex::new(shared)) };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move {
                    // The client may hang up at any time.
                    let _ = server.answer(stream).await;
                });
            }
        });
        server
    }

    pub(super) fn put(&self, identity: Identity, mut held: Held) {
        let mut shared = self.shared.lock().unwrap();
        shared.count += 1;
        held.came = shared.count;
        shared.held.insert(identity, held);
    }

    /// Calls since the last time.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().unwrap().calls)
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8(head).unwrap();
            let header = |name: &str| {
                let mut found = head.lines().filter_map(|line| line.split_once(": "));
                found.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
            };
            let mut body = vec![0; header("content-length").unwrap().parse().unwrap()];
            stream.read_exact(&mut body).await?;
            assert_eq!(header("content-type").as_deref(), Some("text/xml; charset=utf-8"));
            let path = head.split(' ').nth(1).unwrap();
            let (trouble, answer) =
                self.shared.lock().unwrap().take(path, &header("soapaction").unwrap(), &body);
            let (status, answer) = match (&trouble, answer) {
                (Some(Trouble::HangUp), _) => return Ok(()),
                (Some(Trouble::Status(status)), _) => (*status, "<html>busy</html>".to_owned()),
                (Some(Trouble::Fault(code)), _) => (500, fault(code, "made up")),
                (_, Ok(answer)) => (200, answer),
                (_, Err((code, message))) => (500, fault(code, message)),
            };
            let length = answer.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            if trouble == Some(Trouble::Cut) {
                stream.write_all(&answer.as_bytes()[..length / 2]).await?;
                return Ok(());
            }
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}

fn fault(code: &str, message: &str) -> String {
    envelope(&format!(
        "<soap:Fault><faultcode>soap:Client</faultcode><faultstring>Fault occurred</faultstring><detail>\
         <ErrorCode>{code}</ErrorCode><Message>{message}</Message></detail></soap:Fault>"
    ))
}

fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body>{body}</soap:Body></soap:Envelope>"
    )
}

fn answered(operation: &str, result: &str) -> String {
    envelope(&format!(
        "<{operation}Response><{operation}Result>{result}</{operation}Result></{operation}Response>"
    ))
}

type Answer = Result<String, (&'static str, &'static str)>;

impl Shared {
    fn take(&mut self, path: &str, action: &str, body: &[u8]) -> (Option<Trouble>, Answer) {
        let root = xml::document(body).unwrap();
        let question = &root.child("Body").unwrap().children[0];
        let operation = question.name.clone();
        let authorising = operation == "GetAuthorizationCookie";
        let (service, namespace) = match authorising {
            true => ("/DssAuthWebService/DssAuthWebService.asmx", "/Server/DssAuthWebService"),
            false => ("/ServerSyncWebService/ServerSyncWebService.asmx", ""),
        };
        assert_eq!(path, service);
        let expected = format!("\"http://www.microsoft.com/SoftwareDistribution{namespace}/{operation}\"");
        assert_eq!(action, expected);
        let trouble = self.troubles.remove(&self.calls.len());
        let detail = match operation.as_str() {
            "GetRevisionIdList" => {
                let filter = question.child("filter").unwrap();
                let anchor = filter.text_of("Anchor").unwrap_or("-");
                let wanted = filter.text_of("GetConfig").unwrap();
                let deltas = |name: &str| -> String {
                    let ids = filter.child(name).map(|list| list.children.as_slice()).unwrap_or_default();
                    ids.iter().map(|id| format!(" {}", id.text_of("Delta").unwrap())).collect()
                };
                format!(" {wanted} {anchor}{}{}", deltas("Categories"), deltas("Classifications"))
            }
            "GetUpdateData" => format!(" {}", question.child("updateIds").unwrap().children.len()),
            _ => String::new(),
        };
        self.calls.push(format!("{operation}{detail}"));
        // What breaks off on the way back was done all the same.
        let answer = match trouble {
            Some(Trouble::HangUp | Trouble::Fault(_) | Trouble::Status(_)) => Ok(String::new()),
            _ => self.reply(&operation, question),
        };
        (trouble, answer)
    }

    fn reply(&mut self, operation: &str, question: &Element) -> Answer {
        let result = match operation {
            "GetAuthConfig" => "<LastChange>2026-10-04T13:16:35.433Z</LastChange><AuthInfo><AuthPlugInInfo>\
                <PlugInID>DssTargeting</PlugInID><ServiceUrl>DssAuthWebService/DssAuthWebService.asmx</ServiceUrl>\
                <Parameter /></AuthPlugInInfo></AuthInfo>"
                .to_owned(),
            "GetAuthorizationCookie" => {
                assert!(question.text_of("accountName").is_some());
                assert!(question.text_of("accountGuid").unwrap().parse::<uuid::Uuid>().is_ok());
                self.authorised += 1;
                let number = self.authorised;
                format!("<PlugInId>DssTargeting</PlugInId><CookieData>auth{number}</CookieData>")
            }
            "GetCookie" => {
                let shown = question.find("CookieData").unwrap().text();
                if !shown.starts_with("auth") {
                    return Err(("InvalidAuthorizationCookie", "authCookies"));
                }
                assert_eq!(question.text_of("protocolVersion"), Some("1.20"));
                let name = format!("cookie{}", self.cookies.len());
                self.cookies.insert(name.clone(), 0);
                let data = STANDARD.encode(name);
                format!("<Expiration>2026-10-04T20:33:26.65455Z</Expiration><EncryptedData>{data}</EncryptedData>")
            }
            _ => {
                let shown = question.child("cookie").unwrap().text_of("EncryptedData").unwrap();
                let name = String::from_utf8(STANDARD.decode(shown).unwrap()).unwrap();
                let Some(used) = self.cookies.get_mut(&name) else { return Err(("InvalidCookie", "cookie")) };
                *used += 1;
                if *used > self.cookie_calls {
                    return Err(("CookieExpired", "cookie"));
                }
                match operation {
                    "GetConfigData" => format!(
                        "<MaxNumberOfUpdatesPerRequest>{}</MaxNumberOfUpdatesPerRequest>\
                         <NewConfigAnchor>config</NewConfigAnchor><ProtocolVersion>1.20</ProtocolVersion>",
                        self.updates_at_once
                    ),
                    "GetRevisionIdList" => self.list(question.child("filter").unwrap())?,
                    "GetUpdateData" => self.documents(question.child("updateIds").unwrap())?,
                    other => panic!("nobody asks for `{other}`"),
                }
            }
        };
        Ok(answered(operation, &result))
    }

    fn list(&self, filter: &Element) -> Answer {
        let since = match filter.text_of("Anchor") {
            None => 0,
            Some(anchor) => {
                match anchor.strip_suffix(",date").and_then(|number| number.parse::<u64>().ok()) {
                    Some(number) if number >= self.forgot => number,
                    _ => return Err(("InvalidParameters", "filter")),
                }
            }
        };
        let whole = |name: &str| -> BTreeMap<String, bool> {
            let ids = filter.child(name).map(|list| list.children.as_slice()).unwrap_or_default();
            ids.iter()
                .map(|id| (id.text_of("Id").unwrap().to_owned(), id.text_of("Delta") == Some("false")))
                .collect()
        };
        let (products, classifications) = (whole("Categories"), whole("Classifications"));
        let wants_categories = filter.text_of("GetConfig") == Some("true");
        assert_eq!(wants_categories, products.is_empty(), "only what is asked for");
        let lists = |held: &Held| match &held.listed {
            _ if held.is_category || wants_categories => {
                held.is_category && wants_categories && held.came > since
            }
            None => false,
            Some((product, classification)) => {
                match (products.get(product), classifications.get(classification)) {
                    (Some(product), Some(classification)) => *product || *classification || held.came > since,
                    _ => false,
                }
            }
        };
        let mut ids: Vec<&Identity> =
            self.held.iter().filter(|(_, held)| lists(held)).map(|(identity, _)| identity).collect();
        if !wants_categories && since == 0 {
            ids.extend(&self.ghosts);
        }
        let ids: String = ids
            .into_iter()
            .map(|Identity { id, revision }| {
                format!("<UpdateIdentity><UpdateID>{id}</UpdateID><RevisionNumber>{revision}</RevisionNumber></UpdateIdentity>")
            })
            .collect();
        Ok(format!("<Anchor>{},date</Anchor><NewRevisions>{ids}</NewRevisions>", self.count))
    }

    fn documents(&mut self, ids: &Element) -> Answer {
        if ids.children.len() > self.updates_at_once {
            return Err(("InvalidParameters", "updateIds"));
        }
        let identity = |element: &Element| Identity {
            id: element.text_of("UpdateID").unwrap().parse().unwrap(),
            revision: element.text_of("RevisionNumber").unwrap().parse().unwrap(),
        };
        let wanted: Vec<Identity> = ids.children.iter().map(identity).collect();
        if wanted.iter().any(|identity| !self.held.contains_key(identity)) {
            return Err(("InternalServerError", "none"));
        }
        let (mut updates, mut urls) = (String::new(), String::new());
        for identity in wanted.iter().take(self.page) {
            self.given += 1;
            let held = &self.held[identity];
            let Identity { id, revision } = identity;
            let digests: String = held
                .files
                .iter()
                .map(|(digest, _)| format!("<base64Binary>{digest}</base64Binary>"))
                .collect();
            let blob = match &held.raw {
                Some(raw) => format!("<XmlUpdateBlobCompressed>{raw}</XmlUpdateBlobCompressed>"),
                None if held.xml.len() > 1_000 => {
                    let text: Vec<u8> = held.xml.encode_utf16().flat_map(u16::to_le_bytes).collect();
                    let packed = STANDARD.encode(cabinet(Packing::Mszip, &[("blob", &text)]));
                    format!("<XmlUpdateBlobCompressed>{packed}</XmlUpdateBlobCompressed>")
                }
                None => format!("<XmlUpdateBlob>{}</XmlUpdateBlob>", escape(held.xml.as_str())),
            };
            updates += &format!(
                "<ServerSyncUpdateData><Id><UpdateID>{id}</UpdateID><RevisionNumber>{revision}</RevisionNumber></Id>\
                 <FileDigestList>{digests}</FileDigestList>{blob}</ServerSyncUpdateData>"
            );
            for (digest, url) in &held.files {
                urls += &format!(
                    "<ServerSyncUrlData><FileDigest>{digest}</FileDigest><MUUrl>{url}</MUUrl><UssUrl /></ServerSyncUrlData>"
                );
            }
        }
        Ok(format!("<updates>{updates}</updates><fileUrls>{urls}</fileUrls>"))
    }
}
