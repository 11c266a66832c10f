//! Colours that can be told apart.

/// Red, green and blue of sRGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colour(pub [u8; 3]);

/// Okabe and Ito, "Color Universal Design" (2008), without black; the most striking first.
const OKABE_ITO: [Colour; 7] = [
    Colour([213, 94, 0]),
    Colour([0, 114, 178]),
    Colour([0, 158, 115]),
    Colour([240, 228, 66]),
    Colour([204, 121, 167]),
    Colour([86, 180, 233]),
    Colour([230, 159, 0]),
];

impl Colour {
    /// Black or white, whichever has more contrast to this colour (WCAG's relative luminance).
    pub(super) fn ink(self) -> Self {
        let linear = |byte: u8| match f64::from(byte) / 255.0 {
            dark if dark <= 0.04045 => dark / 12.92,
            bright => ((bright + 0.055) / 1.055).powf(2.4),
        };
        let [red, green, blue] = self.0.map(linear);
        let luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
        // Where (1 + 0.05) / (l + 0.05) equals (l + 0.05) / 0.05.
        Self(if luminance > 0.179 { [0; 3] } else { [255; 3] })
    }
}

/// Hands out a colour for each label, in the order in which they come.
#[derive(Debug, Default)]
pub(super) struct Palette {
    labels: Vec<Option<String>>,
}

impl Palette {
    /// The colour of a label; all items without one share theirs.
    pub(super) fn colour_of(&mut self, label: Option<&str>) -> Colour {
        let known = self.labels.iter().position(|known| known.as_deref() == label);
        let index = known.unwrap_or_else(|| {
            self.labels.push(label.map(str::to_owned));
            self.labels.len() - 1
        });
        OKABE_ITO[index % OKABE_ITO.len()]
    }
}
