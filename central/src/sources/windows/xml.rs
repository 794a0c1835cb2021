//! XML as the vendors of Windows updates write it: read into small trees, within limits.
//!
//! Only elements, attributes and text count. A name is kept without its namespace: the families of
//! namespaces differ in their URIs only, and what clients are given has none left, but prefixes with a dot
//! (`b.FileVersion`). A document type is refused, so that no entity can be defined, let alone grow.

use std::io::{self, BufRead, BufReader, Read};

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};

/// Deepest nesting of elements: rules may nest 64 deep, and stand some eight deep in their documents.
pub const DEPTH_MAX: usize = 96;

/// Most elements of one tree: ten times Microsoft's largest update.
pub const ELEMENTS_MAX: usize = 4_000_000;

/// Longest document that is read as a whole: the largest part of one update that Microsoft has is 47 MB.
pub const DOCUMENT_BYTES_MAX: u64 = 128 << 20;

/// A text that is not such XML.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// It is not well-formed.
    #[error("not well-formed at byte {at}")]
    Malformed {
        /// Where.
        at: u64,
        /// How.
        source: quick_xml::Error,
    },
    /// An entity that nobody defined.
    #[error("unknown entity `{name}`")]
    Entity {
        /// Its name.
        name: String,
    },
    /// It has a document type.
    #[error("a document type is not allowed")]
    DocType,
    /// See [`DEPTH_MAX`].
    #[error("nested deeper than 96")]
    Depth,
    /// See [`ELEMENTS_MAX`].
    #[error("more than 4000000 elements")]
    Elements,
    /// See [`DOCUMENT_BYTES_MAX`].
    #[error("longer than {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: u64,
    },
    /// It ends inside an element.
    #[error("ends inside `{element}`")]
    Cut {
        /// Which.
        element: String,
    },
    /// There is not one element at the top.
    #[error("{found} elements at the top instead of one")]
    Roots {
        /// How many.
        found: usize,
    },
    /// It could not be read.
    #[error("could not be read")]
    Io(#[source] io::Error),
}

/// An element without its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Local name, without `b.`, `m.` or `d.` before it.
    pub name: String,
    attributes: Vec<(String, String)>,
    /// The elements in it, in their order.
    pub children: Vec<Self>,
    text: String,
}

impl Element {
    /// An attribute by its local name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// An attribute that says yes or no; `false` when it is not there.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        matches!(self.attribute(name), Some("true" | "1" | "True"))
    }

    /// Its text, without blanks around it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.trim()
    }

    /// The first child of that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of that name, when there is one and it is not empty.
    #[must_use]
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(Self::text).filter(|text| !text.is_empty())
    }

    /// The children of that name, in their order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first element of that name below this one, however deep.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Self> {
        self.children.iter().find_map(|child| if child.name == name { Some(child) } else { child.find(name) })
    }
}

/// The elements at the top of a text, of which there may be several: what clients are given has no root.
///
/// # Errors
///
/// [`XmlError`].
pub fn fragments(bytes: &[u8]) -> Result<Vec<Element>, XmlError> {
    let mut found = Vec::new();
    each(bytes, DOCUMENT_BYTES_MAX, &|_| true, &mut |element| {
        found.push(element);
        Ok::<_, XmlError>(())
    })?;
    Ok(found)
}

/// The one element at the top of a document.
///
/// # Errors
///
/// [`XmlError`].
pub fn document(bytes: &[u8]) -> Result<Element, XmlError> {
    let mut found = fragments(bytes)?;
    match (found.pop(), found.len()) {
        (Some(root), 0) => Ok(root),
        (_, others) => Err(XmlError::Roots { found: if others == 0 { 0 } else { others + 1 } }),
    }
}

/// Gives the outermost elements whose name is `wanted`, one after the other; what is around them is not kept,
/// so that a document of any length can be read.
///
/// # Errors
///
/// [`XmlError`], and what `take` returns.
pub fn each<E: From<XmlError>>(
    input: impl Read,
    bytes_max: u64,
    wanted: &dyn Fn(&str) -> bool,
    take: &mut dyn FnMut(Element) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader =
        Reader::from_reader(Counted { input: BufReader::new(input), left: bytes_max, over: false });
    let mut builder = Builder::default();
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let event = match reader.read_event_into(&mut buffer) {
            Ok(event) => event,
            Err(_) if reader.get_ref().over => return Err(XmlError::TooLong { bytes_max }.into()),
            Err(quick_xml::Error::Io(source)) => {
                return Err(XmlError::Io(io::Error::new(source.kind(), source.to_string())).into());
            }
            Err(source) => return Err(XmlError::Malformed { at: reader.error_position(), source }.into()),
        };
        let malformed = |source| XmlError::Malformed { at: reader.buffer_position(), source };
        match event {
            Event::Start(start) => builder.open(&start, wanted, &malformed)?,
            Event::Empty(start) => {
                builder.open(&start, wanted, &malformed)?;
                if let Some(done) = builder.close() {
                    take(done)?;
                }
            }
            Event::End(_) => {
                if let Some(done) = builder.close() {
                    take(done)?;
                }
            }
            Event::Text(text) => builder.text(&text.xml10_content()),
            Event::CData(text) => builder.text(&text.xml10_content()),
            Event::GeneralRef(name) => {
                let referred = match name.resolve_char_ref().map_err(&malformed)? {
                    Some(character) => character.to_string(),
                    None => quick_xml::escape::resolve_predefined_entity(&name)
                        .ok_or_else(|| XmlError::Entity { name: name.chars().take(40).collect() })?
                        .to_owned(),
                };
                builder.text(&referred);
            }
            Event::DocType(_) => return Err(XmlError::DocType.into()),
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    match builder.unfinished() {
        Some(element) => Err(XmlError::Cut { element }.into()),
        None => Ok(()),
    }
}

/// Ends with an error where more comes than may.
struct Counted<R> {
    input: BufReader<R>,
    left: u64,
    over: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let found = self.input.fill_buf()?;
        if self.left == 0 && !found.is_empty() {
            self.over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(found.len());
        Ok(&found[..most])
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount as u64);
        self.input.consume(amount);
    }
}

#[derive(Default)]
struct Builder {
    /// Elements that are open and kept, the outermost first.
    kept: Vec<Element>,
    /// Names of those that are open around them.
    around: Vec<String>,
    elements: usize,
}

impl Builder {
    fn open(
        &mut self,
        start: &BytesStart<'_>,
        wanted: &dyn Fn(&str) -> bool,
        malformed: &dyn Fn(quick_xml::Error) -> XmlError,
    ) -> Result<(), XmlError> {
        let name = local(start.name().as_ref()).to_owned();
        if self.around.len() + self.kept.len() >= DEPTH_MAX {
            return Err(XmlError::Depth);
        }
        if self.kept.is_empty() && !wanted(&name) {
            self.around.push(name);
            return Ok(());
        }
        self.elements = if self.kept.is_empty() { 1 } else { self.elements + 1 };
        if self.elements > ELEMENTS_MAX {
            return Err(XmlError::Elements);
        }
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| malformed(error.into()))?;
            let key: &str = attribute.key.as_ref();
            if key == "xmlns" || key.starts_with("xmlns:") {
                continue;
            }
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(malformed)?.into_owned();
            attributes.push((key.rsplit(':').next().unwrap_or(key).to_owned(), value));
        }
        self.kept.push(Element { name, attributes, ..Element::default() });
        Ok(())
    }

    /// Ends the innermost element; returns it when it is the outermost of those that are kept.
    fn close(&mut self) -> Option<Element> {
        let Some(done) = self.kept.pop() else {
            self.around.pop();
            return None;
        };
        match self.kept.last_mut() {
            Some(parent) => {
                parent.children.push(done);
                None
            }
            None => Some(done),
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(open) = self.kept.last_mut() {
            open.text.push_str(text);
        }
    }

    /// The innermost element that is still open.
    fn unfinished(mut self) -> Option<String> {
        self.kept.pop().map(|element| element.name).or_else(|| self.around.pop())
    }
}

/// A name without its prefix.
fn local(name: &str) -> &str {
    let name = name.rsplit(':').next().unwrap_or(name);
    ["b.", "m.", "d."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use tierway_common::daemon::chain::Chain;

    use super::*;

    #[test]
    fn names_lose_their_namespace_and_texts_their_references() {
        let read = document(
            b"\xef\xbb\xbf<?xml version=\"1.0\"?><x:a xmlns:x=\"u\" x:q=\"1 &lt; 2\"><!-- c --><b.Rule/>\
              t&amp;&#65;<![CDATA[<]]></x:a>",
        )
        .unwrap();
        assert_eq!((read.name.as_str(), read.attribute("q"), read.text()), ("a", Some("1 < 2"), "t&A<"));
        assert_eq!(read.children[0].name, "Rule");
        assert_eq!(fragments(b"<a/><b>x</b>").unwrap().len(), 2);
    }

    #[test]
    fn what_could_grow_or_is_broken_is_refused_and_named() {
        let deep = format!("{}{}", "<a>".repeat(97), "</a>".repeat(97));
        for (text, wanted) in [
            ("<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>", "a document type is not allowed"),
            ("<a>&x;</a>", "unknown entity `x`"),
            ("<a b=\"&x;\"/>", "not well-formed"),
            ("<a><b></a>", "not well-formed"),
            ("<a><b>", "ends inside `b`"),
            ("<a/><b/>", "2 elements at the top instead of one"),
            ("", "0 elements at the top instead of one"),
            (deep.as_str(), "nested deeper than 96"),
        ] {
            let error = document(text.as_bytes()).unwrap_err();
            assert!(Chain(&error).to_string().contains(wanted), "{text}: {}", Chain(&error));
        }
        let long = format!("<a>{}</a>", " ".repeat(100));
        let mut none = |_| Ok::<_, XmlError>(());
        let over = each(long.as_bytes(), 50, &|_| true, &mut none).unwrap_err();
        assert_eq!(over.to_string(), "longer than 50 bytes");
        each(long.as_bytes(), long.len() as u64, &|_| true, &mut none).unwrap();
    }

    #[test]
    fn only_the_outermost_of_the_wanted_are_given() {
        let mut names = Vec::new();
        each(
            &b"<r><skip><w n='1'><w n='2'/></w></skip><w n='3'/></r>"[..],
            1000,
            &|name| name == "w",
            &mut |element| {
                names.push(element.attribute("n").unwrap().to_owned());
                Ok::<_, XmlError>(())
            },
        )
        .unwrap();
        assert_eq!(names, ["1", "3"]);
    }
}
