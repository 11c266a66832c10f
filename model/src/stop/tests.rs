use super::*;

fn matcher(stops: &[&str]) -> StopMatcher {
    StopMatcher::new(stops.iter().map(|stop| (*stop).to_owned()).collect()).unwrap()
}

/// Shown text and match for a text pushed in the given pieces.
fn run<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, Option<usize>) {
    let mut matcher = matcher(stops);
    let (mut shown, mut matched) = (String::new(), None);
    for piece in pieces {
        let output = matcher.push(piece);
        shown.push_str(&output.text);
        matched = output.matched;
    }
    shown.push_str(&matcher.finish());
    (shown, matched)
}

#[test]
fn without_stops_everything_passes_at_once() {
    let mut matcher = matcher(&[]);
    assert_eq!(matcher.push("a\n"), StopOutput { text: "a\n".into(), matched: None });
    assert_eq!(matcher.finish(), "");
}

#[test]
fn text_that_may_become_a_stop_is_held_back() {
    let mut matcher = matcher(&["END"]);
    assert_eq!(matcher.push("the E").text, "the ");
    assert_eq!(matcher.push("N").text, "");
    assert_eq!(matcher.push("T E").text, "ENT ");
    assert_eq!(matcher.push("ND and more"), StopOutput { text: String::new(), matched: Some(0) });
    assert_eq!(matcher.push("still"), StopOutput { text: String::new(), matched: Some(0) });
    assert_eq!(matcher.finish(), "");
}

#[test]
fn an_unfinished_stop_is_shown_at_the_end() {
    assert_eq!(run(&["</answer>"], ["x </ans"]), ("x </ans".into(), None));
}

#[test]
fn the_match_that_ends_first_wins() {
    assert_eq!(run(&["abcd", "bc"], ["xabcd"]), ("xa".into(), Some(1)));
    assert_eq!(run(&["bc", "abc"], ["xabcd"]), ("x".into(), Some(1)));
    assert_eq!(run(&["b", "a"], ["xab"]), ("x".into(), Some(1)));
    assert_eq!(run(&["aab"], ["aaaab"]), ("aa".into(), Some(0)));
}

#[test]
fn characters_are_never_cut() {
    assert_eq!(
        run(&["é!", "日本"], ["caf", "é", " 日", "x é", "!"]),
        ("café 日x ".into(), Some(0))
    );
    // 日 and 旦 share their first two bytes.
    assert_eq!(run(&["旦"], ["日", "旦日"]), ("日".into(), Some(0)));
}

/// Every way of cutting short texts gives the result of one push.
#[test]
fn the_result_does_not_depend_on_the_pieces() {
    let stop_lists: [&[&str]; 4] =
        [&["aba"], &["abab", "ba"], &["aab", "ba", "é"], &["bbbb", "ab\u{e9}"]];
    for stops in stop_lists {
        for text in ["aabab", "ababa", "bbaab", "aé", "abé", "bbbé", "bb\u{ea}bbab"] {
            let whole = run(stops, [text]);
            let chars: Vec<String> = text.chars().map(String::from).collect();
            for cuts in 0_u32..1 << (chars.len() - 1) {
                let mut pieces = vec![String::new()];
                for (index, c) in chars.iter().enumerate() {
                    pieces.last_mut().unwrap().push_str(c);
                    if cuts >> index & 1 == 1 {
                        pieces.push(String::new());
                    }
                }
                let cut = run(stops, pieces.iter().map(String::as_str));
                assert_eq!(cut, whole, "{stops:?} in {pieces:?}");
            }
        }
    }
}

#[test]
fn an_empty_stop_is_an_error() {
    let error = StopMatcher::new(vec!["a".into(), String::new()]).unwrap_err();
    assert!(error.to_string().starts_with("Stop string 1 is empty"));
}
