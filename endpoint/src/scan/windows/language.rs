//! The languages that Windows comes in, by the number under which the registry names them.

/// Four hexadecimal digits in lower case, as Microsoft's list of language identifiers ([MS-LCID]) has them; ascending.
const LANGUAGES: [(&str, &str); 44] = [
    ("0401", "ar-sa"),
    ("0402", "bg-bg"),
    ("0403", "ca-es"),
    ("0404", "zh-tw"),
    ("0405", "cs-cz"),
    ("0406", "da-dk"),
    ("0407", "de-de"),
    ("0408", "el-gr"),
    ("0409", "en-us"),
    ("040b", "fi-fi"),
    ("040c", "fr-fr"),
    ("040d", "he-il"),
    ("040e", "hu-hu"),
    ("0410", "it-it"),
    ("0411", "ja-jp"),
    ("0412", "ko-kr"),
    ("0413", "nl-nl"),
    ("0414", "nb-no"),
    ("0415", "pl-pl"),
    ("0416", "pt-br"),
    ("0418", "ro-ro"),
    ("0419", "ru-ru"),
    ("041a", "hr-hr"),
    ("041b", "sk-sk"),
    ("041d", "sv-se"),
    ("041e", "th-th"),
    ("041f", "tr-tr"),
    ("0421", "id-id"),
    ("0422", "uk-ua"),
    ("0424", "sl-si"),
    ("0425", "et-ee"),
    ("0426", "lv-lv"),
    ("0427", "lt-lt"),
    ("042a", "vi-vn"),
    ("042d", "eu-es"),
    ("0456", "gl-es"),
    ("0804", "zh-cn"),
    ("0809", "en-gb"),
    ("080a", "es-mx"),
    ("0816", "pt-pt"),
    ("0c04", "zh-hk"),
    ("0c0a", "es-es"),
    ("0c0c", "fr-ca"),
    ("241a", "sr-latn-rs"),
];

/// The name of the language with this number, such as `de-de` of `0407`; `None` when no Windows comes in it.
pub(super) fn name(number: &str) -> Option<&'static str> {
    let number = number.to_ascii_lowercase();
    let found = LANGUAGES.binary_search_by_key(&number.as_str(), |(number, _)| number).ok()?;
    Some(LANGUAGES[found].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_is_found_by_its_number_in_either_case() {
        for (number, language) in LANGUAGES {
            assert_eq!(name(number), Some(language));
            assert_eq!(name(&number.to_uppercase()), Some(language));
        }
        assert_eq!(name("0000"), None);
        assert_eq!(name(""), None);
    }
}
