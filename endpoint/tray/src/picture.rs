//! The icon: a disc in the colour of how things stand, with an arrow down into a tray. Drawn, so that it is sharp in
//! every size.

use crate::{page::colour, view::Tone};

/// Each pixel is looked at so often in each direction: what smooths the edges.
const SAMPLES: u32 = 4;

/// `size` times `size` pixels by rows from the top, as red, green, blue, opacity.
#[must_use]
pub fn picture(tone: Tone, size: u32) -> Vec<[u8; 4]> {
    let [red, green, blue, _] = colour(tone).to_array();
    let at = |pixel: u32, sample: u32| {
        (f64::from(pixel) + (f64::from(sample) + 0.5) / f64::from(SAMPLES)) / f64::from(size)
    };
    let pixel = |x: u32, y: u32| {
        let (mut inside, mut marked) = (0, 0);
        for (dx, dy) in (0..SAMPLES).flat_map(|dx| (0..SAMPLES).map(move |dy| (dx, dy))) {
            let (x, y) = (at(x, dx), at(y, dy));
            inside += u32::from((x - 0.5).hypot(y - 0.5) < 0.5);
            marked += u32::from(is_marked(x, y));
        }
        let all = SAMPLES * SAMPLES;
        let mixed = |of_disc: u8| share(u32::from(of_disc) * (all - marked) + 255 * marked, all);
        [mixed(red), mixed(green), mixed(blue), share(255 * inside, all)]
    };
    (0..size).flat_map(|y| (0..size).map(move |x| (x, y))).map(|(x, y)| pixel(x, y)).collect()
}

/// The arrow and the tray, in a square whose sides are 1.
fn is_marked(x: f64, y: f64) -> bool {
    let aside = (x - 0.5).abs();
    let shaft = aside < 0.07 && (0.2..0.45).contains(&y);
    let head = (0.42..0.62).contains(&y) && aside < 0.62 - y;
    let tray = (0.68..0.76).contains(&y) && aside < 0.25;
    shaft || head || tray
}

fn share(part: u32, all: u32) -> u8 {
    u8::try_from(part / all).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_icon_is_a_disc_of_its_tone_with_a_white_arrow() {
        for size in [16, 22, 48] {
            let urgent = picture(Tone::Urgent, size);
            let at = |x: f64, y: f64| {
                let pixel =
                    |part: f64| (0..size).find(|n| f64::from(*n + 1) > part * f64::from(size)).unwrap();
                urgent[usize::try_from(pixel(y) * size + pixel(x)).unwrap()]
            };
            assert_eq!(at(0.0, 0.0)[3], 0, "the corner is see-through");
            assert_eq!(at(0.5, 0.5), [255; 4], "the arrow");
            assert_eq!(at(0.15, 0.5), [0xb4, 0x2b, 0x1e, 255], "the disc");
            assert_ne!(urgent, picture(Tone::Calm, size));
        }
    }
}
