// The panel with everything that the page knows of a row.
function section(title, ...children) {
  const known = children.filter((child) => child !== null);
  return known.length ? el("section", {}, el("h3", {}, title), ...known) : null;
}

function table(headings, lines) {
  const head = el("tr", {}, ...headings.map((text) => el("th", { scope: "col" }, text)));
  const body = lines.map((line) =>
    el("tr", {}, ...line.map((cell) => (cell instanceof Node ? el("td", {}, cell) : told("td", String(cell))))),
  );
  const made = el("table", {}, el("thead", {}, head), el("tbody", {}, ...body));
  return el("div", { class: "wide", tabindex: 0 }, made);
}

function facts(pairs) {
  const list = el("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    list.append(el("div", {}, el("dt", {}, name), told("dd", String(value))));
  }
  return list;
}

function labels(text) {
  if (!text || text === "{}") return null;
  let shown = text;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 1);
  } catch {
    // A text that was cut is no longer JSON.
  }
  return el("details", {}, el("summary", {}, "labels"), told("pre", shown));
}

function about(member, role) {
  const media = member.media || {};
  const size = media.width ? `${media.width} × ${media.height}` : null;
  const clip = member.seconds ? `${member.seconds.toFixed(2)} s, ${media.frames || "?"} frames` : null;
  const bytes = media.size ? `${number(media.size)} bytes` : null;
  return el(
    "div",
    { class: "about" },
    el("div", { class: "large" }, tile(member, role)),
    el(
      "div",
      {},
      el("h4", {}, role),
      member.caption ? told("p", member.caption, "full") : null,
      facts([
        ["item", member.id],
        ["key", member.key],
        ["source", member.source],
        ["media", [media.format, size, clip, bytes].filter(Boolean).join(", ")],
        ["sha256", media.sha256],
      ]),
      labels(member.labels),
    ),
  );
}

async function detailsOf(row, known, scores) {
  const full = (list, role) =>
    Promise.all(
      list.map(async (member, at) =>
        about(await memberOf(member.number), list.length > 1 ? `${role} ${at + 1}` : role),
      ),
    );
  const evidence = row.evidence || { changes: [] };
  const changes = evidence.changes.map((change) => [
    change.field || "–",
    change.removed || "–",
    change.added || "–",
  ]);
  const lines = row.provenance.map((line) =>
    ["step", "operator", "model", "revision", "prompt", "seed"].map((name) => line[name] ?? "–"),
  );
  const far = await negativeFigures(row);
  const parts = [
    row.text === null ? null : told("p", row.text, "modification"),
    evidence.reason ? told("p", evidence.reason, "evidence") : null,
    reason(row, known),
    el("div", { class: "chips" }, ...chips(known)),
    section("Members", ...(await full(row.references, roleOf(known))), ...(await full(row.targets, "target"))),
    section("Negatives", far.length ? el("div", { class: "negatives" }, ...far) : null),
    section("Scores", scoreList(scores)),
    section("What changes", changes.length ? table(["field", "removed", "added"], changes) : null),
    section(
      "Provenance",
      lines.length ? table(["step", "operator", "model", "revision", "prompt", "seed"], lines) : null,
    ),
    section(
      "Identity",
      facts([
        ["id", known.id],
        ["pair", row.pair],
        ["split", known.split],
        ["verdict", known.verdict],
        ["step that decided", known.step],
        ["rule", known.rule],
        ["mined by", evidence.operator],
      ]),
    ),
  ];
  return parts.filter((part) => part !== null);
}
