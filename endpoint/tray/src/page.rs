//! The page: draws a [`View`] and says what was pressed on it.

use egui::{Align, Button, Color32, Frame, Layout, ProgressBar, RichText, ScrollArea, TextEdit, Ui};
use jiff::{Timestamp, tz::TimeZone};
use tierway_proto::v1::{self, local_wish_request::Wish};

use crate::{
    canvas::Canvas,
    view::{About, Row, Tone, View, chosen, typed},
};

/// Width and height of the window at first, in points.
pub const SIZE: [f32; 2] = [560.0, 460.0];
/// Of a time that is typed.
const TYPED_MAX: usize = 40;

/// Behind what is typed.
const FIELD: Color32 = Color32::from_gray(0xee);

/// What was pressed.
#[derive(Clone, Debug, PartialEq)]
pub enum Pressed {
    /// To be asked of the endpoint.
    Wish(Wish),
    /// What was typed is nothing; why.
    Wrong(String),
}

/// What is remembered between two drawings.
#[derive(Debug, Default)]
pub struct Page {
    /// What the endpoint answered last.
    pub said: String,
    install: String,
    reboot: String,
}

/// The colour of a tone.
#[must_use]
pub fn colour(tone: Tone) -> Color32 {
    match tone {
        Tone::Unknown => Color32::from_rgb(0x6b, 0x72, 0x80),
        Tone::Calm => Color32::from_rgb(0x1f, 0x7a, 0x4d),
        Tone::Due => Color32::from_rgb(0x1d, 0x4e, 0x89),
        Tone::Urgent => Color32::from_rgb(0xb4, 0x2b, 0x1e),
    }
}

impl Page {
    /// Draws it at `now`; times are told in `zone`.
    pub fn show(&mut self, ui: &mut Ui, view: &View, now: Timestamp, zone: &TimeZone) -> Option<Pressed> {
        let mut pressed = None;
        egui::Panel::top("head").frame(Frame::new().fill(colour(view.tone)).inner_margin(12.0)).show_inside(
            ui,
            |ui| {
                ui.label(RichText::new(&view.title).size(20.0).color(Color32::WHITE));
                if let Some(counting) = &view.counting {
                    ui.label(RichText::new(&counting.text).size(26.0).color(Color32::WHITE));
                    ui.visuals_mut().extreme_bg_color = Color32::from_white_alpha(0x50);
                    ui.add(ProgressBar::new(counting.over).desired_height(8.0).fill(Color32::WHITE));
                }
            },
        );
        egui::Panel::bottom("said").frame(Frame::new().inner_margin(10.0)).show_inside(ui, |ui| {
            ui.label(RichText::new(&self.said).strong());
        });
        egui::CentralPanel::default().frame(Frame::new().inner_margin(12.0)).show_inside(ui, |ui| {
            for row in &view.rows {
                let text = match row.about {
                    About::Install => &mut self.install,
                    About::Reboot => &mut self.reboot,
                };
                pressed = buttons(ui, row, text, now, zone).or(pressed.take());
                ui.separator();
            }
            ui.horizontal(|ui| {
                if view.acknowledge && ui.button("I have read it").clicked() {
                    pressed = Some(Pressed::Wish(Wish::Acknowledge(v1::LocalAcknowledge {})));
                }
                if let Some(on) = view.scheduled {
                    let mut switched = on;
                    if ui.checkbox(&mut switched, "Updates by schedule").changed() {
                        pressed = Some(Pressed::Wish(Wish::Scheduled(switched)));
                    }
                }
            });
            ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
                for line in &view.lines {
                    let text = RichText::new(&line.text);
                    ui.label(if line.loud { text.strong().size(16.0) } else { text });
                }
            });
        });
        pressed
    }
}

fn buttons(ui: &mut Ui, row: &Row, text: &mut String, now: Timestamp, zone: &TimeZone) -> Option<Pressed> {
    let mut pressed = None;
    ui.label(&row.note);
    ui.horizontal(|ui| {
        if ui.add(Button::new(RichText::new(row.now()).strong())).clicked() {
            pressed = Some(Pressed::Wish(match row.about {
                About::Install => Wish::Install(0),
                About::Reboot => Wish::Reboot(0),
            }));
        }
        if !row.open {
            return;
        }
        if ui.button(row.later()).clicked() {
            pressed = Some(Pressed::Wish(match row.about {
                About::Install => Wish::Postpone(0),
                About::Reboot => Wish::PostponeReboot(0),
            }));
        }
        ui.menu_button(row.at(), |ui| {
            for (label, at) in &row.times {
                if ui.button(label).clicked() {
                    pressed = Some(Pressed::Wish(chosen(row.about, *at)));
                }
            }
        });
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let set = ui.button("Set").clicked();
            let edit = TextEdit::singleline(text).hint_text("22:00 or +2h").char_limit(TYPED_MAX);
            let edit = edit.background_color(FIELD);
            let field = ui.add(edit.desired_width(120.0));
            let entered = field.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
            if set || entered {
                pressed = Some(match typed(row.about, text, now, zone) {
                    Ok(wish) => Pressed::Wish(wish),
                    Err(error) => Pressed::Wrong(error.to_string()),
                });
                text.clear();
            }
        });
    });
    pressed
}

/// Every text of a page of [`SIZE`] at `now`, with where it is, in points from the upper left corner.
#[must_use]
pub fn texts(canvas: &mut Canvas, view: &View, now: Timestamp) -> Vec<(String, egui::Rect)> {
    let area = egui::Rect::from_min_size(egui::Pos2::ZERO, SIZE.into());
    let (mut page, mut texts) = (Page::default(), Vec::new());
    // What a page needs to know of itself is known after the first drawing.
    for _ in 0..2 {
        let input = egui::RawInput { screen_rect: Some(area), ..Default::default() };
        let draw = |ui: &mut Ui| _ = page.show(ui, view, now, &TimeZone::UTC);
        texts = canvas.lay_out(input, draw);
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::view;

    fn now() -> Timestamp {
        "2026-11-24T20:00:00Z".parse().unwrap()
    }

    fn shown(due: &v1::LocalDue) -> Vec<String> {
        let view = view(Ok(due), now(), &TimeZone::UTC);
        texts(&mut Canvas::new(), &view, now()).into_iter().map(|(text, _)| text).collect()
    }

    #[test]
    fn the_page_has_the_departments_name_and_buttons_for_what_is_allowed_only() {
        let at = |hour: i64| now().as_millisecond() + hour * 3_600_000;
        let open = v1::LocalDue {
            department: "IT department".to_owned(),
            items: vec![v1::LocalItem {
                patch: "debian-12/a".to_owned(),
                deadline: at(24),
                ..Default::default()
            }],
            postpone_latest: at(8),
            asks: true,
            ..Default::default()
        };
        let texts = shown(&open);
        for text in ["Updates from IT department", "Install now", "Later", "Install at…", "Set"] {
            assert!(texts.iter().any(|shown| shown == text), "no `{text}`: {texts:?}");
        }
        let texts = shown(&v1::LocalDue { postpone_latest: 0, ..open });
        for text in ["Later", "Install at…", "Set"] {
            assert!(!texts.iter().any(|shown| shown == text), "`{text}`: {texts:?}");
        }
        assert!(texts.iter().any(|shown| shown == "Install now"), "{texts:?}");
    }
}
