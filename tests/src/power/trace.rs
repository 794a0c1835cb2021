//! What a program asked of the system, in order, as `strace` writes it down.

use std::collections::HashMap;

/// The calls that make, change, name, sync or share files.
pub(super) const CALLS: &str = "open,openat,creat,close,dup,dup2,dup3,fcntl,lseek,read,write,pwrite64,writev,pwritev,pwritev2,\
    truncate,ftruncate,fallocate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,\
    fsync,fdatasync,sync,syncfs,sync_file_range,mmap,msync,sendfile,splice,copy_file_range,io_uring_setup,io_submit";
/// Bytes of one argument that are written down; no call of a recording has a longer one.
pub(super) const ARGUMENT_BYTES_MAX: usize = 8 << 20;
/// Characters that stand for a byte of a string.
const ESCAPE_CHARS: usize = 4;
/// Bytes that are looked at for being all the same.
const EQUAL_BYTES: usize = 4096;

/// One call. Times are lines of the trace: a call takes effect somewhere between its two.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) name: String,
    /// As they are written: numbers, flags, strings in quotes, structures in braces.
    pub(super) arguments: Vec<String>,
    /// Negative when it failed.
    pub(super) result: i64,
    pub(super) begin: usize,
    pub(super) end: usize,
}

/// The calls of a trace of all threads, made by `strace -f -xx -o`, in the order in which they ended. One that never
/// did is left out.
///
/// # Panics
///
/// When a line is none of such a trace.
pub(super) fn parse(text: &str) -> Vec<Call> {
    let mut open: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (at, begun));
            continue;
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (begin, begun) = open.remove(thread).unwrap_or_else(|| panic!("never begun: {rest}"));
            let (_, ended) = resumed.split_once(" resumed>").unwrap();
            calls.push(call(&format!("{begun}{ended}"), begin, at));
            continue;
        }
        calls.push(call(rest, at, at));
    }
    calls
}

fn call(text: &str, begin: usize, end: usize) -> Call {
    let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("no call: {}", head(text)));
    // Strings are hexadecimal, so that nothing in them looks like the end.
    let (arguments, result) = rest.rsplit_once(" = ").unwrap_or_else(|| panic!("no result: {}", head(text)));
    let arguments =
        arguments.trim_end().strip_suffix(')').unwrap_or_else(|| panic!("no end: {}", head(text)));
    let result = result.split_whitespace().next().unwrap_or_default();
    // `?` at the end of the process; addresses are of no interest.
    let result = result.parse().unwrap_or_else(|_| if result.starts_with("0x") { 0 } else { -1 });
    Call { name: name.to_owned(), arguments: split(arguments), result, begin, end }
}

fn head(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Splits at the commas outside of quotes and brackets.
fn split(arguments: &str) -> Vec<String> {
    let (mut depth, mut from, mut at) = (0_u32, 0, 0);
    let mut found = Vec::new();
    while let Some(byte) = arguments.as_bytes().get(at) {
        match byte {
            // A string may have millions of characters: to its end at once.
            b'"' => {
                at +=
                    1 + arguments[at + 1..].find('"').unwrap_or_else(|| panic!("no end: {}", head(arguments)))
            }
            b'[' | b'{' | b'(' => depth += 1,
            b']' | b'}' | b')' => depth -= 1,
            b',' if depth == 0 => {
                found.push(arguments[from..at].trim().to_owned());
                from = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    found.push(arguments[from..].trim().to_owned());
    found
}

impl Call {
    /// An argument as a number; flags and the like are none.
    pub(super) fn number(&self, index: usize) -> Option<i64> {
        self.arguments.get(index)?.parse().ok()
    }

    /// An argument as it is written.
    pub(super) fn text(&self, index: usize) -> &str {
        self.arguments.get(index).map_or("", String::as_str)
    }

    /// The bytes of an argument, those of all its strings where it has several.
    pub(super) fn bytes(&self, index: usize) -> Vec<u8> {
        let (mut bytes, mut quoted) = (Vec::new(), false);
        for part in self.text(index).split('"') {
            if quoted {
                unescape(part, &mut bytes);
            } else {
                assert!(!part.starts_with("..."), "an argument of {} is cut off in the trace", self.name);
            }
            quoted = !quoted;
        }
        bytes
    }

    /// An argument that is a path.
    pub(super) fn path(&self, index: usize) -> String {
        String::from_utf8(self.bytes(index)).unwrap()
    }
}

/// Adds the bytes of `\x41\x42`.
fn unescape(text: &str, bytes: &mut Vec<u8>) {
    let mut left = text.as_bytes();
    while !left.is_empty() {
        let part = left.split_off(..left.len().min(ESCAPE_CHARS * EQUAL_BYTES)).unwrap_or_default();
        let (first, count) = (&part[..part.len().min(ESCAPE_CHARS)], part.len() / ESCAPE_CHARS);
        // A segment that a database makes empty is one byte, millions of times.
        if first.repeat(count) == part {
            bytes.resize(bytes.len() + count, byte(first));
        } else {
            bytes.extend(part.chunks(ESCAPE_CHARS).map(byte));
        }
    }
}

fn byte(escape: &[u8]) -> u8 {
    let digit = |at: usize| char::from(escape[at]).to_digit(16);
    match escape {
        [b'\\', b'x', _, _] => {
            digit(2).zip(digit(3)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok())
        }
        _ => None,
    }
    .unwrap_or_else(|| panic!("no hexadecimal string: {}", escape.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_their_bytes_also_where_another_thread_came_between() {
        let trace = concat!(
            "7  openat(AT_FDCWD, \"\\x2f\\x61\", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3\n",
            "7  pwrite64(3, \"\\x01\\x02\"..., 2, 512 <unfinished ...>\n",
            "8  writev(4, [{iov_base=\"\\x22\", iov_len=1}, {iov_base=\"\\x2c\\x29\", iov_len=2}], 2) = 3\n",
            "7  <... pwrite64 resumed>) = 2\n",
            "8  rename(\"\\x2f\\x61\", \"\\x2f\\x62\") = -1 ENOENT (No such file or directory)\n",
            "8  --- SIGCHLD {si_signo=SIGCHLD} ---\n",
            "7  fsync(3 <unfinished ...>\n",
            "8  +++ exited with 0 +++\n",
        )
        .replace("\"...", "\"");
        let calls = parse(&trace);
        let found: Vec<_> =
            calls.iter().map(|call| (&call.name[..], call.result, call.begin, call.end)).collect();
        assert_eq!(
            found,
            [("openat", 3, 0, 0), ("writev", 3, 2, 2), ("pwrite64", 2, 1, 3), ("rename", -1, 4, 4)]
        );
        assert_eq!((calls[0].path(1).as_str(), calls[0].text(2)), ("/a", "O_RDWR|O_CREAT|O_CLOEXEC"));
        assert_eq!((calls[1].bytes(1), calls[2].bytes(1)), (b"\",)".to_vec(), vec![1, 2]));
        assert_eq!((calls[2].number(3), calls[3].path(1).as_str()), (Some(512), "/b"));
    }

    #[test]
    #[should_panic(expected = "cut off in the trace")]
    fn bytes_that_are_not_whole_in_the_trace_are_no_bytes() {
        parse("7  write(3, \"\\x01\"..., 2) = 2\n")[0].bytes(1);
    }
}
