//! Pictures on the terminal.

use std::io::{self, IsTerminal};

use image::{DynamicImage, ImageBuffer, Rgb};
use qwen3_vl::model::processor::image::RgbImage;

/// Longest side, in pixels, of what is sent to a terminal that shows real pixels.
const MAX_SIDE: u32 = 1600;

/// Why a picture cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    #[error(
        "pictures can be shown only on a terminal, and standard output is none; save them with --draw FILE"
    )]
    NoTerminal,
    #[error("this terminal (TERM={term}) cannot show pictures; save them with --draw FILE")]
    Incapable { term: String },
    #[error("the picture cannot be shown: its data does not fit its size of {width}x{height}")]
    Data { width: u32, height: u32 },
    #[error("the terminal refused the picture")]
    Write(#[from] io::Error),
    #[error("the picture cannot be shown: {0}")]
    Print(viuer::ViuError),
}

/// Checks before any work that [`show`] can show something.
///
/// # Errors
/// Where standard output is no terminal, or one without colours.
pub fn check() -> Result<(), ShowError> {
    check_terminal(io::stdout().is_terminal(), std::env::var("TERM").ok())
}

fn check_terminal(is_terminal: bool, term: Option<String>) -> Result<(), ShowError> {
    match term {
        _ if !is_terminal => Err(ShowError::NoTerminal),
        Some(term) if term == "dumb" => Err(ShowError::Incapable { term }),
        _ => Ok(()),
    }
}

/// Shows a picture on standard output, at most `columns` wide and as large as the terminal: in pixels where the
/// terminal speaks the protocol of kitty or iTerm2, else in coloured half blocks.
///
/// # Errors
/// As [`check`], where nothing is written, and where the terminal goes away.
pub fn show(image: &RgbImage, columns: Option<u16>) -> Result<(), ShowError> {
    check()?;
    let (terminal_columns, terminal_rows) = viuer::terminal_size();
    let columns = columns.unwrap_or(u16::MAX).min(terminal_columns);
    // The prompt needs a line.
    let (width, height) = fit(image, columns, terminal_rows.saturating_sub(1));
    let config = viuer::Config {
        absolute_offset: false,
        width: Some(width),
        height: Some(height),
        // It asks the terminal and waits for the answer, so only those that may answer are asked.
        use_kitty: may_be_kitty(|name| std::env::var(name).ok()),
        ..viuer::Config::default()
    };
    match viuer::print(&picture(image)?, &config) {
        Ok(_) => Ok(()),
        Err(viuer::ViuError::Io(error)) => Err(error.into()),
        Err(error) => Err(ShowError::Print(error)),
    }
}

fn may_be_kitty(variable: impl Fn(&str) -> Option<String>) -> bool {
    let names =
        |text: String| ["kitty", "ghostty", "WezTerm"].iter().any(|known| text.contains(known));
    variable("KITTY_WINDOW_ID").is_some()
        || variable("TERM").is_some_and(names)
        || variable("TERM_PROGRAM").is_some_and(names)
}

/// The largest size, in cells twice as high as wide, within `columns` and `rows`; small pictures keep theirs.
fn fit(image: &RgbImage, columns: u16, rows: u16) -> (u32, u32) {
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let scale = (f64::from(columns) / width).min(2.0 * f64::from(rows) / height).min(1.0);
    ((width * scale).round().max(1.0) as u32, (height * scale / 2.0).round().max(1.0) as u32)
}

/// The picture as the printer takes it, no larger than a terminal needs.
fn picture(image: &RgbImage) -> Result<DynamicImage, ShowError> {
    let (width, height) = (image.width, image.height);
    let view = ImageBuffer::<Rgb<u8>, &[u8]>::from_raw(width, height, &image.data)
        .ok_or(ShowError::Data { width, height })?;
    let scale = f64::from(MAX_SIDE) / f64::from(width.max(height));
    let side = |side: u32| ((f64::from(side) * scale.min(1.0)).round() as u32).max(1);
    let small = image::imageops::thumbnail(&view, side(width), side(height));
    Ok(DynamicImage::ImageRgb8(small))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: u32, height: u32) -> RgbImage {
        RgbImage { width, height, data: vec![128; (width * height * 3) as usize] }
    }

    #[test]
    fn refuses_what_is_no_terminal() {
        let term = || Some("xterm-256color".to_owned());
        assert!(check_terminal(true, term()).is_ok());
        assert!(matches!(check_terminal(false, term()), Err(ShowError::NoTerminal)));
        let dumb = check_terminal(true, Some("dumb".to_owned()));
        assert!(matches!(dumb, Err(ShowError::Incapable { .. })));
    }

    #[test]
    fn asks_only_terminals_that_may_answer() {
        let with = |name: &'static str, value: &'static str| {
            may_be_kitty(move |asked| (asked == name).then(|| value.to_owned()))
        };
        assert!(with("TERM", "xterm-kitty") && with("TERM_PROGRAM", "ghostty"));
        assert!(with("KITTY_WINDOW_ID", "1"));
        assert!(!with("TERM", "xterm-256color") && !with("TERM_PROGRAM", "vscode"));
    }

    #[test]
    fn fits_into_the_terminal_and_keeps_the_ratio() {
        assert_eq!(fit(&grey(1000, 500), 80, 40), (80, 20));
        assert_eq!(fit(&grey(500, 1000), 80, 40), (40, 40));
        assert_eq!(fit(&grey(10, 10), 80, 40), (10, 5));
        assert_eq!(fit(&grey(1000, 1), 80, 40), (80, 1));
        assert_eq!(fit(&grey(5, 5), 0, 0), (1, 1));
    }

    #[test]
    fn sends_no_more_than_a_terminal_needs() {
        let large = picture(&grey(3200, 16)).unwrap();
        assert_eq!((large.width(), large.height()), (1600, 8));
        assert_eq!(large.to_rgb8().get_pixel(7, 7).0, [128; 3]);
        let small = picture(&grey(4, 2)).unwrap();
        assert_eq!((small.width(), small.height()), (4, 2));
        let broken = RgbImage { width: 4, height: 2, data: vec![0; 3] };
        assert!(matches!(picture(&broken), Err(ShowError::Data { .. })));
    }
}
