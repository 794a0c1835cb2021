//! Looks who is at this computer and what asks for a reboot, without starting a program.
//!
//! [`system::System`] looks at the running system; everything else that needs to know takes [`Surroundings`], so that
//! tests and simulations make their own. A root other than `/` has nobody at it and is never rebooted.

#[cfg(unix)]
pub mod documents;
#[cfg(unix)]
pub mod logind;
#[cfg(unix)]
pub mod signs;
#[cfg_attr(unix, path = "probe/linux.rs")]
#[cfg_attr(windows, path = "probe/windows.rs")]
pub mod system;
#[cfg(unix)]
pub mod terminals;

use std::fmt;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tierway_common::facts::Facts;

use crate::{
    people::People,
    reboot::RebootError,
    scan::Problem,
    signs::{BootId, Sign},
};

/// What was seen at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who is there.
    pub people: People,
    /// What asks for a reboot, ascending.
    pub signs: Vec<Sign>,
    /// Which boot it is; `None` where it is not known, or the system does not run.
    pub boot: Option<BootId>,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
}

/// What can be seen around the agent.
pub trait Surroundings: fmt::Debug + Send + Sync {
    /// Looks. `facts` are those of a scan that was just made.
    fn look<'a>(&'a self, facts: &'a Facts, now: Timestamp) -> BoxFuture<'a, Seen>;

    /// Whether this user is logged in. False when it is not known: then nothing is granted.
    fn logged_in(&self, uid: u32) -> BoxFuture<'_, bool>;

    /// Writes a warning to everybody who sits in front of a terminal, one sentence a line.
    fn tell<'a>(&'a self, text: &'a str) -> BoxFuture<'a, ()>;

    /// Orders a reboot, see [`crate::reboot::order`].
    fn reboot<'a>(&'a self, reason: &'a str) -> BoxFuture<'a, Result<(), RebootError>>;
}
