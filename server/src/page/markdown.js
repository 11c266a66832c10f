// Markdown to nodes. Text becomes text nodes only: nothing that the model writes is ever read as HTML.
"use strict";

function node(name, ...children) {
  const element = document.createElement(name);
  element.append(...children);
  return element;
}

// Bold, italics, code and links of one line.
function inline(text) {
  const pattern = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;
  const out = [];
  let at = 0;
  for (const found of text.matchAll(pattern)) {
    out.push(text.slice(at, found.index));
    at = found.index + found[0].length;
    if (found[1] !== undefined) out.push(node("code", found[1]));
    else if (found[2] !== undefined) out.push(node("strong", ...inline(found[2])));
    else if (found[3] !== undefined) out.push(node("em", ...inline(found[3])));
    else {
      const link = node("a", found[4]);
      link.href = found[5];
      link.rel = "noopener noreferrer nofollow";
      link.target = "_blank";
      out.push(link);
    }
  }
  out.push(text.slice(at));
  return out.filter((piece) => piece !== "");
}

function table(rows) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const [head, , ...body] = rows;
  const line = (row, kind) => node("tr", ...cells(row).map((cell) => node(kind, ...inline(cell))));
  return node("table", node("thead", line(head, "th")), node("tbody", ...body.map((row) => line(row, "td"))));
}

function list(lines, ordered) {
  const items = [];
  for (const line of lines) {
    const item = line.match(/^\s*(?:[-*+]|\d+[.)])\s+(.*)$/);
    if (item) items.push(node("li", ...inline(item[1])));
    else items[items.length - 1].append(" ", ...inline(line.trim()));
  }
  return node(ordered ? "ol" : "ul", ...items);
}

// The blocks of a text, which may end anywhere.
function markdown(text) {
  const lines = text.split("\n");
  const out = [];
  const take = (test) => {
    const taken = [];
    while (lines.length && test(lines[0], taken.length)) taken.push(lines.shift());
    return taken;
  };
  const bullet = /^\s*[-*+]\s+/, number = /^\s*\d+[.)]\s+/;
  while (lines.length) {
    const line = lines[0];
    if (line.startsWith("```")) {
      lines.shift();
      const code = take((next) => !next.startsWith("```"));
      lines.shift();
      out.push(node("pre", node("code", code.join("\n"))));
    } else if (/^#{1,6} /.test(line)) {
      lines.shift();
      const depth = Math.min(line.match(/^#+/)[0].length + 1, 4);
      out.push(node("h" + depth, ...inline(line.replace(/^#+ /, ""))));
    } else if (/^\s*\|.*\|\s*$/.test(line) && /^\s*\|[\s:|-]+\|\s*$/.test(lines[1] || "")) {
      out.push(table(take((next) => /^\s*\|/.test(next))));
    } else if (bullet.test(line) || number.test(line)) {
      const ordered = number.test(line);
      out.push(list(take((next, n) => bullet.test(next) || number.test(next) || (n > 0 && /^\s+\S/.test(next))), ordered));
    } else if (line.startsWith("> ")) {
      const quoted = take((next) => next.startsWith(">")).map((next) => next.replace(/^> ?/, ""));
      out.push(node("blockquote", ...markdown(quoted.join("\n"))));
    } else if (line.trim() === "") {
      lines.shift();
    } else {
      const words = take((next, n) => next.trim() !== "" && (n === 0 || !/^(```|#{1,6} |> |\s*\|)/.test(next)) && (n === 0 || !(bullet.test(next) || number.test(next))));
      const pieces = words.flatMap((word, n) => (n ? [node("br"), ...inline(word)] : inline(word)));
      out.push(node("p", ...pieces));
    }
  }
  return out;
}
