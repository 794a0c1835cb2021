use pgp::{
    composed::SignedSecretKey,
    packet::{KeyFlags, Notation, SignatureConfig, Subpacket},
    types::{Duration, Password},
};

use super::*;
use crate::sources::testing::{clearsign, clearsign_as, new_key, public};

const TEXT: &str = "Suite: x\n- dashed\nSHA256:\n abc\n\nend";

fn made() -> Timestamp {
    "2024-01-01T00:00:00Z".parse().unwrap()
}

/// Signatures are made with the machine's clock.
fn now() -> Timestamp {
    tierway_common::clock::Clock::system().now()
}

fn keyring(key: &SignedSecretKey) -> Keyring {
    Keyring::parse("test", &public(key)).unwrap()
}

fn refused(keyring: &Keyring, message: &str, now: Timestamp) -> String {
    keyring.verify(message.as_bytes(), now).unwrap_err().to_string()
}

#[test]
fn a_text_signed_by_a_subkey_comes_out_as_it_was_hashed() {
    let key = new_key(made());
    let verified = keyring(&key).verify(clearsign(&key, TEXT).as_bytes(), now()).unwrap();
    assert_eq!(verified.text, TEXT);
    assert_eq!(verified.signer, key.secret_subkeys[0].key.fingerprint().to_string());
}

#[test]
fn line_ends_and_trailing_blanks_do_not_matter() {
    let key = new_key(made());
    let message = clearsign(&key, TEXT);
    for changed in [message.replace('\n', "\r\n"), message.replace("Suite: x", "Suite: x \t")] {
        assert!(keyring(&key).verify(changed.as_bytes(), now()).is_ok(), "{changed}");
    }
}

#[test]
fn a_message_that_is_not_exactly_a_clearsigned_text_is_refused() {
    let key = new_key(made());
    let good = clearsign(&key, TEXT);
    for (from, to, words) in [
        ("x\n", "y\n", "does not match the text"),
        (" abc", " abc\n", "does not match the text"),
        ("-----BEGIN PGP SIGNED", "Suite: evil\n-----BEGIN PGP SIGNED", "does not begin"),
        ("Hash: ", "Comment: ", "unexpected header"),
        ("\nSuite", "\nSuite: evil\nSuite", "does not match the text"),
        ("Hash: SHA256\n", "Hash: SHA256\nSuite: evil\n", "unexpected header"),
        ("- - dashed", "- dashed", "does not match the text"),
        ("- - dashed", "-dashed", "not escaped"),
        ("Suite: x\n", "Suite: x\r", "control characters"),
        ("-----END PGP SIGNATURE-----", "-----END PGP SIGNATURE-----\nSuite: evil", "follows its signature"),
        ("-----END PGP SIGNATURE-----", "", "cut off"),
        ("-----BEGIN PGP SIGNATURE-----", "", "not escaped"),
        ("-----BEGIN PGP SIGNATURE-----", "- -----BEGIN", "not escaped"),
    ] {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from}");
        let error = refused(&keyring(&key), &changed, now());
        assert!(error.contains(words), "{from} to {to}: {error}");
    }
    for bytes in [&b""[..], b"\xff", TEXT.as_bytes()] {
        assert!(matches!(keyring(&key).verify(bytes, now()), Err(SignatureError::Form { .. })));
    }
}

#[test]
fn one_good_signature_of_several_is_enough_and_bad_ones_are_each_named() {
    let (known, other) = (new_key(made()), new_key(made()));
    let [good, foreign] = [clearsign(&known, TEXT), clearsign(&other, TEXT)];
    // The bodies of both blocks are joined as packets: armour holds any number of them.
    let packets = |message: &str| {
        let at = message.find("-----BEGIN PGP SIGNATURE").unwrap();
        let (signatures, _) = DetachedSignature::from_string_many(&message[at..]).unwrap();
        signatures.map(|s| s.unwrap().signature).collect::<Vec<_>>()
    };
    let with = |signatures: Vec<Signature>| {
        let message = pgp::composed::CleartextSignedMessage::new_many(TEXT, |_| Ok(signatures)).unwrap();
        message.to_armored_string(Default::default()).unwrap()
    };
    let both = with([packets(&foreign), packets(&good)].concat());
    let signer = keyring(&known).verify(both.as_bytes(), now()).unwrap().signer;
    assert_eq!(signer, known.secret_subkeys[0].key.fingerprint().to_string());
    let error = refused(&keyring(&new_key(made())), &both, now());
    assert!(error.contains("none of its 2 signatures"), "{error}");
    for key in [&known, &other] {
        let fingerprint = key.secret_subkeys[0].key.fingerprint().to_string();
        assert!(error.to_lowercase().contains(&fingerprint), "{error}");
    }
    let many = with(vec![packets(&foreign).remove(0); 40]);
    assert!(refused(&keyring(&known), &many, now()).contains("none of its 16"));
}

/// Signs with the subkey after a change.
fn signed(key: &SignedSecretKey, change: impl Fn(&mut SignatureConfig)) -> String {
    clearsign_as(&key.secret_subkeys[0].key, TEXT, change)
}

fn add(config: &mut SignatureConfig, data: SubpacketData) {
    config.hashed_subpackets.push(Subpacket::critical(data).unwrap());
}

#[test]
fn a_signature_that_should_not_count_does_not() {
    let key = new_key(made());
    let at = |time: Timestamp| pgp::types::Timestamp::from_secs(u32::try_from(time.as_second()).unwrap());
    let dated = |time: Timestamp| {
        signed(&key, |config| {
            config.hashed_subpackets[0] =
                Subpacket::regular(SubpacketData::SignatureCreationTime(at(time))).unwrap();
        })
    };
    // Nobody makes such signatures any more, so the digest is changed afterwards.
    let hashed_by = |digest| {
        let at = signed(&key, |_| {});
        let (message, _) = pgp::composed::CleartextSignedMessage::from_string(&at).unwrap();
        let signature = &message.signatures()[0];
        let mut config = signature.config().unwrap().clone();
        config.hash_alg = digest;
        let bytes = signature.signature().unwrap().clone();
        let changed = Signature::from_config(config, signature.signed_hash_value().unwrap(), bytes).unwrap();
        let message = pgp::composed::CleartextSignedMessage::new_many(TEXT, |_| Ok(vec![changed])).unwrap();
        message.to_armored_string(Default::default()).unwrap()
    };
    let notation = Notation {
        readable: true,
        name: b"must@example.org".to_vec().into(),
        value: b"understand".to_vec().into(),
    };
    let cases = [
        (hashed_by(HashAlgorithm::Sha1), "too weak"),
        (hashed_by(HashAlgorithm::Md5), "too weak"),
        (signed(&key, |config| config.typ = SignatureType::Binary), "not a signature over text"),
        (dated("2023-12-31T00:00:00Z".parse().unwrap()), "older than its key"),
        (dated("2100-01-01T00:00:00Z".parse().unwrap()), "lies in the future"),
        (signed(&key, |config| drop(config.hashed_subpackets.remove(0))), "has no date"),
        (
            signed(&key, |config| {
                add(config, SubpacketData::SignatureExpirationTime(Duration::from_secs(1)))
            }),
            "has expired",
        ),
        (signed(&key, |config| add(config, SubpacketData::Notation(notation.clone()))), "critical demand"),
    ];
    let later = now().checked_add(jiff::SignedDuration::from_secs(60)).unwrap();
    for (message, words) in cases {
        let error = refused(&keyring(&key), &message, later);
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn a_primary_key_that_only_certifies_does_not_sign() {
    let key = new_key(made());
    let message = clearsign_as(&key.primary_key, TEXT, |_| {});
    assert!(refused(&keyring(&key), &message, now()).contains("not meant for signing"));
}

/// A self-signature of the primary key.
fn own(key: &SignedSecretKey, typ: SignatureType, data: Vec<SubpacketData>) -> Signature {
    let mut config = SignatureConfig::from_key(rand::thread_rng(), &key.primary_key, typ).unwrap();
    config.hashed_subpackets = [
        SubpacketData::SignatureCreationTime(pgp::types::Timestamp::now()),
        SubpacketData::IssuerFingerprint(key.primary_key.fingerprint()),
    ]
    .into_iter()
    .chain(data)
    .map(|data| Subpacket::regular(data).unwrap())
    .collect();
    match typ {
        SignatureType::SubkeyBinding | SignatureType::SubkeyRevocation => config.sign_subkey_binding(
            &key.primary_key,
            &key.primary_key.public_key(),
            &Password::empty(),
            &key.secret_subkeys[0].key.public_key(),
        ),
        _ => config.sign_key(&key.primary_key, &Password::empty(), &key.primary_key.public_key()),
    }
    .unwrap()
}

fn year(count: u32) -> SubpacketData {
    SubpacketData::KeyExpirationTime(Duration::from_secs(count * 365 * 86_400))
}

#[test]
fn keys_are_judged_at_now() {
    let key = new_key(made());
    let message = clearsign(&key, TEXT);
    let check = |change: &dyn Fn(&mut SignedPublicKey), now: Timestamp| {
        let mut certificate = SignedPublicKey::from(key.clone());
        change(&mut certificate);
        let bytes = pgp::ser::Serialize::to_bytes(&certificate).unwrap();
        Keyring::parse("test", &bytes).unwrap().verify(message.as_bytes(), now).map_err(|e| e.to_string())
    };
    let later: Timestamp = "2099-01-01T00:00:00Z".parse().unwrap();
    assert!(check(&|_| {}, later).is_ok(), "a key without an end does not expire");

    let expiring = own(&key, SignatureType::Key, vec![year(50)]);
    let expires = |certificate: &mut SignedPublicKey| {
        certificate.details.direct_signatures.push(expiring.clone());
    };
    assert!(check(&expires, now()).is_ok());
    assert!(check(&expires, later).unwrap_err().contains("its key has expired"));

    let revocation = own(&key, SignatureType::KeyRevocation, Vec::new());
    let revoked = |certificate: &mut SignedPublicKey| {
        certificate.details.revocation_signatures.push(revocation.clone());
    };
    assert!(check(&revoked, now()).unwrap_err().contains("its key was revoked"));

    let revocation = own(&key, SignatureType::SubkeyRevocation, Vec::new());
    let revoked = |certificate: &mut SignedPublicKey| {
        certificate.public_subkeys[0].signatures.push(revocation.clone());
    };
    assert!(check(&revoked, now()).unwrap_err().contains("its key was revoked"));

    // A newer binding: for a time only, for another use, or without the subkey's consent.
    let back = key.secret_subkeys[0].signatures[0].embedded_signature().unwrap().clone();
    let back = || SubpacketData::EmbeddedSignature(Box::new(back.clone()));
    let flags = |sign| {
        let mut flags = KeyFlags::default();
        flags.set_sign(sign);
        SubpacketData::KeyFlags(flags)
    };
    for (data, at, words) in [
        (vec![flags(true), year(50), back()], now(), None),
        (vec![flags(true), year(50), back()], later, Some("its key has expired")),
        (vec![flags(false), back()], now(), Some("not meant for signing")),
        (vec![flags(true)], now(), Some("does not bind itself")),
    ] {
        let binding = own(&key, SignatureType::SubkeyBinding, data);
        let bound =
            check(&|certificate| certificate.public_subkeys[0].signatures = vec![binding.clone()], at);
        match words {
            None => assert!(bound.is_ok(), "{bound:?}"),
            Some(words) => assert!(bound.unwrap_err().contains(words), "{words}"),
        }
    }

    // A binding by someone else, as one would make to adopt a foreign key.
    let thief = new_key(made());
    let adopted = |certificate: &mut SignedPublicKey| {
        let mut stolen = SignedPublicKey::from(thief.clone());
        stolen.public_subkeys = certificate.public_subkeys.clone();
        *certificate = stolen;
    };
    assert!(check(&adopted, now()).unwrap_err().contains("not bound to its certificate"));
}

#[test]
fn a_keyring_may_be_armoured_and_hold_several_blocks() {
    let keys = [new_key(made()), new_key(made())];
    let armoured: String = keys
        .iter()
        .map(|key| SignedPublicKey::from(key.clone()).to_armored_string(Default::default()).unwrap())
        .collect();
    let binary = keys.iter().map(public).collect::<Vec<_>>().concat();
    for bytes in [armoured.as_bytes(), &binary] {
        let keyring = Keyring::parse("test", bytes).unwrap();
        for key in &keys {
            assert!(keyring.verify(clearsign(key, TEXT).as_bytes(), now()).is_ok());
        }
    }
    assert!(matches!(Keyring::parse("test", b""), Err(KeyringError::Empty { .. })));
    let error = Keyring::parse("some.gpg", b"\x99\x01\x00garbage").unwrap_err();
    assert!(error.to_string().contains("`some.gpg`"), "{error}");
    let error = Keyring::read(&["/nonexistent/keyring.gpg".into()]).unwrap_err();
    assert!(error.to_string().contains("`/nonexistent/keyring.gpg`"), "{error}");
}

#[test]
fn no_changed_byte_gives_another_text() {
    let key = new_key(made());
    let (keyring, good) = (keyring(&key), clearsign(&key, TEXT).into_bytes());
    for at in 0..good.len() {
        for change in [0x01, 0x20] {
            let mut changed = good.clone();
            changed[at] ^= change;
            if let Ok(verified) = keyring.verify(&changed, now()) {
                assert_eq!(verified.text, TEXT, "byte {at}");
            }
        }
        assert!(
            keyring.verify(&good[..at], now()).is_err() || good[at..].iter().all(u8::is_ascii_whitespace)
        );
    }
}
