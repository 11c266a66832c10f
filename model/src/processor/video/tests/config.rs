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
        (r#"{"max_frames": 100000}"#, "`max_frames` is 100000, but it must be between 1 and 65536"),
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
    let text = |edge: u32| format!(r#"{{"size": {{"shortest_edge": 1, "longest_edge": {edge}}}}}"#);
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
