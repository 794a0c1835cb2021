//! A message bus with a notification area.

use std::process::{Command, Stdio};

use tokio::sync::watch;

use crate::{
    display::{LONG, LOOK, Program},
    machine::{has, skip},
};

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
