//! How people ask. Every list is one question; answers never depend on the phrasing.

pub(super) const DESCRIBE: &[&str] = &[
    "what [is|is shown|is visible|can be seen] [in|on] [this|the] {pic}?",
    "what [do|can] you see [in this {pic}|in the {pic}|on the {pic}|here|]?",
    "[please |]describe [this|the] {pic}[ briefly| in one sentence| in a few words| please|].",
    "what does [this|the] {pic} [show|depict|contain|display]?",
    "[tell me|say] what [is|you see|you can see] [in|on] [this|the] {pic}.",
    "what's [in|on] [this|the] {pic}?",
    "[give|write|provide|generate|create] a [short |brief |simple |][description|caption] [of|for] [this|the] {pic}.",
    "[caption|summarize|explain] [this|the] {pic}.",
    "[list|name|enumerate] [all |][the |][objects|shapes|things|items] [in|on] [the|this] {pic}[ from left to right|].",
    "[which|what] [objects|shapes|things|figures] [are there|are in the {pic}|are on the {pic}|do you see|can you see|are shown]?",
    "what is [there|this|here|shown|shown here]?",
    "what am I looking at?",
    "[please |]describe what [you see|is there|is shown|can be seen].",
    "[can|could] you [please |]describe [the|this] {pic}[ for me|]?",
    "tell me about [this|the] {pic}.",
    "[which|what] [objects|shapes|things] does [the|this] {pic} [contain|show|have]?",
    "describe the [scene|content|contents][ of the {pic}|].",
    "what is depicted [here|in this {pic}]?",
    "[from left to right, |]what [objects|shapes] are [there|visible]?",
    "I cannot see the {pic}. What [is on it|does it show]?",
    "what can you tell me about [this|the] {pic}?",
];

pub(super) const COLOUR: &[&str] = &[
    "what {col} is the {s}[| in the {pic}| in this {pic}]?",
    "what is the {col} of the {s}[| in the {pic}]?",
    "[which|what] {col} does the {s} have?",
    "which {col} is the {s}[| in this {pic}]?",
    "the {s}: [what|which] {col} is it?",
    "[please |]tell me the {col} of the {s}.",
    "[name|give|identify|state] the {col} of the {s}[| in the {pic}].",
    "what's the {col} of the {s}?",
    "what's the {s}'s {col}?",
    "how is the {s} [colored|coloured]?",
    "in [what|which] {col} is the {s} [drawn|painted|shown]?",
    "[say|tell me] [what|which] {col} the {s} [is|has].",
    "[can|could] you tell me [what|which] {col} the {s} is?",
    "do you know what {col} the {s} is?",
    "what {col} has the {s}?",
    "the {s} in [this|the] {pic} is [what|which] {col}?",
    "{col} of the {s}?",
    "look at the {s}. What {col} is it?",
    "I want to know the {col} of the {s}.",
    "there is [a|one] {s} in the {pic}. What {col} is it?",
];

pub(super) const SHAPE: &[&str] = &[
    "what shape is the {c} [object|thing|figure|item][| in the {pic}]?",
    "what is the {c} [object|thing|figure][| in the {pic}| in this {pic}]?",
    "what is the shape of the {c} [object|thing|figure|one]?",
    "which shape [is {c}|has the {c} object|does the {c} object have]?",
    "what [kind of |type of |sort of |][shape|object|figure] is {c}?",
    "[name|identify] the {c} [shape|object|figure].",
    "[please |]tell me what the {c} [object|shape|thing] is.",
    "what is {c}[| in the {pic}| in this {pic}| here]?",
    "the {c} object: what shape is it?",
    "[which|what] [object|shape|thing] is {c}?",
    "[what|which] form does the {c} [object|thing] have?",
    "say which shape is {c}.",
    "what {c} shape [is there|do you see|is shown|can you see]?",
    "what {c} [object|thing] [is there|do you see|can you see]?",
    "[can|could] you tell me what the {c} object is?",
    "which figure is drawn in {c}?",
    "look at the {c} object. What [is it|shape is it]?",
    "is the {c} object a circle, a square or something else?",
    "give the [shape|name] of the {c} object.",
];

/// Of the only object.
pub(super) const SHAPE_ALONE: &[&str] = &[
    "what shape is [it|the object|the figure|this|shown|this object][| in the {pic}]?",
    "[which|what] shape [is there|do you see|can you see|does the {pic} show|is in the {pic}]?",
    "what is the shape of the object?",
    "[name|identify] the shape.",
    "what kind of [shape|object] is [this|it|shown]?",
    "[please |]tell me what shape the object [is|has].",
    "is it a circle, a square or something else?",
];

pub(super) const COUNT: &[&str] = &[
    "how many {k} are [there|in the {pic}|in this {pic}|on the {pic}|shown|visible]?",
    "how many {k} [do|can] you [see|count|find][| in the {pic}| here]?",
    "[please |]count the {k}[| in the {pic}| in this {pic}].",
    "[what is|what's] the number of {k}[| in the {pic}]?",
    "how many {k} does [the|this] {pic} [have|show|contain]?",
    "[please |]tell me how many {k} [there are|you see|are in the {pic}].",
    "[give|tell] me the number of {k}[| in this {pic}].",
    "[how many|number of] {k}?",
    "[can|could] you count the {k}[ for me| in the {pic}|]?",
    "say how many {k} [there are|you see|you can see].",
    "how many {k} [appear|are visible|can be seen] in [this|the] {pic}?",
    "[are there any {k}, and how many|how many {k} are there in total]?",
    "count how many {k} [there are|you see|are shown].",
    "I want to know how many {k} there are.",
    "find the number of {k}.",
    "the {pic} shows how many {k}?",
];

pub(super) const WHERE: &[&str] = &[
    "where is {x} [relative to|with respect to|compared to|in relation to|as seen from] {y}?",
    "what is the [position|location|place] of {x} [relative to|with respect to|compared to] {y}?",
    "how is {x} [placed|positioned|located] relative to {y}?",
    "[please |]describe the position of {x} relative to {y}.",
    "where does {x} lie relative to {y}?",
    "[tell me|say] where {x} is relative to {y}.",
    "where can [I|you] find {x} relative to {y}?",
    "[looking|seen] from {y}, where is {x}?",
    "what is the [spatial |][relation|relationship] [between|of] {x} and {y}?",
    "{x}: where is it, relative to {y}?",
    "where is {x} [located|placed|positioned] [relative to|compared with|in relation to] {y}?",
    "relative to {y}, where is {x}?",
    "in which direction from {y} is {x}?",
    "what direction is {x} from {y}?",
    "compare the positions of {x} and {y}.",
    "how do {x} and {y} lie to each other?",
];

pub(super) const LEFT_OR_RIGHT: &[&str] = &[
    "is {x} [to the left or to the right|on the left or on the right|left or right|on the left or right] of {y}?",
    "is {x} left or right of {y}?",
    "[on|at] which side of {y} is {x}?",
    "which side of {y} is {x} on?",
    "{x} is on which side of {y}?",
    "is {x} to the right or to the left of {y}?",
    "[tell me|say] whether {x} is left or right of {y}.",
];

pub(super) const ABOVE_OR_BELOW: &[&str] = &[
    "is {x} above or below {y}?",
    "is {x} [higher or lower|lower or higher] than {y}?",
    "is {x} [over or under|under or over|below or above] {y}?",
    "[tell me|say] whether {x} is above or below {y}.",
    "does {x} lie above or below {y}?",
];

/// `{r}` is what is claimed: "to the left of", "above" and so on.
pub(super) const IS_IT: &[&str] = &[
    "is {x} {r} {y}[| in the {pic}| in this {pic}]?",
    "is {x} {r} {y}, yes or no?",
    "[would you say|do you think|is it true|is it right|is it correct] that {x} is {r} {y}?",
    "[can|do] you see {x} {r} {y}?",
    "does {x} lie {r} {y}?",
    "is {x} [located|placed|positioned] {r} {y}?",
    "[true or false|yes or no]: {x} is {r} {y}.",
    "{x} is {r} {y}, [right|correct|isn't it|true]?",
    "[check|tell me|say] whether {x} is {r} {y}.",
    "tell me if {x} is {r} {y}.",
    "in [the|this] {pic}, is {x} {r} {y}?",
];

pub(super) const TO_THE_LEFT: &[&str] =
    &["to the left of", "to the left of", "left of", "on the left side of", "on the left of"];
pub(super) const TO_THE_RIGHT: &[&str] =
    &["to the right of", "to the right of", "right of", "on the right side of", "on the right of"];
pub(super) const ABOVE: &[&str] = &["above", "above", "over", "higher than"];
pub(super) const BELOW: &[&str] = &["below", "below", "under", "lower than", "beneath"];

/// What stands in a direction from the second of two objects.
pub(super) const WHAT_IS: &[&str] = &[
    "what is {r} {y}?",
    "[which|what] [object|shape|thing] is {r} {y}?",
    "what do you see {r} {y}?",
    "name the [object|shape] {r} {y}.",
    "what lies {r} {y}?",
];

pub(super) const BOX_ONE: &[&str] = &[
    "locate {x}[| in the {pic}], report [bbox|bounding box|box] coordinates in [JSON|json] format.",
    "outline the position of {x} and output all the coordinates in [JSON|json] format.",
    "where is {x}? [Give|Return|Report|Output] [the|a|its] [bounding box|box|bbox].",
    "[give|return|output|draw|show|report] [me |][the|a] [bounding box|box|bbox|bbox coordinates] [of|for|around] {x}[| in JSON format| as JSON].",
    "[please |][detect|locate|find|ground] {x}[| in the {pic}| in this {pic}][| and return a bounding box| and give its box].",
    "what are the coordinates of {x}?",
    "[find|locate] {x} and [give|return|report|output] its [coordinates|bounding box|box|position in JSON format].",
    "what is the [bounding box|box|bbox] of {x}?",
    "{x}: [bounding box|box|coordinates|bbox], please.",
    "[put|draw] a box around {x}.",
    "[mark|outline] {x}[ with a box| in the {pic}|].",
    "where [exactly |]is {x}[ in the {pic}| in this {pic}|]? Answer with [coordinates|a box|a bounding box].",
    "report the [position|bounding box|bbox coordinates] of {x} in [JSON|json] format.",
    "bounding box of {x}[|?]",
    "detect {x} and output the bbox coordinates in [JSON|json].",
    "[can|could] you locate {x}[ for me|]?",
];

/// In which part of the picture something is.
pub(super) const POSITION: &[&str] = &[
    "where is {x}[| in the {pic}| in this {pic}| on the {pic}]?",
    "where [do|can] you [see|find] {x}[| in the {pic}]?",
    "[in|on] which [part|side|corner|area] of the {pic} is {x}?",
    "what is the position of {x}[| in the {pic}]?",
    "[tell me|say] where {x} is[| in the {pic}].",
    "[describe|name] the position of {x}[| in the {pic}].",
    "whereabouts is {x}?",
    "where in the {pic} is {x}?",
];

/// Of all objects that `{k}` names.
pub(super) const BOX_MANY: &[&str] = &[
    "locate [every|each] {one}[| in the {pic}| in the image], report [bbox|bounding box|box] coordinates in [JSON|json] format.",
    "outline the position of [all |][the |each of the |]{k} and output all the coordinates in [JSON|json] format.",
    "[please |][detect|locate|find|mark|outline] [all |][the |]{k}[| in the {pic}| in this {pic}].",
    "[give|return|output|show|report|list] [me |][the |][bounding boxes|boxes|bbox coordinates|coordinates] [of|for] [all |][the |]{k}[| in JSON format| as JSON].",
    "where are [all |][the |]{k}? [Give|Return|Report|Output] [bounding boxes|boxes|coordinates].",
    "[find|detect|locate] [all |][the |]{k} and [give|return|report|output] [their |][boxes|bounding boxes|coordinates|bbox coordinates].",
    "[draw|put|show] a box around [every|each] {one}.",
    "what are the [coordinates|bounding boxes|boxes] of [all |][the |]{k}?",
    "detect [every|each] {one} and report [bbox|box] coordinates in [JSON|json].",
    "bounding boxes of [all |][the |]{k}[|?]",
    "locate all {k} and output [them|the boxes|the coordinates] in [JSON|json] format.",
    "[ground|detect] [all |][the |]{k} in [the|this] {pic} with bounding boxes.",
    "for [each|every] {one}, report the bbox coordinates in JSON format.",
    "[boxes|bounding boxes] for [all |][the |]{k}, please.",
    "[can|could] you locate [all |][the |]{k}[ for me|]?",
];

pub(super) const EXISTS: &[&str] = &[
    "is there {a}[| in the {pic}| in this {pic}| on the {pic}| here]?",
    "do you see {a}[| in the {pic}| in this {pic}| here| anywhere]?",
    "can you [see|find|spot] {a}[| in the {pic}| in this {pic}]?",
    "does [the|this] {pic} [contain|show|have] {a}?",
    "is {a} [visible|shown|present|in the {pic}|there|in this {pic}|on the {pic}]?",
    "are there any {k}[| in the {pic}| in this {pic}]?",
    "is there any {one}[| in the {pic}]?",
    "[tell me|say|check] [whether|if] there is {a}.",
    "[yes or no|true or false]: there is {a}[| in the {pic}].",
    "{a}: is there one[| in the {pic}]?",
    "there is {a} [in the {pic}|here], [right|isn't there|correct]?",
    "[has|does] [the|this] {pic} [have |]{a}[| in it]?",
    "do any {k} appear[| in the {pic}]?",
    "is at least one {one} [there|in the {pic}|visible]?",
    "I am looking for {a}. Is there one?",
    "are {k} [visible|shown|present][| in the {pic}]?",
];

pub(super) const ANY_TEXT: &[&str] = &[
    "is there [any |][text|writing][| in the {pic}| in this {pic}| on the {pic}]?",
    "[do|can] you see [any |][text|letters|writing]?",
    "does [the|this] {pic} [contain|show|have] [any |][text|writing|letters]?",
    "is [any text|anything|something] [written|printed] [here|there|in the {pic}|on the {pic}]?",
    "[tell me|check] whether there is [any |]text.",
];

pub(super) const TEXT: &[&str] = &[
    "what does [the text|it|the {pic}|this {pic}|this|the writing|the sign] say?",
    "[please |][read|transcribe] [the|this] [text|writing|string][| in the {pic}| in this {pic}].",
    "what [is|do you see] written [in the {pic}|in this {pic}|here|there|on the {pic}]?",
    "what is [written|printed][| here| there]?",
    "which [characters|letters and digits|text|string] [do you see|is shown|can you read|is in the {pic}]?",
    "what text [is in|is shown in|do you see in|does one read in|appears in] [the|this] {pic}?",
    "what is the text[| in the {pic}| in this {pic}]?",
    "[read|spell] [out |]what is written[| in the {pic}| here].",
    "[extract|recognize|copy|type|write down|give me] the text[| in the {pic}| from the {pic}].",
    "read [it|this|the {pic}|the text][| to me| aloud| for me| out].",
    "what [word|string|code|text] [is this|is shown|is printed|is it|is there]?",
    "[can|could] you read [it|this|the text|what is written][| for me| to me]?",
    "[tell me|say] what [the text says|it says|is written|the {pic} says].",
    "what [letters|characters] [are there|are shown|are in the {pic}|do you see]?",
    "what can you read[| here| in the {pic}]?",
    "text in the {pic}?",
    "what does the text read?",
    "what are the [letters|characters|letters and numbers]?",
    "perform text recognition[| on this {pic}].",
    "OCR[ this| this {pic}| the {pic}|]",
    "read all the text in the {pic}.",
];

/// One character; `{n}` is "first", "second" and so on.
pub(super) const CHARACTER: &[&str] = &[
    "what is the {n} [character|letter or digit][| of the text]?",
    "which [character|letter or digit] [is|comes] {n}?",
    "[name|read|give] the {n} character[| of the text].",
    "what character does the text [have in the {n} place|show {n}]?",
];

pub(super) const TEXT_COLOUR: &[&str] = &[
    "what {col} is the [text|writing]?",
    "[which|what] {col} [does the text have|is the text]?",
    "what is the {col} of the [text|letters|writing]?",
    "in [which|what] {col} is the text [written|printed]?",
    "[name|tell me] the {col} of the text.",
];

pub(super) const SAME: &[&str] = &[
    "are the [two |][{pic}s|pictures|images] [the same|equal|identical|alike]?",
    "are [both|these|these two] {pic}s [the same|identical|equal]?",
    "do [both|the|the two|these two] {pic}s show the same[| thing]?",
    "is the [first {pic} the same as the second|second {pic} the same as the first]?",
    "[is there a|do you see a|can you see a|is there any] difference between the [two |]{pic}s?",
    "do the [two |]{pic}s differ?",
    "are the two {pic}s different?",
    "[tell me|say|check] whether the [two |]{pic}s are [the same|equal|identical].",
    "same or different?",
    "is [anything|something] different [in the second {pic}|between the {pic}s]?",
];

pub(super) const DIFFERENCE: &[&str] = &[
    "what is [the difference|different] between the [two |][pictures|images|{pic}s]?",
    "[how do|in what way do] the [two |]{pic}s differ?",
    "[please |]compare the [two |]{pic}s.",
    "compare [both|these|these two] {pic}s.",
    "what [has changed|changed|changes][| between the {pic}s| from the first {pic} to the second]?",
    "[find|spot|describe|name|tell me|explain] the difference[| between the {pic}s| between the two {pic}s].",
    "[what|which] difference [do you see|is there|can you find|can you see]?",
    "how is the second {pic} different from the first[| one]?",
    "what is different in the second {pic}?",
    "what's the difference?",
    "what differs?",
    "[tell me|say] what is different.",
    "are there differences? Which?",
    "what makes the {pic}s different?",
    "how does the first {pic} differ from the second?",
];

pub(super) const WHICH_HAS_MORE: &[&str] = &[
    "which {pic} [has|shows|contains] more [objects|shapes|things]?",
    "in which {pic} are [there |]more [objects|shapes|things]?",
    "[where|in which of them] do you see more [objects|shapes]: in the first or in the second {pic}?",
    "does the first or the second {pic} [have|show] more [objects|shapes]?",
    "[tell me|say] which {pic} has more [objects|shapes].",
    "which of the [two |]{pic}s [has|shows] more [objects|shapes|things]?",
];

/// `{n}` is "first" or "second".
pub(super) const ONE_OF_TWO: &[&str] = &[
    "what [is|do you see|is shown|can you see] in the {n} {pic}?",
    "[please |]describe the {n} {pic}.",
    "what does the {n} {pic} show?",
    "[list|name] the objects in the {n} {pic}.",
    "[which|what] objects are in the {n} {pic}?",
    "[tell me|say] what is in the {n} {pic}.",
    "what's in the {n} {pic}?",
];

pub(super) const MOTION: &[&str] = &[
    "[in |][which|what] direction does {x} move[| in]?",
    "how does {x} move[| in the video| in this video]?",
    "[which way|where] [does {x} move|is {x} moving|does {x} go|is {x} going|does {x} travel]?",
    "what is the direction of [motion|movement][| of {x}]?",
    "[describe|explain] [the motion of {x}|how {x} moves|the movement of {x}].",
    "[tell me|say] [how|in which direction|which way|where] {x} moves.",
    "does {x} move? [Where|In which direction|How]?",
    "what does {x} do[| in the video]?",
    "what is {x} doing?",
    "[which way|where] does {x} move in the [video|clip]?",
    "to which side does {x} move?",
    "in which direction is {x} moving?",
    "is {x} moving, and [where|which way|in which direction]?",
    "what [motion|movement] [do you see|is there|can you see|does the video show]?",
    "[what|which] direction is {x} moving[| in]?",
];

/// `{r}` is "to the left", "up" and so on.
pub(super) const DOES_IT_MOVE: &[&str] = &[
    "does {x} move {r}?",
    "is {x} moving {r}?",
    "does {x} [go|travel] {r}[| in the video]?",
    "[is it true|would you say] that {x} moves {r}?",
    "[yes or no|true or false]: {x} moves {r}.",
    "[tell me|check|say] whether {x} moves {r}.",
];

pub(super) const INTERVAL: &[&str] = &[
    "when is {x} visible[| in the video]?",
    "[during|in] which [time|seconds|interval|period] is {x} visible?",
    "[from when to when|from which second to which second] is {x} visible?",
    "between which seconds is {x} [visible|shown|in the video]?",
    "when [can you see|do you see|can one see|do we see] {x}?",
    "at [what|which] [time|times] is {x} [visible|shown|on the screen]?",
    "give the [time interval|interval|time range|start and end time] in which {x} is visible.",
    "[tell me|say] when {x} is visible.",
    "[which|what] part of the video shows {x}?",
    "in which [part|seconds] of the video [can you see|do you see] {x}?",
    "when does {x} appear and [disappear|vanish]?",
    "how long is {x} visible, from when to when?",
    "when is {x} [shown|on screen|in the picture|there]?",
    "localize {x} in time.",
    "[report|output|return] the start and end time of {x} in seconds.",
    "find the [time span|seconds] in which {x} [is visible|can be seen].",
    "from which time to which time do you see {x}?",
];

pub(super) const APPEARS: &[&str] = &[
    "when does {x} [appear|show up|first appear|come into view|become visible]?",
    "at [what|which] [time|second] does {x} [appear|become visible]?",
    "[tell me|say] when {x} appears.",
    "when do you first see {x}?",
    "when is {x} visible for the first time?",
];

pub(super) const VANISHES: &[&str] = &[
    "when does {x} [disappear|vanish|go away]?",
    "at [what|which] [time|second] does {x} [disappear|vanish]?",
    "[tell me|say] when {x} [disappears|vanishes].",
    "when do you see {x} for the last time?",
    "until when is {x} visible?",
];

pub(super) const VIDEO: &[&str] = &[
    "[please |]describe [this|the] [video|clip][ briefly| in one sentence|].",
    "what happens[| in this video| in the video| here| in the clip]?",
    "what [is|do you see|can you see|is shown] in [this|the] [video|clip]?",
    "what does [this|the] [video|clip] show?",
    "[tell me|say] what happens[| in the video].",
    "[summarize|caption|explain] [this|the] [video|clip].",
    "what's going on[| here| in this video| in the video]?",
    "what happened in the video?",
    "[give|write] a [short |brief |][description|caption|summary] of [this|the] [video|clip].",
    "[can|could] you describe [the|this] video?",
    "describe what happens[| in the video].",
    "what is this video about?",
    "what do you see?",
    "tell me about this video.",
    "what is happening[| in this video| here]?",
];

/// All lists, for the tokenizer and the tests.
pub(super) const ALL: &[&[&str]] = &[
    DESCRIBE,
    COLOUR,
    SHAPE,
    SHAPE_ALONE,
    COUNT,
    WHERE,
    LEFT_OR_RIGHT,
    ABOVE_OR_BELOW,
    IS_IT,
    WHAT_IS,
    BOX_ONE,
    BOX_MANY,
    EXISTS,
    ANY_TEXT,
    TEXT,
    CHARACTER,
    TEXT_COLOUR,
    SAME,
    DIFFERENCE,
    WHICH_HAS_MORE,
    ONE_OF_TWO,
    MOTION,
    DOES_IT_MOVE,
    INTERVAL,
    APPEARS,
    VANISHES,
    VIDEO,
];
