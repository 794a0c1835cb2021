//! Computers that are nothing but what they report: each with an identity of its own and the next number of its reports.

use jiff::Timestamp;
use tierway_common::{
    schema::{Progress, Report, State, StateEntry},
    transport::{
        dial::{self, Route},
        tls::Identity,
    },
    trust::{
        envelope::{Envelope, Header, Stream},
        keys::SigningKey,
    },
};
use tierway_proto::{joining, upstream::Upstream, v1};

use crate::fleet::Fleet;

/// One that has enrolled at central itself.
#[derive(Debug)]
pub struct Reporter {
    identity: Identity,
    sequence: u64,
}

impl Reporter {
    /// Enrols one by this name at site `osaka`.
    pub async fn enroll(fleet: &Fleet, name: &str) -> Self {
        let token = fleet.token("endpoint", "osaka", fleet.address).await;
        let joined = joining::join(&token, None, None, name, "0.0.0", &fleet.folder(name)).await.unwrap();
        Self { identity: joined.identity, sequence: 0 }
    }

    /// It says where `update` stands on it, and nothing of any other; `took` are the seconds of the last attempt.
    pub async fn says(&mut self, fleet: &Fleet, update: &str, state: State, took: Option<u32>) {
        let now = fleet.now();
        let progress = Progress { took_seconds: took, ..Progress::default() };
        let entry = StateEntry {
            update: update.parse().unwrap(),
            state,
            at: now,
            detected: Some(now),
            applied: (state == State::Installed).then_some(now),
            detail: None,
            progress,
        };
        self.submit(fleet, Report::States { snapshot: true, entries: vec![entry] }, now).await;
    }

    async fn submit(&mut self, fleet: &Fleet, report: Report, now: Timestamp) {
        let own = self.identity.own();
        self.sequence += 1;
        let header = Header {
            tenant: own.holder.tenant.clone(),
            endpoint: own.holder.id.parse().unwrap(),
            stream: Stream::States,
            sequence: self.sequence,
            replaces_earlier: false,
            created: now,
        };
        let key = SigningKey::load(&self.identity.files().identity).unwrap();
        let envelope = Envelope::seal(&key, header, &report).unwrap();
        let route = Route::direct(&fleet.address.to_string());
        let upstream = Upstream::new(dial::channel(route, &self.identity));
        let answer = upstream.submit(vec![envelope.bytes().clone()]).await.unwrap();
        assert_eq!(answer.outcomes, [i32::from(v1::ReportOutcome::Accepted)]);
    }
}
