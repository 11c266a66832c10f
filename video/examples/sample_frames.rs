//! Samples frames of a video evenly and prints what it took.
//!
//! `cargo run --release -p qwen3-vl-video --example sample_frames -- FILM.mp4 768 [auto|builtin|libav|ffmpeg]`

use qwen3_vl_video::{DecoderChoice, OpenOptions, VideoInput, open};
use std::ops::ControlFlow;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().ok_or("give the path of a video")?;
    let count: usize = arguments.get(1).map_or(Ok(768), |n| n.parse())?;
    let decoder = match arguments.get(2).map(String::as_str) {
        Some("builtin") => DecoderChoice::BuiltIn,
        Some("libav") => DecoderChoice::Libav,
        Some("ffmpeg") => DecoderChoice::Ffmpeg,
        _ => DecoderChoice::Auto,
    };
    let started = Instant::now();
    let options = OpenOptions { decoder, ..OpenOptions::default() };
    let mut source = open(VideoInput::Path(path.into()), &options)?;
    let info = source.info().clone();
    let total = info.frame_count();
    println!(
        "{} frames of {}x{} at {:.3} fps, {} by {}, {}; opened in {:.2} s",
        total,
        info.width,
        info.height,
        info.fps,
        info.codec,
        info.decoder,
        info.colour,
        started.elapsed().as_secs_f64()
    );
    let count = count.min(total);
    let wanted: Vec<usize> = (0..count).map(|i| i * (total - 1) / (count - 1).max(1)).collect();
    let mut sum = 0u64;
    let done = source.frames(
        &wanted,
        &mut |_, frame| {
            sum += frame.data.iter().step_by(997).map(|&b| u64::from(b)).sum::<u64>();
            ControlFlow::Continue(())
        },
        &mut |_| ControlFlow::Continue(()),
    )?;
    println!(
        "{} frames delivered, {} of {total} pictures decoded, {:.1} s, checksum {sum}",
        done.frames,
        done.decoded,
        started.elapsed().as_secs_f64()
    );
    for warning in info.warnings.iter().chain(&done.warnings) {
        println!("warning: {warning}");
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    }
    Ok(())
}
