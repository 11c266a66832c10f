//! Boxes, points and times of an answer: drawn on the picture, shown on the terminal.

use std::path::{Path, PathBuf};

use clap::Args;
use qwen3_vl::draw::{self, DrawStyle};
use qwen3_vl::model::grounding::{Grounded, parse_grounding_of};
use qwen3_vl::model::processor::image::RgbImage;
use qwen3_vl::model::processor::message::MediaKind;
use qwen3_vl::weights::media::load_pictures;
use qwen3_vl::{Request, Response};

use super::media::MediaSettings;
use super::{print, show};

/// What becomes of the boxes of an answer.
#[derive(Debug, Args)]
pub struct GroundingArgs {
    /// Draw the answer's boxes and points on the picture: png, jpg or webp (of several pictures the N-th goes to NAME-N)
    #[arg(long, visible_alias = "draw-boxes", value_name = "FILE")]
    draw: Option<PathBuf>,
    /// Show the picture, with boxes and points, on the terminal
    #[arg(long)]
    show: bool,
}

impl GroundingArgs {
    /// Refuses what cannot work, before any work is done.
    ///
    /// # Errors
    /// When the file cannot be written, the terminal shows no pictures, or there is no picture.
    pub fn check(&self, request: &Request) -> anyhow::Result<()> {
        if let Some(path) = &self.draw {
            draw::check_output(path)?;
        }
        if self.show {
            show::check()?;
        }
        let media = qwen3_vl::model::processor::message::media(&request.conversation.messages);
        let pictures = media.iter().filter(|medium| medium.kind() == MediaKind::Image).count();
        let wanted = self.draw.is_some() || self.show;
        anyhow::ensure!(!wanted || pictures > 0, "--draw and --show need a picture (--image)");
        Ok(())
    }

    /// Draws and shows what was asked for.
    ///
    /// # Errors
    /// When a picture cannot be read again, written or shown.
    pub fn finish(
        &self,
        request: &Request,
        response: &Response,
        settings: &MediaSettings,
    ) -> anyhow::Result<()> {
        if self.draw.is_none() && !self.show {
            return Ok(());
        }
        let mut pictures = load_pictures(&request.conversation, &settings.limits())?;
        let grounded = parse_grounding_of(&response.text, pictures.len());
        report(&grounded);
        let count = pictures.len();
        for (index, picture) in pictures.iter_mut().enumerate() {
            let drawn = draw::draw(picture, grounded.of_image(index), &DrawStyle::default());
            drawn.warnings().iter().for_each(|line| print::error_line(&format!("warning: {line}")));
            self.hand_out(picture, index, count)?;
        }
        Ok(())
    }

    fn hand_out(&self, picture: &RgbImage, index: usize, count: usize) -> anyhow::Result<()> {
        if let Some(path) = &self.draw {
            draw::save(picture, &numbered(path, index, count))?;
        }
        if self.show {
            show::show(picture, None)?;
        }
        Ok(())
    }
}

/// `out.png` for one picture, `out-1.png`, `out-2.png`, ... for several.
pub(super) fn numbered(path: &Path, index: usize, count: usize) -> PathBuf {
    if count == 1 {
        return path.to_owned();
    }
    let part = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let name = format!("{}-{}.{}", part(path.file_stem()), index + 1, part(path.extension()));
    path.with_file_name(name)
}

fn report(grounded: &Grounded) {
    for problem in &grounded.problems {
        print::error_line(&format!("warning: {}", problem.reason));
    }
    if grounded.truncated {
        print::error_line("warning: the answer ends inside its JSON; there may be more boxes");
    }
}
