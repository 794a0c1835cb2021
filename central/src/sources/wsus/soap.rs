//! The messages of [MS-WSUSSS]: what is asked, and what is answered, as SOAP 1.1.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use quick_xml::escape::escape;

use crate::sources::windows::{
    cabinet::{Cabinet, CabinetError},
    model::{Guid, Identity},
    xml::{self, Element, XmlError},
};

/// Where everything but the authorisation is.
pub(super) const SERVICE: &str = "ServerSyncWebService/ServerSyncWebService.asmx";

const NAMESPACE: &str = "http://www.microsoft.com/SoftwareDistribution";
const AUTHORISATION: &str = "http://www.microsoft.com/SoftwareDistribution/Server/DssAuthWebService";

/// The version of the protocol that is spoken here; servers of 1.21 answer it as well.
pub(super) const PROTOCOL: &str = "1.20";

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Name of the operation.
    pub(super) operation: &'static str,
    namespace: &'static str,
    content: String,
}

impl Question {
    /// What the header `SOAPAction` says.
    pub(super) fn action(&self) -> String {
        format!("{}/{}", self.namespace, self.operation)
    }

    /// The whole message.
    pub(super) fn envelope(&self) -> String {
        let Self { operation, namespace, content } = self;
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
             <soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body>\
             <{operation} xmlns=\"{namespace}\">{content}</{operation}></soap:Body></soap:Envelope>"
        )
    }

    fn new(operation: &'static str, content: String) -> Self {
        Self { operation, namespace: NAMESPACE, content }
    }

    /// How to be authorised.
    pub(super) fn auth_config() -> Self {
        Self::new("GetAuthConfig", String::new())
    }

    /// To be authorised, under a name and number that any caller may choose.
    pub(super) fn authorisation(name: &str, number: &str) -> Self {
        let content = format!(
            "<accountName>{}</accountName><accountGuid>{}</accountGuid>",
            escape(name),
            escape(number)
        );
        Self { operation: "GetAuthorizationCookie", namespace: AUTHORISATION, content }
    }

    /// The cookie for everything else.
    pub(super) fn cookie(authorisation: &Authorisation, old: Option<&Cookie>) -> Self {
        let Authorisation { plug_in, data } = authorisation;
        let old = old.map(|cookie| cookie.element("oldCookie")).unwrap_or_default();
        Self::new(
            "GetCookie",
            format!(
                "<authCookies><AuthorizationCookie><PlugInId>{}</PlugInId><CookieData>{}</CookieData>\
                 </AuthorizationCookie></authCookies>{old}<protocolVersion>{PROTOCOL}</protocolVersion>",
                escape(plug_in),
                escape(data)
            ),
        )
    }

    /// The server's limits.
    pub(super) fn config_data(cookie: &Cookie, anchor: Option<&str>) -> Self {
        let anchor = anchor.map(|text| format!("<configAnchor>{}</configAnchor>", escape(text)));
        Self::new("GetConfigData", cookie.element("cookie") + &anchor.unwrap_or_default())
    }

    /// What there is, by a filter.
    pub(super) fn revision_ids(cookie: &Cookie, filter: &Filter<'_>) -> Self {
        let mut content = cookie.element("cookie");
        content.push_str("<filter>");
        if let Some(anchor) = filter.anchor {
            // Writing to a text cannot fail.
            let _ = write!(content, "<Anchor>{}</Anchor>", escape(anchor));
        }
        match &filter.wanted {
            Wanted::Categories => content.push_str("<GetConfig>true</GetConfig>"),
            Wanted::Updates { products, classifications } => {
                content.push_str("<GetConfig>false</GetConfig>");
                for (name, ids) in [("Categories", products), ("Classifications", classifications)] {
                    let _ = write!(content, "<{name}>");
                    for (id, delta) in *ids {
                        let delta = *delta == Delta::Changes;
                        let _ =
                            write!(content, "<IdAndDelta><Id>{id}</Id><Delta>{delta}</Delta></IdAndDelta>");
                    }
                    let _ = write!(content, "</{name}>");
                }
            }
        }
        content.push_str("</filter>");
        Self::new("GetRevisionIdList", content)
    }

    /// Documents of updates.
    pub(super) fn update_data(cookie: &Cookie, ids: &[Identity]) -> Self {
        let mut content = cookie.element("cookie");
        content.push_str("<updateIds>");
        for Identity { id, revision } in ids {
            let _ = write!(
                content,
                "<UpdateIdentity><UpdateID>{id}</UpdateID><RevisionNumber>{revision}</RevisionNumber>\
                 </UpdateIdentity>"
            );
        }
        content.push_str("</updateIds>");
        Self::new("GetUpdateData", content)
    }
}

/// What is listed of a product or classification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delta {
    /// All of it, whatever the anchor.
    Whole,
    /// What changed since the anchor.
    Changes,
}

/// Which revisions to list.
#[derive(Clone, Debug)]
pub(super) struct Filter<'a> {
    /// As the server gave it the last time.
    pub(super) anchor: Option<&'a str>,
    pub(super) wanted: Wanted<'a>,
}

#[derive(Clone, Debug)]
pub(super) enum Wanted<'a> {
    /// Products, classifications and detectoids.
    Categories,
    /// Updates of any of these products and any of these classifications.
    Updates { products: &'a [(Guid, Delta)], classifications: &'a [(Guid, Delta)] },
}

/// What the authorisation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authorisation {
    plug_in: String,
    data: String,
}

/// What every other call shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cookie {
    expiration: String,
    data: String,
}

impl Cookie {
    fn element(&self, name: &str) -> String {
        let (expiration, data) = (escape(&self.expiration), escape(&self.data));
        format!("<{name}><Expiration>{expiration}</Expiration><EncryptedData>{data}</EncryptedData></{name}>")
    }
}

/// Why a server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server answered `{operation}` with `{code}`: {message}")]
pub struct Fault {
    /// What was asked.
    pub operation: &'static str,
    /// Such as `InvalidCookie`.
    pub code: String,
    /// What it is about.
    pub message: String,
}

impl Fault {
    pub(super) fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// Whether a new cookie helps.
    pub(super) fn is_about_cookies(&self) -> bool {
        ["InvalidCookie", "InvalidAuthorizationCookie", "CookieExpired"].contains(&self.code.as_str())
    }
}

/// An answer that is none.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It is not XML.
    #[error("the answer to `{operation}` is not readable XML")]
    Xml {
        /// What was asked.
        operation: &'static str,
        /// Why.
        source: XmlError,
    },
    /// It lacks something.
    #[error("the answer to `{operation}` has no `{what}`")]
    Missing {
        /// What was asked.
        operation: &'static str,
        /// What is missing.
        what: &'static str,
    },
}

/// The result in an answer, or the fault in its place.
pub(super) fn result(operation: &'static str, bytes: &[u8]) -> Result<Result<Element, Fault>, AnswerError> {
    let root = xml::document(bytes).map_err(|source| AnswerError::Xml { operation, source })?;
    let missing = |what| AnswerError::Missing { operation, what };
    let mut body = root.children.into_iter().find(|child| child.name == "Body").ok_or(missing("Body"))?;
    let answer = if body.children.is_empty() { None } else { Some(body.children.swap_remove(0)) };
    let answer = answer.ok_or(missing("answer"))?;
    if answer.name == "Fault" {
        let text = |name: &str| answer.find(name).map(Element::text).filter(|text| !text.is_empty());
        let code = text("ErrorCode").or_else(|| text("faultcode")).unwrap_or("no code");
        let message = text("Message").or_else(|| text("faultstring")).unwrap_or("no message");
        let short = |text: &str| crate::text::clean(text, 200);
        return Ok(Err(Fault { operation, code: short(code), message: short(message) }));
    }
    if answer.name.strip_suffix("Response") != Some(operation) {
        return Err(missing("answer"));
    }
    let mut children = answer.children.into_iter();
    children.next().map(Ok).ok_or(missing("result"))
}

fn text<'a>(
    operation: &'static str,
    element: &'a Element,
    what: &'static str,
) -> Result<&'a str, AnswerError> {
    element.text_of(what).ok_or(AnswerError::Missing { operation, what })
}

/// Where the authorisation is, relative to the server.
pub(super) fn authorisation_path(result: &Element) -> Result<String, AnswerError> {
    let operation = "GetAuthConfig";
    let plug_ins = result.find("AuthInfo").into_iter().flat_map(|found| found.all("AuthPlugInInfo"));
    for plug_in in plug_ins {
        if text(operation, plug_in, "PlugInID")? == "DssTargeting" {
            return Ok(text(operation, plug_in, "ServiceUrl")?.to_owned());
        }
    }
    Err(AnswerError::Missing { operation, what: "DssTargeting" })
}

pub(super) fn authorisation(result: &Element) -> Result<Authorisation, AnswerError> {
    let of = |what| text("GetAuthorizationCookie", result, what).map(str::to_owned);
    Ok(Authorisation { plug_in: of("PlugInId")?, data: of("CookieData")? })
}

pub(super) fn cookie(result: &Element) -> Result<Cookie, AnswerError> {
    let of = |what| text("GetCookie", result, what).map(str::to_owned);
    Ok(Cookie { expiration: of("Expiration")?, data: of("EncryptedData")? })
}

/// What the server allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) updates_at_once: usize,
    pub(super) anchor: Option<String>,
}

pub(super) fn limits(result: &Element) -> Result<Limits, AnswerError> {
    let what = "MaxNumberOfUpdatesPerRequest";
    let most = text("GetConfigData", result, what)?.parse();
    Ok(Limits {
        updates_at_once: most.map_err(|_| AnswerError::Missing { operation: "GetConfigData", what })?,
        anchor: result.text_of("NewConfigAnchor").map(str::to_owned),
    })
}

fn identity(operation: &'static str, element: &Element) -> Result<Identity, AnswerError> {
    let id = text(operation, element, "UpdateID")?.parse();
    let revision = text(operation, element, "RevisionNumber")?.parse();
    Ok(Identity {
        id: id.map_err(|_| AnswerError::Missing { operation, what: "UpdateID" })?,
        revision: revision.map_err(|_| AnswerError::Missing { operation, what: "RevisionNumber" })?,
    })
}

/// The revisions that are listed, and the anchor for the next time.
pub(super) fn revision_ids(result: &Element) -> Result<(String, Vec<Identity>), AnswerError> {
    let operation = "GetRevisionIdList";
    let anchor = text(operation, result, "Anchor")?.to_owned();
    let list = result.child("NewRevisions").map(|list| list.children.as_slice()).unwrap_or_default();
    Ok((anchor, list.iter().map(|element| identity(operation, element)).collect::<Result<_, _>>()?))
}

/// A document that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) identity: Identity,
    /// SHA-1 in base64 → where the file is.
    pub(super) urls: BTreeMap<String, String>,
    pub(super) xml: String,
}

/// A document that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Its base64.
    #[error("it is no base64")]
    Base64,
    /// Its cabinet.
    #[error("its cabinet cannot be unpacked")]
    Cabinet(#[from] CabinetError),
    /// Its text.
    #[error("it is no UTF-16")]
    Text,
    /// It is not there.
    #[error("it is empty")]
    Empty,
}

/// The documents of an answer, each unpacked or with the reason why not.
pub(super) type Documents = Vec<(Identity, Result<Document, BlobError>)>;

/// Documents of those that were `asked` for, each once. No more are unpacked when `bytes_max` of text are there: a first
/// one of that length comes all the same, and the others are to be asked for again.
pub(super) fn update_data(
    result: &Element,
    asked: &[Identity],
    bytes_max: u32,
) -> Result<Documents, AnswerError> {
    let operation = "GetUpdateData";
    let mut locations = BTreeMap::new();
    for file in result.child("fileUrls").into_iter().flat_map(|list| &list.children) {
        // A server that has the file itself says so; else where Microsoft has it.
        let url = file.text_of("UssUrl").or_else(|| file.text_of("MUUrl"));
        if let (Some(digest), Some(url)) = (file.text_of("FileDigest"), url) {
            locations.insert(digest, url);
        }
    }
    let mut documents = Vec::new();
    let mut asked: BTreeSet<&Identity> = asked.iter().collect();
    let mut left = u64::from(bytes_max);
    for item in result.child("updates").into_iter().flat_map(|list| &list.children) {
        let id = item.child("Id").ok_or(AnswerError::Missing { operation, what: "Id" })?;
        let identity = identity(operation, id)?;
        if !asked.remove(&identity) {
            continue;
        }
        if left == 0 {
            break;
        }
        let digests = item.child("FileDigestList").map(|list| list.children.as_slice()).unwrap_or_default();
        let urls = digests.iter().filter_map(|digest| {
            let digest = digest.text();
            Some((digest.to_owned(), (*locations.get(digest)?).to_owned()))
        });
        let xml = match (item.text_of("XmlUpdateBlob"), item.text_of("XmlUpdateBlobCompressed")) {
            (Some(text), _) => Ok(text.to_owned()),
            (None, Some(packed)) => unpack(packed, bytes_max),
            (None, None) => Err(BlobError::Empty),
        };
        left = left.saturating_sub(xml.as_ref().map_or(0, |xml| xml.len() as u64));
        let document = xml.map(|xml| Document { identity: identity.clone(), urls: urls.collect(), xml });
        documents.push((identity, document));
    }
    Ok(documents)
}

/// A document from a cabinet of one member, in UTF-16 without a mark of its order.
fn unpack(packed: &str, bytes_max: u32) -> Result<String, BlobError> {
    let bytes = STANDARD
        .decode(packed.split_ascii_whitespace().collect::<String>())
        .map_err(|_| BlobError::Base64)?;
    let unpacked = Cabinet::new(&bytes)?.member("blob", bytes_max)?;
    let (units, rest) = unpacked.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(BlobError::Text);
    }
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units).collect::<Result<String, _>>().map_err(|_| BlobError::Text)
}
