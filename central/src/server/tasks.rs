//! The background tasks: each reads the present state, acts, runs to its end, and leaves what failed to its
//! next run.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    daemon::{
        chain::Chain,
        disk,
        tasks::{TaskError, Tasks, Wake},
    },
    enrollment::Applicant,
    id::SourceId,
    notices::Audience,
    transport::{identity::Role, tls::Identity},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};
use tracing::{info, warn};

use super::{Central, Feed};
use crate::{
    audit,
    catalog::Applied,
    decide,
    enroll::ca::validity,
    exposure,
    init::CENTRAL_SITE,
    layout::Layout,
    publish::{News, Outcome},
    roots,
    sources::{Before, schedule::next_daily},
};

/// Publications are at least so far apart; what changes meanwhile goes into the next.
const PUBLISH_APART: Duration = Duration::from_secs(1);
/// How often the timestamp metadata is signed again; it is valid for a day.
const REFRESH_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// How often what nobody needs is dropped.
const RETAIN_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// How often rules look again, because updates grow older.
const RULES_EVERY: SignedDuration = SignedDuration::from_mins(15);
/// How often rings and trust are looked at: what endpoints report comes in all the time.
const ROLLOUTS_EVERY: SignedDuration = SignedDuration::from_mins(1);
/// How often central looks after its own certificate.
const IDENTITY_EVERY: SignedDuration = SignedDuration::from_hours(6);
/// Without being woken, publication is looked at this often.
const PUBLISH_AT_LEAST: SignedDuration = SignedDuration::from_mins(5);
/// Before the root metadata ends somebody must bring its key back.
const ROOT_WARNING: SignedDuration = SignedDuration::from_hours(24 * 60);

fn every(period: SignedDuration) -> impl Fn(Timestamp) -> Option<Timestamp> + Send {
    move |now: Timestamp| now.checked_add(period).ok()
}

/// Starts all tasks.
pub(super) fn begin(tasks: &mut Tasks, central: &Arc<Central>, identity: &Identity) {
    begin_reading(tasks, central, identity);
    begin_publishing(tasks, central);
}

/// Starts what has to do with the world outside: sources, the download, central's own certificate.
fn begin_reading(tasks: &mut Tasks, central: &Arc<Central>, identity: &Identity) {
    let interval = SignedDuration::try_from(central.config.source_interval).unwrap_or(REFRESH_EVERY);
    let (wake, this) = (Wake::default(), central.clone());
    tasks.periodic("sources", wake.clone(), every(interval), move || {
        let central = this.clone();
        async move { central.read_sources().await }
    });
    wake.wake();

    let (this, at) = (central.clone(), central.clone());
    let wake = central.download_settings_changed.clone();
    tasks.periodic(
        "download",
        wake,
        move |now| at.next_download(now),
        move || {
            let central = this.clone();
            async move {
                // Woken because the settings changed, not because the time has come.
                if !central.is_download_due() {
                    return Ok(());
                }
                central.download_payloads().await.map(drop)
            }
        },
    );

    let (this, identity) = (central.clone(), identity.clone());
    let wake = Wake::default();
    tasks.periodic("identity", wake.clone(), every(IDENTITY_EVERY), move || {
        let (central, identity) = (this.clone(), identity.clone());
        async move { central.renew_identity(&identity).await }
    });
    wake.wake();
}

/// Starts what makes of decisions and reports what everybody is told.
pub fn begin_publishing(tasks: &mut Tasks, central: &Arc<Central>) {
    let this = central.clone();
    tasks.periodic("publish", central.state.news().clone(), every(PUBLISH_AT_LEAST), move || {
        let central = this.clone();
        async move { central.publish().await }
    });
    central.state.news().wake();

    let (this, wake) = (central.clone(), Wake::default());
    tasks.periodic("refresh", wake.clone(), every(REFRESH_EVERY), move || {
        let central = this.clone();
        async move { central.refresh().await }
    });
    // What was signed last may have grown old while central was down.
    wake.wake();

    let this = central.clone();
    tasks.periodic("rules", central.rules.clone(), every(RULES_EVERY), move || {
        let central = this.clone();
        async move {
            let given = blocking(&central, |central| decide::by_rules(&central.state)).await??;
            if given > 0 {
                info!(approvals = given, "rules approved");
            }
            if given == decide::PATCHES_AT_ONCE_MAX {
                central.rules.wake();
            }
            Ok(())
        }
    });

    let this = central.clone();
    tasks.periodic("rollouts", central.rollouts.clone(), every(ROLLOUTS_EVERY), move || {
        let central = this.clone();
        async move {
            let moved = blocking(&central, |central| decide::rollouts::run(&central.state)).await??;
            let trusted = blocking(&central, |central| decide::trust::run(&central.state)).await??;
            if moved + trusted > 0 {
                info!(rollouts = moved, trusted, "rollouts moved");
            }
            if moved == decide::rollouts::MOVED_AT_ONCE_MAX || trusted == decide::trust::MOVED_AT_ONCE_MAX {
                central.rollouts.wake();
            }
            Ok(())
        }
    });

    let (this, notices) = (central.clone(), central.notices.clone());
    tasks.periodic(
        "notices",
        Wake::default(),
        move |now| notices.next_look(now),
        move || {
            let central = this.clone();
            async move {
                central.notices.send_due();
                Ok(())
            }
        },
    );
    tasks.spawn("news", tell_news(central.clone()));

    let this = central.clone();
    tasks.periodic("retain", Wake::default(), every(RETAIN_EVERY), move || {
        let central = this.clone();
        async move { central.retain().await }
    });
}

/// Tells relays of whatever is published, and everybody else of what is worth a check.
async fn tell_news(central: Arc<Central>) {
    let mut news = central.publisher.news();
    let notices = central.notices.clone();
    let stop = central.stop.clone();
    drop(central);
    loop {
        let News { changed, of_note } = *news.borrow_and_update();
        notices.published(of_note, Audience::Everybody);
        notices.published(changed, Audience::Relays);
        tokio::select! {
            () = stop.wait() => return,
            change = news.changed() => if change.is_err() { return },
        }
    }
}

async fn blocking<T: Send + 'static>(
    central: &Arc<Central>,
    work: impl FnOnce(&Central) -> T + Send + 'static,
) -> Result<T, TaskError> {
    let central = central.clone();
    Ok(disk::blocking(move || work(&central)).await?)
}

/// Waits until nobody else reads; what changed by the reading that was waited for.
async fn turn(reading: &Mutex<Applied>) -> (Applied, MutexGuard<'_, Applied>) {
    if let Ok(last) = reading.try_lock() {
        return (Applied::default(), last);
    }
    let last = reading.lock().await;
    (*last, last)
}

impl Central {
    /// Reads every source; one that fails does not keep the others from being read.
    async fn read_sources(self: &Arc<Self>) -> Result<(), TaskError> {
        let mut first = None;
        // Those that tell of others' updates first.
        let (mut names, rest): (Vec<_>, Vec<_>) =
            self.feeds.iter().partition(|(_, feed)| feed.config.catalogue().is_none());
        names.extend(rest);
        for (name, _) in names {
            if let Err(error) = self.read_source(name).await {
                warn!(source = %name, error = %Chain(error.as_ref()), "could not read a source");
                first.get_or_insert(error);
            }
        }
        self.rules.wake();
        first.map_or(Ok(()), Err)
    }

    /// Reads one source and takes its catalogue over. What changed, also by a reading that was under way when it was
    /// asked for.
    ///
    /// # Errors
    ///
    /// When it is not configured, could not be read, or could not be kept; what was there before stays.
    pub async fn read_source(self: &Arc<Self>, name: &SourceId) -> Result<Applied, TaskError> {
        let feed = self.feeds.get(name).ok_or_else(|| format!("there is no source `{name}`"))?;
        let (meanwhile, mut last) = turn(&feed.reading).await;
        let result = self.read_feed(feed).await;
        *last = result.as_ref().copied().unwrap_or_default();
        if let Err(error) = &result {
            let (name, text) = (name.clone(), Chain(error.as_ref()).to_string());
            blocking(self, move |central| central.catalog.failed(&name, &text)).await??;
        }
        result.map(|applied| meanwhile + applied)
    }

    async fn read_feed(self: &Arc<Self>, feed: &Feed) -> Result<Applied, TaskError> {
        let config = feed.config.clone();
        let (memory, documents, advisories) = blocking(self, move |central| {
            let documents = match config.catalogue() {
                Some(catalogue) => central.catalog.documents(catalogue)?,
                None => BTreeMap::new(),
            };
            let advisories = central.catalog.advisories(&central.config.sources)?;
            Ok::<_, crate::catalog::CatalogError>((central.catalog.memory(&config)?, documents, advisories))
        })
        .await??;
        let before = Before { state: &memory, catalogue: &documents, advisories: &advisories };
        let synced = feed.source.sync(before, self.state.now()).await?;
        let config = feed.config.clone();
        let applied = blocking(self, move |central| {
            central.payloads.blobs().keep_room();
            central.catalog.apply(&config, synced)
        })
        .await??;
        let Applied { new, changed, gone, refused } = applied;
        info!(source = %feed.config.name(), new, changed, gone, refused, "read a source");
        self.rules.wake();
        Ok(applied)
    }

    /// Publishes what changed, at most once a second, and evaluates what is published against what is reported.
    async fn publish(self: &Arc<Self>) -> Result<(), TaskError> {
        loop {
            let begun = Instant::now();
            let outcome = blocking(self, |central| {
                central.payloads.blobs().keep_room();
                central.publisher.publish()
            })
            .await??;
            // Also when nothing is new: an earlier run may not have come so far.
            blocking(self, |central| {
                exposure::run(&central.state, &central.trees, &central.publisher.published())
            })
            .await??;
            let more = match outcome {
                Outcome::Unchanged { more: false } => return Ok(()),
                Outcome::Unchanged { more } | Outcome::Published { more, .. } => more,
            };
            tokio::time::sleep_until(begun + PUBLISH_APART).await;
            if !more {
                return Ok(());
            }
        }
    }

    async fn refresh(self: &Arc<Self>) -> Result<(), TaskError> {
        let layout = Layout::new(&self.config.data_dir);
        let taken = blocking(self, move |central| roots::take_up(&layout, &central.publisher)).await?;
        // What is published goes on with the root that there is.
        blocking(self, |central| central.publisher.refresh()).await??;
        let left = self.publisher.root_expires().duration_since(self.state.now());
        if left < ROOT_WARNING {
            let until = self.publisher.root_expires();
            warn!(%until, "the root metadata ends soon: bring its key back for `tierway-central root extend`");
        }
        taken?;
        Ok(())
    }

    /// When the daily download is due; `None` while it is off.
    fn next_download(&self, now: Timestamp) -> Option<Timestamp> {
        let download = self.download_settings();
        let next = next_daily(download.at, &self.config.zone, now).filter(|_| download.enabled);
        *self.download_due.lock().unwrap_or_else(PoisonError::into_inner) = next;
        next
    }

    fn is_download_due(&self) -> bool {
        let due = *self.download_due.lock().unwrap_or_else(PoisonError::into_inner);
        due.is_some_and(|due| self.state.now() >= due)
    }

    /// Downloads what is wanted and not here; how many payloads came.
    ///
    /// # Errors
    ///
    /// Those of [`crate::download`].
    pub async fn download_payloads(self: &Arc<Self>) -> Result<usize, TaskError> {
        let _download = self.download.lock().await;
        let which = self.download_settings().which;
        Ok(self.payloads.run(which, &self.downloading).await?)
    }

    async fn retain(self: &Arc<Self>) -> Result<(), TaskError> {
        blocking(self, |central| {
            central.enrollment.retain()?;
            central.leases.retain()?;
            decide::gone::forget_gone(&central.state)?;
            while decide::gone::forget_revoked(&central.state)? == decide::gone::REVOKED_AT_ONCE_MAX {}
            while decide::gone::forget_updates(&central.state)? == decide::gone::FORGOTTEN_AT_ONCE_MAX {}
            while central.state.retain_audit(audit::RECORDS_MAX)? {}
            central.publisher.pin()?;
            Ok::<_, TaskError>(())
        })
        .await?
    }

    /// Gives central itself a new certificate when two thirds of the present one's life are left or less.
    async fn renew_identity(self: &Arc<Self>, identity: &Identity) -> Result<(), TaskError> {
        let life = validity(Role::Central);
        if !tierway_proto::joining::renewal_is_due(identity.own().not_after, life, self.state.now()) {
            return Ok(());
        }
        let identity = identity.clone();
        blocking(self, move |central| {
            let (applicant, site) = (Applicant::new()?, CENTRAL_SITE.parse()?);
            let csr = applicant.csr_der();
            let issued = central.enrollment.issue_directly(Role::Central, &site, CENTRAL_SITE, csr)?;
            let files = identity.files();
            applicant.keep(&issued.chain, files.identity.parent().unwrap_or(std::path::Path::new(".")))?;
            identity.reload()?;
            info!(until = %identity.own().not_after, "renewed central's own certificate");
            Ok::<_, TaskError>(())
        })
        .await?
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_waited_for_a_reading_is_told_what_changed_by_it_and_nobody_else_is() {
        let reading = Mutex::new(Applied::default());
        let (meanwhile, mut last) = turn(&reading).await;
        assert_eq!(meanwhile, Applied::default());
        let mut waits = std::pin::pin!(turn(&reading));
        assert!(waits.as_mut().now_or_never().is_none());
        let found = Applied { new: 431, ..Applied::default() };
        *last = found;
        drop(last);
        assert_eq!(waits.await.0, found);
        assert_eq!(turn(&reading).await.0, Applied::default());
        assert_eq!((found + found).new, 862);
    }
}
