use serde_json::json;

use super::*;

fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
    ChatTemplate::from_source(source)?.render(messages, &RenderOptions::generation())
}

fn rendered(source: &str) -> String {
    render(source, &[Message::user("Hi")]).unwrap()
}

/// Each right side was printed by `render_jinja_template` of transformers 5.23.
#[test]
fn blocks_are_trimmed_and_nothing_is_escaped() {
    let source = "{% for m in messages %}\n  {% if true %}\n  <{{ m.content }}>\n  {% endif %}\n{% endfor %}\nend\n";
    assert_eq!(rendered(source), "  <Hi>\nend");
    assert_eq!(rendered("{{ \"<b>&'\\\"\" }}"), "<b>&'\"");
    assert_eq!(
        rendered("{{ [true, none, 1.0, 'x'] }}|{{ true }}|{{ none }}"),
        "[True, None, 1.0, 'x']|True|None"
    );
}

#[test]
fn python_methods_work() {
    let source = "{{ '\\n a b\\n'.strip('\\n') }}|{{ 'a</t>b</t>c'.split('</t>')[-1] }}|{{ ' x '.lstrip() }}|\
                  {{ 'abc'.startswith('ab') and 'abc'.endswith('c') }}|{{ 'x\\n\\n'.rstrip('\\n') }}|\
                  {{ messages[::-1][0].role.upper() }}|{{ {'a': 1}.items() | list }}";
    assert_eq!(rendered(source), " a b|c|x |True|x|USER|[('a', 1)]");
}

#[test]
fn undefined_prints_nothing_but_cannot_be_entered() {
    assert_eq!(rendered("[{{ nothing }}{{ messages[0].nothing }}{{ messages[7] }}]"), "[]");
    let error = render("\n{{ nothing.deeper }}", &[Message::user("")]).unwrap_err();
    assert!(matches!(&error, TemplateError::Render { line: 2, .. }), "{error}");
}

#[test]
fn options_reach_the_template() {
    let template = ChatTemplate::from_source(
        "{{ add_vision_id }}|{{ tools | tojson }}|{{ add_generation_prompt }}",
    );
    let mut options =
        RenderOptions { tools: vec![json!({"b": 1, "a": "é<"})], ..RenderOptions::default() };
    options.extra.insert("add_vision_id".into(), json!(true));
    assert_eq!(
        template.unwrap().render(&[], &options).unwrap(),
        "True|[{\"b\": 1, \"a\": \"é<\"}]|False"
    );
    assert_eq!(rendered("{{ 'none' if not tools }}|{{ tools is none }}"), "none|True");
}

/// Each right side was printed by `render_jinja_template` of transformers 5.23.
#[test]
fn tojson_is_json_dumps() {
    let value = json!({
        "z": [1, 2.0, -0.5, 1e-5, 1e16, 18_446_744_073_709_551_615_u64], "a": {"b": [], "c": {}, "d": null},
        "s": "\"é\" \\ / <&'> \n\t\r\u{8}\u{c}\u{1}\u{7f}\u{2028} 🤔",
    });
    let filter = |filter: &str| {
        let mut options = RenderOptions::default();
        options.extra.insert("value".into(), value.clone());
        ChatTemplate::from_source(&format!("{{{{ value | {filter} }}}}"))
            .unwrap()
            .render(&[], &options)
    };
    let strings = r#""\"é\" \\ / <&'> \n\t\r\b\f\u0001"#.to_owned() + "\u{7f}\u{2028} 🤔\"";
    let compact = "{\"z\": [1, 2.0, -0.5, 1e-05, 1e+16, 18446744073709551615], \"a\": {\"b\": [], \"c\": {}, \"d\": null}, \"s\": ";
    assert_eq!(filter("tojson").unwrap(), format!("{compact}{strings}}}"));
    let escaped = filter("tojson(ensure_ascii=true)").unwrap();
    assert!(
        escaped.contains(r#"\"\u00e9\" \\ / <&'> \n\t\r\b\f\u0001\u007f\u2028 \ud83e\udd14""#),
        "{escaped}"
    );
    let indented = filter("tojson(indent=2)").unwrap();
    assert!(indented.starts_with("{\n  \"z\": [\n    1,\n    2.0,\n"), "{indented}");
    assert!(
        indented.contains("\"a\": {\n    \"b\": [],\n    \"c\": {},\n    \"d\": null\n  },\n"),
        "{indented}"
    );
    let tight = filter("tojson(separators=(',', ':'), sort_keys=true)").unwrap();
    assert!(tight.starts_with("{\"a\":{\"b\":[],\"c\":{},\"d\":null},\"s\":"), "{tight}");
    assert!(filter("tojson(width=3)").is_err());
    assert!(rendered_error("{{ nothing | tojson }}").contains("undefined"));
}

fn rendered_error(source: &str) -> String {
    let error = render(source, &[]).unwrap_err();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text += &format!(" <- {inner}");
        cause = inner.source();
    }
    text
}

#[test]
fn a_template_may_refuse() {
    let source = "line one\n{% if messages | length > 0 %}\n{{ raise_exception('No tools, ' ~ messages[0].role) }}\n{% endif %}";
    let error = render(source, &[Message::user("")]).unwrap_err();
    let expected =
        "chat_template.jinja, line 3: the chat template refuses these messages: No tools, user";
    assert_eq!(error.to_string(), expected);
    assert_eq!(render(source, &[]).unwrap(), "line one\n");
}

#[test]
fn syntax_errors_name_file_and_line() {
    let cases = [
        ("a\n{% for %}\nb", 2),
        ("ok\n{{ 1 + }}", 2),
        ("a\nb\n{% wrong %}", 3),
        ("{{ 'open }}", 1),
    ];
    for (source, line) in cases {
        let message = ChatTemplate::named("chat_template.json", source).unwrap_err().to_string();
        assert!(message.starts_with(&format!("chat_template.json, line {line}: ")), "{message}");
    }
    assert!(rendered_error("{{ 'x' | no_such_filter }}").contains("no_such_filter"));
}

#[test]
fn the_first_file_that_holds_a_template_is_used() {
    let files = TemplateFiles {
        jinja: Some("jinja"),
        json: Some(r#"{"chat_template": "json"}"#),
        tokenizer_config: Some(r#"{"chat_template": "config"}"#),
    };
    let text = |files| {
        ChatTemplate::from_files(files)
            .map(|found| found.render(&[], &RenderOptions::default()).unwrap())
    };
    assert_eq!(text(files).unwrap(), "jinja");
    assert_eq!(text(TemplateFiles { jinja: None, ..files }).unwrap(), "json");
    assert_eq!(text(TemplateFiles { jinja: None, json: None, ..files }).unwrap(), "config");
    let only =
        |config| TemplateFiles { tokenizer_config: Some(config), ..TemplateFiles::default() };
    let named = r#"{"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]}"#;
    assert_eq!(text(only(named)).unwrap(), "yes");
    for none in [TemplateFiles::default(), only("{}"), only(r#"{"chat_template": null}"#)] {
        assert!(matches!(text(none), Err(TemplateError::Missing)));
    }
    let no_default = r#"{"chat_template": [{"name": "rag", "template": "no"}]}"#;
    for wrong in
        [no_default, r#"{"chat_template": 1}"#, r#"{"chat_template": [{"name": "default"}]}"#]
    {
        let message = text(only(wrong)).unwrap_err().to_string();
        assert!(
            message.starts_with("tokenizer_config.json: `chat_template` must be a string"),
            "{message}"
        );
    }
    let broken = text(TemplateFiles { json: Some("{"), ..TemplateFiles::default() })
        .unwrap_err()
        .to_string();
    assert!(broken.starts_with("chat_template.json is not valid JSON"), "{broken}");
}

#[test]
fn dates_are_printed() {
    let year: u32 = rendered("{{ strftime_now('%Y') }}").parse().unwrap();
    assert!(year >= 2024);
}
