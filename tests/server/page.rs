//! The page at `/`, clicked through in headless Chromium by its debugging pipe.

#![cfg(unix)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::fixtures;
use crate::harness::{Server, alone};

/// A tab of a browser.
struct Tab {
    browser: Child,
    commands: File,
    messages: BufReader<File>,
    session: Option<String>,
    next: u64,
    /// URLs that the page asked for.
    asked: Vec<String>,
    _folder: tempfile::TempDir,
}

fn chromium() -> Option<&'static str> {
    let runs = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(runs)
}

impl Tab {
    fn open(program: &str, url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (to, from) = (folder.path().join("to"), folder.path().join("from"));
        assert!(Command::new("mkfifo").args([&to, &from]).status().unwrap().success());
        let browser = Command::new("sh")
            .args(["-c", "in=$1; out=$2; shift 2; exec \"$@\" 3<\"$in\" 4>\"$out\"", "sh"])
            .args([&to, &from])
            .args([
                program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--window-size=1000,900",
                "about:blank",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let commands = File::options().write(true).open(&to).unwrap();
        let messages = BufReader::new(File::open(&from).unwrap());
        let mut tab = Self {
            browser,
            commands,
            messages,
            session: None,
            next: 0,
            asked: Vec::new(),
            _folder: folder,
        };
        let target =
            tab.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached =
            tab.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        tab.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "DOM.enable", "Network.enable"] {
            tab.call(domain, json!({}));
        }
        tab.call("Page.navigate", json!({ "url": url }));
        tab
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut bytes = Vec::new();
            self.messages.read_until(0, &mut bytes).unwrap();
            assert_eq!(bytes.pop(), Some(0), "the browser has gone");
            let message: Value = serde_json::from_slice(&bytes).unwrap();
            if message["method"] == "Network.requestWillBeSent" {
                self.asked.push(message["params"]["request"]["url"].as_str().unwrap().to_owned());
            }
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
        }
    }

    fn eval(&mut self, script: &str) -> Value {
        let told =
            self.call("Runtime.evaluate", json!({ "expression": script, "returnByValue": true }));
        assert!(told["exceptionDetails"].is_null(), "{script}: {told}");
        told["result"]["value"].clone()
    }

    fn wait(&mut self, script: &str) {
        let begun = Instant::now();
        while self.eval(script) != json!(true) {
            assert!(begun.elapsed() < Duration::from_secs(60), "never: {script}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses the mouse in the middle of an element, as a person does.
    fn click(&mut self, selector: &str) {
        let script = format!(
            "(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        let at = self.eval(&script);
        for kind in ["mousePressed", "mouseReleased"] {
            let params =
                json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    fn write(&mut self, selector: &str, text: &str) {
        self.click(selector);
        self.eval(&format!("document.querySelector('{selector}').select()"));
        self.call("Input.insertText", json!({ "text": text }));
    }

    fn choose_file(&mut self, selector: &str, path: &std::path::Path) {
        let root = self.call("DOM.getDocument", json!({}))["root"]["nodeId"].clone();
        let node = self.call("DOM.querySelector", json!({ "nodeId": root, "selector": selector }));
        let files = [path.to_str().unwrap()];
        self.call("DOM.setFileInputFiles", json!({ "nodeId": node["nodeId"], "files": files }));
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}

#[test]
fn the_page_can_be_clicked_through() {
    let Some(program) = chromium() else {
        println!("skipped: no Chromium on PATH (Debian: apt-get install chromium)");
        return;
    };
    let server = Server::start("dense_tied", &[]);
    let mut tab = Tab::open(program, &server.url);
    tab.wait("document.querySelector('#model')?.textContent === 'fixture'");

    tab.click("#toggle");
    tab.write("#temperature", "0");
    tab.write("#max_tokens", "16");
    tab.click("#toggle");
    assert_eq!(tab.eval("document.querySelector('#settings').hidden"), json!(true));
    let picture = "e2e/gradient.png";
    tab.choose_file("#files", &fixtures().join(picture));
    tab.wait("document.querySelectorAll('#media figure').length === 1");
    tab.write("#text", "What is this?");
    tab.click("#send");
    tab.wait("document.querySelector('.turn.assistant .facts')?.textContent.includes('16 written') === true");
    let expected = alone("dense_tied", "What is this?", &[picture], 16);
    assert_eq!(tab.eval("messages[1].content"), expected["text"]);
    assert_eq!(tab.eval("document.querySelectorAll('.turn.user img').length"), json!(1));

    // A box lies over the picture, a time is a button, and what looks like HTML stays text.
    tab.eval("draw({items: [{image: 0, bbox_2d: [0, 0, 9, 9], pixels: [2, 3, 20, 30], label: '<b>cat</b>'}]})");
    assert_eq!(
        tab.eval("document.querySelector('figure svg rect').getAttribute('width')"),
        json!("18")
    );
    assert_eq!(
        tab.eval("document.querySelector('figure svg text').textContent"),
        json!("<b>cat</b>")
    );
    let text = "# T\\n<img src=x onerror=alert(1)> **b** `c` [l](javascript:alert(1))\\n- one\\n- two\\n\\n```\\nx\\n```";
    let html = tab.eval(&format!("(() => {{ const d = document.createElement('div'); d.append(...markdown('{text}')); return d.innerHTML; }})()"));
    let html = html.as_str().unwrap();
    for part in [
        "<h2>T</h2>",
        "&lt;img src=x",
        "<strong>b</strong>",
        "<code>c</code>",
        "<li>two</li>",
        "<pre><code>x</code></pre>",
    ] {
        assert!(html.contains(part), "{part}: {html}");
    }
    assert!(!html.contains("<img") && !html.contains("<a "), "{html}");

    tab.click("#toggle");
    tab.write("#max_tokens", "3000");
    tab.click("#toggle");
    tab.write("#text", "And now?");
    tab.click("#send");
    tab.wait("document.querySelectorAll('.turn.assistant')[1]?.textContent.length > 20");
    tab.click("#stop");
    tab.wait("document.querySelectorAll('.turn.assistant')[1].textContent.includes('Stopped.')");
    server.wait_for("cancelled answer", || server.metric("qwen3_vl_num_requests_running") == 0.0);
    assert_eq!(server.metric("qwen3_vl_answers_total"), 1.0);

    tab.click("#theme");
    assert_eq!(tab.eval("document.documentElement.dataset.theme"), json!("dark"));
    assert_eq!(
        tab.eval("getComputedStyle(document.body).backgroundColor"),
        json!("rgb(23, 24, 26)")
    );
    tab.click("#clear");
    assert_eq!(tab.eval("document.querySelectorAll('.turn').length + messages.length"), json!(0));
    let asked = &tab.asked;
    assert!(
        asked.len() >= 6
            && asked.iter().all(|url| url.starts_with(&server.url) || url.starts_with("data:")),
        "{asked:?}"
    );
}
