//! The registry: keys by one text, values with their types.

use std::fmt;

/// Subkeys or values of one key; the largest key of a Windows has some 20,000.
pub const ENTRIES_MAX: usize = 100_000;

/// Type of a value, by the number that Windows gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u32);

const KINDS: [&str; 12] = [
    "REG_NONE",
    "REG_SZ",
    "REG_EXPAND_SZ",
    "REG_BINARY",
    "REG_DWORD",
    "REG_DWORD_BIG_ENDIAN",
    "REG_LINK",
    "REG_MULTI_SZ",
    "REG_RESOURCE_LIST",
    "REG_FULL_RESOURCE_DESCRIPTOR",
    "REG_RESOURCE_REQUIREMENTS_LIST",
    "REG_QWORD",
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::try_from(self.0).ok().and_then(|number| KINDS.get(number));
        match name {
            Some(name) => f.write_str(name),
            None => write!(f, "REG_{}", self.0),
        }
    }
}

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Of which type.
    pub kind: Kind,
    /// Texts as UTF-16, least byte first.
    pub bytes: Vec<u8>,
}

impl Data {
    /// As text, where it is one; up to the first zero, as Windows reads it.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        matches!(self.kind.0, 1 | 2).then(|| self.texts().into_iter().next().unwrap_or_default())
    }

    /// The texts between zeros; empty where it is none.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        if !matches!(self.kind.0, 1 | 2 | 7) {
            return Vec::new();
        }
        let units: Vec<u16> =
            self.bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let texts = units.split(|unit| *unit == 0).map(String::from_utf16_lossy);
        texts.take_while(|text| !text.is_empty()).collect()
    }

    /// As a number, where it is one of 4 or 8 bytes.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match (self.kind.0, self.bytes.as_slice()) {
            (4, &[a, b, c, d]) => Some(u32::from_le_bytes([a, b, c, d]).into()),
            (5, &[a, b, c, d]) => Some(u32::from_be_bytes([a, b, c, d]).into()),
            (11, bytes) => Some(u64::from_le_bytes(bytes.try_into().ok()?)),
            _ => None,
        }
    }

    /// As the value of a fact: texts as they are, several in lines, numbers in decimal, the rest in hex.
    #[must_use]
    pub fn fact(&self) -> String {
        match self.kind.0 {
            1 | 2 => self.text().unwrap_or_default(),
            7 => self.texts().join("\n"),
            _ => self.number().map_or_else(|| hex::encode(&self.bytes), |number| number.to_string()),
        }
    }
}

/// Reads the registry of a computer. A key is named as in `HKLM\SOFTWARE\Vendor`; `HKLM32` and the others with
/// 32 are the views of 32-bit programs. Case does not matter. Errors are sentences without a period.
pub trait Registry {
    /// Names of the subkeys of a key, ascending; `None` without such a key.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    fn subkeys(&self, key: &str) -> Result<Option<Vec<String>>, String>;

    /// Names of the values of a key, ascending; `None` without such a key.
    ///
    /// # Errors
    ///
    /// As [`Registry::subkeys`].
    fn values(&self, key: &str) -> Result<Option<Vec<String>>, String>;

    /// A value; `None` without such a key or value. The key's default value has an empty name.
    ///
    /// # Errors
    ///
    /// As [`Registry::subkeys`].
    fn value(&self, key: &str, name: &str) -> Result<Option<Data>, String>;

    /// Whether there is such a key.
    ///
    /// # Errors
    ///
    /// As [`Registry::subkeys`].
    fn has(&self, key: &str) -> Result<bool, String>;
}

/// A text of the registry; `None` where there is none.
///
/// # Errors
///
/// When it cannot be read, or is no text.
pub fn text(registry: &dyn Registry, key: &str, name: &str) -> Result<Option<String>, String> {
    let Some(data) = registry.value(key, name)? else { return Ok(None) };
    data.text().map(Some).ok_or_else(|| format!("`{key}` has `{name}` as {}, not as a text", data.kind))
}

/// A number of the registry; `None` where there is none.
///
/// # Errors
///
/// When it cannot be read, or is no number.
pub fn number(registry: &dyn Registry, key: &str, name: &str) -> Result<Option<u64>, String> {
    let Some(data) = registry.value(key, name)? else { return Ok(None) };
    data.number().map(Some).ok_or_else(|| format!("`{key}` has `{name}` as {}, not as a number", data.kind))
}

/// There from an installation that needs a restart until the next boot.
pub const RESTART: &str = r"HKLM\SOFTWARE\Tierway\Endpoint\RestartRequired";

#[cfg(windows)]
pub use self::system::{SystemRegistry, mark_restart};

#[cfg(windows)]
mod system {
    use windows_registry::{CLASSES_ROOT, CURRENT_CONFIG, Key, LOCAL_MACHINE, USERS};

    use super::{Data, ENTRIES_MAX, Kind, RESTART, Registry};

    /// `KEY_READ`, and the two views.
    const READ: u32 = 0x0002_0019;
    const VIEW_64: u32 = 0x0100;
    const VIEW_32: u32 = 0x0200;
    /// `HRESULT` of `ERROR_FILE_NOT_FOUND`, which no key and no value of a name give.
    const NOT_FOUND: i32 = 0x8007_0002_u32.cast_signed();

    /// The registry of the running system.
    #[derive(Clone, Copy, Debug)]
    pub struct SystemRegistry;

    fn open(key: &str) -> Result<Option<Key>, String> {
        let (hive, path) = key.split_once('\\').unwrap_or((key, ""));
        let (hive, view) = match hive.strip_suffix("32") {
            Some(hive) => (hive, VIEW_32),
            None => (hive, VIEW_64),
        };
        let root = match hive {
            "HKLM" => LOCAL_MACHINE,
            "HKCR" => CLASSES_ROOT,
            "HKU" => USERS,
            "HKCC" => CURRENT_CONFIG,
            _ => return Err(format!("the registry hive `{hive}` is not known")),
        };
        found(root.options().access(READ | view).open(path), key)
    }

    fn found<T>(result: windows_registry::Result<T>, what: &str) -> Result<Option<T>, String> {
        match result {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.code().0 == NOT_FOUND => Ok(None),
            Err(error) => Err(format!("could not read `{what}` of the registry: {}", error.message())),
        }
    }

    /// Makes [`RESTART`], which Windows forgets when it is restarted.
    ///
    /// # Errors
    ///
    /// A sentence, when the registry cannot be written.
    pub fn mark_restart() -> Result<(), String> {
        let (above, name) = RESTART.rsplit_once('\\').unwrap_or_default();
        let below = above.strip_prefix("HKLM\\").unwrap_or(above);
        let made = LOCAL_MACHINE
            .options()
            .read()
            .write()
            .create()
            .open(below)
            .and_then(|key| key.options().read().write().create().volatile().open(name));
        made.map(drop).map_err(|error| format!("could not make `{RESTART}`: {}", error.message()))
    }

    fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
        let mut names: Vec<String> = names.take(ENTRIES_MAX).collect();
        names.sort();
        names
    }

    impl Registry for SystemRegistry {
        fn subkeys(&self, key: &str) -> Result<Option<Vec<String>>, String> {
            let Some(open) = open(key)? else { return Ok(None) };
            let names =
                open.keys().map_err(|error| format!("could not list `{key}`: {}", error.message()))?;
            Ok(Some(sorted(names)))
        }

        fn values(&self, key: &str) -> Result<Option<Vec<String>>, String> {
            let Some(open) = open(key)? else { return Ok(None) };
            let values =
                open.values().map_err(|error| format!("could not list `{key}`: {}", error.message()))?;
            Ok(Some(sorted(values.map(|(name, _)| name))))
        }

        fn value(&self, key: &str, name: &str) -> Result<Option<Data>, String> {
            let Some(open) = open(key)? else { return Ok(None) };
            let Some(value) = found(open.get_value(name), key)? else { return Ok(None) };
            Ok(Some(Data { kind: Kind(value.ty().into()), bytes: value.to_vec() }))
        }

        fn has(&self, key: &str) -> Result<bool, String> {
            Ok(open(key)?.is_some())
        }
    }
}

/// A registry that a test wrote.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(in crate::scan) struct Written {
    keys: std::collections::BTreeMap<String, (String, std::collections::BTreeMap<String, Data>)>,
    /// Cannot be read.
    pub(in crate::scan) forbidden: Vec<String>,
}

#[cfg(test)]
impl Written {
    /// Adds a key and those above it.
    pub(in crate::scan) fn key(&mut self, key: &str) -> &mut Self {
        let ends = key.match_indices('\\').map(|(end, _)| end).chain([key.len()]);
        for end in ends {
            let path = &key[..end];
            let name = path.rsplit('\\').next().unwrap_or(path).to_owned();
            self.keys.entry(path.to_lowercase()).or_insert_with(|| (name, Default::default()));
        }
        self
    }

    pub(in crate::scan) fn set(&mut self, key: &str, name: &str, kind: u32, bytes: Vec<u8>) -> &mut Self {
        self.key(key);
        let values = &mut self.keys.get_mut(&key.to_lowercase()).unwrap().1;
        values.insert(name.to_lowercase(), Data { kind: Kind(kind), bytes });
        self
    }

    pub(in crate::scan) fn text(&mut self, key: &str, name: &str, text: &str) -> &mut Self {
        let units = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        self.set(key, name, 1, units.collect())
    }

    pub(in crate::scan) fn texts(&mut self, key: &str, name: &str, texts: &[&str]) -> &mut Self {
        let units = texts.iter().flat_map(|text| text.encode_utf16().chain([0])).chain([0]);
        self.set(key, name, 7, units.flat_map(u16::to_le_bytes).collect())
    }

    pub(in crate::scan) fn number(&mut self, key: &str, name: &str, number: u32) -> &mut Self {
        self.set(key, name, 4, number.to_le_bytes().to_vec())
    }

    fn find(&self, key: &str) -> Result<Option<&std::collections::BTreeMap<String, Data>>, String> {
        if self.forbidden.iter().any(|forbidden| forbidden == key) {
            return Err(format!("could not read `{key}` of the registry: Access is denied."));
        }
        Ok(self.keys.get(&key.to_lowercase()).map(|(_, values)| values))
    }
}

#[cfg(test)]
impl Registry for Written {
    fn subkeys(&self, key: &str) -> Result<Option<Vec<String>>, String> {
        if self.find(key)?.is_none() {
            return Ok(None);
        }
        let above = format!("{}\\", key.to_lowercase());
        let below = self
            .keys
            .iter()
            .filter(|(path, _)| path.strip_prefix(&above).is_some_and(|rest| !rest.contains('\\')));
        Ok(Some(below.map(|(_, (name, _))| name.clone()).collect()))
    }

    fn values(&self, key: &str) -> Result<Option<Vec<String>>, String> {
        Ok(self.find(key)?.map(|values| values.keys().cloned().collect()))
    }

    fn value(&self, key: &str, name: &str) -> Result<Option<Data>, String> {
        Ok(self.find(key)?.and_then(|values| values.get(&name.to_lowercase())).cloned())
    }

    fn has(&self, key: &str) -> Result<bool, String> {
        Ok(self.find(key)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_what_they_are() {
        let mut registry = Written::default();
        registry
            .text("HKLM\\A", "Text", "Größe 1")
            .texts("HKLM\\A", "Texts", &["a", "b"])
            .number("HKLM\\A", "Number", 4_000_000_000)
            .set("HKLM\\A", "Bytes", 3, vec![1, 0xab])
            .set("HKLM\\A", "Long", 11, 5_000_000_000_u64.to_le_bytes().to_vec());
        for (name, kind, fact) in [
            ("Text", "REG_SZ", "Größe 1"),
            ("texts", "REG_MULTI_SZ", "a\nb"),
            ("Number", "REG_DWORD", "4000000000"),
            ("Bytes", "REG_BINARY", "01ab"),
            ("Long", "REG_QWORD", "5000000000"),
        ] {
            let data = registry.value("hklm\\a", name).unwrap().unwrap();
            assert_eq!((data.kind.to_string().as_str(), data.fact().as_str()), (kind, fact));
        }
        assert_eq!(text(&registry, "HKLM\\A", "None"), Ok(None));
        assert_eq!(
            number(&registry, "HKLM\\A", "Text").unwrap_err(),
            "`HKLM\\A` has `Text` as REG_SZ, not as a number"
        );
        assert_eq!(Kind(77).to_string(), "REG_77");
    }
}
