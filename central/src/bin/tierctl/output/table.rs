//! Text in columns, for people and for `awk`.

use comfy_table::{CellAlignment, Table, presets};

use crate::screen::harmless;

/// How a line should strike the eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tint {
    Plain,
    /// As headers are.
    Strong,
    /// Wants attention.
    Warn,
    /// Is wrong.
    Bad,
    /// Does not matter any more.
    Faint,
}

impl Tint {
    /// The text in this tint (ECMA-48 SGR), or as it is where colours are off.
    pub(crate) fn paint(self, text: &str, colours: bool) -> String {
        let code = match self {
            Self::Plain => "",
            Self::Strong => "1",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Faint => "2",
        };
        if code.is_empty() || !colours { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
    }
}

/// One line of a table.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) cells: Vec<String>,
    pub(crate) tint: Tint,
}

/// The lines in columns two spaces apart, each as wide as its widest cell and at least as `widths` says, which then
/// says how wide it is; `right` ones flush right; no borders, no wrapping, no trailing spaces. Empty without header
/// and lines.
pub(crate) fn render(
    header: Option<&[String]>,
    right: &[bool],
    widths: &mut Vec<usize>,
    lines: &[Line],
    colours: bool,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut tints = Vec::with_capacity(lines.len() + 1);
    // A line as wide as those that were written before, and not written itself.
    let ruler = usize::from(!widths.is_empty());
    if ruler == 1 {
        table.add_row(widths.iter().map(|width| "x".repeat(*width)));
    }
    if let Some(header) = header {
        table.add_row(header);
        tints.push(Tint::Strong);
    }
    for line in lines {
        table.add_row(line.cells.iter().map(|cell| harmless(cell).into_owned()));
        tints.push(line.tint);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.get(index) == Some(&true) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    *widths = table.column_max_content_widths().into_iter().map(usize::from).collect();
    let mut text = String::new();
    for (line, tint) in table.lines().skip(ruler).zip(tints) {
        text.push_str(&tint.paint(line.trim_end(), colours));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: Option<&[&str]>, right: &[bool], rows: &[&[&str]], expected: &str) {
        let header: Option<Vec<String>> = header.map(|cells| cells.iter().map(ToString::to_string).collect());
        let lines: Vec<Line> = rows
            .iter()
            .map(|cells| Line { cells: cells.iter().map(ToString::to_string).collect(), tint: Tint::Plain })
            .collect();
        assert_eq!(render(header.as_deref(), right, &mut Vec::new(), &lines, false), expected);
    }

    #[test]
    fn a_table_that_goes_on_keeps_its_columns() {
        let line = |cells: [&str; 2]| Line { cells: cells.map(str::to_owned).into(), tint: Tint::Plain };
        let mut widths = Vec::new();
        let mut render = |lines: &[Line]| render(None, &[false, true], &mut widths, lines, false);
        assert_eq!(render(&[line(["大阪", "12"])]), "大阪  12\n");
        assert_eq!(render(&[line(["a", "3"])]), "a      3\n");
        assert_eq!(render(&[line(["osaka", "3"])]), "osaka   3\n", "what is wider stands out");
        assert_eq!(render(&[]), "");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right() {
        check(
            Some(&["NAME", "NEEDED"]),
            &[false, true],
            &[&["web-01", "3"], &["a", "1,204"]],
            "NAME    NEEDED\nweb-01       3\na        1,204\n",
        );
    }

    #[test]
    fn wide_characters_take_two_columns_and_control_characters_none_of_the_terminal() {
        check(
            None,
            &[],
            &[&["大阪", "x"], &["lyon", "y"], &["a\x1b\nb", "z"]],
            "大阪  x\nlyon  y\na\u{fffd}\u{fffd}b  z\n",
        );
    }

    #[test]
    fn a_long_cell_is_neither_cut_nor_wrapped() {
        let long = "word ".repeat(100);
        check(None, &[], &[&[&long, "x"]], &format!("{long}  x\n"));
    }

    #[test]
    fn nothing_is_nothing() {
        check(None, &[], &[], "");
    }
}
