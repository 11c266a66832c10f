use super::*;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
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
