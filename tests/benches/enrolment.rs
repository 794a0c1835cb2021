//! How many computers a central of one core enrols, and where the time goes: the real program, pinned to a core, and
//! applicants on another who ask it directly.
//!
//! Three things are done in turn, the same number of each, on a connection of its own each time as an applicant's is: a
//! handshake and a call that central refuses before it looks at anything (what TLS and HTTP/2 cost); the same with a request
//! of which the proof is wrong (what is read and checked besides); and a whole enrolment, which ends with a certificate
//! that is signed and a commit that is on disk. Each is measured one at a time and as many at a time as central takes.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

use std::{
    env,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tierway_common::{
    enrollment::{Applicant, Token},
    transport::{
        dial::{self, Route},
        tls,
    },
};
use tierway_proto::{
    joining,
    upstream::{ENROLLING_MAX, Upstream},
    v1,
};
use tierway_tests::{
    bench::{
        place,
        table::{Table, micros},
    },
    programs,
    scale::tiers::Tiers,
};

const ENROLMENTS: usize = 2_000;
/// Under `cargo test`, which has no `--bench`: enough to see that it works.
const ENROLMENTS_SMALL: usize = 20;
/// The aim.
const PER_SECOND_MIN: f64 = 300.0;

fn main() {
    let full = env::args().any(|argument| argument == "--bench");
    let count = if full { ENROLMENTS } else { ENROLMENTS_SMALL };
    let programs = programs::path("tierway-central");
    let programs = programs.parent().expect("a folder");
    let dir = tempfile::tempdir().expect("a folder");
    // A real applicant has a disk of its own.
    let applicants = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // What is started inherits the core.
    place::pin(place::SERVER);
    let mut tiers = one.block_on(Tiers::start(dir.path(), programs, "")).expect("central starts");
    place::pin(place::CLIENT);
    one.block_on(async {
        measure(&tiers, applicants.path(), count).await;
        tiers.stop().await.expect("central ends");
    });
}

/// What an applicant does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Handshake,
    WrongProof,
    Enrolment,
}

impl Step {
    const ALL: [Self; 3] = [Self::Handshake, Self::WrongProof, Self::Enrolment];

    fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake, a call that is refused unread",
            Self::WrongProof => "the same, token and proof looked at",
            Self::Enrolment => "whole enrolment",
        }
    }
}

async fn measure(tiers: &Tiers, applicants: &Path, count: usize) {
    let uses = u32::try_from(2 * count).expect("few enough");
    let token = tiers.token("endpoint", "lyon", tiers.address, uses).await.expect("a token");
    let config = Arc::new(tls::enrolling(token.ca_sha256).expect("a configuration"));
    let applicant = Applicant::new().expect("an applicant");
    println!("enrolment: {count} of each, central on a core of its own");
    let mut table = Table::new(
        "Central",
        &["what", "at a time", "CPU µs each", "a CPU second", "a second of the clock", "aim"],
    );
    for at_once in [1, ENROLLING_MAX] {
        for step in Step::ALL {
            let before = tiers.mark();
            let began = Instant::now();
            let work = stream::iter(0..count).map(|number| {
                let (token, config, applicant) = (&token, config.clone(), &applicant);
                let dir = applicants.join(format!("{at_once}-{number}"));
                async move {
                    match step {
                        Step::Enrolment => {
                            joining::join(token, None, None, "web-1", "0.1.0", &dir).await.expect("enrolled");
                        }
                        Step::Handshake => {
                            let request = v1::EnrollRequest::default();
                            refused(token, config, request).await;
                        }
                        Step::WrongProof => {
                            let request = v1::EnrollRequest {
                                token_id: token.id.to_string(),
                                proof: vec![7; token.proof(applicant.csr_der()).len()],
                                csr_der: applicant.csr_der().to_vec(),
                                host_name: "web-1".to_owned(),
                                agent_version: "0.1.0".to_owned(),
                            };
                            refused(token, config, request).await;
                        }
                    }
                }
            });
            work.buffer_unordered(at_once).for_each(async |()| ()).await;
            let (wall, count) = (began.elapsed(), count as u64);
            let cpu = Duration::from_secs_f64(tiers.used_since(&before)["central"].cpu_seconds);
            let rate = count as f64 / wall.as_secs_f64();
            let held = match step {
                Step::Enrolment if rate >= PER_SECOND_MIN => "held",
                Step::Enrolment => "missed",
                Step::Handshake | Step::WrongProof => "",
            };
            table.row([
                step.name().to_owned(),
                at_once.to_string(),
                format!("{:.0}", micros(cpu, count)),
                format!("{:.0}", count as f64 / cpu.as_secs_f64().max(0.001)),
                format!("{rate:.0}"),
                held.to_owned(),
            ]);
        }
    }
    table.print();
}

/// Calls without a certificate on a new connection, which must be refused.
async fn refused(token: &Token, config: Arc<rustls::ClientConfig>, request: v1::EnrollRequest) {
    let route = Route::direct(&token.servers[0]);
    let upstream = Upstream::new(dial::enrolling_channel(route, config));
    upstream.enroll(request).await.expect_err("it is refused");
}
