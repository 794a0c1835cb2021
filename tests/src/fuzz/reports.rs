//! What endpoints send: an envelope has one form, a report comes out as it went in, and a body that its endpoint made up
//! costs no more than a report may.

use std::sync::LazyLock;

use ring::rand::SystemRandom;
use tierway_common::{
    facts::Facts,
    lease::Ask,
    schema::Report,
    trust::{
        envelope::{BODY_BYTES_MAX, Envelope, EnvelopeError, Header, REPORT_BYTES_MAX, Stream},
        keys::{SIGNATURE_BYTES, SigningKey},
    },
};

use super::{Target, texts};

/// Bytes as they come in, signed by nobody.
pub(super) const ENVELOPES: Target = Target {
    name: "envelopes",
    run: parse,
    seeds: envelopes,
    words: &["TWRE\u{1}", "\0\u{7}default", "\0\u{0}", "\u{7f}"],
};

/// Reports of an endpoint that holds a key.
pub(super) const REPORTS: Target = Target {
    name: "reports",
    run: report,
    seeds: reports,
    words: &[
        "\"inventory\"",
        "\"inventory_delta\"",
        "\"states\"",
        "\"cycle\"",
        "\"state\":\"needed\"",
        "\"facts\"",
        "\"domains\":{}",
        "\"values\":{}",
        "\"removed\":[]",
        "\"detail\"",
        "\"progress\"",
        "\"waiting\"",
        "null",
        "\"2026-11-25T00:00:00Z\"",
    ],
};

/// One key for all runs: which one makes no difference.
static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate(&SystemRandom::new()).unwrap());

fn header(stream: Stream) -> Header {
    Header {
        tenant: "default".parse().unwrap(),
        endpoint: "0b0e6a4c-7a0c-4d8c-9a53-2a1c7bb10001".parse().unwrap(),
        stream,
        sequence: 1,
        replaces_earlier: false,
        created: "2026-11-25T00:00:00Z".parse().unwrap(),
    }
}

/// How many bytes come before the length of the body.
fn header_bytes(header: &Header) -> usize {
    // Magic and version; both ids behind their lengths; stream, sequence, flag and time.
    5 + (2 + header.tenant.as_str().len()) + (2 + header.endpoint.as_str().len()) + 1 + 8 + 1 + 8
}

fn parse(bytes: &[u8]) -> bool {
    if let Ok(ask) = Ask::parse(bytes) {
        assert_eq!(ask.bytes(), bytes, "a request for a lease has two forms");
        assert!(ask.verify(&KEY.public()).is_err(), "a request verifies that nobody signed");
        return true;
    }
    let Ok(envelope) = Envelope::parse(bytes) else { return false };
    assert_eq!(envelope.bytes(), bytes, "an envelope has two forms");
    let refused = envelope.verify(&KEY.public());
    assert!(
        matches!(refused, Err(EnvelopeError::Signature { .. })),
        "an envelope verifies that nobody signed"
    );
    // All that its header says is in its bytes: one that is sealed with the same header begins the same.
    let report = match envelope.header().stream {
        Stream::States => r#"{"states":{"snapshot":false,"entries":[]}}"#,
        Stream::Inventory => {
            r#"{"inventory":{"at":"2026-11-25T00:00:00Z","facts":{"domains":{},"values":{}}}}"#
        }
    };
    let report = serde_json::from_str::<Report>(report).unwrap();
    let again = Envelope::seal(&KEY, envelope.header().clone(), &report).unwrap();
    assert_eq!(Envelope::parse(again.bytes()).unwrap().header(), envelope.header());
    let begin = header_bytes(envelope.header());
    assert_eq!(again.bytes()[..begin], bytes[..begin], "the header is written in two ways");
    true
}

/// The first byte says whether the rest is a report or what is sent in place of a packed one.
fn report(bytes: &[u8]) -> bool {
    match bytes.split_first() {
        Some((0, json)) => sealed(json),
        Some((_, body)) => made_up(body),
        None => false,
    }
}

fn sealed(json: &[u8]) -> bool {
    let Ok(report) = serde_json::from_slice::<Report>(json) else { return false };
    let envelope = match Envelope::seal(&KEY, header(Stream::of(&report)), &report) {
        Ok(envelope) => envelope,
        Err(error) => {
            assert!(matches!(error, EnvelopeError::TooLarge { .. }), "{error}");
            return false;
        }
    };
    let parsed = Envelope::parse(envelope.bytes()).unwrap();
    assert_eq!(parsed, envelope);
    assert_eq!(parsed.verify(&KEY.public()).unwrap(), report, "a report is another when it arrives");
    let mut altered = envelope.bytes().to_vec();
    let at = json.len() % altered.len();
    altered[at] ^= 1;
    let altered = Envelope::parse(&altered).map(|envelope| envelope.verify(&KEY.public()).is_ok());
    assert!(!altered.unwrap_or(false), "a report was altered at byte {at} and is believed");
    true
}

/// An envelope with this body, properly signed, as only a hostile endpoint makes it.
fn made_up(body: &[u8]) -> bool {
    if body.len() > BODY_BYTES_MAX {
        return false;
    }
    let header = header(Stream::Inventory);
    let facts = Facts::default();
    let honest =
        Envelope::seal(&KEY, header.clone(), &Report::Inventory { at: header.created, facts }).unwrap();
    let mut bytes = honest.bytes()[..header_bytes(&header)].to_vec();
    bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    let signed = [b"tierway report v1\0".as_slice(), &bytes].concat();
    bytes.extend(KEY.sign(&signed));
    let envelope = Envelope::parse(&bytes).unwrap();
    match envelope.verify(&KEY.public()) {
        Ok(report) => {
            assert_eq!(Stream::of(&report), Stream::Inventory);
            assert!(serde_json::to_vec(&report).unwrap().len() <= 2 * REPORT_BYTES_MAX);
            true
        }
        Err(error) => {
            assert!(!matches!(error, EnvelopeError::Signature { .. }), "the body is not what was signed");
            false
        }
    }
}

fn envelopes() -> Vec<Vec<u8>> {
    let report: Report = serde_json::from_slice(&reports()[0][1..]).unwrap();
    let sealed = Envelope::seal(&KEY, header(Stream::of(&report)), &report).unwrap();
    let (signed, signature) = sealed.bytes().split_at(sealed.bytes().len() - SIGNATURE_BYTES);
    vec![[signed, &vec![0; signature.len()]].concat()]
}

fn reports() -> Vec<Vec<u8>> {
    let mut seeds = texts(&[
        "\0{\"inventory\":{\"at\":\"2026-11-25T00:00:00Z\",\"facts\":{\"domains\":{\"os\":{\"complete\":{\"source\":\"s\"}}},\"values\":{\"os:family\":\"debian\"}}}}",
        "\0{\"states\":{\"snapshot\":true,\"entries\":[{\"update\":\"debian-12/a_1\",\"state\":\"needed\",\"at\":\"2026-11-25T00:00:00Z\"}]}}",
    ]);
    let json = br#"{"inventory":{"at":"2026-11-25T00:00:00Z","facts":{"domains":{},"values":{"os:family":"debian"}}}}"#;
    // A frame of one block that is stored: the length in one byte, then the block's header.
    let length = u8::try_from(json.len()).unwrap();
    let mut frame = vec![1, 0x28, 0xb5, 0x2f, 0xfd, 0x20, length, (length << 3) | 1, length >> 5, 0];
    frame.extend(json);
    seeds.push(frame);
    seeds
}
