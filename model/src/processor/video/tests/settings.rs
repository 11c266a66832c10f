use super::*;

#[test]
fn unusable_settings_are_named() {
    let rate = |fps| refused(VideoRef { fps: Some(fps), ..none() });
    for (fps, shown) in
        [(0.0, "0"), (-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf"), (1e7, "10000000")]
    {
        let expected = format!("`fps` of the video is {shown}, but it must be a number above 0");
        assert!(rate(fps).starts_with(&expected), "{}", rate(fps));
    }
    let cases = [
        (VideoRef { num_frames: Some(0), ..none() }, "`num_frames` of the video is 0"),
        (VideoRef { num_frames: Some(70_000), ..none() }, "The clip would have 70000 frames"),
        (VideoRef { num_frames: Some(u64::MAX), ..none() }, "would have 18446744073709551615"),
        (
            VideoRef { min_frames: Some(9), max_frames: Some(8), ..none() },
            "`min_frames` of the video is 9",
        ),
        (VideoRef { min_frames: Some(900), ..none() }, "at most `max_frames`, which is 768"),
        (VideoRef { max_frames: Some(3), ..none() }, "`min_frames` of the video is 4"),
        (
            VideoRef { num_frames: Some(9), max_frames: Some(8), ..none() },
            "`num_frames` of the video is 9",
        ),
        (
            VideoRef { num_frames: Some(9), min_frames: Some(10), ..none() },
            "`min_frames` of the video is 10",
        ),
        (
            VideoRef { start: Some(3.0), end: Some(3.0), ..none() },
            "`video_start` of the video is 3, but it must be before",
        ),
        (VideoRef { start: Some(-1.0), ..none() }, "`video_start` of the video is -1"),
        (VideoRef { end: Some(f64::NAN), ..none() }, "`video_end` of the video is NaN"),
        (
            VideoRef { start: Some(10.0), ..none() },
            "No frame of the video lies between 10 s and 9.96",
        ),
        (VideoRef { start: Some(0.01), end: Some(0.02), ..none() }, "between 0.01 s and 0.02 s"),
        (VideoRef { min_pixels: Some(0), ..none() }, "`min_pixels` of the video is 0"),
        (
            VideoRef { max_pixels: Some(u64::MAX), ..none() },
            "`max_pixels` of the video is 18446744073709551615",
        ),
        (VideoRef { total_pixels: Some(0), ..none() }, "`total_pixels` of the video is 0"),
        (
            VideoRef { min_pixels: Some(2), max_pixels: Some(1), ..none() },
            "at most `max_pixels`, which is 1",
        ),
        (VideoRef { resized: Some((0, 5)), ..none() }, "`resized_height` of the video is 0"),
        (
            VideoRef { resized: Some((5, 1 << 40)), ..none() },
            "`resized_width` of the video is 1099511627776",
        ),
        (VideoRef { resized: Some((1, 900)), ..none() }, "Frames of 28800x32 pixels"),
        (
            VideoRef { sample_fps: Some(1.0), ..none() },
            "`sample_fps` of the video is 1, but it must be left out",
        ),
        (
            VideoRef { raw_fps: Some(1.0), ..none() },
            "`raw_fps` of the video is 1, but it must be left out",
        ),
        (
            VideoRef { num_frames: Some(1), ..none() },
            "The clip would have 1 frame(s), but a video needs at least 2",
        ),
        (VideoRef { end: Some(0.01), ..none() }, "would have 1 frame(s)"),
    ];
    for (wanted, expected) in cases {
        let error = refused(wanted);
        assert!(error.contains(expected), "{error}");
    }
    let both = VideoRef { fps: Some(1.5), num_frames: Some(8), ..none() };
    assert_eq!(
        refused(both),
        "The video has both `fps` (1.5) and `num_frames` (8); give one of the two."
    );
}

#[test]
fn unusable_sources_are_named() {
    let cases = [
        (SourceClip::counted(640, 480, 0, Some(30.0)), "has no frames"),
        (SourceClip::timed(640, 480, &[], None), "has no frames"),
        (SourceClip::list(640, 480, 0), "has no frames"),
        (SourceClip::counted(640, 480, 1, Some(30.0)), "would have 1 frame(s)"),
        (SourceClip::list(640, 480, 1), "would have 1 frame(s)"),
        (SourceClip::list(640, 480, 1 << 40), "would have 1099511627776 frames"),
        (SourceClip::counted(640, 480, 9, Some(0.0)), "says that it has 0 frames per second"),
        (SourceClip::counted(640, 480, 9, Some(-5.0)), "has -5 frames per second"),
        (SourceClip::counted(640, 480, 9, Some(f64::NAN)), "has NaN frames per second"),
        (SourceClip::counted(640, 480, 9, Some(f64::INFINITY)), "has inf frames per second"),
        (
            SourceClip::timed(640, 480, &[0.0, 2.0, 1.0], None),
            "Frame 2 of the video is shown at 1 s",
        ),
        (
            SourceClip::timed(640, 480, &[0.0, f64::NAN], None),
            "Frame 1 of the video is shown at NaN s",
        ),
        (SourceClip::counted(0, 480, 9, Some(3.0)), "Frames of 0x480 pixels"),
        (SourceClip::counted(6401, 32, 9, Some(3.0)), "Frames of 6401x32 pixels"),
    ];
    for (source, expected) in cases {
        let error = plan(&source, &none()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn own_settings_go_before_defaults() {
    let defaults = VideoRef {
        fps: Some(1.0),
        max_frames: Some(9),
        max_pixels: Some(5),
        sample_fps: Some(3.0),
        ..none()
    };
    let stream = with_defaults(&VideoRef { num_frames: Some(4), ..none() }, &defaults);
    let expected =
        VideoRef { num_frames: Some(4), max_frames: Some(9), max_pixels: Some(5), ..none() };
    assert_eq!(stream, expected);
    assert_eq!(with_defaults(&none(), &defaults).fps, Some(1.0));
    let frames = VideoRef { source: Some(MediaSource::Frames(vec!["a".into()])), ..none() };
    let list = with_defaults(&frames, &defaults);
    let expected = VideoRef { max_pixels: Some(5), sample_fps: Some(3.0), ..frames };
    assert_eq!(list, expected);
}
