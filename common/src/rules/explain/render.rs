//! An explanation as text: a tree with its columns aligned.

use std::fmt;

use super::{Explained, Node, Value};

/// Wider tests and values push their own row only.
const TEST_CHARS_MAX: usize = 72;
const FOUND_CHARS_MAX: usize = 40;

struct Row {
    left: String,
    found: Option<String>,
    value: Option<Value>,
    note: Option<String>,
}

impl fmt::Display for Explained {
    /// One line a node: what it tests, the value found, its truth, and where the value came from or why
    /// it is unknown. Ends without a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = Vec::new();
        gather(self, "", "", &mut rows);
        let widest = |most: usize, text: &dyn Fn(&Row) -> usize| {
            rows.iter().map(text).filter(|chars| *chars <= most).max().unwrap_or(0)
        };
        let left_chars = widest(TEST_CHARS_MAX, &|row| row.left.chars().count());
        let found_chars =
            widest(FOUND_CHARS_MAX, &|row| row.found.as_ref().map_or(0, |found| found.chars().count()));
        for (place, row) in rows.iter().enumerate() {
            if place > 0 {
                writeln!(f)?;
            }
            let mut line = row.left.clone();
            let gap = left_chars.saturating_sub(line.chars().count());
            match &row.found {
                Some(found) => {
                    line.push(' ');
                    line.push_str(&".".repeat(gap + 3));
                    line.push_str(&format!(" {found:found_chars$}"));
                }
                None if row.value.is_some() => line.push_str(&" ".repeat(gap + 5 + found_chars)),
                None => {}
            }
            if let Some(value) = row.value {
                line.push_str(&format!("  {:7}", value.as_str()));
            }
            if let Some(note) = &row.note {
                line.push_str(&format!("  ({note})"));
            }
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
}

fn gather(node: &Explained, first: &str, further: &str, rows: &mut Vec<Row>) {
    let is_fact = node.node == Node::Fact;
    let found = match (&node.found, node.value) {
        (Some(found), _) => Some(found.as_str()),
        (None, Value::Unknown) if is_fact => Some("?"),
        (None, _) if is_fact => Some("not present"),
        (None, _) => None,
    };
    rows.push(Row {
        left: format!("{first}{}", printable(&node.test)),
        found: found.map(printable),
        value: Some(node.value),
        note: node.reason.as_ref().or(node.source.as_ref()).map(|note| printable(note)),
    });
    let count = node.children.len();
    for (place, child) in node.children.iter().enumerate() {
        let last = place + 1 == count && node.hidden == 0;
        let (branch, below) = if last { ("'- ", "   ") } else { ("|- ", "|  ") };
        gather(child, &format!("{further}{branch}"), &format!("{further}{below}"), rows);
    }
    if node.hidden > 0 {
        let left = format!("{further}'- and {} more", node.hidden);
        rows.push(Row { left, found: None, value: None, note: None });
    }
}

/// Without what could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        facts::Facts,
        rules::{
            explain,
            expr::{Expr, FlagTest},
        },
    };

    #[test]
    fn a_value_cannot_steer_the_terminal() {
        let mut facts = Facts::default();
        facts.values.insert("flag:\x1b[2J".to_owned(), "\r\nx\u{9b}".to_owned());
        let text = explain(&Expr::Flag(FlagTest { name: "\x1b[2J".to_owned() }), &facts).to_string();
        assert!(text.contains("flag ?[2J"), "{text}");
        assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
    }
}
