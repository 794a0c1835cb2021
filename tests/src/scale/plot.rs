//! How long things took in one phase, drawn: of each kind the share that was done within a time, on an axis that gives
//! milliseconds and minutes their place. In the form of `tierctl report`'s curves: a file by itself, without scripts.

use std::fmt::Write as _;

use super::figures::{Phase, Times};

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
/// Where the axis can end and is marked, in milliseconds.
const TICKS: [(f64, &str); 8] = [
    (0.1, "0.1 ms"),
    (1.0, "1 ms"),
    (10.0, "10 ms"),
    (100.0, "100 ms"),
    (1_000.0, "1 s"),
    (10_000.0, "10 s"),
    (60_000.0, "1 min"),
    (900_000.0, "15 min"),
];

/// The whole file; what it says below the title is `subtitle`.
#[must_use]
pub fn curves(phase: &Phase, subtitle: &str) -> String {
    let longest = phase.times.values().map(|times| times.most_ms).fold(0.0, f64::max);
    let end = TICKS.iter().position(|(tick, _)| *tick >= longest).unwrap_or(TICKS.len() - 1).max(3);
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = draw(&mut out, phase, subtitle, &TICKS[..=end]);
    out
}

fn x(ms: f64, ticks: &[(f64, &str)]) -> f64 {
    let (first, last) = (ticks[0].0, ticks[ticks.len() - 1].0);
    LEFT + (RIGHT - LEFT) * (ms.clamp(first, last) / first).ln() / (last / first).ln()
}

fn y(permille: usize) -> f64 {
    BOTTOM - (BOTTOM - TOP) * permille as f64 / 1_000.0
}

fn draw(out: &mut String, phase: &Phase, subtitle: &str, ticks: &[(f64, &str)]) -> std::fmt::Result {
    writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="13" fill="#222">"##
    )?;
    let (title, subtitle) = (escaped(&phase.name), escaped(subtitle));
    writeln!(out, r##"<title>{title}</title><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##)?;
    writeln!(out, r#"<text x="{LEFT}" y="34" font-size="20" font-weight="600">{title}</text>"#)?;
    writeln!(out, r##"<text x="{LEFT}" y="56" fill="#666">{subtitle}</text>"##)?;
    for percent in (0..=100).step_by(25) {
        let (height, text) = (y(percent * 10), LEFT - 8.0);
        writeln!(
            out,
            r##"<path d="M{LEFT} {height:.1}H{RIGHT}" stroke="#e4e4e4"/><text x="{text:.1}" y="{:.1}" text-anchor="end">{percent} %</text>"##,
            height + 4.5
        )?;
    }
    for (ms, name) in ticks {
        let at = x(*ms, ticks);
        writeln!(
            out,
            r##"<path d="M{at:.1} {TOP}V{BOTTOM}" stroke="#e4e4e4"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{name}</text>"##,
            BOTTOM + 20.0
        )?;
    }
    for (number, ((kind, times), colour)) in phase.times.iter().zip(COLOURS).enumerate() {
        let Times { count, p50_ms, p99_ms, permille_ms, .. } = times;
        write!(out, r#"<path fill="none" stroke="{colour}" stroke-width="2" d="M{LEFT} {BOTTOM}"#)?;
        for (place, ms) in permille_ms.iter().enumerate() {
            write!(out, "H{:.1}V{:.1}", x(*ms, ticks), y(place + 1))?;
        }
        writeln!(out, r#"H{RIGHT}"/>"#)?;
        let (from, text, top) = (RIGHT + 24.0, RIGHT + 56.0, TOP + 44.0 * number as f64);
        writeln!(
            out,
            r##"<path d="M{from:.1} {:.1}h24" stroke="{colour}" stroke-width="3"/><text x="{text:.1}" y="{:.1}" font-weight="600">{}</text><text x="{text:.1}" y="{:.1}" font-size="11" fill="#666">{count}, half {p50_ms:.1} ms, 99 % {p99_ms:.1} ms</text>"##,
            top + 8.0,
            top + 12.0,
            escaped(kind),
            top + 27.0
        )?;
    }
    out.push_str("</svg>\n");
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::scale::figures::{Figures, Kind};

    #[test]
    fn every_kind_has_a_curve_that_stays_in_the_picture_and_names_do_not_become_markup() {
        let figures = Figures::default();
        for micros in [3, 900, 70_000, 3_000_000_000] {
            figures.took(Kind::CheckIn, Duration::from_micros(micros));
            figures.took(Kind::Report, Duration::from_micros(micros * 2));
        }
        let phase = Phase::new("<day>", Duration::from_secs(1), 0.0, BTreeMap::new(), figures.take());
        let drawn = curves(&phase, "a & b");
        assert!(!drawn.contains("<day>") && drawn.contains("a &amp; b"));
        assert_eq!(drawn.matches("stroke-width=\"2\"").count(), 2);
        let paths = drawn.split(" d=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for number in paths.flat_map(|path| path.split(['H', 'V']).skip(1)) {
            let digits: String = number.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            assert!(digits.parse::<f64>().is_ok_and(|at| (0.0..=WIDTH).contains(&at)), "{digits}");
        }
    }
}
