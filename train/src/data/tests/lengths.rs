//! What is too long, and how large pictures and films become.

use super::*;

/// One picture of 12 x 12 tokens in a conversation, of which `words` are text.
fn long_sample(folder: &Folder, words: usize) -> Sample {
    image::RgbImage::new(384, 384).save(folder.dir.path().join("big.png")).unwrap();
    folder.sample(&json!({"image": "big.png", "conversations": [human("<image>Q"), gpt(&"a ".repeat(words))]}))
}

#[test]
fn long_samples_are_refused_dropped_shrunk_or_trimmed() {
    let (folder, processor) = (Folder::new(), processor());
    let sample = long_sample(&folder, 40);
    let measure = |sequence, too_long| {
        let limits = Limits { too_long, ..Limits::sequence(sequence) };
        Preparer::new(&processor, limits).measure(&sample)
    };
    let whole = measure(4096, TooLong::Error).unwrap();
    assert_eq!((whole.vision_tokens, whole.patches, whole.dropped), (144, 576, false));
    let text = whole.tokens - 144;
    let error = measure(whole.tokens - 1, TooLong::Error).unwrap_err().to_string();
    let expected = format!(
        "The row has {} tokens, 144 of them of pictures and videos, but the limit is {}.",
        whole.tokens,
        whole.tokens - 1
    );
    assert!(error.ends_with(&expected), "{error}");
    assert_eq!(measure(whole.tokens, TooLong::Error).unwrap(), whole);
    let dropped = measure(whole.tokens - 1, TooLong::Drop).unwrap();
    assert!(dropped.dropped);
    let shrunk = measure(text + 100, TooLong::Shrink).unwrap();
    assert_eq!(
        (shrunk.vision_tokens, shrunk.tokens, shrunk.targets),
        (100, text + 100, whole.targets)
    );
    assert_eq!(shrunk.notes, [Note::Shrunk { from: 144, to: 100 }]);
    let least = measure(text + 1, TooLong::Shrink).unwrap();
    assert_eq!(least.vision_tokens, 1);
    let error = measure(text, TooLong::Shrink).unwrap_err().to_string();
    assert!(error.contains("which its text alone exceeds"), "{error}");
    let trimmed = measure(whole.tokens - 10, TooLong::TrimText).unwrap();
    assert_eq!(
        (trimmed.tokens, trimmed.targets, trimmed.vision_tokens),
        (whole.tokens - 10, whole.targets - 10, 144)
    );
    let error = measure(100, TooLong::TrimText).unwrap_err().to_string();
    assert!(error.contains("a picture or video stands where the text would be cut"), "{error}");
    let error = measure(whole.tokens - whole.targets, TooLong::TrimText).unwrap_err().to_string();
    assert!(error.contains("no token that is learned would be left"), "{error}");
}

#[test]
fn rows_are_decoded_as_they_were_measured() {
    let (folder, processor) = (Folder::new(), processor());
    let sample = long_sample(&folder, 40);
    for (sequence, too_long) in
        [(4096, TooLong::Error), (150, TooLong::Shrink), (180, TooLong::TrimText)]
    {
        let limits = Limits { too_long, ..Limits::sequence(sequence) };
        let preparer = Preparer::new(&processor, limits);
        let measured = preparer.measure(&sample).unwrap();
        let Prepared::Row(row) = preparer.prepare(&sample).unwrap() else { panic!("a row") };
        assert_eq!((row.tokens(), row.target_tokens()), (measured.tokens, measured.targets));
        assert_eq!(row.targets.len(), row.inputs.ids.len());
        let patches: usize = row.inputs.images.items.iter().map(|item| item.grid.patches()).sum();
        assert_eq!(patches, measured.patches);
        assert_eq!(row.changes.len(), usize::from(too_long != TooLong::Error));
    }
    let limits = Limits { too_long: TooLong::Drop, ..Limits::sequence(50) };
    let Prepared::Dropped(dropped) = Preparer::new(&processor, limits).prepare(&sample).unwrap()
    else {
        panic!("dropped")
    };
    assert_eq!((dropped.limit, dropped.place), (50, sample.place));
}

#[test]
fn budgets_are_in_tokens() {
    let (folder, processor) = (Folder::new(), processor());
    let measure = |limits: &Limits, sample: &Sample| {
        Preparer::new(&processor, limits.clone()).measure(sample)
    };
    let sample = long_sample(&folder, 4);
    let limits = Limits { image_tokens: Some(30), ..Limits::sequence(4096) };
    assert_eq!(measure(&limits, &sample).unwrap().vision_tokens, 25);
    let frames: Vec<String> = (0..8).map(|k| format!("img/f{k}.png")).collect();
    let row = json!({"videos": [frames], "fps": 2, "messages": [user("<video>Q"), model("A")]});
    let sample = folder.sample(&row);
    let plain = measure(&Limits::sequence(4096), &sample).unwrap();
    assert_eq!((plain.vision_tokens, plain.patches), (16, 64));
    let limits = Limits { video_tokens: Some(4), ..Limits::sequence(4096) };
    assert_eq!(measure(&limits, &sample).unwrap().vision_tokens, 4);
    let limits = Limits { video_tokens: Some(3), ..Limits::sequence(4096) };
    let error = measure(&limits, &sample).unwrap_err();
    assert_eq!(error.problem.kind(), "too_long");
    assert!(
        error
            .to_string()
            .contains("a list of 8 frames has 4 tokens at the least, but the limit is 3"),
        "{error}"
    );
    let limits = Limits { frames: Some(4), ..Limits::sequence(4096) };
    let fewer = measure(&limits, &sample).unwrap();
    assert_eq!(
        (fewer.vision_tokens, &fewer.notes[..]),
        (8, &[Note::Frames { from: 8, to: 4 }][..])
    );
    let pieces = Preparer::new(&processor, limits).rendered(&sample).unwrap();
    let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert!(text.contains("<0.5 seconds>") && text.contains("<2.5 seconds>"), "{text}");
}

#[test]
fn films_are_sampled_within_their_limits() {
    let (folder, processor) = (Folder::new(), processor());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/videos");
    let row = json!({"video": "constant25.mp4", "conversations": [human("<video>\nQ"), gpt("A")]});
    let root = |options: &mut SourceOptions| options.root = Some(fixtures.clone());
    let sample = folder.sample_with(&row, root).unwrap();
    let prepare = |limits: Limits| {
        let preparer = Preparer::new(&processor, limits);
        let measured = preparer.measure(&sample).unwrap();
        let Prepared::Row(row) = preparer.prepare(&sample).unwrap() else { panic!("a row") };
        let grid = row.inputs.videos.items[0].grid;
        assert_eq!((row.tokens(), grid.patches()), (measured.tokens, measured.patches));
        (grid.t, measured.vision_tokens)
    };
    // 12 frames in 0.48 s, of which the checkpoint takes at least 4; two make a temporal patch.
    let fast = Limits { fps: Some(25.0), ..Limits::sequence(4096) };
    let (plain, tokens) = prepare(Limits::sequence(4096));
    assert_eq!(plain, 2);
    assert_eq!(prepare(fast.clone()).0, 6);
    assert_eq!(prepare(Limits { frames: Some(8), ..fast.clone() }).0, 4);
    assert_eq!(prepare(Limits { frames: Some(2), ..fast }).0, 1);
    let budget = Limits { video_tokens: Some(tokens / 2), ..Limits::sequence(4096) };
    let (same, fewer) = prepare(budget);
    assert_eq!(same, plain);
    assert!(fewer <= tokens / 2, "{fewer} {tokens}");
}

#[test]
fn budgets_hold_under_the_rule_of_qwen_vl_utils() {
    use qwen3_vl_model::processor::VideoRules;
    use qwen3_vl_model::processor::video::{BudgetRule, SamplingRule};
    let rules = VideoRules {
        sampling: SamplingRule::QwenVlUtils,
        budget: BudgetRule::QwenVlUtils,
        ..VideoRules::default()
    };
    let (folder, processor) = (Folder::new(), processor().with_video_rules(rules));
    let frames: Vec<String> = (0..8).map(|k| format!("img/f{k}.png")).collect();
    let row = json!({"videos": [frames], "fps": 2, "messages": [user("<video>Q"), model("A")]});
    let sample = folder.sample(&row);
    let tokens = |limits: Limits| {
        Preparer::new(&processor, limits)
            .measure(&sample)
            .unwrap_or_else(|e| panic!("{e}"))
            .vision_tokens
    };
    let whole = tokens(Limits::sequence(4096));
    assert!(whole >= 4 * 128, "every frame of qwen-vl-utils has 128 tokens or more: {whole}");
    let bounded = Limits { video_tokens: Some(100), frames: Some(8), ..Limits::sequence(4096) };
    let bounded = tokens(bounded);
    assert!((50..=100).contains(&bounded), "{bounded}");
    let shrunk = tokens(Limits { too_long: TooLong::Shrink, ..Limits::sequence(200) });
    assert!((4..200).contains(&shrunk), "{shrunk}");
}
