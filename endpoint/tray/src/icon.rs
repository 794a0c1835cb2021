//! The icon in the notification area: how things stand by its colour, what is due under the pointer; pressed, it opens
//! the window.

#[cfg_attr(unix, path = "icon/linux.rs")]
#[cfg_attr(windows, path = "icon/windows.rs")]
mod area;

use std::io;

use crate::{talk::Tell, view::Tone};

/// An icon that is offered to the desktop.
#[derive(Debug)]
pub struct Icon(area::Icon);

impl Icon {
    /// Offers one; to be called on the thread that runs the window's loop. `bus` is the address of the session's message bus,
    /// for systems that show icons by one, instead of the one that the session names. A desktop that shows no icons is
    /// offered it again when it does; what else is in the way is logged.
    ///
    /// # Errors
    ///
    /// When no thread can be had.
    pub fn start(bus: Option<String>, tell: Tell) -> io::Result<Self> {
        area::Icon::start(bus, tell).map(Self)
    }

    /// Shows how things stand, and `title` where the pointer is.
    pub fn show(&mut self, tone: Tone, title: &str) {
        self.0.show(tone, title);
    }
}
