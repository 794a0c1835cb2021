//! Who is at this computer, and what of theirs a reboot would destroy: values that decisions are made from.
//!
//! Pure. What fills them in from the running system is beside them; simulations and tests make their own.
//! What could not be read is `None`, and counts as "somebody may be there": a warning too many costs little.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::wishes::Caller;

/// Somebody who has done nothing for so long is idle, where the session itself does not say.
pub const IDLE_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Everybody at the computer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct People {
    /// Who is logged in, ascending by id; `None` when that could not be read.
    pub sessions: Option<Vec<Session>>,
    /// Programs that asked the system not to shut down, in the order in which they did.
    pub inhibitors: Vec<Inhibitor>,
    /// Documents that seem to be open in an editor, ascending by path; see [`Document`].
    pub documents: Vec<Document>,
}

/// One login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// As the system names it, such as `3` or `pts/0`.
    pub id: String,
    /// Login name, or the number where it has none.
    pub user: String,
    /// User id.
    pub uid: u32,
    /// In front of what.
    pub seat: Seat,
    /// Since when nothing was done in it; `None` while somebody works.
    pub idle_since: Option<Timestamp>,
    /// The screen is locked.
    pub locked: bool,
}

/// What somebody sits in front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seat {
    /// A desktop, here or by remote display.
    Desktop,
    /// A terminal here.
    Terminal,
    /// A terminal over the network.
    Remote,
}

/// A program that asked the system not to shut down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inhibitor {
    /// Which program, in its own words.
    pub who: String,
    /// Why, in its own words.
    pub why: String,
    /// User id of its process.
    pub uid: u32,
}

/// A document that seems to be open: its editor left a lock beside it. What an editor without such locks
/// has open is not known, and neither is whether something is unsaved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Document {
    /// Of the document itself, as far as the lock tells its name.
    pub path: String,
    /// Kind of program, such as `LibreOffice`.
    pub program: String,
    /// User id of the owner of the lock.
    pub uid: u32,
}

/// One thing that speaks against a reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Against {
    /// User id of the person whose it is; `None` when that is not known.
    pub whose: Option<u32>,
    /// For everybody at the computer, and for reports: it names no document.
    pub sentence: String,
    /// Path of the document that is open.
    pub document: Option<String>,
}

impl People {
    /// Nobody is here and nothing is open: a server at night, or a simulation.
    #[must_use]
    pub fn nobody() -> Self {
        Self { sessions: Some(Vec::new()), ..Self::default() }
    }

    /// Whether a person must be told before something is installed or rebooted. True when it is not known.
    #[must_use]
    pub fn logged_in(&self) -> bool {
        self.sessions.as_ref().is_none_or(|sessions| !sessions.is_empty())
    }

    /// Whether everybody who is logged in is the user `uid`. False when it is not known, or nobody is.
    #[must_use]
    pub fn are_only(&self, uid: u32) -> bool {
        let mut sessions = self.sessions.iter().flatten().peekable();
        sessions.peek().is_some() && sessions.all(|session| session.uid == uid)
    }

    /// What speaks against a reboot at `now`: who works, who asked, what is open. Empty when nothing does. A login
    /// that is locked or idle does not.
    #[must_use]
    pub fn against_reboot(&self, now: Timestamp) -> Vec<Against> {
        let mut reasons = Vec::new();
        let mut add = |whose, sentence, document| reasons.push(Against { whose, sentence, document });
        match &self.sessions {
            None => add(None, "who is logged in could not be read".to_owned(), None),
            Some(sessions) => {
                for session in sessions.iter().filter(|session| session.works(now)) {
                    let sentence = format!("`{}` is at work (session {})", session.user, session.id);
                    add(Some(session.uid), sentence, None);
                }
            }
        }
        for Inhibitor { who, why, uid } in &self.inhibitors {
            add(Some(*uid), format!("`{who}` asked not to shut down: {why}"), None);
        }
        for Document { path, program, uid } in &self.documents {
            let user = self.sessions.iter().flatten().find(|session| session.uid == *uid);
            let user = user.map_or_else(|| uid.to_string(), |session| session.user.clone());
            add(Some(*uid), format!("`{user}` has a document open in {program}"), Some(path.clone()));
        }
        reasons
    }
}

impl Against {
    /// As a sentence for `caller`: which document is open is told to its owner and to root only.
    #[must_use]
    pub fn told_to(&self, caller: Caller) -> String {
        match (&self.document, self.whose) {
            (Some(path), Some(whose)) if caller.may_see(whose) => format!("{}: `{path}`", self.sentence),
            _ => self.sentence.clone(),
        }
    }
}

impl Session {
    /// Whether somebody does something in it.
    #[must_use]
    pub fn works(&self, now: Timestamp) -> bool {
        !self.locked && self.idle_since.is_none_or(|since| now.duration_since(since) < IDLE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(idle_minutes: Option<i64>, locked: bool) -> Session {
        Session {
            id: "3".to_owned(),
            user: "ann".to_owned(),
            uid: 1000,
            seat: Seat::Desktop,
            idle_since: idle_minutes.map(|minutes| now() - SignedDuration::from_mins(minutes)),
            locked,
        }
    }

    fn now() -> Timestamp {
        "2026-11-24T10:00:00Z".parse().unwrap()
    }

    fn told(people: &People, caller: Caller) -> Vec<String> {
        people.against_reboot(now()).iter().map(|against| against.told_to(caller)).collect()
    }

    #[test]
    fn who_is_idle_or_away_is_warned_and_does_not_hold_a_reboot_back() {
        for (session, holds) in [
            (session(None, false), true),
            (session(Some(9), false), true),
            (session(Some(10), false), false),
            (session(None, true), false),
        ] {
            let people = People { sessions: Some(vec![session.clone()]), ..People::default() };
            assert!(people.logged_in());
            assert_eq!(!people.against_reboot(now()).is_empty(), holds, "{session:?}");
        }
    }

    #[test]
    fn what_could_not_be_read_counts_as_somebody() {
        assert!(People::default().logged_in());
        assert_eq!(told(&People::default(), Caller::Root), ["who is logged in could not be read"]);
        assert!(!People::nobody().logged_in());
        assert!(People::nobody().against_reboot(now()).is_empty());
    }

    #[test]
    fn whatever_holds_a_reboot_back_is_named_and_a_document_to_its_owner_and_root_only() {
        let people = People {
            sessions: Some(vec![session(None, false)]),
            inhibitors: vec![Inhibitor {
                who: "brasero".to_owned(),
                why: "burning a disc".to_owned(),
                uid: 1000,
            }],
            documents: vec![Document {
                path: "/home/ann/offer.odt".to_owned(),
                program: "LibreOffice".to_owned(),
                uid: 1000,
            }],
        };
        let sentences = [
            "`ann` is at work (session 3)",
            "`brasero` asked not to shut down: burning a disc",
            "`ann` has a document open in LibreOffice",
        ];
        assert_eq!(told(&people, Caller::Person(1001)), sentences);
        let reported = people.against_reboot(now());
        assert_eq!(reported.iter().map(|against| &against.sentence).collect::<Vec<_>>(), sentences);
        for caller in [Caller::Person(1000), Caller::Root] {
            assert_eq!(
                told(&people, caller)[2],
                "`ann` has a document open in LibreOffice: `/home/ann/offer.odt`"
            );
        }
        assert!(people.are_only(1000) && !people.are_only(1001) && !People::nobody().are_only(1000));
        assert!(!People::default().are_only(1000), "it is not known");
    }
}
