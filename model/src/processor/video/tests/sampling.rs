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
    assert!(text.contains("`num_frames` of the video is 6, but it must be at most 4"), "{text}");
    let text = error(90, VideoRef { start: Some(3.0), ..none() }).to_string();
    assert!(text.contains("No frame of the video lies between 3 s"), "{text}");
}
