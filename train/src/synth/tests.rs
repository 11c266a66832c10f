use super::*;

/// FNV-1a of everything in a row.
fn hash(row: &SynthRow) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for media in &row.media {
        match media {
            SynthMedia::Picture(drawn) => eat(&drawn.rgb),
            SynthMedia::Film { frames, .. } => frames.iter().for_each(|frame| eat(&frame.rgb)),
        }
    }
    eat(format!("{:?}", row.turns).as_bytes());
    hash
}

fn named() -> impl FnMut(&Drawn) -> Result<String, std::convert::Infallible> {
    let mut count = 0;
    move |drawn| {
        count += 1;
        Ok(format!("{count}: {}x{}", drawn.width, drawn.height))
    }
}

#[test]
fn a_row_follows_from_seed_and_index() {
    let mixture = Mixture::default();
    let hashes = |seed| (0..20).map(|index| hash(&row(seed, index, &mixture))).collect::<Vec<_>>();
    let first = hashes(1);
    assert_eq!(first, hashes(1));
    assert!(hashes(2).iter().all(|other| !first.contains(other)));
    let mut distinct = first.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 20);
}

#[test]
fn questions_do_not_depend_on_drawing() {
    let mixture = Mixture::default();
    for index in 0..30 {
        assert_eq!(row(4, index, &mixture).turns, turns(4, index, &mixture));
    }
}

#[test]
fn a_row_as_json() {
    let mixture =
        Mixture { scenes: 0.0, strings: 0.0, pairs: 1.0, films: 0.0, ..Mixture::default() };
    let Ok(json) = row(1, 0, &mixture).to_json(&mut named());
    assert_eq!(json.to_string(), include_str!("row.json").trim_end());
    let mixture = Mixture { pairs: 0.0, films: 1.0, ..mixture };
    let Ok(json) = row(1, 0, &mixture).to_json(&mut named());
    let video = &json["messages"][0]["content"][0];
    assert_eq!((&video["type"], &video["sample_fps"]), (&"video".into(), &4.0.into()));
    assert!(video["video"].as_array().is_some_and(|frames| (8..=24).contains(&frames.len())));
    assert_eq!(json["messages"][1]["role"], "assistant");
}

#[test]
fn evaluation_asks_one_question_of_the_channel() {
    for channel in Channel::ALL {
        assert_eq!(Channel::from_name(channel.name()), Some(channel));
        for index in 0..20 {
            let row = eval_row(9, index, channel, &Bounds::default());
            assert_eq!(row.turns.len(), 1);
            assert_eq!(row.turns[0].channel, channel.name());
            assert_eq!(row.channel(), channel.name());
            let media = if channel == Channel::Compare { 2 } else { 1 };
            assert_eq!(row.media.len(), media, "{channel:?}");
            let interval = row.turns[0].interval;
            assert_eq!(interval.is_some(), channel == Channel::Interval, "{channel:?}");
        }
    }
    assert_eq!(Channel::from_name("colour"), None);
}

#[test]
fn questions_of_one_channel_do_not_answer_each_other() {
    let bounds = Bounds { objects: 3, crowded: true, ..Bounds::default() };
    let mut asked = 0;
    for channel in [Channel::Relation, Channel::Shape, Channel::Exists, Channel::Box] {
        for index in 0..100 {
            let row = channel_row(14, index, channel, 8, &bounds);
            asked += row.turns.len();
            assert!((1..=8).contains(&row.turns.len()) && row.channel() == channel.name());
            for (place, turn) in row.turns.iter().enumerate() {
                let later = &row.turns[place + 1..];
                assert!(later.iter().all(|other| other.answer != turn.answer));
                let pair = turn.pair.as_ref();
                assert_eq!(pair.is_some(), channel == Channel::Relation);
                assert!(pair.is_none() || later.iter().all(|other| other.pair.as_ref() != pair));
            }
        }
    }
    assert!(asked > 2000, "{asked}");
}

#[test]
fn conversations_have_several_different_questions() {
    let mut lengths = [0; 7];
    for index in 0..1000 {
        let turns = turns(5, index, &Mixture::default());
        lengths[turns.len()] += 1;
        for (place, turn) in turns.iter().enumerate() {
            assert!(turns[place + 1..].iter().all(|other| other.answer != turn.answer));
        }
    }
    assert_eq!(lengths[0], 0);
    assert!(lengths[3..].iter().sum::<usize>() > 850, "{lengths:?}");
}

#[test]
fn a_mixture_is_kept() {
    let mixture =
        Mixture { scenes: 1.0, strings: 0.0, pairs: 0.0, films: 3.0, ..Mixture::default() };
    let film = |index: &u64| {
        let mut dice = Dice::new(6, *index);
        matches!(Subject::new(&mut dice, &mixture), Subject::Film(_))
    };
    let films = (0..1000).filter(film).count();
    assert!((700..800).contains(&films), "{films}");
}
