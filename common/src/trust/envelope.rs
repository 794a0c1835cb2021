//! The envelope in which an endpoint's report travels upward: signed by the endpoint, opaque to relays.
//!
//! ```text
//! magic     4   "TWRE"
//! version   1   1
//! tenant    2 + n    length big-endian, then the id
//! endpoint  2 + n
//! stream    1   0 states, 1 inventory
//! sequence  8   big-endian
//! replaces  1   0 or 1
//! created   8   Unix milliseconds, big-endian, two's complement
//! body      4 + n    the report: JSON, compressed by zstd
//! signature 64  Ed25519 over "tierway report v1\0" and everything before the signature
//! ```
//!
//! Every byte is covered, none can be written in two ways, nothing may follow. A relay parses the envelope to
//! know whose it is and which earlier ones it replaces; only who has the endpoint's key can
//! [`Envelope::verify`] it and only then is the body looked at.

use std::io::{self, Read as _};

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    id::{EndpointId, IdError, TenantId},
    schema::Report,
    trust::{
        digest::Digest,
        keys::{PublicKey, SIGNATURE_BYTES, SigningKey},
    },
};

const MAGIC: &[u8; 4] = b"TWRE";
const VERSION: u8 = 1;

/// What is signed begins with this, so that a report's signature is none of anything else.
const CONTEXT: &[u8] = b"tierway report v1\0";

/// Largest report before compression: what a receiver sets aside for one. A full inventory of a large server
/// is about 300 kB.
pub const REPORT_BYTES_MAX: usize = 1024 * 1024;

/// Largest body: with its header it must fit, alone, into one call of 1 MiB.
pub const BODY_BYTES_MAX: usize = 1000 * 1024;

/// Largest envelope, for who receives them: header with the longest ids, body, signature.
pub const ENVELOPE_BYTES_MAX: usize = BODY_BYTES_MAX + 1024;

/// Compresses inventories about as well as the higher levels, at a tenth of their time.
const COMPRESSION_LEVEL: i32 = 3;

/// The decoder's memory, as a power of two: no frame of a report needs a window larger than the report.
const WINDOW_LOG_MAX: u32 = 20;

/// What is not a report, or not that endpoint's.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the bytes of an envelope.
    #[error("the envelope is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: &'static str,
    },
    /// An id in it is none.
    #[error("the envelope is malformed")]
    Id(#[from] IdError),
    /// It was altered, or made by someone else.
    #[error("the envelope is not signed by `{endpoint}`")]
    Signature {
        /// Whose it claims to be.
        endpoint: EndpointId,
    },
    /// Larger than a receiver takes.
    #[error("the report has more than {bytes_max} bytes")]
    TooLarge {
        /// What is allowed.
        bytes_max: usize,
    },
    /// Properly signed, and yet no report.
    #[error("the report of `{endpoint}` is unreadable")]
    Body {
        /// Whose it is.
        endpoint: EndpointId,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It could not be written.
    #[error("could not write the report")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn malformed<T>(reason: &'static str) -> Result<T, EnvelopeError> {
    Err(EnvelopeError::Malformed { reason })
}

/// The two sequences of reports that an endpoint sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Transitions and summaries; none may be lost.
    States,
    /// Facts; a later full inventory makes all earlier ones superfluous.
    Inventory,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::States, Self::Inventory];

    /// The stream that a report belongs to.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        match report {
            Report::Inventory { .. } | Report::InventoryDelta { .. } => Self::Inventory,
            Report::States { .. } | Report::Cycle(_) => Self::States,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::States => 0,
            Self::Inventory => 1,
        }
    }
}

/// What everyone on the way can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose endpoint.
    pub tenant: TenantId,
    /// Who says it.
    pub endpoint: EndpointId,
    /// In which sequence.
    pub stream: Stream,
    /// 1, 2, 3, … in the stream; a gap is a report that was lost or withheld.
    pub sequence: u64,
    /// Earlier ones of the stream need not be delivered any more.
    pub replaces_earlier: bool,
    /// When, by the endpoint's clock; to the millisecond.
    pub created: Timestamp,
}

/// A parsed envelope. Nothing in it is believed before [`Envelope::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    header: Header,
    bytes: Bytes,
    body: std::ops::Range<usize>,
}

impl Envelope {
    /// A new envelope around `report`, signed by its endpoint's key.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::TooLarge`], [`EnvelopeError::Write`].
    pub fn seal(key: &SigningKey, header: Header, report: &Report) -> Result<Self, EnvelopeError> {
        let json = serde_json::to_vec(report).map_err(|err| EnvelopeError::Write(err.into()))?;
        if json.len() > REPORT_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes_max: REPORT_BYTES_MAX });
        }
        let body =
            zstd::bulk::compress(&json, COMPRESSION_LEVEL).map_err(|err| EnvelopeError::Write(err.into()))?;
        seal_body(key, header, &body)
    }

    /// Takes an envelope apart. Checks its form and limits, not its signature; the body stays as it is.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Malformed`], [`EnvelopeError::Id`], [`EnvelopeError::TooLarge`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes_max: ENVELOPE_BYTES_MAX });
        }
        let mut rest = Rest(bytes);
        if rest.take(MAGIC.len())? != MAGIC {
            return malformed("it does not begin as one");
        }
        if rest.array::<1>()? != [VERSION] {
            return malformed("its version is not known");
        }
        let tenant = rest.text()?.parse()?;
        let endpoint = rest.text()?.parse()?;
        let [code] = rest.array()?;
        let Some(stream) = Stream::ALL.into_iter().find(|stream| stream.code() == code) else {
            return malformed("its stream is not known");
        };
        let sequence = u64::from_be_bytes(rest.array()?);
        let replaces_earlier = match rest.array()? {
            [0] => false,
            [1] => true,
            _ => return malformed("a flag is neither 0 nor 1"),
        };
        let Ok(created) = Timestamp::from_millisecond(i64::from_be_bytes(rest.array()?)) else {
            return malformed("its time is out of range");
        };
        let body_bytes = u32::from_be_bytes(rest.array()?) as usize;
        if body_bytes > BODY_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes_max: BODY_BYTES_MAX });
        }
        let begin = bytes.len() - rest.0.len();
        rest.take(body_bytes)?;
        rest.take(SIGNATURE_BYTES)?;
        if !rest.0.is_empty() {
            return malformed("something follows it");
        }
        let header = Header { tenant, endpoint, stream, sequence, replaces_earlier, created };
        Ok(Self { header, bytes: Bytes::copy_from_slice(bytes), body: begin..begin + body_bytes })
    }

    /// The report, when `key` (that of the endpoint which the header names) has signed the envelope.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Signature`]; then [`EnvelopeError::TooLarge`] and [`EnvelopeError::Body`], which only
    /// the endpoint itself can bring about.
    pub fn verify(&self, key: &PublicKey) -> Result<Report, EnvelopeError> {
        Ok(self.verify_sized(key)?.0)
    }

    /// As [`Envelope::verify`], and how many bytes the report had before compression: the memory that it takes grows
    /// with these, and nothing else that is known of it tells them.
    ///
    /// # Errors
    ///
    /// As [`Envelope::verify`].
    pub fn verify_sized(&self, key: &PublicKey) -> Result<(Report, usize), EnvelopeError> {
        let endpoint = &self.header.endpoint;
        let (signed, signature) = self.bytes.split_at(self.body.end);
        key.verify(&message(signed), signature)
            .map_err(|_| EnvelopeError::Signature { endpoint: endpoint.clone() })?;
        let body = |source: Box<dyn std::error::Error + Send + Sync>| EnvelopeError::Body {
            endpoint: endpoint.clone(),
            source,
        };
        let json = decompress(&self.bytes[self.body.clone()]).map_err(|err| body(err.into()))?;
        if json.len() > REPORT_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes_max: REPORT_BYTES_MAX });
        }
        let report: Report = serde_json::from_slice(&json).map_err(|err| body(err.into()))?;
        if Stream::of(&report) != self.header.stream {
            return Err(body("it belongs to another stream".into()));
        }
        Ok((report, json.len()))
    }

    /// What everyone on the way can read; claimed, not proved, before [`Envelope::verify`].
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The exact bytes, signature included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Of the exact bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}

/// At most one byte more than a report may have.
fn decompress(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::Decoder::with_buffer(body)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut json = Vec::new();
    decoder.take(REPORT_BYTES_MAX as u64 + 1).read_to_end(&mut json)?;
    Ok(json)
}

fn message(signed: &[u8]) -> Vec<u8> {
    [CONTEXT, signed].concat()
}

fn seal_body(key: &SigningKey, header: Header, body: &[u8]) -> Result<Envelope, EnvelopeError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(EnvelopeError::TooLarge { bytes_max: BODY_BYTES_MAX });
    }
    let mut bytes = encode(&header);
    let body_bytes = u32::try_from(body.len()).map_err(|err| EnvelopeError::Write(err.into()))?;
    bytes.extend_from_slice(&body_bytes.to_be_bytes());
    let begin = bytes.len();
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(&key.sign(&message(&bytes)));
    // The time is kept to the millisecond.
    let created = Timestamp::from_millisecond(header.created.as_millisecond()).unwrap_or(header.created);
    let header = Header { created, ..header };
    Ok(Envelope { header, bytes: bytes.into(), body: begin..begin + body.len() })
}

/// Everything before the body.
fn encode(header: &Header) -> Vec<u8> {
    let Header { tenant, endpoint, stream, sequence, replaces_earlier, created } = header;
    let mut bytes = Vec::from(MAGIC);
    bytes.push(VERSION);
    for id in [tenant.as_str(), endpoint.as_str()] {
        // An id is far shorter than that: see `ID_BYTES_MAX`.
        let length = u16::try_from(id.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(id.as_bytes());
    }
    bytes.push(stream.code());
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.push(u8::from(*replaces_earlier));
    bytes.extend_from_slice(&created.as_millisecond().to_be_bytes());
    bytes
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], EnvelopeError> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else { return malformed("it is cut off") };
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EnvelopeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn text(&mut self) -> Result<&'a str, EnvelopeError> {
        let length = u16::from_be_bytes(self.array()?);
        match std::str::from_utf8(self.take(length.into())?) {
            Ok(text) => Ok(text),
            Err(_) => malformed("an id is not UTF-8"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        facts::Facts,
        schema::{State, StateEntry},
    };

    fn key(seed: u8) -> SigningKey {
        let der = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &[seed; 32]].concat();
        SigningKey::from_pkcs8(&der, "test").unwrap()
    }

    fn header(stream: Stream) -> Header {
        Header {
            tenant: "default".parse().unwrap(),
            endpoint: "6f1c2b1e-0000-4000-8000-000000000001".parse().unwrap(),
            stream,
            sequence: 7,
            replaces_earlier: true,
            created: "2026-11-20T03:00:00.123Z".parse().unwrap(),
        }
    }

    fn states() -> Report {
        let entry = StateEntry {
            update: "debian-12/openssl_3.0.17".parse().unwrap(),
            state: State::Needed,
            at: Timestamp::UNIX_EPOCH,
            detected: None,
            applied: None,
            detail: Some("ä\n\"".to_owned()),
            progress: Default::default(),
        };
        Report::States { snapshot: false, entries: vec![entry; 20] }
    }

    fn inventory(bytes: usize) -> Report {
        let values = (0..bytes / 64).map(|n| (format!("file:{n:040}"), "present-----".to_owned())).collect();
        Report::Inventory { at: Timestamp::UNIX_EPOCH, facts: Facts { values, ..Facts::default() } }
    }

    fn sealed() -> Envelope {
        Envelope::seal(&key(1), header(Stream::States), &states()).unwrap()
    }

    #[test]
    fn what_was_sealed_is_what_central_reads() {
        let sealed = sealed();
        let parsed = Envelope::parse(sealed.bytes()).unwrap();
        assert_eq!(parsed, sealed);
        assert_eq!(parsed.header(), &header(Stream::States));
        assert_eq!(parsed.verify(&key(1).public()).unwrap(), states());
    }

    #[test]
    fn an_altered_bit_anywhere_is_refused() {
        let sealed = sealed();
        for at in 0..sealed.bytes().len() * 8 {
            let mut bytes = sealed.bytes().to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            let verified = Envelope::parse(&bytes).and_then(|envelope| envelope.verify(&key(1).public()));
            assert!(verified.is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_header_that_a_relay_rewrites_is_refused() {
        let changes: [fn(&mut Header); 6] = [
            |header| header.tenant = "other".parse().unwrap(),
            |header| header.endpoint = "6f1c2b1e-0000-4000-8000-000000000002".parse().unwrap(),
            |header| header.stream = Stream::Inventory,
            |header| header.sequence += 1,
            |header| header.replaces_earlier = false,
            |header| header.created = Timestamp::UNIX_EPOCH,
        ];
        let sealed = sealed();
        let tail = &sealed.bytes()[sealed.body.start - 4..];
        for change in changes {
            let mut header = sealed.header().clone();
            change(&mut header);
            let forged = Envelope::parse(&[&encode(&header), tail].concat()).unwrap();
            assert_eq!(forged.header(), &header);
            let verified = forged.verify(&key(1).public());
            assert!(matches!(verified, Err(EnvelopeError::Signature { .. })), "{header:?}");
        }
    }

    #[test]
    fn another_endpoints_key_is_refused() {
        let verified = sealed().verify(&key(2).public());
        assert!(matches!(verified, Err(EnvelopeError::Signature { .. })));
    }

    #[test]
    fn a_signature_over_the_same_bytes_without_the_context_is_refused() {
        let sealed = sealed();
        let signed = &sealed.bytes()[..sealed.body.end];
        let forged = Envelope::parse(&[signed, &key(1).sign(signed)].concat()).unwrap();
        assert!(matches!(forged.verify(&key(1).public()), Err(EnvelopeError::Signature { .. })));
    }

    #[test]
    fn an_envelope_that_is_cut_off_or_continued_is_refused() {
        let sealed = sealed();
        for count in 0..sealed.bytes().len() {
            assert!(Envelope::parse(&sealed.bytes()[..count]).is_err(), "{count}");
        }
        for more in [&b"\0"[..], b"TWRE", &[0; 64]] {
            assert!(Envelope::parse(&[sealed.bytes(), more].concat()).is_err());
        }
    }

    #[test]
    fn a_report_just_within_the_limit_travels_and_a_larger_one_is_refused_before_it_does() {
        let large = inventory(REPORT_BYTES_MAX * 9 / 10);
        let sealed = Envelope::seal(&key(1), header(Stream::Inventory), &large).unwrap();
        let bytes = serde_json::to_vec(&large).unwrap().len();
        assert_eq!(sealed.verify_sized(&key(1).public()).unwrap(), (large, bytes));
        let too_large = Envelope::seal(&key(1), header(Stream::Inventory), &inventory(REPORT_BYTES_MAX * 2));
        assert!(matches!(too_large, Err(EnvelopeError::TooLarge { bytes_max: REPORT_BYTES_MAX })));
    }

    #[test]
    fn a_body_that_unpacks_to_more_than_a_report_is_refused_without_unpacking_it() {
        // One byte too many, and 64 MiB in a few kB: a window beyond the limit, or one within it, and the length.
        for bytes in [REPORT_BYTES_MAX + 1, 64 * 1024 * 1024] {
            let bomb = zstd::bulk::compress(&vec![b' '; bytes], 19).unwrap();
            let sealed = seal_body(&key(1), header(Stream::States), &bomb).unwrap();
            assert!(sealed.verify(&key(1).public()).is_err(), "{bytes}");
            assert!(decompress(&bomb).map_or(0, |json| json.capacity()) <= 4 * REPORT_BYTES_MAX);
        }
        let mut frames = Vec::new();
        for _ in 0..64 {
            frames.extend(zstd::bulk::compress(&vec![b' '; REPORT_BYTES_MAX], 19).unwrap());
        }
        let sealed = seal_body(&key(1), header(Stream::States), &frames).unwrap();
        assert!(matches!(sealed.verify(&key(1).public()), Err(EnvelopeError::TooLarge { .. })));
    }

    #[test]
    fn a_body_beyond_the_limit_is_neither_sealed_nor_parsed() {
        let body = vec![0; BODY_BYTES_MAX + 1];
        assert!(matches!(
            seal_body(&key(1), header(Stream::States), &body),
            Err(EnvelopeError::TooLarge { bytes_max: BODY_BYTES_MAX })
        ));
        let mut bytes = encode(&header(Stream::States));
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&[0; SIGNATURE_BYTES]);
        assert!(matches!(Envelope::parse(&bytes), Err(EnvelopeError::TooLarge { .. })));
    }

    #[test]
    fn a_signed_body_that_is_no_report_of_its_stream_is_refused() {
        let json = serde_json::to_vec(&states()).unwrap();
        for (stream, body) in [
            (Stream::Inventory, zstd::bulk::compress(&json, 1).unwrap()),
            (Stream::States, json),
            (Stream::States, Vec::new()),
            (Stream::States, zstd::bulk::compress(b"{}", 1).unwrap()),
            (Stream::States, zstd::bulk::compress(&[b'['; 100_000], 1).unwrap()),
        ] {
            let sealed = seal_body(&key(1), header(stream), &body).unwrap();
            assert!(matches!(sealed.verify(&key(1).public()), Err(EnvelopeError::Body { .. })));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_and_what_it_takes_has_one_form(
            prefix in 0..100_usize,
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let sealed = sealed();
            let bytes = [&sealed.bytes()[..prefix.min(sealed.bytes().len())], &noise].concat();
            if let Ok(envelope) = Envelope::parse(&bytes) {
                prop_assert!(bytes.starts_with(&encode(envelope.header())));
                prop_assert!(envelope.verify(&key(1).public()).is_err());
            }
        }

        #[test]
        fn a_mutated_envelope_has_one_form_or_none(at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut bytes = sealed().bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(envelope) = Envelope::parse(&bytes) {
                prop_assert_eq!(&envelope.bytes()[..], &bytes[..]);
                prop_assert!(bytes.starts_with(&encode(envelope.header())));
            }
        }
    }
}
