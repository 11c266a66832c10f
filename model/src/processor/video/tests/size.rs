use super::*;

fn sides(video: &PlannedVideo) -> (usize, usize) {
    (video.resized_height, video.resized_width)
}

#[test]
fn a_clip_of_768_frames_in_2160p_does_not_overflow() {
    let clip = ClipSize { frames: 768, height: 2160, width: 3840 };
    let none = smart_resize_clip(clip, 2, 32, (4096, usize::MAX)).unwrap();
    assert_eq!(none, (2176, 3840));
    assert_eq!(smart_resize_clip(clip, 2, 32, (4096, 25_165_824)).unwrap(), (128, 224));
    let huge = ClipSize { frames: 1 << 16, height: 1 << 31, width: 1 << 31 };
    assert_eq!(smart_resize_clip(huge, 2, 32, (1, 1 << 32)).unwrap(), (256, 256));
}

#[test]
fn small_sides_grow_first() {
    let size = |height, width| {
        smart_resize_clip(ClipSize { frames: 4, height, width }, 2, 32, (1, 1 << 30))
    };
    assert_eq!(size(16, 16).unwrap(), (32, 32));
    assert_eq!(size(1, 200).unwrap(), (32, 6400));
    assert!(matches!(size(1, 201), Err(VideoProcessError::AspectRatio { .. })));
    assert!(matches!(size(0, 5), Err(VideoProcessError::AspectRatio { width: 5, height: 0 })));
}

#[test]
fn bounds_of_a_frame_hold_for_every_frame() {
    let source = SourceClip::counted(1280, 720, 150, Some(30.0));
    let size = |wanted: VideoRef| sides(&plan(&source, &wanted).unwrap());
    assert_eq!(size(none()), (704, 1280));
    let max = size(VideoRef { max_pixels: Some(262_144), ..none() });
    assert_eq!(max, (384, 672));
    let min = size(VideoRef { min_pixels: Some(2_000_000), ..none() });
    assert_eq!(min, (1088, 1888));
    let total = size(VideoRef { total_pixels: Some(2_621_440), ..none() });
    assert_eq!(total, (384, 672));
    // The smallest area of a frame goes before the largest area of the clip, as in qwen-vl-utils.
    let low = VideoRef { total_pixels: Some(2_621_440), min_pixels: Some(500_000), ..none() };
    assert_eq!(size(low), (544, 960));
    let tiny = VideoRef { total_pixels: Some(1), ..none() };
    assert_eq!(size(tiny), (32, 32));
    assert_eq!(size(VideoRef { resized: Some((300, 500)), ..none() }), (288, 512));
}

#[test]
fn odd_counts_keep_the_bounds_of_a_frame() {
    for count in 2..12 {
        let source = SourceClip::counted(1000, 700, count, Some(1.0));
        let wanted = VideoRef {
            num_frames: Some(count as u64),
            max_pixels: Some(100_000),
            min_pixels: Some(60_000),
            ..none()
        };
        let (height, width) = sides(&plan(&source, &wanted).unwrap());
        assert!((60_000..=100_000).contains(&(height * width)), "{count}: {height}x{width}");
    }
}

#[test]
fn without_resizing_the_sides_must_divide() {
    let config = VideoProcessorConfig { do_resize: false, ..VideoProcessorConfig::qwen3_vl() };
    let processor = VideoProcessor::new(config);
    let plan = |width, height, wanted: VideoRef| {
        processor.plan(&SourceClip::counted(width, height, 8, Some(2.0)), &wanted)
    };
    assert_eq!(plan(96, 64, none()).unwrap().grid, Grid { t: 4, h: 4, w: 6 });
    let error = plan(90, 64, none()).unwrap_err();
    assert!(matches!(
        error,
        VideoProcessError::Image(ImageError::NotDivisible { width: 90, factor: 32, .. })
    ));
    let error = plan(96, 64, VideoRef { max_pixels: Some(5000), ..none() }).unwrap_err();
    assert!(error.to_string().contains("`do_resize` of the checkpoint is false"), "{error}");
}

#[test]
fn limits_of_qwen_vl_utils_are_said() {
    let source = SourceClip::counted(1280, 720, 150, Some(30.0));
    let wanted = VideoRef { max_pixels: Some(9_000_000), ..none() };
    let video = utils().plan(&source, &wanted).unwrap();
    let limited = VideoNotice::PixelsLimited { wanted: 9_000_000, allowed: 786_432.0 };
    assert_eq!(video.notices, [limited]);
    let low = VideoRef { max_pixels: Some(50_000), ..none() };
    let error = utils().plan(&source, &low).unwrap_err().to_string();
    assert!(
        error.contains("`max_pixels` of the video is 50000, but it must be at least"),
        "{error}"
    );
    let narrow = SourceClip::counted(2000, 10, 768, Some(2.0));
    let wanted = VideoRef { min_pixels: Some(1024), total_pixels: Some(1024), ..none() };
    let error = utils().plan(&narrow, &wanted).unwrap_err();
    assert!(
        matches!(error, VideoProcessError::Vanishes { width: 2000, factor: 32, .. }),
        "{error}"
    );
}
