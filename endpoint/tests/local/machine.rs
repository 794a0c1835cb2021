//! What stands behind the socket in these tests, and what else they share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    clock::Clock,
    daemon::stop::Stop,
    facts::Facts,
    schema::{
        Severity,
        policy::{Experience, Reboot},
    },
    service::Settings,
};
use tierway_endpoint::{
    consent::Terms,
    due::{Due, Item, RebootDue},
    local::{self, Answers, Ask, WishError},
    probe::{Seen, Surroundings},
    reboot::{RebootError, decide},
    wishes::{self, Caller, Wish, Wishes},
};
use tokio::sync::{mpsc, watch};

/// Far longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn skip(what: &str, because: &str) {
    assert!(std::env::var_os("TIERWAY_REQUIRE").is_none(), "{what} must run here, but {because}");
    println!("skipped: {what}, since {because}");
}

/// Whether a program is installed.
pub(crate) fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

/// Nobody but root is logged in.
#[derive(Debug, Default)]
struct Alone {
    told: watch::Sender<Vec<String>>,
}

impl Surroundings for Alone {
    fn look<'a>(&'a self, _: &'a Facts, _: Timestamp) -> BoxFuture<'a, Seen> {
        Box::pin(async { Seen::default() })
    }

    fn logged_in(&self, _: u32) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn tell<'a>(&'a self, text: &'a str) -> BoxFuture<'a, ()> {
        self.told.send_modify(|told| told.push(text.to_owned()));
        Box::pin(async {})
    }

    fn reboot<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), RebootError>> {
        Box::pin(async { Err(RebootError::NoBoot) })
    }
}

/// A socket behind which a stub of the agent grants wishes by the real rules.
pub(crate) struct Machine {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) due: watch::Sender<Arc<Due>>,
    pub(crate) granted: watch::Receiver<Vec<(Caller, Wish)>>,
    /// What was written to terminals.
    pub(crate) told: watch::Receiver<Vec<String>>,
    pub(crate) clock: Clock,
    pub(crate) stop: Stop,
}

impl Machine {
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("endpoint.sock")
    }

    pub(crate) fn config(&self) -> PathBuf {
        let path = self.directory.path().join("endpoint.toml");
        std::fs::write(&path, format!("local_socket = {:?}\n", self.socket())).unwrap();
        path
    }

    pub(crate) fn new(due: Due) -> Self {
        // Times are told from the system's clock by the programs that ask.
        let clock = Clock::system();
        let directory = tempfile::tempdir().unwrap();
        let due = watch::Sender::new(Arc::new(due));
        let (asks, mut asked) = mpsc::channel(4);
        let (wished, granted) = watch::channel(Vec::new());
        let stop = Stop::new();
        let alone = Alone::default();
        let told = alone.told.subscribe();
        let answers = Answers {
            status: watch::channel(Arc::default()).1,
            due: due.subscribe(),
            asks,
            surroundings: Arc::new(alone),
            clock: clock.clone(),
        };
        let serving = local::serve(&directory.path().join("endpoint.sock"), answers, stop.clone()).unwrap();
        tokio::spawn(serving);
        let (shown, time) = (due.clone(), clock.clone());
        tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                let Ask::Wish(caller, wish, reply) = ask else { continue };
                let now = time.now();
                let permitted = wishes::permit(wish, caller, &shown.borrow().standing(now));
                if permitted.is_ok() {
                    shown.send_modify(|due| {
                        let mut changed = (**due).clone();
                        changed.wishes.apply(wish, Some(caller.uid()), now);
                        *due = Arc::new(changed);
                    });
                    wished.send_modify(|granted| granted.push((caller, wish)));
                }
                let _ = reply.send(permitted.map_err(WishError::from));
            }
        });
        Self { directory, due, granted, told, clock, stop }
    }

    /// Waits until a wish is granted for which `is` holds.
    pub(crate) async fn granted(&self, is: impl Fn(&Wish) -> bool) -> Wish {
        let mut granted = self.granted.clone();
        let found = granted.wait_for(|granted| granted.iter().any(|(_, wish)| is(wish)));
        let found = tokio::time::timeout(LONG, found).await.unwrap().unwrap();
        found.iter().find(|(_, wish)| is(wish)).unwrap().1
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.request();
    }
}

/// One update, due by tomorrow, and a reboot.
pub(crate) fn due(now: Timestamp) -> Due {
    let hours = |hours| now + SignedDuration::from_hours(hours);
    let terms = Terms { offered: now, grace_ends: hours(12), deadline: hours(24) };
    Due {
        department: "IT department".to_owned(),
        phase: "waiting for the user".to_owned(),
        items: vec![Item {
            update: "debian-12/openssl_3.0.17-1~deb12u3".parse().unwrap(),
            title: "openssl".to_owned(),
            severity: Severity::Important,
            waiting: None,
            terms,
            begins: None,
            detail: String::new(),
        }],
        countdown: None,
        reboot: Some(RebootDue {
            signs: vec!["asked for by `libc6`".to_owned()],
            begins: None,
            due: Ok(decide::Due { since: now, terms, hold_until: hours(24) }),
            held_by: Vec::new(),
        }),
        wishes: Wishes::default(),
        settings: Settings {
            experience: Experience::Consent,
            reboot: Reboot::IfNeeded,
            schedule_optional: true,
            ..Settings::default()
        },
        boot: None,
    }
}
