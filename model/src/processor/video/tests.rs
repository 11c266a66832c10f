use super::*;
use crate::processor::image::{Grid, ImageError, Normalization, RgbImage, patchify};
use crate::processor::message::{MediaSource, VideoRef};

fn published() -> VideoProcessor {
    VideoProcessor::new(VideoProcessorConfig::qwen3_vl())
}

fn utils() -> VideoProcessor {
    published().with_rules(SamplingRule::QwenVlUtils, BudgetRule::QwenVlUtils)
}

fn none() -> VideoRef {
    VideoRef::default()
}

fn plan(source: &SourceClip<'_>, wanted: &VideoRef) -> Result<PlannedVideo, String> {
    published().plan(source, wanted).map_err(|error| error.to_string())
}

/// The error of a clip of 300 frames at 30 frames per second.
fn refused(wanted: VideoRef) -> String {
    let error = plan(&SourceClip::counted(640, 480, 300, Some(30.0)), &wanted).unwrap_err();
    assert!(error.ends_with('.') && error.starts_with(|c: char| c.is_uppercase() || c == '`'));
    error
}

mod config {
    use super::*;

    fn parse(text: &str) -> Result<VideoProcessorConfig, String> {
        VideoProcessorConfig::from_json(text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_published_file() {
        let text = r#"{"size": {"longest_edge": 25165824, "shortest_edge": 4096}, "patch_size": 16,
            "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
            "fps": 2, "min_frames": 4, "max_frames": 768, "num_frames": null, "do_sample_frames": true, "resample": 3,
            "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true, "do_resize": true,
            "default_to_square": true, "crop_size": null, "do_center_crop": null, "return_metadata": false,
            "processor_class": "Qwen3VLProcessor", "video_processor_type": "Qwen3VLVideoProcessor"}"#;
        assert_eq!(parse(text).unwrap(), VideoProcessorConfig::qwen3_vl());
    }

    #[test]
    fn absent_keys_are_those_of_the_class() {
        assert_eq!(parse("{}").unwrap(), VideoProcessorConfig::default());
        assert_eq!(
            parse(r#"{"fps": null, "size": null, "max_frames": null}"#).unwrap(),
            VideoProcessorConfig::default()
        );
        let class = VideoProcessorConfig::default();
        assert_eq!((class.min_pixels, class.max_pixels), (131_072, 786_432));
    }

    #[test]
    fn every_field_is_read() {
        let text = r#"{"size": {"shortest_edge": 10, "longest_edge": 20}, "min_pixels": 10, "max_pixels": 20,
            "patch_size": 8, "temporal_patch_size": 3, "merge_size": 1, "num_frames": 12, "min_frames": 5,
            "max_frames": 6, "do_sample_frames": false, "do_resize": false, "do_normalize": false, "do_rescale": false,
            "cap_pixels_per_frame": true, "max_video_tokens": 7}"#;
        let expected = VideoProcessorConfig {
            min_pixels: 10,
            max_pixels: 20,
            layout: crate::processor::image::PatchLayout { patch: 8, temporal: 3, merge: 1 },
            normalization: Normalization { rescale: None, mean_std: None },
            do_resize: false,
            do_sample_frames: false,
            rate: SampleRate::Count(12),
            min_frames: 5,
            max_frames: 6,
            cap_pixels_per_frame: true,
            max_video_tokens: 7,
        };
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse(r#"{"fps": 0.5}"#).unwrap().rate, SampleRate::PerSecond(0.5));
    }

    #[test]
    fn unusable_values_are_named() {
        let cases = [
            (r#"{"resample": 2}"#, "`resample` is 2, but it must be 3 (bicubic)"),
            (r#"{"patch_size": 0}"#, "`patch_size` is 0"),
            (r#"{"image_std": [1, 0, 1]}"#, "`image_std` is [1.0, 0.0, 1.0]"),
            (r#"{"fps": 0}"#, "`fps` is 0, but it must be a number above 0"),
            (r#"{"fps": -2}"#, "`fps` is -2"),
            (r#"{"fps": 1e9}"#, "`fps` is 1000000000"),
            (r#"{"fps": 2, "num_frames": 8}"#, "`fps` is 2, but it must be left out"),
            (r#"{"num_frames": 0}"#, "`num_frames` is 0"),
            (
                r#"{"max_frames": 100000}"#,
                "`max_frames` is 100000, but it must be between 1 and 65536",
            ),
            (
                r#"{"min_frames": 9, "max_frames": 8}"#,
                "`min_frames` is 9, but it must be at most `max_frames`",
            ),
            (r#"{"size": {"height": 1}}"#, "`size.shortest_edge` is missing"),
            (r#"{"size": {"shortest_edge": 1}}"#, "`size.longest_edge` is missing"),
            (r#"{"size": {"shortest_edge": 9, "longest_edge": 8}}"#, "`size.shortest_edge` is 9"),
            (r#"{"size": {"shortest_edge": 0, "longest_edge": 8}}"#, "`size.shortest_edge` is 0"),
            (
                r#"{"size": {"shortest_edge": 1, "longest_edge": 99999999999}}"#,
                "`size.longest_edge` is 99999999999",
            ),
            (r#"{"min_pixels": 3}"#, "`min_pixels` is 3, but it must be left out or 131072"),
            (r#"{"max_pixels": 3}"#, "`max_pixels` is 3, but it must be left out or 786432"),
            (r#"{"max_video_tokens": 0}"#, "`max_video_tokens` is 0"),
            (r#"{"fps": "2"}"#, "cannot be read"),
            (r#"{"patch_size": -1}"#, "cannot be read"),
            ("[]", "cannot be read"),
            ("{", "cannot be read"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.starts_with("video_preprocessor_config.json"), "{error}");
        }
    }

    #[test]
    fn the_file_that_transformers_reads() {
        let from = |processor, video, image| {
            VideoProcessorConfig::from_files(VideoConfigFiles { processor, video, image })
        };
        let text =
            |edge: u32| format!(r#"{{"size": {{"shortest_edge": 1, "longest_edge": {edge}}}}}"#);
        let (video, image) = (text(20), text(30));
        let nested = format!(r#"{{"image_processor": {{}}, "video_processor": {}}}"#, text(10));
        let (video, image) = (Some(video.as_str()), Some(image.as_str()));
        assert_eq!(from(Some(&nested), video, image).unwrap().max_pixels, 10);
        assert_eq!(from(Some("{}"), video, image).unwrap().max_pixels, 20);
        assert_eq!(from(None, None, image).unwrap().max_pixels, 30);
        assert_eq!(from(None, None, None).unwrap(), VideoProcessorConfig::default());
        let broken = from(Some(r#"{"video_processor": {"fps": 0}}"#), video, image).unwrap_err();
        assert!(broken.to_string().starts_with("processor_config.json (video_processor): `fps`"));
        assert!(from(Some("x"), video, image).is_err());
        let broken = from(None, None, Some(r#"{"patch_size": 0}"#)).unwrap_err();
        assert!(broken.to_string().starts_with("preprocessor_config.json: `patch_size` is 0"));
    }
}

mod settings {
    use super::*;

    #[test]
    fn unusable_settings_are_named() {
        let rate = |fps| refused(VideoRef { fps: Some(fps), ..none() });
        for (fps, shown) in
            [(0.0, "0"), (-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf"), (1e7, "10000000")]
        {
            let expected =
                format!("`fps` of the video is {shown}, but it must be a number above 0");
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
            (
                VideoRef { start: Some(0.01), end: Some(0.02), ..none() },
                "between 0.01 s and 0.02 s",
            ),
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
}

mod sampling {
    use super::*;

    #[test]
    fn an_unknown_rate_is_said() {
        let video = plan(&SourceClip::counted(640, 480, 120, None), &none()).unwrap();
        assert_eq!(video.notices, [VideoNotice::UnknownRate { assumed: 24.0 }]);
        assert_eq!(video.selection.indices.len(), 10);
        assert_eq!(video.selection.source_fps, 24.0);
        let list = plan(&SourceClip::list(640, 480, 3), &none()).unwrap();
        assert_eq!(list.notices, [VideoNotice::UnknownRate { assumed: 24.0 }]);
        assert_eq!(list.selection.seconds, [0.0, 1.0 / 24.0, 2.0 / 24.0]);
        assert_eq!(list.frames[1].seconds, 2.0 / 24.0);
    }

    #[test]
    fn a_rate_follows_from_times() {
        let times: Vec<f64> = (0..40).map(|i| 0.25 * f64::from(i)).collect();
        let video = plan(&SourceClip::timed(640, 480, &times, None), &none()).unwrap();
        assert_eq!((video.selection.source_fps, video.notices.len()), (4.0, 0));
        assert_eq!(video.selection.indices.len(), 20);
        let stuck = plan(&SourceClip::timed(640, 480, &[1.0; 10], None), &none()).unwrap();
        assert_eq!(stuck.notices, [VideoNotice::UnknownRate { assumed: 24.0 }]);
        assert_eq!(stuck.frames[0].seconds, 1.0);
    }

    /// One hour at 30 frames per second, two frames wanted per second.
    #[test]
    fn too_long_a_video_says_what_a_frame_stands_for() {
        let hour = SourceClip::counted(1280, 720, 108_000, Some(30.0));
        let video = plan(&hour, &none()).unwrap();
        assert_eq!((video.selection.indices.len(), video.grid.t), (768, 384));
        assert_eq!(
            video.notices,
            [VideoNotice::FramesLimited {
                wanted: 7200.0,
                used: 768,
                seconds_per_frame: 3600.0 / 768.0
            }]
        );
        let text = video.notices[0].to_string();
        assert!(text.contains("gives 7200 frames, but at most 768"), "{text}");
        assert!(text.contains("4.69 seconds"), "{text}");
        let other = utils().plan(&hour, &none()).unwrap();
        assert_eq!(other.notices, video.notices);
        // A rate above that of the source takes every frame and leaves out none.
        let all = VideoRef { fps: Some(1000.0), ..none() };
        let short = plan(&SourceClip::counted(640, 480, 50, Some(30.0)), &all).unwrap();
        assert_eq!((short.selection.indices.len(), short.notices.len()), (50, 0));
    }

    #[test]
    fn repeated_frames_are_said() {
        let wanted = VideoRef { num_frames: Some(5), ..none() };
        let video = plan(&SourceClip::counted(64, 64, 3, Some(1.0)), &wanted).unwrap();
        assert_eq!(video.selection.indices, [0, 0, 1, 2, 2]);
        assert_eq!(video.decoded_indices(), [0, 1, 2]);
        assert_eq!(video.notices, [VideoNotice::FramesRepeated { wanted: 5, available: 3 }]);
    }

    #[test]
    fn a_range_keeps_indices_and_times_of_the_source() {
        let times: Vec<f64> = (0..20).map(|i| f64::from(i * i) / 10.0).collect();
        let wanted = VideoRef { start: Some(2.5), end: Some(12.2), num_frames: Some(3), ..none() };
        let video = plan(&SourceClip::timed(640, 480, &times, Some(0.5)), &wanted).unwrap();
        assert_eq!(video.selection.indices, [5, 8, 11]);
        assert_eq!(video.selection.seconds, [2.5, 6.4, 12.1]);
        assert_eq!(video.frames.iter().map(|f| f.seconds).collect::<Vec<_>>(), [4.45, 12.1]);
    }

    #[test]
    fn lists_are_used_whole() {
        let list = SourceClip::list(640, 480, 5);
        let rates = VideoRef { sample_fps: Some(0.5), raw_fps: Some(25.0), ..none() };
        let video = plan(&list, &rates).unwrap();
        assert_eq!(video.selection.indices, [0, 1, 2, 3, 4]);
        assert_eq!(video.selection.seconds, [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!((video.selection.source_fps, video.notices.len()), (0.5, 0));
        let cases = [
            (VideoRef { fps: Some(2.0), ..none() }, "`fps` of the video is 2"),
            (VideoRef { num_frames: Some(2), ..none() }, "`num_frames` of the video is 2"),
            (VideoRef { end: Some(2.0), ..none() }, "`video_end` of the video is 2"),
        ];
        for (wanted, expected) in cases {
            for processor in [published(), utils()] {
                let error = processor.plan(&list, &wanted).unwrap_err().to_string();
                assert!(error.contains(expected) && error.contains("all frames"), "{error}");
            }
        }
    }

    #[test]
    fn a_checkpoint_may_turn_sampling_off() {
        let config = VideoProcessorConfig { do_sample_frames: false, ..Default::default() };
        let processor = VideoProcessor::new(config);
        let source = SourceClip::counted(640, 480, 33, Some(30.0));
        assert_eq!(processor.plan(&source, &none()).unwrap().selection.indices.len(), 33);
        let wanted = VideoRef { fps: Some(1.0), ..none() };
        let error = processor.plan(&source, &wanted).unwrap_err().to_string();
        assert!(error.contains("`do_sample_frames` of the checkpoint is false"), "{error}");
        let long = SourceClip::counted(640, 480, 65_537, Some(30.0));
        assert!(matches!(
            processor.plan(&long, &none()),
            Err(VideoProcessError::TooManyFrames { frames: 65_537, limit: MOST_FRAMES })
        ));
    }

    #[test]
    fn too_few_frames_for_qwen_vl_utils() {
        let source = |count| SourceClip::counted(640, 480, count, Some(30.0));
        let error = |count, wanted: VideoRef| utils().plan(&source(count), &wanted).unwrap_err();
        assert!(matches!(error(1, none()), VideoProcessError::TooFewFrames { frames: 0, .. }));
        let text = error(4, VideoRef { num_frames: Some(6), ..none() }).to_string();
        assert!(
            text.contains("`num_frames` of the video is 6, but it must be at most 4"),
            "{text}"
        );
        let text = error(90, VideoRef { start: Some(3.0), ..none() }).to_string();
        assert!(text.contains("No frame of the video lies between 3 s"), "{text}");
    }
}

mod size {
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
}

mod clip {
    use super::*;

    fn frame(seed: u8) -> RgbImage {
        let data = (0..40 * 50 * 3).map(|i| seed.wrapping_mul(37) ^ (i % 251) as u8).collect();
        RgbImage::new(50, 40, data).unwrap()
    }

    fn planned(count: usize, num_frames: u64) -> PlannedVideo {
        let wanted = VideoRef { num_frames: Some(num_frames), ..none() };
        plan(&SourceClip::counted(50, 40, count, Some(1.0)), &wanted).unwrap()
    }

    #[test]
    fn frames_come_in_one_by_one() {
        let video = planned(9, 3);
        let mut clip = ClipBuilder::new(&video);
        let mut asked = Vec::new();
        while let Some(index) = clip.next_index() {
            asked.push(index);
            clip.push(&frame(index as u8)).unwrap();
        }
        assert_eq!(asked, [0, 4, 8]);
        let error = clip.push(&frame(0)).unwrap_err();
        assert!(matches!(error, VideoProcessError::FrameCount { expected: 3, found: 4 }));
        let packed = clip.finish().unwrap();
        assert_eq!(packed.grid(), video.grid);
        let table = video.normalization.table();
        let whole = patchify(packed.frames(), &video.layout, &table).unwrap();
        assert_eq!(packed.patches(0..video.grid.t), whole.pixel_values);
    }

    #[test]
    fn a_repeated_frame_is_pushed_once() {
        let video = planned(2, 5);
        assert_eq!(video.selection.indices, [0, 0, 0, 1, 1]);
        let mut clip = ClipBuilder::new(&video);
        clip.push(&frame(1)).unwrap();
        assert_eq!(clip.next_index(), Some(1));
        clip.push(&frame(2)).unwrap();
        assert_eq!(clip.next_index(), None);
        let packed = clip.finish().unwrap();
        let same: Vec<bool> = packed.frames().windows(2).map(|pair| pair[0] == pair[1]).collect();
        assert_eq!(same, [true, true, false, true]);
    }

    #[test]
    fn wrong_frames_are_refused() {
        let video = planned(9, 3);
        let mut clip = ClipBuilder::new(&video);
        clip.push(&frame(0)).unwrap();
        let other = RgbImage::new(40, 50, vec![0; 6000]).unwrap();
        let text = clip.push(&other).unwrap_err().to_string();
        assert_eq!(
            text,
            "Frame 4 of the video is 40x50 pixels, but the video was announced as 50x40."
        );
        let short = RgbImage { width: 50, height: 40, data: vec![0; 7] };
        assert!(matches!(
            clip.push(&short),
            Err(VideoProcessError::Image(ImageError::DataLength { actual: 7, .. }))
        ));
        let text = clip.finish().unwrap_err().to_string();
        assert_eq!(text, "The clip needs 3 decoded frames, but 1 came.");
    }
}

mod properties {
    use super::*;

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            self.0 >> 33
        }

        fn below(&mut self, limit: u64) -> u64 {
            self.next() % limit
        }

        fn maybe<T>(&mut self, one_in: u64, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
            (self.below(one_in) == 0).then(|| value(self))
        }
    }

    fn wanted(random: &mut Random) -> VideoRef {
        VideoRef {
            fps: random.maybe(3, |r| r.below(1000) as f64 / 37.0),
            num_frames: random.maybe(5, |r| r.below(900)),
            min_frames: random.maybe(8, |r| r.below(20)),
            max_frames: random.maybe(8, |r| r.below(1000)),
            start: random.maybe(6, |r| r.below(100) as f64 / 7.0),
            end: random.maybe(6, |r| r.below(4000) as f64 / 7.0),
            min_pixels: random.maybe(8, |r| r.below(1 << 18)),
            max_pixels: random.maybe(8, |r| r.below(1 << 22)),
            total_pixels: random.maybe(8, |r| r.below(1 << 28)),
            resized: random.maybe(10, |r| (r.below(3000), r.below(3000))),
            ..none()
        }
    }

    fn check(video: &PlannedVideo, count: usize) {
        let FrameSelection { indices, seconds, .. } = &video.selection;
        assert!(indices.is_sorted() && seconds.is_sorted());
        assert!(indices.iter().all(|&index| index < count));
        assert_eq!(indices.len(), seconds.len());
        assert_eq!(video.grid.t, indices.len().div_ceil(2));
        assert_eq!(video.frames.len(), video.grid.t);
        let sides = [video.resized_height, video.resized_width];
        assert!(sides.iter().all(|side| *side > 0 && side.is_multiple_of(32)), "{sides:?}");
        assert_eq!(video.tokens_per_frame, sides[0] * sides[1] / 1024);
        assert!(video.frames.iter().all(|frame| frame.seconds.is_finite()));
        let repeats = video.notices.iter().any(|n| matches!(n, VideoNotice::FramesRepeated { .. }));
        assert_eq!(video.decoded_indices().len() == indices.len(), !repeats);
    }

    #[test]
    fn any_request_is_planned_or_refused() {
        let mut random = Random(5);
        let mut planned = [0, 0];
        for _ in 0..6000 {
            let longest = if random.below(2) == 0 { 40 } else { 20_000 };
            let count = random.below(longest) as usize;
            let step = 1.0 / (1.0 + random.below(60) as f64);
            let uneven = random.below(2) as f64;
            let time = |i| step * (f64::from(i) + uneven * (f64::from(i) * 1.7).sin() * 0.5);
            let times: Vec<f64> = (0..count as u32).map(time).collect();
            let (width, height) = (random.below(4000) as u32, random.below(3000) as u32);
            let source = match random.below(3) {
                0 => SourceClip::timed(width, height, &times, random.maybe(2, |_| 1.0 / step)),
                _ => SourceClip::counted(width, height, count, Some(1.0 / step)),
            };
            let wanted = wanted(&mut random);
            for (i, processor) in [published(), utils()].iter().enumerate() {
                match processor.plan(&source, &wanted) {
                    Ok(video) => {
                        check(&video, count);
                        planned[i] += 1;
                    }
                    Err(error) => assert!(error.to_string().ends_with('.'), "{error}"),
                }
            }
        }
        assert!(planned.iter().all(|count| *count > 1000), "{planned:?}");
    }

    /// Within the budget, up to the rounding of an odd number of frames and of sides that may not fall below one token.
    #[test]
    fn clips_stay_within_their_budget() {
        let mut random = Random(11);
        for _ in 0..20_000 {
            let clip = ClipSize {
                frames: 2 + random.below(1000) as usize,
                height: 32 + random.below(3000) as usize,
                width: 32 + random.below(4000) as usize,
            };
            let max = 1 << (16 + random.below(12));
            let Ok((height, width)) = smart_resize_clip(clip, 2, 32, (4096, max)) else { continue };
            let even = (clip.frames as f64 / 2.0).round_ties_even() as usize * 2;
            let slack = even.max(clip.frames) as f64 / even.min(clip.frames) as f64;
            let area = (even * height * width) as f64;
            assert!(area <= max as f64 * slack || height == 32 || width == 32, "{clip:?} {max}");
        }
    }
}
