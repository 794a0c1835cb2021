//! Answers of the endpoint as text for a terminal.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use tierway_common::rules::explain::Explained;
use tierway_proto::v1;

/// Parts of a rule that are shown where not all are: the ones that decide, of a kernel's hundred packages.
const DECIDING_MAX: usize = 8;

/// What `check-now` prints.
#[must_use]
pub fn check(done: &v1::LocalCheckNowResponse) -> String {
    let v1::LocalCheckNowResponse { needed, installed, failed, problems } = done;
    let mut text = format!("checked: {needed} needed, {installed} installed now, {failed} failed\n");
    for problem in problems {
        let _ = writeln!(text, "problem: {problem}");
    }
    text
}

/// What `status` prints.
#[must_use]
pub fn status(status: &v1::LocalStatus, now: Timestamp) -> String {
    let v1::LocalStatus {
        endpoint,
        name,
        site,
        upstream,
        dictionary_version,
        dictionary_expires,
        last_check,
        next_check,
        last_error,
        patches,
        reports_waiting,
        certificate_expires,
        reboot_pending,
        phase,
    } = status;
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<12} {value}");
    };
    line("ENDPOINT", format!("{name} ({endpoint}), site {site}, {phase}"));
    line("UPSTREAM", format!("{upstream}, {reports_waiting} reports waiting"));
    line("DICTIONARY", format!("version {dictionary_version}, valid {}", when(*dictionary_expires, now)));
    line("CHECKED", format!("{}, next {}", when(*last_check, now), when(*next_check, now)));
    line("CERTIFICATE", format!("valid {}", when(*certificate_expires, now)));
    if *reboot_pending {
        line("REBOOT", "needed".to_owned());
    }
    if !last_error.is_empty() {
        line("PROBLEM", last_error.clone());
    }
    if patches.is_empty() {
        let knows = *last_check != 0 && *dictionary_version != 0 && last_error.is_empty();
        let _ =
            writeln!(text, "\n{}", if knows { "nothing is needed" } else { "nothing is known to be needed" });
        return text;
    }
    let width = patches.iter().map(|patch| patch.patch.len()).max().unwrap_or(0).max(5);
    let _ = writeln!(
        text,
        "\n{:<width$}  {:<11}  {:<14}  {:<8}  DETAIL",
        "PATCH", "SEVERITY", "STATE", "APPROVED"
    );
    for v1::LocalPatch { patch, title: _, severity, state, approved, detail } in patches {
        let approved = if *approved { "yes" } else { "no" };
        let _ = writeln!(text, "{patch:<width$}  {severity:<11}  {state:<14}  {approved:<8}  {detail}");
    }
    text
}

/// What `why` prints.
///
/// # Errors
///
/// When the endpoint sent an explanation that does not parse.
pub fn why(why: &v1::LocalWhyResponse, full: bool) -> Result<String, serde_json::Error> {
    let v1::LocalWhyResponse {
        patch,
        verdict,
        summary,
        applicable_json,
        installed_json,
        approval,
        would_change,
    } = why;
    let mut text = format!("{patch}: {}\n{summary}\n", verdict.to_uppercase());
    for (label, json) in [("applicable", applicable_json), ("installed", installed_json)] {
        if json.is_empty() {
            continue;
        }
        let tree: Explained = serde_json::from_str(json)?;
        let tree = if full { tree } else { tree.prune(DECIDING_MAX) };
        let _ = writeln!(text, "{label}\n{tree}");
    }
    if !approval.is_empty() {
        let _ = writeln!(text, "{approval}");
    }
    if !would_change.is_empty() {
        let _ = writeln!(text, "would change if: {}", would_change.join(", or "));
    }
    Ok(text)
}

/// What `plan` prints.
#[must_use]
pub fn plan(plan: &v1::LocalPlan, now: Timestamp) -> String {
    let v1::LocalPlan { phase, steps, left_out, reboot, next, settings, problems } = plan;
    let mut text = format!("{phase}; {reboot}");
    if *next != 0 {
        let _ = write!(text, "; decided again at the latest {}", when(*next, now));
    }
    text.push('\n');
    for problem in problems {
        let _ = writeln!(text, "problem: {problem}");
    }
    let minutes = |seconds: u64| format!("{} min", seconds.div_ceil(60));
    text.push_str(if steps.is_empty() { "\nnothing is installed now\n" } else { "\nINSTALLED NOW\n" });
    for step in steps {
        let v1::LocalStep {
            patch,
            start,
            expected_seconds,
            limit_seconds,
            reserve_seconds,
            window,
            window_closes,
        } = step;
        let _ = write!(text, "  {patch}: begins {}, takes {}", when(*start, now), minutes(*expected_seconds));
        let _ = write!(text, ", ended after {}", minutes(*limit_seconds));
        if !window.is_empty() {
            let _ = write!(text, ", in window `{window}` that closes {}", when(*window_closes, now));
            let _ = write!(text, ", {} kept for a reboot", minutes(*reserve_seconds));
        }
        text.push('\n');
    }
    if !left_out.is_empty() {
        text.push_str("\nNOT INSTALLED NOW\n");
    }
    for v1::LocalLeftOut { patch, waiting, until, reason, offered, grace_ends, deadline } in left_out {
        let _ = write!(text, "  {patch}: {waiting}");
        if *until != 0 {
            let _ = write!(text, " {}", when(*until, now));
        }
        let _ = writeln!(text, ": {reason}");
        if *offered != 0 {
            let (offered, grace) = (when(*offered, now), when(*grace_ends, now));
            let _ = writeln!(text, "    offered {offered}, grace ends {grace}, due {}", when(*deadline, now));
        }
    }
    let width = settings.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    let _ = writeln!(text, "\n{:<width$}  VALUE", "SETTING");
    for v1::LocalSetting { name, value, origin } in settings {
        let _ = writeln!(text, "{name:<width$}  {value}  ({origin})");
    }
    text
}

/// What `history` prints.
#[must_use]
pub fn history(history: &v1::LocalHistoryResponse) -> String {
    let mut text = String::new();
    for v1::LocalEvent { at, patch, event, detail } in &history.events {
        let at = Timestamp::from_millisecond(*at).map(|at| at.to_string()).unwrap_or_default();
        let _ = writeln!(text, "{at:<24}  {event:<22}  {patch}  {detail}");
    }
    text
}

/// `in 3h`, `2m ago`, `never`.
fn when(millis: i64, now: Timestamp) -> String {
    let Ok(at) = Timestamp::from_millisecond(millis) else { return "never".to_owned() };
    if millis == 0 {
        return "never".to_owned();
    }
    let away = at.duration_since(now);
    let text = humantime::format_duration(rounded(away)).to_string();
    if away.is_negative() { format!("{text} ago") } else { format!("in {text}") }
}

/// To the second under two minutes, to the minute under two hours, else to the hour.
fn rounded(away: SignedDuration) -> std::time::Duration {
    let seconds = away.as_secs().unsigned_abs();
    let unit = match seconds {
        0..120 => 1,
        120..7200 => 60,
        _ => 3600,
    };
    std::time::Duration::from_secs(seconds / unit * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_from_now_in_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, text) in
            [(90, "in 1m 30s"), (-300, "5m ago"), (3 * 3600 + 59, "in 3h"), (-90_000, "1day 1h ago")]
        {
            assert_eq!(when((1_000_000 + seconds) * 1000, now), text);
        }
        assert_eq!(when(0, now), "never");
    }

    #[test]
    fn a_plan_says_what_is_done_why_not_the_rest_and_by_which_settings() {
        let step = v1::LocalStep {
            patch: "debian-12/a_1".to_owned(),
            start: 1_000,
            expected_seconds: 300,
            limit_seconds: 1_200,
            reserve_seconds: 600,
            window: "night".to_owned(),
            window_closes: 7_200_000,
        };
        let left_out = v1::LocalLeftOut {
            patch: "debian-12/b_1".to_owned(),
            waiting: "waiting for a window".to_owned(),
            until: 3_600_000,
            reason: "outside change windows".to_owned(),
            offered: 1_000,
            grace_ends: 60_000,
            deadline: 7_200_000,
        };
        let setting = v1::LocalSetting {
            name: "reboot".to_owned(),
            value: "\"suppress\"".to_owned(),
            origin: "built in".to_owned(),
        };
        let (steps, left_out, settings) = (vec![step], vec![left_out], vec![setting]);
        let shown =
            plan(&v1::LocalPlan { steps, left_out, settings, ..Default::default() }, Timestamp::UNIX_EPOCH);
        for part in [
            "debian-12/a_1: begins in 1s, takes 5 min, ended after 20 min, in window `night` that closes in 2h, 10 min",
            "debian-12/b_1: waiting for a window in 1h: outside change windows",
            "offered in 1s, grace ends in 1m, due in 2h",
            "reboot  \"suppress\"  (built in)",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn nothing_is_said_to_be_needed_for_certain_only_where_a_check_could_find_out() {
        let checked = v1::LocalStatus { last_check: 1, dictionary_version: 1, ..Default::default() };
        let cases = [
            (checked.clone(), true),
            (v1::LocalStatus { last_check: 0, ..checked.clone() }, false),
            (v1::LocalStatus { dictionary_version: 0, ..checked.clone() }, false),
            (v1::LocalStatus { last_error: "no space left".to_owned(), ..checked }, false),
        ];
        for (given, certain) in cases {
            let text = status(&given, Timestamp::UNIX_EPOCH);
            let last = text.lines().last().unwrap();
            assert_eq!(last, if certain { "nothing is needed" } else { "nothing is known to be needed" });
        }
    }

    #[test]
    fn a_status_names_what_is_needed_and_what_went_wrong() {
        let text = status(
            &v1::LocalStatus {
                name: "web1".to_owned(),
                last_error: "could not reach upstream".to_owned(),
                patches: vec![v1::LocalPatch {
                    patch: "debian-12/openssl_3".to_owned(),
                    state: "needed".to_owned(),
                    ..Default::default()
                }],
                ..Default::default()
            },
            Timestamp::UNIX_EPOCH,
        );
        for part in ["web1", "PROBLEM      could not reach upstream", "debian-12/openssl_3  ", "needed"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
