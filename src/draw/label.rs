//! Captions, set in GNU Unifont: 16 pixels high, 8 or 16 wide, every script of the basic plane, and embedded, so that
//! pictures are the same on every machine.

use std::collections::BTreeSet;

use unifont::{Glyph, get_glyph};

use super::canvas::{Area, Canvas};
use super::colour::Colour;

/// Height of a glyph, in pixels of the font.
const HEIGHT: usize = 16;
/// Room around the text, in pixels of the font.
const PADDING: i64 = 2;
/// Longest caption, in characters, whatever the picture's width.
const MAX_CHARS: usize = 200;

/// A line of text, laid out.
#[derive(Debug, Default)]
pub(super) struct Label {
    /// Each glyph with its left edge, in pixels of the font.
    glyphs: Vec<(i64, &'static Glyph)>,
    width: i64,
    scale: i64,
    /// Not all of it fits.
    pub shortened: bool,
    /// Characters without a glyph.
    pub missing: BTreeSet<char>,
}

impl Label {
    /// Lays out a caption for a picture of `picture_width` pixels.
    pub(super) fn new(caption: &str, scale: i64, picture_width: i64) -> Self {
        let room = (picture_width / scale - 2 * PADDING).max(0);
        let mut label = Self { scale, ..Self::default() };
        let text: Vec<char> = caption.trim().chars().filter(|c| !is_invisible(*c)).collect();
        for character in text.iter().take(MAX_CHARS) {
            label.push(if character.is_control() { ' ' } else { *character });
        }
        if label.width > room || text.len() > MAX_CHARS {
            label.shorten(room);
        }
        label
    }

    /// Adds a character; a combining accent goes over the one before it.
    fn push(&mut self, character: char) {
        let glyph = get_glyph(character).or_else(|| {
            self.missing.insert(character);
            get_glyph(char::REPLACEMENT_CHARACTER)
        });
        let Some(glyph) = glyph else { return };
        match (character, self.glyphs.last()) {
            ('\u{300}'..='\u{36f}', Some((left, _))) => self.glyphs.push((*left, glyph)),
            _ => {
                self.glyphs.push((self.width, glyph));
                self.width += glyph.get_width() as i64;
            }
        }
    }

    /// Takes glyphs off the end until the rest and an ellipsis fit.
    fn shorten(&mut self, room: i64) {
        self.shortened = true;
        let Some(ellipsis) = get_glyph('…') else { return };
        let room = room - ellipsis.get_width() as i64;
        while self.width > room
            && let Some((left, _)) = self.glyphs.pop()
        {
            self.width = left;
        }
        self.push('…');
    }

    pub(super) fn is_empty(&self) -> bool {
        self.glyphs.is_empty()
    }

    /// Width and height with the room around it, in pixels of the picture.
    pub(super) fn size(&self) -> (i64, i64) {
        let height = HEIGHT as i64 + 2 * PADDING;
        ((self.width + 2 * PADDING) * self.scale, height * self.scale)
    }

    /// Draws the text, black or white, on a ground of `colour`.
    pub(super) fn draw(&self, canvas: &mut Canvas<'_>, (left, top): (i64, i64), colour: Colour) {
        let (width, height) = self.size();
        canvas.fill(Area { left, top, right: left + width, bottom: top + height }, colour);
        for (at, glyph) in &self.glyphs {
            let origin = (left + (at + PADDING) * self.scale, top + PADDING * self.scale);
            self.draw_glyph(canvas, origin, glyph, colour.ink());
        }
    }

    fn draw_glyph(
        &self,
        canvas: &mut Canvas<'_>,
        (left, top): (i64, i64),
        glyph: &Glyph,
        ink: Colour,
    ) {
        for y in 0..HEIGHT {
            for x in (0..glyph.get_width()).filter(|x| glyph.get_pixel(*x, y)) {
                let left = left + x as i64 * self.scale;
                let top = top + y as i64 * self.scale;
                let area = Area { left, top, right: left + self.scale, bottom: top + self.scale };
                canvas.fill(area, ink);
            }
        }
    }
}

/// Joiners, marks of direction and selectors of variants, which have no look of their own.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ad}')
}
