//! Leases from central to endpoints, through a relay.

use jiff::Timestamp;
use tierway_central::{
    model::Write,
    store::tables::{LeaseRecord, PendingPolicy},
};
use tierway_common::{
    id::{EndpointId, WindowId},
    lease::{Ask, Want},
    schema::{Group, Members, policy::LeaseKey},
    store::{StoreError, table},
    transport::{
        dial::{self, Route},
        tls::{Identity, IdentityFiles},
    },
    trust::keys::SigningKey,
};
use tierway_proto::{
    upstream::{LeaseAnswer, Upstream, UpstreamError},
    v1,
};
use tierway_tests::{
    fleet::{Endpoint, Fleet, Relay},
    roots::made_up,
};

/// An endpoint that asks for leases through a relay.
struct Asker {
    id: EndpointId,
    key: SigningKey,
    upstream: Upstream,
}

impl Asker {
    async fn new(fleet: &Fleet, name: &str, relay: &Relay) -> Self {
        let root = fleet.folder(&format!("root-{name}"));
        made_up(&root, &[]);
        let Endpoint { config, id, .. } = fleet.enroll(name, "osaka", relay.address, &root).await;
        let files = IdentityFiles::in_dir(&config.data_dir.join("identity"));
        let identity = Identity::load(&files).unwrap();
        let route = Route::direct(&relay.address.to_string());
        Self {
            id: id.parse().unwrap(),
            key: SigningKey::load(&files.identity).unwrap(),
            upstream: Upstream::new(dial::channel(route, &identity)),
        }
    }

    fn ask(&self, want: Want, now: Timestamp) -> Ask {
        let (tenant, window) = ("default".parse().unwrap(), window());
        Ask::new(&self.key, &tenant, &self.id, &window, want, now).unwrap()
    }

    async fn lease(&self, fleet: &Fleet, want: Want, key: &LeaseKey) -> Result<LeaseAnswer, UpstreamError> {
        let ask = self.ask(want, fleet.now());
        self.upstream.lease(&ask, &key.key, || fleet.now()).await
    }
}

const HALF_HOUR: Want = Want::Acquire { seconds: 1_800 };

fn window() -> WindowId {
    "sunday".parse().unwrap()
}

/// Publishes a window for one at once, and a level that names it for everyone.
async fn limit(fleet: &Fleet) -> LeaseKey {
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    let documents = [
        ("level/limited", r#"{"id":"limited","windows":["sunday"]}"#),
        (
            "window/sunday",
            r#"{"id":"sunday","opens":[{"on":{"weekly":["sunday"]},"at":"02:00:00"}],"length":"4h","at_once_max":1}"#,
        ),
    ];
    central
        .state
        .change(|_, change| {
            for (key, document) in documents {
                let row = PendingPolicy { tenant: &"default".parse().unwrap(), key };
                table::put(&mut change.batch, &row, &Some(document.to_owned()))?;
            }
            let (id, level) = ("limited".parse().unwrap(), Some("limited".parse().unwrap()));
            change.write(Write::Group(Group { id, priority: 1, members: Members::Everyone, level }));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    fleet.published().await;
    let key = central.publisher.policy_document("lease-key").unwrap().unwrap();
    serde_json::from_slice(&key).unwrap()
}

async fn held(fleet: &Fleet) -> Vec<String> {
    let request = v1::ListLeasesRequest { window: Some("sunday".to_owned()) };
    let leases = fleet.admin().await.list_leases(request).await.unwrap().into_inner().leases;
    leases.into_iter().map(|lease| lease.endpoint).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_window_at_once_gets_a_lease_through_a_relay_also_over_a_restart_of_central() {
    let mut fleet = Fleet::start().await;
    let mut relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let (one, two) = (Asker::new(&fleet, "one", &relay).await, Asker::new(&fleet, "two", &relay).await);
    // Before anything limits it, the window is none of theirs.
    let central_key = LeaseKey { key: one.key.public() };
    let refused = one.lease(&fleet, HALF_HOUR, &central_key).await.unwrap_err();
    assert!(
        matches!(&refused, UpstreamError::Refused(status) if status.message().contains("is none of")),
        "{refused}"
    );

    let key = limit(&fleet).await;
    let granted = one.lease(&fleet, HALF_HOUR, &key).await.unwrap();
    let LeaseAnswer::Granted(lease) = granted else { panic!("{granted:?}") };
    assert_eq!(lease.window, window());
    assert!(matches!(two.lease(&fleet, HALF_HOUR, &key).await, Ok(LeaseAnswer::Later(_))));
    assert_eq!(held(&fleet).await, [one.id.to_string()]);

    fleet.stop_central().await;
    let unreachable = two.lease(&fleet, HALF_HOUR, &key).await.unwrap_err();
    assert!(matches!(unreachable, UpstreamError::Unreachable(_)), "{unreachable}");
    fleet.start_central().await;
    assert_eq!(held(&fleet).await, [one.id.to_string()]);
    assert!(matches!(two.lease(&fleet, HALF_HOUR, &key).await, Ok(LeaseAnswer::Later(_))));

    // One endpoint cannot give back what another holds, whoever carries it.
    let forged =
        Ask::new(&two.key, &"default".parse().unwrap(), &one.id, &window(), Want::Release, fleet.now());
    let stolen = two.upstream.lease(&forged.unwrap(), &key.key, || fleet.now()).await.unwrap_err();
    assert!(stolen.to_string().contains("is not signed by"), "{stolen}");
    // A key that central did not publish counts for nothing.
    let forged = one.lease(&fleet, HALF_HOUR, &central_key).await.unwrap_err();
    assert!(matches!(forged, UpstreamError::Lease(_)), "{forged}");

    assert_eq!(one.lease(&fleet, Want::Release, &key).await.unwrap(), LeaseAnswer::Released);
    assert!(matches!(two.lease(&fleet, HALF_HOUR, &key).await, Ok(LeaseAnswer::Granted(_))));
    assert_eq!(held(&fleet).await, [two.id.to_string()]);
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    let records: Vec<LeaseRecord> = central.state.model().leases()[&window()].values().cloned().collect();
    assert_eq!(records.len(), 2);
    relay.stop().await;
}
