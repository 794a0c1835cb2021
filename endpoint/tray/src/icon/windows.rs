//! By the notification area of the taskbar.
//!
//! The taskbar's messages come to a window of the icon's own, which the loop of the thread serves that made it. That
//! window stays where there is no taskbar, and puts the icon into each one that starts.

use std::io;

use tierway_common::daemon::chain::Chain;
use tray_icon::{BadIcon, MouseButtonState, TrayIcon, TrayIconBuilder, TrayIconEvent};

use crate::{picture::picture, talk::Tell, view::Tone, window::Told};

/// Pixels in each direction: what a screen at 200 % shows; on others the taskbar makes it smaller.
const SIZE: u32 = 32;
/// Characters that the taskbar shows of a title, which has 128 UTF-16 units with the end.
const TITLE_MAX: usize = 60;

pub(super) struct Icon {
    offered: Option<TrayIcon>,
    shown: Option<(Tone, String)>,
}

impl std::fmt::Debug for Icon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Icon").field("shown", &self.shown).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum IconError {
    #[error("could not make the picture of the icon")]
    Picture(#[from] BadIcon),
    #[error("could not offer the icon")]
    Offer(#[from] tray_icon::Error),
}

impl Icon {
    pub(super) fn start(_: Option<String>, tell: Tell) -> io::Result<Self> {
        TrayIconEvent::set_event_handler(Some(move |event| {
            if let TrayIconEvent::Click { button_state: MouseButtonState::Up, .. } = event {
                tell(Told::Open);
            }
        }));
        Ok(Self { offered: None, shown: None })
    }

    pub(super) fn show(&mut self, tone: Tone, title: &str) {
        let new = Some((tone, title.to_owned()));
        if self.shown == new {
            return;
        }
        self.shown = new;
        if let Err(error) = self.offer(tone, title) {
            tracing::warn!(error = %Chain(&error), "the icon does not show how things stand");
        }
    }

    fn offer(&mut self, tone: Tone, title: &str) -> Result<(), IconError> {
        let picture = tray_icon::Icon::from_rgba(picture(tone, SIZE).into_flattened(), SIZE, SIZE)?;
        let title: String = title.chars().take(TITLE_MAX).collect();
        let changed = |icon: &TrayIcon| {
            icon.set_icon(Some(picture.clone()))?;
            icon.set_tooltip(Some(&title))
        };
        if self.offered.as_ref().is_some_and(|icon| changed(icon).is_ok()) {
            return Ok(());
        }
        // A taskbar that has it not refuses to change it; a new one is offered to each that starts.
        self.offered = None;
        self.offered = Some(TrayIconBuilder::new().with_icon(picture).with_tooltip(title).build()?);
        Ok(())
    }
}
