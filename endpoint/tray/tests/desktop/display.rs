//! A display without a screen, on which programs are looked at and pressed; also what the flows look at Windows by.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use x11rb::{
    connection::Connection,
    protocol::{
        xproto::{self, ConnectionExt as _, ImageFormat},
        xtest::ConnectionExt as _,
    },
    rust_connection::RustConnection,
    wrapper::ConnectionExt as _,
};

/// Pixels of the display; the window is at its upper left corner, for there is no window manager.
const SIZE: (u16, u16) = (640, 520);
/// Far longer than anything takes that is waited for here.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// A process that ends with the test.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// What it prints first.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An X server.
pub(crate) struct Display {
    pub(crate) name: String,
    connection: RustConnection,
    _server: Program,
}

/// What is on the display at a moment.
pub(crate) struct Seen(Vec<Colour>);

/// Red, green, blue.
pub(crate) type Colour = [u8; 3];

impl Seen {
    pub(crate) fn at(&self, x: u16, y: u16) -> Colour {
        self.0[usize::from(y) * usize::from(SIZE.0) + usize::from(x)]
    }

    /// How many there are: text has many shades.
    pub(crate) fn colours(&self) -> usize {
        let mut colours = self.0.clone();
        colours.sort_unstable();
        colours.dedup();
        colours.len()
    }

    /// How many pixels have it.
    pub(crate) fn pixels_of(&self, colour: Colour) -> usize {
        self.0.iter().filter(|pixel| **pixel == colour).count()
    }

    /// Without a window all of it is black.
    pub(crate) fn shows_anything(&self) -> bool {
        self.colours() > 1
    }
}

impl Display {
    /// An empty one; `None` where there is no Xvfb.
    pub(crate) fn start() -> Option<Self> {
        let screen = format!("{}x{}x24", SIZE.0, SIZE.1);
        let mut server = Command::new("Xvfb");
        server.args(["-displayfd", "1", "-screen", "0", &screen, "-nolisten", "tcp", "-noreset", "-br"]);
        server.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = Program(server.spawn().ok()?);
        let name = format!(":{}", server.line());
        let (connection, _) = x11rb::connect(Some(&name)).unwrap();
        Some(Self { name, connection, _server: server })
    }

    fn root(&self) -> xproto::Window {
        self.connection.setup().roots[0].root
    }

    /// A screenshot.
    pub(crate) fn seen(&self) -> Seen {
        let image =
            self.connection.get_image(ImageFormat::Z_PIXMAP, self.root(), 0, 0, SIZE.0, SIZE.1, u32::MAX);
        let image = image.unwrap().reply().unwrap();
        let pixels = image.data.chunks_exact(4).map(|pixel| [pixel[2], pixel[1], pixel[0]]);
        Seen(pixels.collect())
    }

    /// Waits until what is shown is as it should be. With `TIERWAY_SCREENSHOTS` it is kept in that folder as PPM.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let shown = tokio::time::timeout(LONG, async {
            loop {
                let seen = self.seen();
                if holds(&seen) {
                    return seen;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        let shown = shown.await;
        let seen = shown.unwrap_or_else(|_| panic!("{what}: not in {LONG:?}"));
        if let Some(folder) = std::env::var_os("TIERWAY_SCREENSHOTS") {
            let mut picture = format!("P6 {} {} 255\n", SIZE.0, SIZE.1).into_bytes();
            picture.extend(seen.0.iter().flatten());
            let name = format!("{}.ppm", what.replace(' ', "-"));
            std::fs::write(std::path::Path::new(&folder).join(name), picture).unwrap();
        }
    }

    /// Presses the left button of the mouse there.
    pub(crate) fn press(&self, (x, y): (i16, i16)) {
        for (kind, detail) in [
            (xproto::MOTION_NOTIFY_EVENT, 0),
            (xproto::BUTTON_PRESS_EVENT, 1),
            (xproto::BUTTON_RELEASE_EVENT, 1),
        ] {
            self.connection.xtest_fake_input(kind, detail, 0, self.root(), x, y, 0).unwrap();
        }
        self.connection.sync().unwrap();
    }

    /// Asks all windows to close, as a window manager does.
    pub(crate) fn close(&self) {
        let atom = |name: &[u8]| self.connection.intern_atom(false, name).unwrap().reply().unwrap().atom;
        let (protocols, delete) = (atom(b"WM_PROTOCOLS"), atom(b"WM_DELETE_WINDOW"));
        for window in self.connection.query_tree(self.root()).unwrap().reply().unwrap().children {
            let event = xproto::ClientMessageEvent::new(32, window, protocols, [delete, 0, 0, 0, 0]);
            self.connection.send_event(false, window, xproto::EventMask::NO_EVENT, event).unwrap();
        }
        self.connection.sync().unwrap();
    }
}
