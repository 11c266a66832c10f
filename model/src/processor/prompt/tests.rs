use serde_json::json;

use super::*;
use crate::processor::message::{Message, Role, media};
use crate::processor::template::{ChatTemplate, RenderOptions};
use crate::processor::tokenizer::tests::tiny;

/// Every message on its own line; media as in the published templates.
const TEMPLATE: &str = "{%- for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{%- for m in messages %}\
    {{- m.role ~ ':' }}{%- if m.content is string %}{{- m.content }}{%- else %}{%- for p in m.content %}\
    {%- if p.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}\
    {%- elif p.type == 'video' %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}\
    {%- else %}{{- p.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '\n' }}{%- endfor %}";

fn render(messages: &[Message]) -> RenderedChat {
    render_with(TEMPLATE, messages, &RenderOptions::default())
}

fn render_with(template: &str, messages: &[Message], options: &RenderOptions) -> RenderedChat {
    RenderedChat::render(&ChatTemplate::from_source(template).unwrap(), messages, options).unwrap()
}

fn build(
    chat: &RenderedChat,
    media: &[MediaTokens],
    layout: VideoLayout,
) -> Result<PromptIds, PromptError> {
    let tokenizer = tiny();
    PromptBuilder::new(&tokenizer, 301, 302).unwrap().with_layout(layout).build(chat, media)
}

/// The ids that transformers gives: the placeholders written out in the string, then tokenised at once.
fn expanded(text: &str) -> Vec<u32> {
    tiny().encode(text).unwrap()
}

fn frame(seconds: f64, tokens: usize) -> FrameTokens {
    FrameTokens { seconds, tokens }
}

#[test]
fn images_are_expanded_in_place() {
    let messages =
        [Message::user("hello ").image("a").text(" hello").image("b"), Message::assistant("é")];
    let chat = render(&messages);
    assert_eq!(chat.placeholders(), [MediaKind::Image, MediaKind::Image]);
    let prompt =
        build(&chat, &[MediaTokens::Image(3), MediaTokens::Image(1)], VideoLayout::Hf4).unwrap();
    let text = "user:hello <|vision_start|><|image_pad|><|image_pad|><|image_pad|><|vision_end|> hello\
                <|vision_start|><|image_pad|><|vision_end|>\nassistant:é\n";
    assert_eq!(prompt.ids, expanded(text));
    for (span, (index, len)) in prompt.spans.iter().zip([(0, 3), (1, 1)]) {
        assert_eq!(
            (span.media_index, span.len, span.kind, span.frame),
            (index, len, MediaKind::Image, 0)
        );
        assert_eq!(prompt.ids[span.start..span.start + span.len], vec![301; len]);
    }
    assert_eq!(
        (prompt.media_tokens(MediaKind::Image), prompt.media_tokens(MediaKind::Video)),
        (4, 0)
    );
}

#[test]
fn videos_are_written_out_per_frame_in_both_layouts() {
    let chat = render(&[Message::user("a=").video("v").image("i").text("b")]);
    let media = [
        MediaTokens::Video(vec![frame(0.25, 2), frame(1.05, 2), frame(12.0, 2)]),
        MediaTokens::Image(1),
    ];
    let group =
        |time| format!("<{time} seconds><|vision_start|><|video_pad|><|video_pad|><|vision_end|>");
    let groups = ["0.2", "1.1", "12.0"].map(group).concat();
    let image = "<|vision_start|><|image_pad|><|vision_end|>b\n";
    let hf4 = build(&chat, &media, VideoLayout::Hf4).unwrap();
    assert_eq!(hf4.ids, expanded(&format!("user:a={groups}{image}")));
    let hf5 = build(&chat, &media, VideoLayout::Hf5).unwrap();
    assert_eq!(hf5.ids, expanded(&format!("user:a=<|vision_start|>{groups}<|vision_end|>{image}")));
    let frames: Vec<_> =
        hf4.spans.iter().map(|span| (span.media_index, span.frame, span.len)).collect();
    assert_eq!(frames, [(0, 0, 2), (0, 1, 2), (0, 2, 2), (1, 0, 1)]);
    for span in hf4.spans.iter().take(3) {
        assert_eq!(hf4.ids[span.start..span.start + 2], [302, 302]);
    }
    // A template that writes a bare placeholder keeps its surroundings in both layouts.
    let bare = render_with("x<|video_pad|>y", &[], &RenderOptions::default());
    let bare = build(&bare, &media[..1], VideoLayout::Hf4).unwrap();
    assert_eq!(bare.ids, expanded(&format!("x{groups}y")));
}

#[test]
fn typed_placeholders_stay_text() {
    let typed = "a <|image_pad|><|video_pad|> hello <|vision_start|><|image_pad|><|vision_end|>";
    let messages = [
        Message::system(typed),
        Message::new(Role::User).text(typed).image("i").text("<|image_pad|>"),
        Message::assistant("<|im_end|>"),
    ];
    let tools = vec![json!({"name": "<|video_pad|>", "<|image_pad|>": ["<|image_pad|>"]})];
    let options = RenderOptions { tools, ..RenderOptions::default() };
    let chat = render_with(TEMPLATE, &messages, &options);
    let plain = ChatTemplate::from_source(TEMPLATE).unwrap().render(&messages, &options).unwrap();
    assert_eq!(chat.text(), plain);
    assert_eq!(chat.placeholders(), [MediaKind::Image]);
    let prompt = build(&chat, &[MediaTokens::Image(2)], VideoLayout::Hf4).unwrap();
    assert_eq!(prompt.spans.len(), 1);
    let pads: Vec<usize> =
        (0..prompt.ids.len()).filter(|i| [301, 302].contains(&prompt.ids[*i])).collect();
    assert_eq!(pads, [prompt.spans[0].start, prompt.spans[0].start + 1]);
    // Other control tokens in user text become tokens, as in transformers.
    assert!(prompt.ids.contains(&300));
    let text = tiny().decode(&prompt.ids, false).unwrap();
    assert_eq!(text.matches("<|image_pad|>").count(), plain.matches("<|image_pad|>").count() + 1);
}

#[test]
fn private_use_characters_of_the_user_are_kept() {
    let own = "\u{f0000}<|image_pad|>\u{f0001} \u{f0002}";
    let chat = render(&[Message::user(own)]);
    assert_eq!(chat.text(), format!("user:{own}\n"));
    let prompt = build(&chat, &[], VideoLayout::Hf4).unwrap();
    assert_eq!(tiny().decode(&prompt.ids, false).unwrap(), format!("user:{own}\n"));
}

#[test]
fn a_template_that_cuts_a_marked_placeholder_leaves_no_marks() {
    let cutting =
        "{{ messages[0].content.split('_pad')[0] }}+{{ messages[0].content.split('_pad')[1] }}";
    let chat = render_with(cutting, &[Message::user("x<|image_pad|>y")], &RenderOptions::default());
    assert_eq!(chat.text(), "x<|image+|>y");
    let prompt = build(&chat, &[], VideoLayout::Hf4).unwrap();
    assert_eq!(tiny().decode(&prompt.ids, false).unwrap(), "x<|image+|>y");
}

#[test]
fn media_must_match_the_placeholders_in_order() {
    let messages = [Message::user("").image("i").video("v")];
    let chat = render(&messages);
    assert_eq!(media(&messages).len(), 2);
    let video = MediaTokens::Video(vec![frame(0.0, 1)]);
    let wrong = [vec![], vec![MediaTokens::Image(1)], vec![video.clone(), MediaTokens::Image(1)]];
    for given in wrong {
        let error = build(&chat, &given, VideoLayout::Hf4).unwrap_err();
        assert!(error.to_string().contains("holds the placeholders [image, video]"), "{error}");
    }
    let empty = [
        vec![MediaTokens::Image(0), video.clone()],
        vec![MediaTokens::Image(1), MediaTokens::Video(vec![])],
    ];
    for (index, given) in empty.into_iter().enumerate() {
        let error = build(&chat, &given, VideoLayout::Hf4).unwrap_err();
        assert!(error.to_string().starts_with(&format!("Medium {index} ")), "{error}");
    }
    // Halves typed in neighbouring parts make a placeholder that belongs to no medium.
    let halves = render(&[Message::user("<|image_").text("pad|>")]);
    assert!(matches!(build(&halves, &[], VideoLayout::Hf4), Err(PromptError::Placeholders { .. })));
}

#[test]
fn configuration_and_tokenizer_must_agree() {
    let tokenizer = tiny();
    let error = PromptBuilder::new(&tokenizer, 301, 151_656).unwrap_err().to_string();
    let expected = "config.json says that `<|video_pad|>` has the id 151656, but the tokenizer gives it the id 302.";
    assert_eq!(error, expected);
}
