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
    assert_eq!(text, "Frame 4 of the video is 40x50 pixels, but the video was announced as 50x40.");
    let short = RgbImage { width: 50, height: 40, data: vec![0; 7] };
    assert!(matches!(
        clip.push(&short),
        Err(VideoProcessError::Image(ImageError::DataLength { actual: 7, .. }))
    ));
    let text = clip.finish().unwrap_err().to_string();
    assert_eq!(text, "The clip needs 3 decoded frames, but 1 came.");
}
