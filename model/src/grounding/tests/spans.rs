use crate::grounding::{SpanReason, Spans, parse_spans};

/// The spans of an answer without problems that is whole.
fn clean(text: &str) -> Vec<(f64, f64)> {
    let found = parse_spans(text);
    assert_eq!((&found.problems[..], found.truncated), (&[][..], false), "{text}");
    found.spans.iter().map(|span| (span.start, span.end)).collect()
}

fn labelled(text: &str) -> Vec<(f64, f64, String)> {
    let found = parse_spans(text);
    assert_eq!((&found.problems[..], found.truncated), (&[][..], false), "{text}");
    let label = |label: Option<String>| label.unwrap_or_default();
    found.spans.into_iter().map(|span| (span.start, span.end, label(span.label))).collect()
}

#[test]
fn reads_spans_in_prose() {
    let cases: [(&str, &[(f64, f64)]); 36] = [
        ("00:12 - 00:15", &[(12.0, 15.0)]),
        ("The dog jumps from 00:12 to 00:15.", &[(12.0, 15.0)]),
        ("from 1:02:03 until 1:02:10.5, then", &[(3723.0, 3730.5)]),
        ("[00:12–00:15]", &[(12.0, 15.0)]),
        ("**00:12** — **01:15**", &[(12.0, 75.0)]),
        ("(00:12-00:15) and (120:15 ~ 121:00)", &[(12.0, 15.0), (7215.0, 7260.0)]),
        ("12:34.56s to 12:35.00s", &[(754.56, 755.0)]),
        ("00:00:12,500 --> 00:00:14,000\nHello", &[(12.5, 14.0)]),
        ("from 12.5s to 14 seconds", &[(12.5, 14.0)]),
        ("12.5-14.0 seconds", &[(12.5, 14.0)]),
        ("The given query happens in 12.5 - 14.0 seconds.", &[(12.5, 14.0)]),
        ("between 12.5 and 14 seconds", &[(12.5, 14.0)]),
        ("Between about 12 seconds and around 14 sec.", &[(12.0, 14.0)]),
        ("It starts at 12.5s and ends at 14.0s.", &[(12.5, 14.0)]),
        ("<12.5 seconds> - <14.0 seconds>", &[(12.5, 14.0)]),
        ("from <12.5 seconds> to <14.0 seconds>", &[(12.5, 14.0)]),
        ("<12.5 seconds>", &[(12.5, 12.5)]),
        ("<28.2 seconds> ... <195.2 seconds> ...", &[(28.2, 28.2), (195.2, 195.2)]),
        ("Time range: 28.2s to 35.5s (since", &[(28.2, 35.5)]),
        ("It falls at 5 seconds.", &[(5.0, 5.0)]),
        ("at around the 5 second mark", &[(5.0, 5.0)]),
        ("about 10 seconds into the video", &[(10.0, 10.0)]),
        ("at 1 minute 30 seconds", &[(90.0, 90.0)]),
        ("from 1m30s to 1h2m3.5s", &[(90.0, 3723.5)]),
        ("2-3 minutes", &[(120.0, 180.0)]),
        ("t=12.5s", &[(12.5, 12.5)]),
        ("It is seen at 00:07.", &[(7.0, 7.0)]),
        ("00:07", &[(7.0, 7.0)]),
        ("00:12到00:15", &[(12.0, 15.0)]),
        ("从12.5秒到14秒", &[(12.5, 14.0)]),
        ("第5秒", &[(5.0, 5.0)]),
        ("00:05, 00:09 and 01:00", &[(5.0, 5.0), (9.0, 9.0), (60.0, 60.0)]),
        ("00:12 - 00:12", &[(12.0, 12.0)]),
        ("0:12 to 15s", &[(12.0, 15.0)]),
        ("(12.5s)", &[(12.5, 12.5)]),
        ("From 0 to 2.0 s", &[(0.0, 2.0)]),
    ];
    for (text, expected) in cases {
        assert_eq!(clean(text), expected, "{text}");
    }
}

#[test]
fn no_false_hits() {
    for text in [
        "There are 12 to 15 people and 3.5 apples.",
        "ratio 3:2, 16:9, 4:3",
        "1:2:3",
        "12:60 and 00:99 and 1:5",
        "[12, 34, 560, 780]",
        r#"{"bbox_2d": [12, 34, 560, 780], "label": "dog"}"#,
        "It lasts 12 seconds.",
        "for 5-10 seconds",
        "The video is 5 seconds long.",
        "a 5-second clip",
        "5 seconds later",
        "a duration of 2:30",
        "the video lasts for about 02:30",
        "The clock shows 10:30 am, later 11:15 p.m.",
        "2:30 minutes",
        "2024-01-31 10:30:45",
        "2024-01-31T10:30:45",
        "1.2.3.4:8080",
        "port 192.168.0.1:8080",
        "de:ad:be:ef:00:11",
        "$12:34",
        "at 5 m, at 5 metres, at 30 m to 50 m",
        "at 5 stones",
        "at -5 seconds",
        "abc12:34",
        "12:34abc",
        "12:34:56:78",
        "1234567890123 s at 99999999999999999999 seconds",
        "10% to 20%",
        "It takes 5 seconds.",
        "within 5 seconds",
        "2-3",
        "start: yes, end: no",
        "",
    ] {
        assert_eq!(parse_spans(text), Spans::default(), "{text}");
    }
}

#[test]
fn reads_spans_in_json() {
    type Labelled<'a> = (&'a str, &'a [(f64, f64, &'a str)]);
    let cases: [Labelled; 14] = [
        (
            "```json\n[{\"start\": \"00:12\", \"end\": \"00:15\", \"event\": \"a jump\"}, \
             {\"start\": \"00:20.5\", \"end\": \"01:00:00\", \"event\": \"at 5 seconds it ends\"}]\n```",
            &[(12.0, 15.0, "a jump"), (20.5, 3600.0, "at 5 seconds it ends")],
        ),
        (r#"{"start_time": 12.5, "end_time": 14, "description": "x"}"#, &[(12.5, 14.0, "x")]),
        (r#"{"startTime": "12.5s", "endTime": "<14.0 seconds>"}"#, &[(12.5, 14.0, "")]),
        (r#"{"start_seconds": "12.5", "end_sec": "14"}"#, &[(12.5, 14.0, "")]),
        (r#"{"timestamp": [12.5, 14.0]}"#, &[(12.5, 14.0, "")]),
        (
            r#"{"timestamps": [[1, 2], ["00:03", "00:04"]], "label": "x"}"#,
            &[(1.0, 2.0, "x"), (3.0, 4.0, "x")],
        ),
        (r#"{"time": "00:12 - 00:15", "event": "x"}"#, &[(12.0, 15.0, "x")]),
        (r#"{"timestamp": 5, "event": "x"}"#, &[(5.0, 5.0, "x")]),
        (r#"{"timestamp": "5.5", "event": "x"}"#, &[(5.5, 5.5, "x")]),
        (
            r#"{"query": "q", "relevant_windows": [["00:01", "00:02"], [5, 6]]}"#,
            &[(1.0, 2.0, "q"), (5.0, 6.0, "q")],
        ),
        (r#"[["00:12", "00:15"], ["00:20", "00:25"]]"#, &[(12.0, 15.0, ""), (20.0, 25.0, "")]),
        (r#"{"time": {"start": 1, "end": 2}}"#, &[(1.0, 2.0, "")]),
        (r#"{'events': [{'start': '0:01', 'end': '0:02', 'label': 'x'},]}"#, &[(1.0, 2.0, "x")]),
        (r#"{"time": "00:05", "bbox_2d": [1, 2, 3, 4], "label": "dog"}"#, &[(5.0, 5.0, "dog")]),
    ];
    for (text, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|(s, e, l)| (*s, *e, l.to_string())).collect();
        assert_eq!(labelled(text), expected, "{text}");
    }
    let mixed = "At 00:01 it starts. {\"start\": 2, \"end\": 3} It ends at 4 seconds.";
    assert_eq!(clean(mixed), [(1.0, 1.0), (2.0, 3.0), (4.0, 4.0)]);
    assert_eq!(parse_spans(mixed).spans[1].text_range, 20..42);
}

#[test]
fn lines_that_start_with_a_time_say_what_happens() {
    let text = "Events:\n- **00:00 - 00:04**: A man opens a door.\n2. [00:04-00:09] | He sits\n\
                3) 12.5s: He stands.\nHe leaves at 00:20: the end";
    let label = |s: &str| s.to_owned();
    assert_eq!(
        labelled(text),
        [
            (0.0, 4.0, label("A man opens a door.")),
            (4.0, 9.0, label("He sits")),
            (12.5, 12.5, label("He stands.")),
            (20.0, 20.0, label("")),
        ]
    );
    assert_eq!(&text[parse_spans(text).spans[0].text_range.clone()], "00:00 - 00:04");
}

#[test]
fn tells_what_cannot_be_used() {
    let only = |text: &str| {
        let found = parse_spans(text);
        assert_eq!((found.spans.len(), found.problems.len()), (0, 1), "{text}: {found:?}");
        found.problems[0].clone()
    };
    let reversed = only("It goes from 00:15 to 00:12.");
    assert_eq!(reversed.reason, SpanReason::Reversed { start: 15.0, end: 12.0 });
    assert_eq!(reversed.text_range, 13..27);
    let unreadable = only(r#"{"start": "soon", "end": 5}"#).reason;
    assert_eq!(
        unreadable.to_string(),
        "`start` is \"soon\", which is no time in seconds, mm:ss or hh:mm:ss."
    );
    assert!(matches!(
        only(r#"{"start": null, "end": null}"#).reason,
        SpanReason::Unreadable { .. }
    ));
    assert!(matches!(only(r#"{"start": -1, "end": 2}"#).reason, SpanReason::Unreadable { .. }));
    assert!(matches!(only(r#"{"start": 1e999, "end": 2}"#).reason, SpanReason::Unreadable { .. }));
    assert!(matches!(only(r#"{"timestamp": "3 bars"}"#).reason, SpanReason::Unreadable { .. }));
    assert_eq!(only(r#"{"start": 5}"#).reason, SpanReason::HalfOpen { key: "start".into() });
    assert!(matches!(only(r#"{"start": 5, "end": x}"#).reason, SpanReason::Malformed { .. }));
}

#[test]
fn keeps_whole_spans_of_a_cut_answer() {
    let text = r#"[{"start": "00:12", "end": "00:15"}, {"start": "00:20", "end": "00:2"#;
    let found = parse_spans(text);
    assert_eq!(found.spans.len(), 1);
    assert_eq!(found.problems[0].reason, SpanReason::Truncated);
    assert_eq!(&text[found.problems[0].text_range.clone()], &text[37..]);
    assert!(found.truncated);
}
