//! What rules ask of Windows Management Instrumentation: whether a query has a row.
//!
//! A query may wait for a provider that does not answer. So each runs on a thread of its own, gets a time, and all of
//! a scan get one together; what has no answer by then stays unknown, with the reason.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use tierway_common::facts::Domain;

use crate::scan::{Asked, Collected};

/// One query; those of vendors' catalogues take some 10 ms, and the slowest that make sense a few seconds.
pub const QUERY_LIMIT: Duration = Duration::from_secs(10);
/// All queries of one scan: the vendors' largest catalogue has some hundred different ones.
pub const SCAN_LIMIT: Duration = Duration::from_secs(60);
/// Queries left running that did not end in time, in one scan: then the service itself is what does not answer.
const STUCK_MAX: usize = 3;
/// Reasons that are told one by one.
const TOLD_MAX: usize = 5;

/// The service of a Windows, as far as rules ask it.
pub trait Wmi: Clone + Send + 'static {
    /// Whether `query` has a row in `namespace`.
    ///
    /// # Errors
    ///
    /// A sentence, when it cannot be asked or does not answer; that a class is not there is one of those.
    fn has_row(&self, namespace: &str, query: &str) -> Result<bool, String>;
}

/// Reads the domain `wmi` as far as `asked`; nothing is started when no rule asks. `query_limit` is for each query,
/// `scan_limit` for all of them.
pub(super) fn scan(
    wmi: &impl Wmi,
    asked: &Asked,
    (query_limit, scan_limit): (Duration, Duration),
    collected: &mut Collected,
) {
    let source = "Windows Management Instrumentation".to_owned();
    collected.domain("wmi", Domain::Asked { source });
    let began = Instant::now();
    let (mut stuck, mut untold, mut late) = (0, 0, 0);
    for key in asked.questions.iter().filter(|key| key.starts_with("wmi:")) {
        let Some((namespace, query)) = key["wmi:".len()..].split_once(':') else { continue };
        let left = scan_limit.saturating_sub(began.elapsed());
        if stuck >= STUCK_MAX || left.is_zero() {
            late += 1;
            continue;
        }
        match within(wmi, namespace, query, query_limit.min(left)) {
            Ok(there) => collected.set(key, if there { "true" } else { "false" }),
            Err(reason) => {
                if let Failure::Late = reason {
                    stuck += 1;
                }
                if untold < TOLD_MAX {
                    collected.problem(format!("could not ask `{namespace}` for `{query}`: {reason}"));
                }
                untold += 1;
            }
        }
    }
    if untold > TOLD_MAX {
        collected.problem(format!("{} more queries of WMI have no answer", untold - TOLD_MAX));
    }
    if late > 0 {
        collected.problem(format!("{late} queries of WMI were not asked: those before took too long"));
    }
}

/// A query without an answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Refused(String),
    #[error("it did not answer in time")]
    Late,
    #[error("no thread could be started")]
    NoThread,
}

fn within(wmi: &impl Wmi, namespace: &str, query: &str, limit: Duration) -> Result<bool, Failure> {
    let (sender, answer) = mpsc::sync_channel(1);
    let (wmi, namespace, query) = (wmi.clone(), namespace.to_owned(), query.to_owned());
    let thread = thread::Builder::new().name("wmi".to_owned()).spawn(move || {
        // Nobody waits any more when it is late.
        let _ = sender.send(wmi.has_row(&namespace, &query));
    });
    thread.map_err(|_| Failure::NoThread)?;
    match answer.recv_timeout(limit) {
        Ok(answer) => answer.map_err(Failure::Refused),
        Err(RecvTimeoutError::Timeout) => Err(Failure::Late),
        Err(RecvTimeoutError::Disconnected) => Err(Failure::Refused("the query broke off".to_owned())),
    }
}

#[cfg(windows)]
pub use self::system::SystemWmi;

#[cfg(windows)]
mod system {
    use wmi::WMIConnection;

    use super::Wmi;

    /// The service of the running system.
    #[derive(Clone, Copy, Debug)]
    pub struct SystemWmi;

    impl Wmi for SystemWmi {
        fn has_row(&self, namespace: &str, query: &str) -> Result<bool, String> {
            let connection =
                WMIConnection::with_namespace_path(namespace).map_err(|error| error.to_string())?;
            let mut rows = connection.exec_query(query).map_err(|error| error.to_string())?;
            // The first is enough: there may be as many as there are files.
            match rows.next() {
                None => Ok(false),
                Some(Ok(_)) => Ok(true),
                Some(Err(error)) => Err(error.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Has a row of what contains `there`, refuses `refused`, and answers `never` when the test is over.
    #[derive(Clone)]
    struct Made {
        asked: Arc<AtomicUsize>,
        over: Arc<Barrier>,
    }

    impl Wmi for Made {
        fn has_row(&self, _: &str, query: &str) -> Result<bool, String> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            match query {
                "refused" => Err("Invalid class".to_owned()),
                "never" => {
                    self.over.wait();
                    Ok(true)
                }
                query => Ok(query.contains("there")),
            }
        }
    }

    fn check(queries: &[&str], limits: (Duration, Duration)) -> (Collected, usize) {
        let late = queries.iter().filter(|query| **query == "never").count().min(STUCK_MAX);
        let wmi = Made { asked: Arc::default(), over: Arc::new(Barrier::new(late + 1)) };
        let keys: Vec<String> = queries.iter().map(|query| format!("wmi:root\\cimv2:{query}")).collect();
        let mut asked = Asked::default();
        asked.add_keys(keys.iter().map(String::as_str));
        let mut collected = Collected::default();
        scan(&wmi, &asked, limits, &mut collected);
        if late > 0 && !limits.1.is_zero() {
            wmi.over.wait();
        }
        (collected, wmi.asked.load(Ordering::SeqCst))
    }

    fn told(collected: &Collected) -> Vec<&str> {
        collected.problems.iter().map(|problem| problem.0.as_str()).collect()
    }

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_query_is_true_with_a_row_false_without_and_unknown_with_the_reason_when_refused() {
        let (collected, asked) = check(&["is there", "is not", "refused"], (LONG, LONG));
        let values = &collected.facts.values;
        assert_eq!(values["wmi:root\\cimv2:is there"], "true");
        assert_eq!(values["wmi:root\\cimv2:is not"], "false");
        assert_eq!((values.len(), asked), (2, 3));
        assert_eq!(told(&collected), ["could not ask `root\\cimv2` for `refused`: Invalid class"]);
    }

    #[test]
    fn what_does_not_answer_keeps_no_other_query_from_being_asked() {
        let (collected, _) = check(&["never", "this is there"], (SHORT, LONG));
        assert_eq!(collected.facts.values.len(), 1);
        assert_eq!(told(&collected), ["could not ask `root\\cimv2` for `never`: it did not answer in time"]);
    }

    #[test]
    fn no_query_is_asked_after_the_time_of_a_scan_and_none_where_no_rule_asks() {
        let (collected, asked) = check(&["is there"], (LONG, Duration::ZERO));
        assert_eq!((collected.facts.values.len(), asked), (0, 0));
        assert_eq!(told(&collected), ["1 queries of WMI were not asked: those before took too long"]);
        let (collected, asked) = check(&[], (LONG, LONG));
        assert_eq!((told(&collected).len(), asked), (0, 0));
    }
}
