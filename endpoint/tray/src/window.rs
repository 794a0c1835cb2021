//! The window: opened and closed by the person, opened by what is urgent, drawn when something changes and each second.

use std::{
    num::NonZeroU32,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use egui::ViewportId;
use egui_winit::State;
use jiff::tz::TimeZone;
use softbuffer::{Context, SoftBufferError, Surface};
use tierway_common::clock::Clock;
use tierway_proto::v1::{self, local_wish_request::Wish};
use tokio::sync::mpsc;
use winit::{
    application::ApplicationHandler,
    dpi::LogicalSize,
    error::{EventLoopError, OsError},
    event::{StartCause, WindowEvent},
    event_loop::{ActiveEventLoop, ControlFlow, EventLoop, OwnedDisplayHandle},
    window::{self, UserAttentionType, Window, WindowId, WindowLevel},
};

use crate::{
    canvas::Canvas,
    icon::Icon,
    page::{Page, Pressed, SIZE},
    picture::picture,
    talk::{self, Tell},
    view::{Tone, View, view},
};

/// What is told is told to the second.
const EVERY: Duration = Duration::from_secs(1);
/// Pixels of the window's icon, in each direction.
const ICON: u32 = 48;
/// What the window is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// What is due.
    Show(Box<v1::LocalShow>),
    /// The endpoint does not answer; why.
    Gone(String),
    /// What came of a wish.
    Said(String),
    /// The icon was pressed.
    Open,
}

/// How it runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The endpoint's local door.
    pub socket: PathBuf,
    /// With the icon alone at first; closing the window does not end it.
    pub background: bool,
    /// Address of the session's message bus, where icons are shown by one.
    pub bus: Option<String>,
}

/// Nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// No display, mostly.
    #[error("could not use the display")]
    Display(#[from] EventLoopError),
    /// The window.
    #[error("could not open a window")]
    Open(#[from] OsError),
    /// Its pixels.
    #[error("could not draw")]
    Draw(#[from] SoftBufferError),
    /// The thread that talks.
    #[error("could not start a thread")]
    Thread(#[from] std::io::Error),
}

/// Shows what the endpoint says until the window is closed, or the session ends.
///
/// # Errors
///
/// Without a display, or when it is gone.
pub fn run(options: Options) -> Result<(), WindowError> {
    let events = EventLoop::<Told>::with_user_event().build()?;
    let proxy = events.create_proxy();
    let tell: Tell = Arc::new(move |told| {
        // The loop has ended: so does the program.
        let _ = proxy.send_event(told);
    });
    let (wishes, wished) = mpsc::channel(talk::WISHES_MAX);
    talk::start(options.socket, wished, tell.clone())?;
    let icon = if options.background { Some(Icon::start(options.bus, tell)?) } else { None };
    let mut app = App {
        display: Context::new(events.owned_display_handle())?,
        due: Err("The endpoint has not answered yet.".to_owned()),
        page: Page::default(),
        open: None,
        background: options.background,
        started: false,
        icon,
        wishes,
        clock: Clock::system(),
        zone: TimeZone::system(),
        failure: None,
    };
    events.run_app(&mut app)?;
    app.failure.map_or(Ok(()), Err)
}

/// A window that is open.
struct Open {
    window: Rc<Window>,
    surface: Surface<OwnedDisplayHandle, Rc<Window>>,
    state: State,
    canvas: Canvas,
    /// The page asked to be drawn again by then.
    again: Instant,
}

struct App {
    display: Context<OwnedDisplayHandle>,
    due: Result<v1::LocalDue, String>,
    page: Page,
    open: Option<Open>,
    background: bool,
    started: bool,
    icon: Option<Icon>,
    wishes: mpsc::Sender<Wish>,
    clock: Clock,
    zone: TimeZone,
    failure: Option<WindowError>,
}

impl App {
    fn view(&self) -> View {
        view(self.due.as_ref().map_err(String::as_str), self.clock.now(), &self.zone)
    }

    /// Opens the window or brings it to the front.
    fn raise(&mut self, events: &ActiveEventLoop) {
        if let Some(open) = &self.open {
            open.window.set_minimized(false);
            open.window.focus_window();
            open.window.request_user_attention(Some(UserAttentionType::Critical));
            return;
        }
        match Open::new(events, &self.display, self.view().tone) {
            Ok(open) => self.open = Some(open),
            Err(error) => self.fail(events, error),
        }
    }

    fn fail(&mut self, events: &ActiveEventLoop, error: WindowError) {
        self.failure = Some(error);
        events.exit();
    }

    fn draw(&mut self) -> Result<(), WindowError> {
        let view = self.view();
        let (now, zone, page) = (self.clock.now(), &self.zone, &mut self.page);
        let Some(open) = &mut self.open else { return Ok(()) };
        let pressed = open.draw(|ui| page.show(ui, &view, now, zone))?;
        match pressed {
            Some(Pressed::Wish(wish)) => {
                page.said = match self.wishes.try_send(wish) {
                    Ok(()) => "Asked…".to_owned(),
                    Err(_) => "Tierway does not answer now.".to_owned(),
                };
            }
            Some(Pressed::Wrong(why)) => page.said = format!("Not understood: {why}."),
            None => return Ok(()),
        }
        open.window.request_redraw();
        Ok(())
    }
}

impl ApplicationHandler<Told> for App {
    fn resumed(&mut self, events: &ActiveEventLoop) {
        if !self.started && !self.background {
            self.raise(events);
        }
        self.started = true;
        if let Some(icon) = &mut self.icon {
            icon.show(view(Err(""), self.clock.now(), &self.zone).tone, "Tierway");
        }
    }

    fn user_event(&mut self, events: &ActiveEventLoop, told: Told) {
        match told {
            Told::Show(show) => {
                let v1::LocalShow { due, prompt } = *show;
                self.due = Ok(due.unwrap_or_default());
                // The rest is shown by the desktop's notifications.
                if let Some(prompt) = prompt.filter(|prompt| prompt.urgent) {
                    self.page.said = prompt.title;
                    self.raise(events);
                }
            }
            Told::Gone(why) => self.due = Err(why),
            Told::Said(said) => self.page.said = said,
            Told::Open => self.raise(events),
        }
        let view = self.view();
        if let Some(icon) = &mut self.icon {
            icon.show(view.tone, &view.title);
        }
        if let Some(open) = &self.open {
            // What is about to happen stays in sight.
            let level = if view.counting.is_some() { WindowLevel::AlwaysOnTop } else { WindowLevel::Normal };
            open.window.set_window_level(level);
            open.window.request_redraw();
        }
    }

    fn window_event(&mut self, events: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        match event {
            WindowEvent::CloseRequested => {
                self.open = None;
                if !self.background {
                    events.exit();
                }
            }
            WindowEvent::RedrawRequested => {
                if let Err(error) = self.draw() {
                    self.fail(events, error);
                }
            }
            event => {
                if let Some(open) = &mut self.open
                    && open.state.on_window_event(&open.window, &event).repaint
                {
                    open.window.request_redraw();
                }
            }
        }
    }

    fn new_events(&mut self, _: &ActiveEventLoop, cause: StartCause) {
        if let (StartCause::ResumeTimeReached { .. }, Some(open)) = (cause, &self.open) {
            open.window.request_redraw();
        }
    }

    fn about_to_wait(&mut self, events: &ActiveEventLoop) {
        events.set_control_flow(match &self.open {
            Some(open) => ControlFlow::WaitUntil(open.again),
            None => ControlFlow::Wait,
        });
    }
}

impl Open {
    fn new(
        events: &ActiveEventLoop,
        display: &Context<OwnedDisplayHandle>,
        tone: Tone,
    ) -> Result<Self, WindowError> {
        let pixels = picture(tone, ICON).into_flattened();
        let attributes = Window::default_attributes()
            .with_title("Tierway")
            .with_window_icon(window::Icon::from_rgba(pixels, ICON, ICON).ok())
            .with_inner_size(LogicalSize::new(SIZE[0], SIZE[1]));
        let window = Rc::new(events.create_window(attributes)?);
        let surface = Surface::new(display, window.clone())?;
        let canvas = Canvas::new();
        let scale = Some(egui_winit::pixels_per_point(&canvas.context, &window));
        let state = State::new(canvas.context.clone(), ViewportId::ROOT, &window, scale, None, None);
        window.request_redraw();
        Ok(Self { window, surface, state, canvas, again: Instant::now() + EVERY })
    }

    fn draw<P>(
        &mut self,
        mut page: impl FnMut(&mut egui::Ui) -> Option<P>,
    ) -> Result<Option<P>, WindowError> {
        let size = self.window.inner_size();
        let (Some(width), Some(height)) = (NonZeroU32::new(size.width), NonZeroU32::new(size.height)) else {
            return Ok(None);
        };
        let input = self.state.take_egui_input(&self.window);
        let mut pressed = None;
        let pixels = (usize::try_from(size.width).unwrap_or(1), usize::try_from(size.height).unwrap_or(1));
        let (output, drawn) = self.canvas.draw(input, pixels, |ui| pressed = page(ui).or(pressed.take()));
        self.surface.resize(width, height)?;
        let mut buffer = self.surface.buffer_mut()?;
        for (pixel, [blue, green, red, _]) in buffer.iter_mut().zip(drawn) {
            *pixel = u32::from_le_bytes([*blue, *green, *red, 0]);
        }
        self.window.pre_present_notify();
        buffer.present()?;
        self.state.handle_platform_output(&self.window, output.platform_output);
        let soon =
            output.viewport_output.get(&ViewportId::ROOT).map_or(EVERY, |viewport| viewport.repaint_delay);
        self.again = Instant::now() + soon.min(EVERY);
        Ok(pressed)
    }
}
