//! The hard days, one function each.

use std::time::{Duration, Instant};

use tierway_common::schedule;
use tierway_endpoint::config::Config as EndpointConfig;
use tierway_proto::v1;
use tokio::task::JoinSet;

use super::{
    Scenario,
    failure::{Failure, failed},
    figures::Phase,
    fleet::{Fleet, persist},
    member::{Around, Member},
};
use crate::simulation::random::Random;

/// An endpoint that is not offered what was approved within so long was not told of it.
const TOLD_WITHIN: Duration = Duration::from_secs(120);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Updates of a patch day, for each system.
const PATCHES: u32 = 10;
/// Days for which a site is cut off.
const WEEK_DAYS: u32 = 7;
/// While central is killed, reports come for so long.
const REPORTING: Duration = Duration::from_secs(4);
/// Rounds of reports after which a relay that was replaced has been made up for.
const ROUNDS: u32 = 3;
/// A silent connection is kept alive so often; a ping has 17 bytes, and its TLS record 22 more.
const KEEP_ALIVE_SECONDS: u64 = 60;
const KEEP_ALIVE_BYTES: u64 = 17 + 22;
/// Within this an emergency must have been offered,
const EMERGENCY_WITHIN_MS: f64 = 60_000.0;

/// Plays one; its figures are added to the fleet's.
///
/// # Errors
///
/// [`Failure`] when it cannot go on.
pub async fn play(fleet: &mut Fleet, scenario: Scenario) -> Result<(), Failure> {
    let phase = match scenario {
        Scenario::PowerOn => power_on(fleet).await?,
        Scenario::SteadyDay => steady_day(fleet).await?,
        Scenario::Emergency => emergency(fleet).await?,
        Scenario::PatchDay => patch_day(fleet).await?,
        Scenario::BadUpdate => bad_update(fleet).await?,
        Scenario::CentralRestarted => central_restarted(fleet).await?,
        Scenario::SiteCut => site_cut(fleet).await?,
        Scenario::RelayReplaced => relay_replaced(fleet).await?,
    };
    fleet.push(phase);
    Ok(())
}

/// Everybody connects anew, at any moment of a while, and checks.
async fn power_on(fleet: &mut Fleet) -> Result<Phase, Failure> {
    fleet.members.iter_mut().for_each(Member::goes_off);
    let (within, seed) = (fleet.options.power_on, fleet.options.seed);
    let begun = fleet.begin();
    fleet
        .everybody(|member, around| async move {
            let share = Random::of(seed, &[23, member.number]).below(1_000_000);
            tokio::time::sleep(within.mul_f64(share as f64 / 1e6)).await;
            persist(member, around, true).await
        })
        .await?;
    let arrived = fleet.arrived(None, begun.timestamp).await?;
    let mut phase = fleet.ended(Scenario::PowerOn.name(), begun);
    phase.more.insert("seconds until central had all after the last", arrived.as_secs_f64());
    fleet.bytes(&mut phase);
    Ok(phase)
}

/// An update is there and known; then it is approved, and everybody who listens must be offered it.
async fn emergency(fleet: &mut Fleet) -> Result<Phase, Failure> {
    let updates = fleet.publish(1).await?;
    fleet.figures.take();
    let begun = fleet.begin();
    let around = Around { installs: true, ..fleet.around() };
    fleet.approve_while_all_listen(around, TOLD_WITHIN, &updates).await?;
    let mut phase = fleet.ended(Scenario::Emergency.name(), begun);
    let online = fleet.members.iter().filter(|member| !member.roams).count();
    let offered = phase.times.get("approval to offer");
    let offered = offered.map_or(0, |times| {
        let late = times.p99_ms > EMERGENCY_WITHIN_MS;
        if late {
            phase
                .findings
                .push(format!("of 100 endpoints 99 were offered it only after {:.0} ms", times.p99_ms));
        }
        times.count
    });
    if offered < online {
        phase.findings.push(format!("{offered} of {online} endpoints were offered what was approved"));
    }
    fleet.bytes(&mut phase);
    Ok(phase)
}

/// All checks that an endpoint makes in a day, each at its own place in its part of the day; one of them is the daily
/// report.
async fn steady_day(fleet: &mut Fleet) -> Result<Phase, Failure> {
    let interval = EndpointConfig::default().check_interval;
    let checks = u32::try_from(DAY.as_secs() / interval.as_secs().max(1)).unwrap_or(1);
    let part = fleet.options.day / checks.max(1);
    let begun = fleet.begin();
    let start = tokio::time::Instant::now();
    fleet
        .everybody(|mut member, around| async move {
            let place = schedule::offset(member.id.as_str(), part);
            for check in 0..checks {
                tokio::time::sleep_until(start + part * check + place).await;
                member = persist(member, around.clone(), check == 0).await;
            }
            member
        })
        .await?;
    fleet.arrived(None, begun.timestamp).await?;
    let mut phase = fleet.ended(Scenario::SteadyDay.name(), begun);
    fleet.bytes(&mut phase);
    let pings = DAY.as_secs() / KEEP_ALIVE_SECONDS;
    phase.more.insert("bytes of a day's keep-alive, each way", (pings * KEEP_ALIVE_BYTES) as f64);
    Ok(phase)
}

/// Ten updates are approved; everybody fetches them, installs them and says so.
async fn patch_day(fleet: &mut Fleet) -> Result<Phase, Failure> {
    let updates = fleet.publish(PATCHES).await?;
    fleet.figures.take();
    let begun = fleet.begin();
    let around = Around { installs: true, ..fleet.around() };
    fleet.approve_while_all_listen(around, TOLD_WITHIN, &updates).await?;
    let arrived = fleet.arrived(None, begun.timestamp).await?;
    let mut phase = fleet.ended(Scenario::PatchDay.name(), begun);
    phase.more.insert("seconds until central had all after the last", arrived.as_secs_f64());
    fleet.bytes(&mut phase);
    let (succeeded, failed) = outcomes(fleet, &updates).await?;
    told(&mut phase, "installations", succeeded);
    told(&mut phase, "installations that failed", failed);
    Ok(phase)
}

/// An update fails on one computer in a hundred: central must know of each, and of no other.
async fn bad_update(fleet: &mut Fleet) -> Result<Phase, Failure> {
    let updates = fleet.publish(1).await?;
    fleet.figures.take();
    let begun = fleet.begin();
    let around = Around { installs: true, bad: updates.clone().into(), ..fleet.around() };
    fleet.approve_while_all_listen(around, TOLD_WITHIN, &updates).await?;
    fleet.arrived(None, begun.timestamp).await?;
    let mut phase = fleet.ended(Scenario::BadUpdate.name(), begun);
    fleet.bytes(&mut phase);
    let (succeeded, failed) = outcomes(fleet, &updates).await?;
    told(&mut phase, "installations", succeeded);
    told(&mut phase, "installations that failed", failed);
    Ok(phase)
}

/// On how many endpoints these updates are installed and failed, as central says.
async fn outcomes(fleet: &Fleet, updates: &[String]) -> Result<(u64, u64), Failure> {
    let (mut admin, mut sum) = (fleet.tiers.admin(), (0, 0));
    for update in updates {
        let request = v1::GetPatchRequest { name_or_id: update.clone() };
        let answer = admin.get_patch(request).await.map_err(failed(format!("ask for `{update}`")))?;
        let patch = answer.into_inner().patch.unwrap_or_default();
        sum = (sum.0 + patch.endpoints_installed, sum.1 + patch.endpoints_failed);
    }
    Ok(sum)
}

/// Central must count as many of something as the endpoints did.
fn told(phase: &mut Phase, what: &'static str, central: u64) {
    let here = phase.counts.get(what).copied().unwrap_or(0);
    if here != central {
        phase.findings.push(format!("there were {here} {what} and central counts {central}"));
    }
}

/// Central is killed while everybody reports, and started again.
async fn central_restarted(fleet: &mut Fleet) -> Result<Phase, Failure> {
    let begun = fleet.begin();
    let mut busy = JoinSet::new();
    let around = fleet.around();
    for member in std::mem::take(&mut fleet.members) {
        let around = around.clone();
        busy.spawn(async move {
            let place = schedule::offset(member.id.as_str(), REPORTING);
            tokio::time::sleep(place).await;
            persist(member, around, true).await
        });
    }
    tokio::time::sleep(REPORTING / 2).await;
    fleet.tiers.central.kill();
    let serves = fleet.tiers.central.start().await?;
    let answers = fleet.tiers.central_answers().await?;
    while let Some(done) = busy.join_next().await {
        fleet.members.push(done.map_err(failed("simulate an endpoint"))?);
    }
    fleet.members.sort_by_key(|member| member.number);
    let arrived = fleet.arrived(None, begun.timestamp).await?;
    let mut phase = fleet.ended(Scenario::CentralRestarted.name(), begun);
    phase.more.insert("seconds until it served again", serves.as_secs_f64());
    phase.more.insert("seconds until it answered", (serves + answers).as_secs_f64());
    phase.more.insert("seconds until central had all after the last", arrived.as_secs_f64());
    Ok(phase)
}

/// A site reports for a week and its relay does not reach central; then it does, while all others report too.
async fn site_cut(fleet: &mut Fleet) -> Result<Phase, Failure> {
    let (cut, relays) = (fleet.tiers.relays.len() - 1, fleet.tiers.relays.len() as u64);
    let here = |member: &Member| member.number % relays == cut as u64;
    let around = fleet.around();
    fleet.tiers.relays[cut].link.cut();
    for _ in 0..WEEK_DAYS {
        fleet.those(around.clone(), here, |member, around| persist(member, around, true)).await?;
    }
    let mut gathered = fleet.figures.take();
    let begun = fleet.begin();
    fleet.tiers.relays[cut].link.mend();
    fleet.those(around, |member| !here(member), |member, around| persist(member, around, true)).await?;
    let site = fleet.tiers.relays[cut].site.clone();
    fleet.arrived(Some(&site), begun.timestamp).await?;
    let arrived = begun.at.elapsed();
    fleet.arrived(None, begun.timestamp).await?;
    let mut phase = fleet.ended(Scenario::SiteCut.name(), begun);
    let waited = gathered.counted("reports acknowledged");
    phase.more.insert("reports that waited at the relay", waited as f64);
    phase.more.insert("seconds until central had all of the site", arrived.as_secs_f64());
    phase.findings.append(&mut gathered.findings());
    Ok(phase)
}

/// A relay is gone with reports that it had acknowledged and not handed up; another takes its place, and central has
/// everything again from the endpoints.
async fn relay_replaced(fleet: &mut Fleet) -> Result<Phase, Failure> {
    let relays = fleet.tiers.relays.len() as u64;
    let here = |member: &Member| member.number.is_multiple_of(relays);
    let begun = fleet.begin();
    let around = fleet.around();
    fleet.tiers.relays[0].link.cut();
    fleet.those(around.clone(), here, |member, around| persist(member, around, true)).await?;
    fleet.tiers.relays[0].process.kill();
    fleet.tiers.relays[0].link.mend();
    fleet.tiers.replace_relay(0).await?;
    let at = Instant::now();
    let site = fleet.tiers.relays[0].site.clone();
    // The gap is seen with the next report, and what is missing is asked for with the answer to one after that.
    for _ in 0..ROUNDS {
        let since = fleet.clock.now();
        fleet.those(around.clone(), here, |member, around| persist(member, around, true)).await?;
        fleet.arrived(Some(&site), since).await?;
    }
    let mut phase = fleet.ended(Scenario::RelayReplaced.name(), begun);
    phase.more.insert("seconds for three rounds of reports", at.elapsed().as_secs_f64());
    Ok(phase)
}
