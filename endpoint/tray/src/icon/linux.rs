//! By the desktop's status notifier (org.kde.StatusNotifierItem, over the session's message bus).

use std::{io, thread};

use tierway_common::daemon::chain::Chain;
use tokio::sync::watch;
use zbus::{Connection, connection, fdo::DBusProxy, object_server::SignalEmitter, zvariant::OwnedObjectPath};

use crate::{picture::picture, talk::Tell, view::Tone, window::Told};

/// Who shows icons.
const WATCHER: &str = "org.kde.StatusNotifierWatcher";
const WATCHER_PATH: &str = "/StatusNotifierWatcher";
const PATH: &str = "/StatusNotifierItem";
/// Sizes, in pixels, that the icon is offered in.
const SIZES: [u32; 3] = [22, 32, 48];

#[derive(Debug)]
pub(super) struct Icon {
    shown: watch::Sender<(Tone, String)>,
}

impl Icon {
    /// On a thread of its own.
    pub(super) fn start(bus: Option<String>, tell: Tell) -> io::Result<Self> {
        let (shown, changed) = watch::channel((Tone::Unknown, "Tierway".to_owned()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let offering = async move {
            if let Err(error) = offer(bus.as_deref(), tell, changed).await {
                tracing::warn!(error = %Chain(&error), "there is no icon");
            }
        };
        thread::Builder::new().name("icon".to_owned()).spawn(move || runtime.block_on(offering))?;
        Ok(Self { shown })
    }

    pub(super) fn show(&mut self, tone: Tone, title: &str) {
        self.shown.send_if_modified(|shown| {
            let new = (tone, title.to_owned());
            let changed = *shown != new;
            *shown = new;
            changed
        });
    }
}

/// Until the bus or the program ends.
async fn offer(
    bus: Option<&str>,
    tell: Tell,
    mut changed: watch::Receiver<(Tone, String)>,
) -> zbus::Result<()> {
    let name = format!("org.kde.StatusNotifierItem-{}-1", std::process::id());
    let builder = match bus {
        Some(address) => connection::Builder::address(address)?,
        None => connection::Builder::session()?,
    };
    let item = Item { shown: changed.clone(), tell };
    let bus = builder.name(name.as_str())?.serve_at(PATH, item)?.build().await?;
    let mut owners =
        DBusProxy::new(&bus).await?.receive_name_owner_changed_with_args(&[(0, WATCHER)]).await?;
    register(&bus, &name).await;
    let emitter = SignalEmitter::new(&bus, PATH)?;
    loop {
        tokio::select! {
            owner = futures_util::StreamExt::next(&mut owners) => match owner {
                Some(owner) if owner.args()?.new_owner().is_some() => register(&bus, &name).await,
                Some(_) => {}
                None => return Ok(()),
            },
            changed = changed.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                Item::new_icon(&emitter).await?;
                Item::new_tool_tip(&emitter).await?;
                Item::new_status(&emitter, "Active").await?;
            }
        }
    }
}

async fn register(bus: &Connection, name: &str) {
    let member = "RegisterStatusNotifierItem";
    if let Err(error) = bus.call_method(Some(WATCHER), WATCHER_PATH, Some(WATCHER), member, &name).await {
        tracing::info!(%error, "no desktop shows the icon now");
    }
}

/// Width, height and pixels from the top left, each opacity, red, green, blue.
type Pixmap = (i32, i32, Vec<u8>);

/// What the desktop asks.
struct Item {
    shown: watch::Receiver<(Tone, String)>,
    tell: Tell,
}

#[zbus::interface(name = "org.kde.StatusNotifierItem")]
impl Item {
    #[zbus(property)]
    fn category(&self) -> &str {
        "SystemServices"
    }

    #[zbus(property)]
    fn id(&self) -> &str {
        "tierway-tray"
    }

    #[zbus(property)]
    fn title(&self) -> &str {
        "Tierway"
    }

    #[zbus(property)]
    fn status(&self) -> &str {
        "Active"
    }

    /// None: it is drawn.
    #[zbus(property)]
    fn icon_name(&self) -> &str {
        ""
    }

    #[zbus(property)]
    fn icon_pixmap(&self) -> Vec<Pixmap> {
        let tone = self.shown.borrow().0;
        let pixmap = |size: u32| {
            let bytes = picture(tone, size)
                .into_iter()
                .flat_map(|[red, green, blue, opacity]| [opacity, red, green, blue]);
            let side = i32::try_from(size).unwrap_or(0);
            (side, side, bytes.collect())
        };
        SIZES.into_iter().map(pixmap).collect()
    }

    #[zbus(property)]
    fn tool_tip(&self) -> (String, Vec<Pixmap>, String, String) {
        (String::new(), Vec::new(), self.shown.borrow().1.clone(), String::new())
    }

    #[zbus(property)]
    fn item_is_menu(&self) -> bool {
        false
    }

    /// None: every press opens the window.
    #[zbus(property)]
    fn menu(&self) -> OwnedObjectPath {
        OwnedObjectPath::from(zbus::zvariant::ObjectPath::from_static_str_unchecked("/NO_DBUSMENU"))
    }

    fn activate(&self, _x: i32, _y: i32) {
        (self.tell)(Told::Open);
    }

    fn secondary_activate(&self, _x: i32, _y: i32) {
        (self.tell)(Told::Open);
    }

    fn context_menu(&self, _x: i32, _y: i32) {
        (self.tell)(Told::Open);
    }

    fn scroll(&self, _delta: i32, _orientation: &str) {}

    #[zbus(signal)]
    async fn new_icon(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn new_tool_tip(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn new_status(emitter: &SignalEmitter<'_>, status: &str) -> zbus::Result<()>;
}
