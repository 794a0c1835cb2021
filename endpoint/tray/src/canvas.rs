//! Pixels without a graphics card: the shapes of a page, drawn into memory. What a window shows and what a test looks at.

use egui::{Context, FontDefinitions, FontFamily, FullOutput, RawInput, Rect, Shape, Ui};
use egui_software_backend::{BufferMutRef, ColorFieldOrder, EguiSoftwareRender};

/// Where systems have a font for scripts that the built-in ones lack; the first that is there is used. Files that hold
/// more than one have a face that serves at index 0.
const OTHER_SCRIPTS: [&str; 5] = [
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    r"C:\Windows\Fonts\msyh.ttc",
    r"C:\Windows\Fonts\segoeui.ttf",
];
/// A font of the system that is larger is not loaded.
const FONT_BYTES_MAX: u64 = 64 << 20;

/// What is drawn on.
pub struct Canvas {
    /// Layout and what has the focus.
    pub context: Context,
    renderer: EguiSoftwareRender,
    pixels: Vec<[u8; 4]>,
}

impl std::fmt::Debug for Canvas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canvas").field("pixels", &self.pixels.len()).finish_non_exhaustive()
    }
}

impl Canvas {
    /// An empty one. The look is the same everywhere: light, with its own fonts.
    #[must_use]
    pub fn new() -> Self {
        let context = Context::default();
        context.set_theme(egui::Theme::Light);
        context.set_fonts(fonts());
        Self { context, renderer: EguiSoftwareRender::new(ColorFieldOrder::Bgra), pixels: Vec::new() }
    }

    /// Draws what `ui` shows, at `width` times `height` pixels; returns what came of it and the rows from the top, each
    /// pixel as blue, green, red, and a byte of no meaning.
    pub fn draw(
        &mut self,
        input: RawInput,
        (width, height): (usize, usize),
        ui: impl FnMut(&mut Ui),
    ) -> (FullOutput, &[[u8; 4]]) {
        let mut output = self.context.run_ui(input, ui);
        let shapes = std::mem::take(&mut output.shapes);
        let shapes = self.context.tessellate(shapes, output.pixels_per_point);
        self.pixels.clear();
        self.pixels.resize(width * height, [0xff; 4]);
        let mut buffer = BufferMutRef::new(&mut self.pixels, width, height);
        self.renderer.render(&mut buffer, &shapes, &output.textures_delta, output.pixels_per_point);
        (output, &self.pixels)
    }
}

impl Canvas {
    /// Every text that `ui` shows, with where it is, in points; nothing is drawn.
    pub fn lay_out(&mut self, input: RawInput, ui: impl FnMut(&mut Ui)) -> Vec<(String, Rect)> {
        let output = self.context.run_ui(input, ui);
        let text = |shape: egui::epaint::ClippedShape| match shape.shape {
            Shape::Text(text) => Some((text.galley.text().to_owned(), text.visual_bounding_rect())),
            _ => None,
        };
        output.shapes.into_iter().filter_map(text).collect()
    }
}

impl Default for Canvas {
    fn default() -> Self {
        Self::new()
    }
}

/// The built-in fonts, then one of the system.
fn fonts() -> FontDefinitions {
    let mut fonts = FontDefinitions::default();
    let small = |path: &&str| std::fs::metadata(path).is_ok_and(|file| file.len() <= FONT_BYTES_MAX);
    let other = OTHER_SCRIPTS.iter().find(|path| small(path)).and_then(|path| std::fs::read(path).ok());
    if let Some(other) = other {
        let name = "of the system";
        fonts.font_data.insert(name.to_owned(), egui::FontData::from_owned(other).into());
        fonts.families.entry(FontFamily::Proportional).or_default().push(name.to_owned());
    }
    fonts
}
