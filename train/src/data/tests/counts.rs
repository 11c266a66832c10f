//! What a check counts.

use super::*;

#[test]
fn a_check_counts_everything() {
    let (folder, processor) = (Folder::new(), processor());
    let good =
        |text: &str| json!({"image": "img/a.png", "conversations": [human("<image>Q"), gpt(text)]});
    let rows = [
        good("A"),
        json!({"image": "img/none.png", "conversations": [human("<image>Q"), gpt("A")]}),
        good("A"),
        json!({"conversations": [human("<image>Q"), gpt("A")]}),
        json!({"conversations": [human("Q")]}),
        good(&"long ".repeat(300)),
        json!({"channel": "other", "conversations": [human("Q"), gpt("B")]}),
    ];
    let set = read(folder.rows(&rows)).unwrap();
    let limits = Limits { too_long: TooLong::Drop, ..Limits::sequence(100) };
    let preparer = Preparer::new(&processor, limits);
    let mut steps = Vec::new();
    let sets = [set];
    let report =
        check(&sets, &preparer, CheckOptions::default(), &mut |done, all| steps.push((done, all)));
    assert_eq!(steps, [(7, 7)]);
    assert_eq!((report.rows, report.good, report.samples, report.dropped), (7, 4, 3, 1));
    assert!(!report.is_good());
    let kinds: Vec<_> = report.problems.iter().map(|p| (p.place.line, p.kind)).collect();
    assert_eq!(kinds, [(2, "missing_file"), (4, "placeholders"), (5, "no_target")]);
    assert_eq!((report.count("missing_file"), report.count("json")), (1, 0));
    assert_eq!(report.duplicates.len(), 1);
    assert_eq!((report.duplicates[0].place.line, report.duplicates[0].first.line), (3, 1));
    assert_eq!((report.long[0].place.line, report.long[0].dropped), (6, true));
    assert_eq!((report.channels["data"].samples, report.channels["other"].samples), (2, 1));
    assert_eq!(report.channels["data"].vision_tokens, 12);
    assert_eq!((report.tokens.count, report.tokens.buckets.values().sum::<usize>()), (3, 3));
    let short = CheckOptions { most_listed: 1, ..CheckOptions::default() };
    let short = check(&sets, &preparer, short, &mut |_, _| {});
    assert_eq!((short.problems.len(), short.problem_counts.len()), (1, 3));
    let text = serde_json::to_value(&report).unwrap();
    assert!(text["problems"][0]["place"].as_str().unwrap().ends_with("data.jsonl, line 2"));
    assert_eq!(sets[0].row_at_line(6), Some(5));
}

#[test]
fn damage_behind_a_header_is_found_by_decoding() {
    let (folder, processor) = (Folder::new(), processor());
    let whole = fs::read(folder.path("img/a.png")).unwrap();
    fs::write(folder.path("img/cut.png"), &whole[..whole.len() - 30]).unwrap();
    let row = |name: &str| json!({"image": name, "conversations": [human("<image>Q"), gpt("A")]});
    let rows: Vec<Json> = (0..20).map(|at| row(["img/a.png", "img/cut.png"][at / 19])).collect();
    let sets = [read(folder.rows(&rows)).unwrap()];
    let preparer = Preparer::new(&processor, Limits::sequence(4096));
    let mut steps = Vec::new();
    for (decode, problems) in [(false, 0), (true, 1)] {
        let options = CheckOptions { decode, ..CheckOptions::default() };
        let report = check(&sets, &preparer, options, &mut |done, _| steps.push(done));
        assert_eq!((report.rows, report.problems.len()), (20, problems), "{:?}", report.problems);
        assert!(
            report.problems.iter().all(|p| p.place.line == 20 && p.message.contains("cut.png"))
        );
    }
    assert_eq!(steps, [20, 16, 20], "decoding is told more often");
}

#[test]
fn of_a_drawn_set_the_first_rows_are_looked_at() {
    let questions = crate::synth::Questions::one_of(&[crate::synth::Channel::Color]);
    let options = SynthOptions { rows: 1_000_000, seed: 3, mixture: Default::default(), questions };
    let (sets, processor) = ([drawn(options)], processor());
    let preparer = Preparer::new(&processor, Limits::sequence(4096));
    let options = CheckOptions { most_drawn: 5, ..CheckOptions::default() };
    let report = check(&sets, &preparer, options, &mut |_, _| {});
    assert_eq!((report.rows, report.good, report.not_drawn), (5, 5, 999_995));
}
