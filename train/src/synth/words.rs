//! English: numbers, articles, lists, and phrasings with alternatives.

use super::rng::Dice;

/// 0 to 12 in words, digits above.
pub(super) fn number(count: usize) -> String {
    const WORDS: [&str; 9] = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"];
    WORDS.get(count).map_or_else(|| count.to_string(), |word| (*word).to_owned())
}

/// "a red circle", "an orange star".
pub(super) fn article(name: &str) -> String {
    let vowel = name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {name}", if vowel { "an" } else { "a" })
}

/// "a", "a and b", "a, b and c".
pub(super) fn list(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The first letter as a capital.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Values of the slots of a phrasing.
pub(super) type Slots<'a> = &'a [(&'a str, &'a str)];

/// A question or command from one of `patterns`.
///
/// `[a|b|c]` is one of the alternatives (they nest, and may be empty), `{x}` the value of a slot. `{pic}` is a word for a picture and
/// `{col}` one of the two spellings. Some texts lose their capital or their last mark, as people's typing does, and some get a few
/// words in front or behind.
pub(super) fn phrase(dice: &mut Dice, patterns: &[&str], slots: Slots<'_>) -> String {
    let picture = ["picture", "image", "picture", "image", "photo"][dice.below(5)];
    let colour = ["color", "colour"][dice.below(2)];
    let mut all = vec![("pic", picture), ("col", colour)];
    all.extend_from_slice(slots);
    let pattern = *dice.pick(patterns);
    let text = fill(&expand(dice, pattern), &all);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = [" ?", " .", " ,"].iter().fold(text, |text, end| text.replace(end, &end[1..]));
    typed(dice, capital(&text))
}

/// Chooses alternatives from left to right.
fn expand(dice: &mut Dice, pattern: &str) -> String {
    let Some(open) = pattern.find('[') else { return pattern.to_owned() };
    let (choices, end) = alternatives(&pattern[open + 1..]);
    let choice = *dice.pick(&choices);
    let chosen = expand(dice, choice);
    let rest = expand(dice, &pattern[open + 1 + end..]);
    format!("{}{chosen}{rest}", &pattern[..open])
}

/// The parts up to the closing bracket, and where the text goes on behind it.
fn alternatives(text: &str) -> (Vec<&str>, usize) {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (place, character) in text.char_indices() {
        match character {
            '[' => depth += 1,
            ']' if depth == 0 => {
                parts.push(&text[start..place]);
                return (parts, place + 1);
            }
            ']' => depth -= 1,
            '|' if depth == 0 => {
                parts.push(&text[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (parts, text.len())
}

fn fill(text: &str, slots: Slots<'_>) -> String {
    slots
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// What happens to a sentence on its way through a keyboard.
fn typed(dice: &mut Dice, text: String) -> String {
    let text = match dice.weighted(&[0.78, 0.1, 0.12]) {
        0 => text,
        1 => lower_first(&text),
        _ => text.trim_end_matches(['.', '?']).to_owned(),
    };
    match dice.weighted(&[0.9, 0.05, 0.05]) {
        0 => text,
        1 => {
            let front = ["Please answer: ", "Question: ", "Look at this. ", "Hello! ", "Hi, "];
            format!("{}{text}", dice.pick(&front))
        }
        _ => {
            let behind =
                [" Answer in one sentence.", " Answer briefly.", " Please.", " Thank you."];
            format!("{text}{}", dice.pick(&behind))
        }
    }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_articles() {
        let parts = ["x", "y", "z"].map(String::from);
        assert_eq!(list(&parts[..1]), "x");
        assert_eq!(list(&parts[..2]), "x and y");
        assert_eq!(list(&parts), "x, y and z");
        assert_eq!(article("orange star"), "an orange star");
        assert_eq!((number(0), number(4), number(40)), ("no".into(), "four".into(), "40".into()));
    }

    #[test]
    fn alternatives_nest_and_may_be_empty() {
        let mut dice = Dice::new(4, 1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            seen.insert(expand(&mut dice, "a[b|c[d|]|]e[f|g]"));
        }
        let all = ["abef", "abeg", "acdef", "acdeg", "acef", "aceg", "aef", "aeg"];
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), all);
        assert_eq!(fill("{x} and {y}", &[("x", "1"), ("y", "2")]), "1 and 2");
    }
}
