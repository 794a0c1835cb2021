//! The share of patched computers over time, drawn: one curve for each severity, group or site, on an axis of time that
//! gives minutes and months their place. A file by itself, without scripts and fonts of its own.

use std::fmt::Write as _;

use tierway_proto::v1;

use crate::output::value::{count_text, spans_text};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 480.0;
/// More curves than this cannot be told apart.
const CURVES_MAX: usize = 7;
/// Okabe and Ito's palette, which can be told apart without seeing all colours.
const COLOURS: [&str; CURVES_MAX] =
    ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"];
/// Where the axis can begin and end and is marked, in seconds.
const TICKS: [(u32, &str); 11] = [
    (60, "1 min"),
    (600, "10 min"),
    (3_600, "1 h"),
    (6 * 3_600, "6 h"),
    (86_400, "1 d"),
    (3 * 86_400, "3 d"),
    (7 * 86_400, "7 d"),
    (30 * 86_400, "30 d"),
    (90 * 86_400, "90 d"),
    (365 * 86_400, "1 y"),
    (3_650 * 86_400, "10 y"),
];
/// Shares that are marked on each curve.
const MARKS: [u32; 2] = [50, 90];

/// The whole file.
pub(super) fn curves(title: &str, subtitle: &str, curves: &[v1::TimeCurve]) -> String {
    let longest = curves.iter().filter_map(|curve| curve.points.last()).map(|point| point.after_ms).max();
    let longest = longest.unwrap_or(0) / 1_000;
    let end =
        TICKS.iter().position(|(tick, _)| u64::from(*tick) >= longest).unwrap_or(TICKS.len() - 1).max(4);
    let axis = Axis { end: TICKS[end].0 };
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = draw(&mut out, title, subtitle, curves, &axis, &TICKS[..=end]);
    out
}

struct Axis {
    end: u32,
}

impl Axis {
    fn x(&self, ms: u64) -> f64 {
        let seconds = u32::try_from(ms / 1_000).unwrap_or(u32::MAX).clamp(TICKS[0].0, self.end);
        let log = |seconds: u32| (f64::from(seconds) / f64::from(TICKS[0].0)).ln();
        LEFT + (RIGHT - LEFT) * log(seconds) / log(self.end)
    }
}

/// The height of so many of a thousand.
fn y(permille: u32) -> f64 {
    BOTTOM - (BOTTOM - TOP) * f64::from(permille) / 1_000.0
}

fn permille(part: u64, whole: u64) -> u32 {
    let permille = (u128::from(part) * 1_000).checked_div(u128::from(whole)).unwrap_or(0);
    u32::try_from(permille).unwrap_or(1_000)
}

fn draw(
    out: &mut String,
    title: &str,
    subtitle: &str,
    curves: &[v1::TimeCurve],
    axis: &Axis,
    ticks: &[(u32, &str)],
) -> std::fmt::Result {
    writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="13" fill="#222">"##
    )?;
    writeln!(out, "<title>{}</title>", escaped(title))?;
    writeln!(out, r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##)?;
    writeln!(out, r#"<text x="{LEFT}" y="34" font-size="20" font-weight="600">{}</text>"#, escaped(title))?;
    writeln!(out, r##"<text x="{LEFT}" y="56" fill="#666">{}</text>"##, escaped(subtitle))?;
    for percent in (0..=100).step_by(25) {
        let height = y(percent * 10);
        writeln!(
            out,
            r##"<path d="M{LEFT} {height:.1}H{RIGHT}" stroke="#e4e4e4"/><text x="{:.1}" y="{:.1}" text-anchor="end">{percent} %</text>"##,
            LEFT - 8.0,
            height + 4.5
        )?;
    }
    for (seconds, name) in ticks {
        let at = axis.x(u64::from(*seconds) * 1_000);
        writeln!(
            out,
            r##"<path d="M{at:.1} {TOP}V{BOTTOM}" stroke="#e4e4e4"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{name}</text>"##,
            BOTTOM + 20.0
        )?;
    }
    for percent in MARKS {
        let height = y(percent * 10);
        writeln!(
            out,
            r##"<path d="M{LEFT} {height:.1}H{RIGHT}" stroke="#999" stroke-dasharray="4 4"/><text x="{:.1}" y="{:.1}" font-size="11" fill="#666">p{percent}</text>"##,
            LEFT + 4.0,
            height - 4.0
        )?;
    }
    writeln!(
        out,
        r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#666">since it was found needed</text>"##,
        LEFT.midpoint(RIGHT),
        BOTTOM + 44.0
    )?;
    for (at, (curve, colour)) in (0..).zip(curves.iter().zip(COLOURS)) {
        one(out, curve, colour, axis)?;
        legend(out, curve, colour, TOP + 56.0 * f64::from(at))?;
    }
    if curves.len() > CURVES_MAX {
        let more = curves.len() - CURVES_MAX;
        writeln!(out, r##"<text x="{RIGHT}" y="{BOTTOM}" dx="24" fill="#666">and {more} more</text>"##)?;
    }
    out.push_str("</svg>\n");
    Ok(())
}

/// One curve: steps, since nothing is patched between two moments, and a dot where half and nine tenths are.
fn one(out: &mut String, curve: &v1::TimeCurve, colour: &str, axis: &Axis) -> std::fmt::Result {
    let all = curve.patched + curve.open;
    write!(out, r#"<path fill="none" stroke="{colour}" stroke-width="2" d="M{LEFT} {BOTTOM}"#)?;
    for point in &curve.points {
        write!(out, "H{:.1}V{:.1}", axis.x(point.after_ms), y(permille(point.patched, all)))?;
    }
    writeln!(out, r#"H{RIGHT}"/>"#)?;
    for percent in MARKS {
        if let Some(ms) = reached(curve, percent) {
            writeln!(
                out,
                r##"<circle cx="{:.1}" cy="{:.1}" r="4" fill="{colour}" stroke="#fff"/>"##,
                axis.x(ms),
                y(percent * 10)
            )?;
        }
    }
    Ok(())
}

/// After how long so many per cent of all that needed it were patched; `None` when they are not.
fn reached(curve: &v1::TimeCurve, percent: u32) -> Option<u64> {
    let all = curve.patched + curve.open;
    let there = |point: &&v1::CurvePoint| {
        all > 0 && u128::from(point.patched) * 100 >= u128::from(all) * u128::from(percent)
    };
    curve.points.iter().find(there).map(|point| point.after_ms)
}

fn legend(out: &mut String, curve: &v1::TimeCurve, colour: &str, top: f64) -> std::fmt::Result {
    let (from, text) = (RIGHT + 24.0, RIGHT + 56.0);
    let reached = |percent| reached(curve, percent).map_or("not yet".to_owned(), spans_text);
    writeln!(
        out,
        r#"<path d="M{from:.1} {:.1}h24" stroke="{colour}" stroke-width="3"/><text x="{text:.1}" y="{:.1}" font-weight="600">{}</text>"#,
        top + 8.0,
        top + 12.0,
        escaped(&curve.key)
    )?;
    writeln!(
        out,
        r##"<text x="{text:.1}" y="{:.1}" font-size="11" fill="#666">{} of {} patched</text>"##,
        top + 27.0,
        count_text(curve.patched),
        count_text(curve.patched + curve.open)
    )?;
    writeln!(
        out,
        r##"<text x="{text:.1}" y="{:.1}" font-size="11" fill="#666">half {}, nine tenths {}</text>"##,
        top + 41.0,
        reached(50),
        reached(90)
    )
}

/// Names come from people: they must not become markup.
fn escaped(text: &str) -> String {
    const LETTERS_MAX: usize = 120;
    let letters = text.chars().take(LETTERS_MAX).filter(|letter| !letter.is_control());
    letters.fold(String::new(), |mut out, letter| {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter => out.push(letter),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(key: &str, open: u64, points: &[(u64, u64)]) -> v1::TimeCurve {
        let points: Vec<_> = points
            .iter()
            .map(|(seconds, patched)| v1::CurvePoint { after_ms: seconds * 1_000, patched: *patched })
            .collect();
        let patched = points.last().map_or(0, |point| point.patched);
        v1::TimeCurve { key: key.to_owned(), patched, open, points }
    }

    /// Curves as a fleet makes them: fast and slow, complete and not.
    fn fleet() -> Vec<v1::TimeCurve> {
        let grown = |scale: u64, all: u64| -> Vec<(u64, u64)> {
            (1..=40).map(|n| (scale * n * n, all * n / 40)).collect()
        };
        vec![
            curve("critical", 12, &grown(60, 2_388)),
            curve("important", 400, &grown(400, 1_900)),
            curve("low & <late>", 900, &grown(2_000, 300)),
        ]
    }

    const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/tierctl/tests/time-to-patch.svg");

    /// With `UPDATE=1` the file is written anew; look at it before you keep it.
    #[test]
    fn the_picture_is_the_one_in_the_file() {
        let drawn =
            curves("Time to patch", "found needed in the last 30days, as of 2026-09-21 14:13 UTC", &fleet());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(EXPECTED, &drawn).unwrap();
        }
        assert_eq!(drawn, std::fs::read_to_string(EXPECTED).unwrap());
    }

    #[test]
    fn names_do_not_become_markup_and_nothing_is_outside_of_the_picture() {
        let drawn =
            curves("<script>", "\"&\u{7}", &[curve("</svg>", 0, &[(1, 1), (u64::MAX / 1_000_000, 2)])]);
        assert!(!drawn.contains("<script>") && drawn.matches("</svg>").count() == 1, "{drawn}");
        assert!(!drawn.contains('\u{7}'));
        let paths = drawn.split(" d=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for number in paths.flat_map(|path| path.split(['H', 'V']).skip(1)) {
            let digits: String = number.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            assert!(digits.parse::<f64>().is_ok_and(|at| (0.0..=WIDTH).contains(&at)), "{digits}");
        }
    }

    #[test]
    fn a_share_counts_those_that_are_still_open() {
        let half = curve("x", 50, &[(60, 25), (600, 50)]);
        assert_eq!((reached(&half, 50), reached(&half, 90)), (Some(600_000), None));
        assert_eq!(reached(&curve("x", 0, &[]), 50), None);
    }
}
