//! Text that comes from machines and is shown to people.

/// `text` without control characters and other invisible ones that move the cursor or the reading
/// direction, trimmed, and cut at a character to at most `bytes`.
#[must_use]
pub fn clean(text: &str, bytes: usize) -> String {
    let visible = |c: &char| {
        !c.is_control()
            && !matches!(*c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut cleaned = String::new();
    for c in text.trim().chars().filter(visible) {
        if cleaned.len() + c.len_utf8() > bytes {
            break;
        }
        cleaned.push(c);
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_move_the_cursor_or_hide_is_left_out_and_the_rest_is_cut_at_a_character() {
        for (text, cleaned) in [
            ("  web-1\n", "web-1"),
            ("a\x1b[31mb", "a[31mb"),
            ("evil\u{202e}txt", "eviltxt"),
            ("äöü", "äö"),
            ("", ""),
        ] {
            assert_eq!(clean(text, if text == "äöü" { 5 } else { 100 }), cleaned);
        }
    }
}
