use std::sync::{Barrier, atomic::Ordering};

use jiff::SignedDuration;
use ring::rand::SystemRandom;
use tierway_common::{
    clock::Clock,
    enrollment::Applicant,
    schema::Group,
    store::{Store, memory::MemoryStore, sled_store::SledStore},
};

use super::*;
use crate::store::testing::dying;

struct Site {
    clock: Clock,
    store: Arc<dyn Store>,
    state: Arc<State>,
    enrollment: Enrollment,
}

fn site_on(store: Arc<dyn Store>) -> Site {
    let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
    let random: Arc<dyn SecureRandom + Send + Sync> = Arc::new(SystemRandom::new());
    let (root, issuing) = ca::create(clock.now(), random.as_ref()).unwrap();
    let authority = Authority::open(&root.certificate_pem, &issuing).unwrap();
    let state = Arc::new(State::open("default".parse().unwrap(), store.clone(), clock.clone()).unwrap());
    let enrollment =
        Enrollment::new(state.clone(), authority, Digest::of(b"1.root.json"), RENEWAL_GRACE, random);
    Site { clock, store, state, enrollment }
}

fn site() -> Site {
    site_on(Arc::new(MemoryStore::new()))
}

impl Site {
    fn token(&self, role: Role, uses: u32) -> Token {
        let wanted = NewToken {
            role,
            site: "lyon".parse().unwrap(),
            uses,
            valid: TOKEN_VALID,
            servers: vec!["central.example:7443".to_owned()],
            groups: vec![],
            name: String::new(),
        };
        self.enrollment.create_token(&wanted, "operator:admin").unwrap().0
    }

    /// For an operator of this name.
    fn operator_token(&self, name: &str) -> Token {
        let wanted = NewToken {
            role: Role::Operator,
            site: "lyon".parse().unwrap(),
            uses: 1,
            valid: TOKEN_VALID,
            servers: vec!["central.example:7443".to_owned()],
            groups: vec![],
            name: name.to_owned(),
        };
        self.enrollment.create_token(&wanted, "operator:admin").unwrap().0
    }

    /// Lets an operator of this name in.
    fn operator(&self, name: &str) -> (Issued, ring::signature::Ed25519KeyPair) {
        self.redeem(&self.operator_token(name)).unwrap()
    }

    fn hours(&self, hours: i64) {
        self.clock.advance(SignedDuration::from_hours(hours));
    }

    fn redeem(&self, token: &Token) -> Result<(Issued, ring::signature::Ed25519KeyPair), EnrollError> {
        let (csr, key) = csr();
        let issued = self.enrollment.redeem(Redemption {
            token: &token.id,
            proof: &token.proof(&csr),
            csr_der: &csr,
            host_name: "web-1\x1b[2J",
            agent_version: "0.1.0",
        })?;
        Ok((issued, key))
    }
}

/// With a key of its own.
fn applied(token: &Token) -> Applied {
    Applied {
        token: token.id.clone(),
        key: ca::requested_key(&csr().0).unwrap(),
        id: uuid::Uuid::new_v4().to_string(),
        host_name: "web-1".to_owned(),
        agent_version: "0.1.0".to_owned(),
    }
}

/// A request, and its key for proofs of renewal.
fn csr() -> (Vec<u8>, ring::signature::Ed25519KeyPair) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pair = ring::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.serialized_der()).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    (csr, pair)
}

fn renewal(
    site: &Site,
    current: &Issued,
    key: &ring::signature::Ed25519KeyPair,
) -> Result<Issued, EnrollError> {
    let (csr, _) = csr();
    let proof = key.sign(&[RENEW_CONTEXT, &csr].concat());
    site.enrollment.renew(&current.chain[0], &csr, proof.as_ref())
}

fn identity(issued: &Issued) -> PeerIdentity {
    PeerIdentity::read(&issued.chain[0].clone().into()).unwrap()
}

#[test]
fn a_token_for_an_endpoint_gives_an_endpoint_of_its_site_with_the_key_of_the_request() {
    let site = site();
    let (issued, _) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
    let holder = identity(&issued).holder;
    assert_eq!((holder.role, holder.site.as_str()), (Role::Endpoint, "lyon"));
    let model = site.state.model();
    let record = model.endpoint_by_id(&holder.id.parse().unwrap()).unwrap();
    assert_eq!((record.name.as_str(), record.keys.as_slice()), ("web-1[2J", &[issued.key][..]));
    assert_eq!(model.sites()[&"lyon".parse().unwrap()].len(), 1);
}

#[test]
fn of_a_hundred_parallel_uses_of_one_token_exactly_one_gets_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Store>; 2] =
        [Arc::new(MemoryStore::new()), Arc::new(SledStore::open(dir.path()).unwrap())];
    for store in stores {
        let site = site_on(store);
        let token = site.token(Role::Endpoint, 1);
        let barrier = Barrier::new(100);
        let won = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..100)
                .map(|_| {
                    scope.spawn(|| {
                        let (csr, _) = csr();
                        let proof = token.proof(&csr);
                        barrier.wait();
                        site.enrollment.redeem(Redemption {
                            token: &token.id,
                            proof: &proof,
                            csr_der: &csr,
                            host_name: "web",
                            agent_version: "",
                        })
                    })
                })
                .collect();
            let results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            let used_up = |r: &&Result<_, _>| matches!(r, Err(EnrollError::TokenUsedUp(_)));
            assert_eq!(results.iter().filter(used_up).count(), 99);
            results.into_iter().filter(Result::is_ok).count()
        });
        assert_eq!((won, site.state.model().active().len()), (1, 1));
        assert_eq!(site.enrollment.certificates_of("nobody").unwrap().len(), 0);
        let parts = table::Key::new().text("default").done();
        let kept = table::scan::<tables::Certificate<'_>>(site.state.store(), &parts, None, 10).unwrap();
        assert_eq!(kept.len(), 1);
    }
}

#[test]
fn a_token_that_is_unknown_expired_used_up_or_not_proven_says_which_it_is() {
    let site = site();
    let token = site.token(Role::Endpoint, 2);
    let other = site.token(Role::Endpoint, 1);
    let (csr, _) = csr();
    let asked = |token: &TokenId, proof: &[u8]| {
        let asked = Redemption { token, proof, csr_der: &csr, host_name: "", agent_version: "" };
        site.enrollment.redeem(asked).unwrap_err().to_string()
    };
    assert_eq!(asked(&"f00".parse().unwrap(), &[]), "token `f00` is not known here");
    assert!(asked(&token.id, &other.proof(&csr)).starts_with("the proof does not belong to token"));
    assert!(asked(&token.id, &token.proof(b"another request")).starts_with("the proof does not belong"));
    site.redeem(&token).unwrap();
    site.redeem(&token).unwrap();
    assert!(asked(&token.id, &token.proof(&csr)).ends_with("was used as often as it may be"));
    site.clock.advance(SignedDuration::from_hours(25));
    assert_eq!(
        asked(&other.id, &other.proof(&csr)),
        format!("token `{}` expired at 2026-11-21T10:00:00Z", other.id)
    );
}

#[test]
fn of_those_who_are_let_in_together_each_fails_alone_and_the_others_share_a_commit() {
    let store = dying(u64::MAX);
    let site = site_on(store.clone());
    let (twice, once) = (site.token(Role::Endpoint, 2), site.token(Role::Relay, 1));
    let unknown = Token { id: "00".repeat(8).parse().unwrap(), ..once.clone() };
    site.operator("ana");
    let again = applied(&twice);
    let all = [
        applied(&unknown),
        applied(&once),
        applied(&once),
        again.clone(),
        // The same key once more, which takes no use of the token.
        Applied { id: uuid::Uuid::new_v4().to_string(), ..again },
        applied(&twice),
        applied(&twice),
    ];
    let before = store.commits.load(Ordering::SeqCst);
    let each = site.enrollment.redeem_together(&all);
    assert_eq!(store.commits.load(Ordering::SeqCst), before + 1);
    let said: Vec<_> = each.iter().map(|one| one.as_ref().err().map(ToString::to_string)).collect();
    let used_up = |token: &Token| Some(format!("token `{}` was used as often as it may be", token.id));
    assert_eq!(
        said,
        [
            Some(format!("token `{}` is not known here", unknown.id)),
            None,
            used_up(&once),
            None,
            Some("the key of this request has a certificate already: a request is good once".to_owned()),
            None,
            used_up(&twice),
        ]
    );
    let model = site.state.model();
    let found: Vec<_> = model.endpoints().map(|record| (record.number, record.serial.as_str())).collect();
    let serial = |place: usize| each[place].as_ref().unwrap().serial.as_str();
    assert_eq!(found, [(0, serial(3)), (1, serial(5))]);
    assert_eq!(model.relays().values().map(|relay| relay.serial.as_str()).collect::<Vec<_>>(), [serial(1)]);
    drop(model);
    let log = crate::audit::list(site.state.store(), site.state.tenant(), 0, 3).unwrap();
    let details: Vec<_> = log.iter().rev().map(|record| record.detail.clone()).collect();
    assert_eq!(details, [1, 3, 5].map(|place| format!("site lyon certificate {}", serial(place))));
    assert!(log.iter().all(|record| record.action == "enroll"));
    assert_eq!(crate::audit::verify(site.state.store(), site.state.tenant()).unwrap().broken, None);
    let again = State::open("default".parse().unwrap(), site.store.clone(), site.clock.clone()).unwrap();
    assert_eq!((again.model().endpoints().count(), again.model().relays().len()), (2, 1));
}

#[test]
fn those_let_in_together_count_for_what_there_may_be_at_most() {
    let site = site();
    let (operator, _) = site.operator("op-0");
    site.state
        .change(|_, change| {
            for number in 1..OPERATORS_MAX - 1 {
                change.write(Write::Certificate(CertificateRecord {
                    serial: format!("{number:032x}"),
                    identity: format!("op-{number}"),
                    role: Role::Operator,
                    site: "lyon".parse().unwrap(),
                    key: operator.key,
                    fingerprint: operator.fingerprint,
                    issued: change.now,
                    expires: operator.expires,
                    revoked: None,
                }));
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let all = ["ana", "bo", "ana", "op-0"].map(|name| applied(&site.operator_token(name)));
    let each = site.enrollment.redeem_together(&all);
    assert_eq!(each.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!(site.state.model().operators().len(), OPERATORS_MAX);
}

#[test]
fn when_the_store_fails_nobody_of_those_let_in_together_is_in_and_all_may_come_again() {
    let store = dying(u64::MAX);
    let site = site_on(store.clone());
    let token = site.token(Role::Endpoint, 2);
    let all = [(); 3].map(|()| applied(&token));
    store.commits_left.store(0, Ordering::SeqCst);
    let each = site.enrollment.redeem_together(&all);
    assert!(matches!(
        each.as_slice(),
        [Err(EnrollError::Store(_)), Err(EnrollError::Store(_)), Err(EnrollError::TokenUsedUp(_))]
    ));
    assert_eq!(site.state.model().endpoints().count(), 0);
    store.commits_left.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(site.enrollment.redeem_together(&all).iter().filter(|one| one.is_ok()).count(), 2);
}

#[test]
fn what_a_token_may_allow_is_limited() {
    let site = site();
    let good = NewToken {
        role: Role::Endpoint,
        site: "lyon".parse().unwrap(),
        uses: 1,
        valid: TOKEN_VALID,
        servers: vec!["central.example:7443".to_owned()],
        groups: vec![],
        name: String::new(),
    };
    let operator = NewToken { role: Role::Operator, name: "ana".to_owned(), ..good.clone() };
    assert!(site.enrollment.create_token(&operator, "operator:admin").is_ok());
    let cases = [
        (NewToken { role: Role::Central, ..good.clone() }, "role"),
        (NewToken { name: "web-1".to_owned(), ..good.clone() }, "name"),
        (NewToken { name: String::new(), ..operator.clone() }, "name"),
        (NewToken { name: "a/b".to_owned(), ..operator.clone() }, "name"),
        (NewToken { name: "a".repeat(NAME_BYTES_MAX + 1), ..operator.clone() }, "name"),
        (NewToken { uses: 2, ..operator.clone() }, "uses"),
        (NewToken { uses: 0, ..good.clone() }, "uses"),
        (NewToken { uses: TOKEN_USES_MAX + 1, ..good.clone() }, "uses"),
        (NewToken { valid: Duration::ZERO, ..good.clone() }, "valid"),
        (NewToken { valid: TOKEN_VALID_MAX * 2, ..good.clone() }, "valid"),
        (NewToken { servers: vec!["central".to_owned()], ..good.clone() }, "server"),
        (NewToken { groups: vec!["nowhere".parse().unwrap()], ..good.clone() }, "group"),
    ];
    for (wanted, what) in cases {
        let error = site.enrollment.create_token(&wanted, "operator:admin").unwrap_err();
        assert!(error.to_string().starts_with(&format!("`{what}")), "{error}");
    }
    assert!(site.enrollment.create_token(&good, "operator:admin").is_ok());
}

#[test]
fn an_endpoint_joins_the_groups_its_token_names() {
    let site = site();
    let group = Group { id: "pilot".parse().unwrap(), priority: 1, members: Members::Assigned, level: None };
    site.state
        .change(|_, change| {
            change.write(Write::Group(group.clone()));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let wanted = NewToken {
        role: Role::Endpoint,
        site: "lyon".parse().unwrap(),
        uses: 1,
        valid: TOKEN_VALID,
        servers: vec!["[::1]:7443".to_owned()],
        groups: vec![group.id.clone()],
        name: String::new(),
    };
    let (token, ..) = site.enrollment.create_token(&wanted, "operator:admin").unwrap();
    site.redeem(&token).unwrap();
    assert_eq!(site.state.model().members()[&group.id].len(), 1);
}

#[test]
fn a_renewal_is_for_the_same_holder_and_needs_the_current_key() {
    let site = site();
    let (first, key) = site.redeem(&site.token(Role::Relay, 1)).unwrap();
    site.hours(24 * 7);
    let second = renewal(&site, &first, &key).unwrap();
    assert_eq!(identity(&second).holder, identity(&first).holder);
    assert_ne!(second.serial, first.serial);
    let (_, stranger) = csr();
    assert!(matches!(renewal(&site, &first, &stranger), Err(EnrollError::RenewProof { .. })));
    let forged = Issued { chain: vec![vec![0; 300]], ..first };
    assert!(matches!(renewal(&site, &forged, &key), Err(EnrollError::CertificateUnknown { .. })));
    let relays = site.state.model().relays().values().cloned().collect::<Vec<_>>();
    assert_eq!((relays.len(), relays[0].serial.as_str()), (1, second.serial.as_str()));
}

#[test]
fn an_expired_certificate_can_be_renewed_for_ninety_days_and_then_is_forgotten() {
    let site = site();
    let (first, key) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
    site.clock.advance(SignedDuration::from_hours(24 * (30 + 89)));
    assert_eq!(renewal(&site, &first, &key).unwrap().serial.len(), 32);
    site.clock.advance(SignedDuration::from_hours(24 * 2));
    assert!(matches!(renewal(&site, &first, &key), Err(EnrollError::CertificateExpired { .. })));
    assert_eq!(site.enrollment.retain().unwrap(), 2, "the first certificate and the token");
    assert!(matches!(renewal(&site, &first, &key), Err(EnrollError::CertificateUnknown { .. })));
    assert_eq!(site.enrollment.retain().unwrap(), 0);
}

#[test]
fn who_is_revoked_while_away_does_not_come_back() {
    let site = site();
    let (first, key) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
    site.clock.advance(SignedDuration::from_hours(24 * 40));
    site.enrollment.revoke(&identity(&first).holder.id, "stolen", "operator:admin").unwrap();
    assert!(matches!(renewal(&site, &first, &key), Err(EnrollError::Revoked(_))));
}

#[test]
fn how_long_an_expired_certificate_can_be_renewed_is_configured() {
    let site = site();
    let site = Site {
        enrollment: Enrollment { renewal_grace: Duration::from_secs(86_400), ..site.enrollment },
        ..site
    };
    let (first, key) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
    site.clock.advance(SignedDuration::from_hours(24 * 31 - 1));
    renewal(&site, &first, &key).unwrap();
    site.clock.advance(SignedDuration::from_hours(2));
    assert!(matches!(renewal(&site, &first, &key), Err(EnrollError::CertificateExpired { .. })));
}

#[test]
fn a_request_that_is_sent_again_by_whoever_carried_it_gives_nothing_the_second_time() {
    let site = site();
    let token = site.token(Role::Endpoint, 2);
    let (request, key) = csr();
    let redeem = || {
        site.enrollment.redeem(Redemption {
            token: &token.id,
            proof: &token.proof(&request),
            csr_der: &request,
            host_name: "web-1",
            agent_version: "0.1.0",
        })
    };
    let first = redeem().unwrap();
    assert!(matches!(redeem(), Err(EnrollError::KeyUsed)));
    let model = site.state.model().endpoints().count();
    assert_eq!(model, 1, "no second machine");
    site.redeem(&token).unwrap();

    site.hours(24 * 10);
    let (request, _) = csr();
    let proof = key.sign(&[RENEW_CONTEXT, &request].concat());
    let renew = || site.enrollment.renew(&first.chain[0], &request, proof.as_ref());
    renew().unwrap();
    let before = site.state.model().endpoint(0).unwrap().clone();
    assert!(matches!(renew(), Err(EnrollError::KeyUsed)));
    assert_eq!(*site.state.model().endpoint(0).unwrap(), before);
    // Also long after, when that certificate is no longer among the newest.
    for _ in 0..5 {
        site.hours(3);
        renewal(&site, &first, &key).unwrap();
    }
    assert!(matches!(renew(), Err(EnrollError::KeyUsed)));
}

#[test]
fn who_never_gets_the_answers_to_its_renewals_goes_on_with_the_key_it_has() {
    let site = site();
    let (first, key) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
    for _ in 0..3 * KEYS_MAX {
        site.hours(3);
        let newest = renewal(&site, &first, &key).unwrap();
        let keys = site.state.model().endpoint(0).unwrap().keys.clone();
        assert!(keys.contains(&first.key) && keys[0] == newest.key && keys.len() <= KEYS_MAX);
    }
}

#[test]
fn reports_signed_before_a_renewal_still_count_and_those_of_a_revoked_endpoint_do_not() {
    let site = site();
    let (first, key) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
    site.hours(24 * 10);
    let second = renewal(&site, &first, &key).unwrap();
    let id = identity(&first).holder.id;
    let record = || site.state.model().endpoint_by_id(&id.parse().unwrap()).unwrap().clone();
    assert_eq!(record().keys, [second.key, first.key]);
    site.enrollment.revoke(&id, "stolen", "operator:admin").unwrap();
    assert!(record().revoked && record().keys.is_empty());
    let model = site.state.model();
    assert!(model.is_revoked(&first.serial) && model.is_revoked(&second.serial));
    assert!(model.active().is_empty() && model.sites()[&"lyon".parse().unwrap()].is_empty());
    drop(model);
    assert!(matches!(renewal(&site, &first, &key), Err(EnrollError::Revoked(_))));
    assert!(matches!(site.enrollment.revoke(&id, "", "operator:admin"), Err(EnrollError::Revoked(_))));
    assert!(matches!(site.enrollment.revoke("x", "", "operator:admin"), Err(EnrollError::NotEnrolled(_))));
}

#[test]
fn an_operator_is_called_as_his_token_says_and_can_be_revoked_by_name_or_by_one_certificate() {
    let site = site();
    let (ana, key) = site.operator("ana");
    assert_eq!(identity(&ana).holder.id, "ana", "whatever the computer is called");
    let refused =
        |name: &str| site.enrollment.revoke_operator(name, "", "operator:ana").unwrap_err().to_string();
    assert_eq!(refused("ana"), "operator `ana` is the last one: let another in first");
    assert_eq!(refused("bo"), "`bo` is not enrolled");
    let (bo, bos_key) = site.operator("bo");
    site.hours(24 * 130);
    let second = renewal(&site, &bo, &bos_key).unwrap();
    site.enrollment.revoke_operator(&bo.serial, "lost laptop", "operator:ana").unwrap();
    let names = || site.state.model().operators().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(), ["ana", "bo"]);
    let is_revoked = |issued: &Issued| site.state.model().is_revoked(&issued.serial);
    assert_eq!([&ana, &bo, &second].map(is_revoked), [false, true, false]);
    assert!(matches!(renewal(&site, &bo, &bos_key), Err(EnrollError::Revoked(_))));
    site.enrollment.revoke_operator("bo", "left", "operator:ana").unwrap();
    assert_eq!((names(), is_revoked(&second)), (vec!["ana".to_owned()], true));
    let log = crate::audit::list(site.state.store(), site.state.tenant(), 0, 1).unwrap();
    assert_eq!((log[0].action.as_str(), log[0].object.as_str()), ("revoke", "operator:bo"));
    assert_eq!(log[0].detail, format!("certificates {}, 0 tokens for operators: left", second.serial));
    // Also after a restart.
    let again = State::open("default".parse().unwrap(), site.store.clone(), site.clock.clone()).unwrap();
    assert_eq!(again.model().operators().keys().collect::<Vec<_>>(), ["ana"]);

    site.hours(24 * 240);
    assert!(matches!(renewal(&site, &ana, &key), Err(EnrollError::CertificateExpired { .. })), "no grace");
    site.enrollment.retain().unwrap();
    assert!(names().is_empty());
}

#[test]
fn who_renews_all_the_time_fills_neither_the_store_nor_the_audit_log() {
    let site = site();
    let (first, key) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
    let records = || crate::audit::list(site.state.store(), site.state.tenant(), 0, 1).unwrap()[0].sequence;
    let before = records();
    let mut renewed = 0;
    for _ in 0..60 {
        site.clock.advance(SignedDuration::from_mins(6));
        match renewal(&site, &first, &key) {
            Ok(_) => renewed += 1,
            Err(EnrollError::RenewedAlready { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    // At once what it enrolled with, then after each three hundredth of a month, which is 144 minutes.
    assert_eq!((renewed, records()), (3, before));
    site.hours(24 * 31);
    renewal(&site, &first, &key).unwrap();
    assert_eq!(records(), before + 1, "it comes back after its end");
}

#[test]
fn a_certificate_that_is_issued_while_its_holder_is_being_revoked_is_revoked_too() {
    let site = site();
    let (first, key) = site.redeem(&site.token(Role::Relay, 1)).unwrap();
    let id = identity(&first).holder.id;
    site.hours(24 * 7);
    let read = site.enrollment.certificates_of(&id).unwrap();
    let second = renewal(&site, &first, &key).unwrap();
    let (done, _) = site.enrollment.revoke_those(&id, read, "", "operator:admin").unwrap();
    assert!(!done && !site.state.model().relays().values().next().unwrap().revoked);
    site.enrollment.revoke(&id, "", "operator:admin").unwrap();
    let tenant = site.state.tenant();
    for serial in [&first.serial, &second.serial] {
        let key = format!("revoked/{serial}");
        let row = tables::PendingPolicy { tenant, key: &key };
        assert!(table::get(site.state.store(), &row).unwrap().flatten().is_some(), "relays are told of it");
    }
}

#[test]
fn revocation_goes_into_the_policy_catalogue_and_every_step_into_the_audit_log() {
    let site = site();
    let (first, _) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
    let id = identity(&first).holder.id;
    site.enrollment.revoke(&id, "stolen", "operator:admin").unwrap();
    let tenant = site.state.tenant();
    let document =
        |key: &str| table::get(site.state.store(), &tables::PendingPolicy { tenant, key }).unwrap();
    assert!(document(&format!("revoked/{}", first.serial)).unwrap().unwrap().contains(&id));
    assert_eq!(document(&format!("endpoint/{id}")), Some(None), "no longer assigned");
    let log = crate::audit::list(site.state.store(), tenant, 0, 10).unwrap();
    let actions: Vec<_> = log.iter().map(|record| record.action.as_str()).collect();
    assert_eq!(actions, ["revoke", "enroll", "create token"]);
    assert_eq!(crate::audit::verify(site.state.store(), tenant).unwrap().broken, None);
}

#[test]
fn after_a_restart_everything_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (id, serial) = {
        let site = site_on(Arc::new(SledStore::open(dir.path()).unwrap()));
        let (kept, _) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
        let (gone, _) = site.redeem(&site.token(Role::Endpoint, 1)).unwrap();
        site.enrollment.revoke(&identity(&gone).holder.id, "", "operator:admin").unwrap();
        (identity(&kept).holder.id, gone.serial)
    };
    let site = site_on(Arc::new(SledStore::open(dir.path()).unwrap()));
    let model = site.state.model();
    assert_eq!((model.active().len(), model.endpoints().count()), (1, 2));
    assert!(model.endpoint_by_id(&id.parse().unwrap()).is_some() && model.is_revoked(&serial));
    assert_eq!(model.next_endpoint(), Some(2));
}

#[test]
fn an_applicants_request_is_what_redeem_expects() {
    let site = site();
    let token = site.token(Role::Endpoint, 1);
    let applicant = Applicant::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let issued = site
        .enrollment
        .redeem(Redemption {
            token: &token.id,
            proof: &token.proof(applicant.csr_der()),
            csr_der: applicant.csr_der(),
            host_name: "web",
            agent_version: "0.1.0",
        })
        .unwrap();
    let files = applicant.keep(&issued.chain, dir.path()).unwrap();
    assert!(tierway_common::transport::tls::Identity::load(&files).is_ok());
    assert_eq!(Digest::of(issued.chain.last().unwrap()), token.ca_sha256);
}
