//! What a cycle has to do with people: what they are shown, what they wish, what is done for them afterwards.

use jiff::Timestamp;
use tierway_common::{clock::Clock, daemon::chain::Chain, schema::policy::FollowUp};
use tracing::info;

use super::{Cycle, CycleError, flag};
use crate::{
    due::{self, Due, RebootDue},
    fetch::Fetcher,
    install::{Engine, follow_up},
    ledger::Event,
    local::WishError,
    reboot, signs,
    wishes::{self, Caller, Wish},
};

impl<E: Engine + Send + Sync> Cycle<E> {
    pub(super) fn reboot_pending(&self) -> bool {
        flag(&self.facts, "reboot-pending") || signs::reboot_needed(&self.seen.signs)
    }

    /// Does what the service level wants done after installations. What fails is a problem and not done again.
    pub(super) async fn follow_up(
        &mut self,
        now: Timestamp,
        problems: &mut Vec<String>,
    ) -> Result<(), CycleError> {
        let fetcher =
            Fetcher { upstream: &self.upstream, payloads: &self.payloads, patience: self.payload_patience };
        for action in &self.here.settings.follow_up {
            match action {
                // Everything is scanned after every installation.
                FollowUp::Rescan => {}
                FollowUp::ReportInventory => self.spool.resync()?,
                FollowUp::Run { .. } => {
                    if let Err(error) = follow_up::run(action, &fetcher, &self.root, &self.data_dir).await {
                        problems.push(Chain(&error).to_string());
                    }
                }
            }
        }
        self.ledger.record(vec![Event::FollowedUp { at: now }])?;
        Ok(())
    }

    /// Takes up a wish of somebody at the machine, if it is granted; durable when it returns.
    ///
    /// # Errors
    ///
    /// [`WishError`], with the reason.
    pub fn wish(&mut self, caller: Caller, wish: Wish, clock: &Clock) -> Result<(), WishError> {
        let now = clock.now();
        wishes::permit(wish, caller, &self.due(clock).standing(now))?;
        info!(?caller, %wish, "a wish was granted");
        let written = self.ledger.record(vec![Event::Wished { wish, by: Some(caller.uid()), at: now }]);
        written.map(|_| ()).map_err(|error| WishError::Failed(Chain(&error).to_string()))
    }

    /// What the person at the machine is shown now.
    #[must_use]
    pub fn due(&self, clock: &Clock) -> Due {
        let now = clock.now();
        let settings = &self.here.settings;
        let book = self.ledger.book();
        let due = reboot::decide::due(&self.seen.signs, &self.here, book);
        let reboot = (self.reboot_pending() || due.is_ok()).then(|| RebootDue {
            signs: self.seen.signs.iter().map(|sign| sign.detail.clone()).collect(),
            begins: self.reboot.until().or_else(|| book.wishes().reboot.map(|choice| choice.at)),
            due,
            held_by: self.seen.people.against_reboot(now),
        });
        let mut due = Due {
            department: settings.department.clone(),
            phase: self.phase().to_owned(),
            items: due::items(&self.plan, book, |id| self.catalogues.update(id).ok().flatten()),
            countdown: None,
            reboot,
            wishes: *book.wishes(),
            settings: settings.clone(),
            boot: self.seen.boot.clone(),
        };
        self.catalogues.forget_nodes();
        due.countdown = self.countdown.map(|shown| due::Countdown {
            to: shown.purpose,
            began: shown.began,
            ends: shown.ends(settings, clock.awake().saturating_sub(self.counted), now),
            postponable: due.may_postpone(shown.purpose, now),
            unanswered: settings.countdown_default,
        });
        due
    }

    pub(super) fn phase(&self) -> &'static str {
        if self.audit_only { "audits only" } else { self.phase.as_str() }
    }
}
