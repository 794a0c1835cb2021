//! A display without a screen, a message bus with a notification area, and the program between them.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use egui::Color32;
use tokio::sync::watch;
use x11rb::{
    connection::Connection,
    protocol::{
        xproto::{self, ConnectionExt as _, ImageFormat},
        xtest::ConnectionExt as _,
    },
    rust_connection::RustConnection,
    wrapper::ConnectionExt as _,
};

use crate::machine::{LONG, has, skip};

/// Pixels of the display; the window is at its upper left corner, for there is no window manager.
const SIZE: (u16, u16) = (640, 520);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// A process that ends with the test.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// What it prints first.
    fn line(&mut self) -> String {
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
pub(crate) struct Seen(Vec<Color32>);

impl Seen {
    pub(crate) fn at(&self, x: u16, y: u16) -> Color32 {
        self.0[usize::from(y) * usize::from(SIZE.0) + usize::from(x)]
    }

    /// How many there are: text has many shades.
    pub(crate) fn colours(&self) -> usize {
        let mut colours: Vec<_> = self.0.iter().map(|colour| colour.to_array()).collect();
        colours.sort_unstable();
        colours.dedup();
        colours.len()
    }

    /// Without a window all of it is black.
    pub(crate) fn shows_anything(&self) -> bool {
        self.colours() > 1
    }
}

impl Display {
    /// `None`, said, where there is no Xvfb.
    pub(crate) fn start(what: &str) -> Option<Self> {
        if !has("Xvfb") {
            skip(what, "`Xvfb` is not installed");
            return None;
        }
        let screen = format!("{}x{}x24", SIZE.0, SIZE.1);
        let mut server = Command::new("Xvfb");
        server.args(["-displayfd", "1", "-screen", "0", &screen, "-nolisten", "tcp", "-noreset", "-br"]);
        server.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = Program::start(server);
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
        let pixels = image.data.chunks_exact(4).map(|pixel| Color32::from_rgb(pixel[2], pixel[1], pixel[0]));
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
            picture.extend(seen.0.iter().flat_map(|colour| [colour.r(), colour.g(), colour.b()]));
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

/// A message bus.
pub(crate) struct Bus {
    pub(crate) address: String,
    _directory: tempfile::TempDir,
    _daemon: Program,
}

impl Bus {
    /// `None`, said, without dbus-daemon.
    pub(crate) fn start(what: &str) -> Option<Self> {
        if !has("dbus-daemon") {
            skip(what, "`dbus-daemon` is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix:path={}", directory.path().join("bus").display());
        let mut daemon = Command::new("dbus-daemon");
        daemon.args(["--session", "--nofork", "--nopidfile", "--print-address=1", "--address", &address]);
        let mut daemon = Program::start({
            daemon.stdout(Stdio::piped());
            daemon
        });
        let address = daemon.line();
        Some(Self { address, _directory: directory, _daemon: daemon })
    }

    /// The part of a desktop that shows icons.
    pub(crate) async fn notification_area(&self) -> Area {
        let (offered, items) = watch::channel(Vec::new());
        let builder = zbus::connection::Builder::address(self.address.as_str()).unwrap();
        let builder = builder.name("org.kde.StatusNotifierWatcher").unwrap();
        let builder = builder.serve_at("/StatusNotifierWatcher", Watcher { offered }).unwrap();
        Area { bus: builder.build().await.unwrap(), items }
    }
}

struct Watcher {
    offered: watch::Sender<Vec<String>>,
}

#[zbus::interface(name = "org.kde.StatusNotifierWatcher")]
impl Watcher {
    fn register_status_notifier_item(&self, item: String) {
        self.offered.send_modify(|offered| offered.push(item));
    }
}

/// See [`Bus::notification_area`].
pub(crate) struct Area {
    bus: zbus::Connection,
    items: watch::Receiver<Vec<String>>,
}

impl Area {
    /// The first icon that is offered.
    pub(crate) async fn item(&self) -> String {
        let mut items = self.items.clone();
        let offered = tokio::time::timeout(LONG, items.wait_for(|items| !items.is_empty()));
        offered.await.unwrap().unwrap()[0].clone()
    }

    async fn proxy(&self, item: &str) -> zbus::Proxy<'static> {
        let (path, interface) = ("/StatusNotifierItem", "org.kde.StatusNotifierItem");
        let builder = zbus::proxy::Builder::<'static, zbus::Proxy<'static>>::new(&self.bus);
        let builder =
            builder.destination(item.to_owned()).unwrap().path(path).unwrap().interface(interface).unwrap();
        builder.cache_properties(zbus::proxy::CacheProperties::No).build().await.unwrap()
    }

    /// Waits until the smallest picture of the icon, as red, green, blue and opacity, is as it should be.
    pub(crate) async fn until(&self, item: &str, what: &str, holds: impl Fn(Vec<[u8; 4]>) -> bool) {
        let proxy = self.proxy(item).await;
        let shown = async {
            loop {
                let pixmaps: Vec<(i32, i32, Vec<u8>)> = proxy.get_property("IconPixmap").await.unwrap();
                let pixels =
                    pixmaps[0].2.chunks_exact(4).map(|pixel| [pixel[1], pixel[2], pixel[3], pixel[0]]);
                if holds(pixels.collect()) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(LONG, shown).await.unwrap_or_else(|_| panic!("{what}: not in {LONG:?}"));
    }

    /// Presses the icon.
    pub(crate) async fn press(&self, item: &str) {
        self.proxy(item).await.call_method("Activate", &(1, 1)).await.unwrap();
    }
}
