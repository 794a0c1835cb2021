//! Log lines as events of the application log, each with the level that it was logged at.

use std::io::{self, Write};

use log::{Level, Record};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Writes lines as events.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventLog;

/// Opens the event log for `source`, which the installer registers. Where that fails, lines go nowhere: a service has no other place to say so.
pub(super) fn open(source: &str) -> EventLog {
    if winlog2::init(source).is_ok() {
        // What other libraries log for themselves is not for the administrator.
        log::set_max_level(log::LevelFilter::Off);
    }
    EventLog
}

/// One line that is being written.
#[derive(Debug)]
pub(super) struct Line {
    level: Level,
    bytes: Vec<u8>,
}

impl<'a> MakeWriter<'a> for EventLog {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { level: Level::Info, bytes: Vec::new() }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        let level = match *metadata.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        Line { level, bytes: Vec::new() }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim_end();
        if !text.is_empty() {
            // Past the level that keeps other libraries silent; what is to be told was decided above.
            log::logger().log(&Record::builder().level(self.level).args(format_args!("{text}")).build());
        }
    }
}
