// Elements of the page. Texts of the run are set as text, never as markup.
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const number = (value) => value.toLocaleString("en-US");
const words = (rule) => (rule || "").replaceAll("_", " ");

// The text of others: its direction is its own, and it cannot turn its neighbours around.
function told(tag, text, className) {
  return el(tag, { dir: "auto", class: `told ${className || ""}` }, text);
}

function scoreText(value, whole = false) {
  if (value === null || value === undefined) return "–";
  return (whole ? number(value) : value.toFixed(4)).replace("-", "−");
}

// A picture out of a sheet, or a tile that says why there is none.
function tile(member, role) {
  const caption = member.caption || "no caption";
  if (member.modality === undefined) {
    return el("div", { class: "tile words" }, told("p", caption));
  }
  if (!member.picture) {
    const why = member.fault
      ? `cannot be read: ${words(member.fault)}`
      : "no picture in this report";
    const kind = member.fault ? "tile none fault" : "tile none";
    return el("div", { class: kind, role: "img", "aria-label": `${role}: ${why}` }, el("span", {}, why));
  }
  const [sheet, x, y, width, height, frames, seconds] = member.picture;
  const [file, sheetWidth, sheetHeight] = meta.sheets[sheet];
  const inner = el("div", { class: "picture" });
  const side = Math.max(width, height);
  inner.style.width = `${(100 * width) / side}%`;
  inner.style.aspectRatio = `${width} / ${height}`;
  inner.style.backgroundImage = `url("${meta.folder}/${file}")`;
  inner.style.backgroundSize = `${(100 * sheetWidth) / width}% ${(100 * sheetHeight) / height}%`;
  const place = (at) => {
    const left = x + at * meta.side;
    const across = sheetWidth > width ? (100 * left) / (sheetWidth - width) : 0;
    const down = sheetHeight > height ? (100 * y) / (sheetHeight - height) : 0;
    inner.style.backgroundPosition = `${across}% ${down}%`;
  };
  place(0);
  const box = el("div", { class: "tile", role: "img", "aria-label": `${role}: ${caption}` }, inner);
  if (member.modality === "video") {
    const length = member.seconds ? `${member.seconds.toFixed(1)} s` : "";
    box.append(el("span", { class: "badge", "aria-hidden": "true" }, `▶ ${length}`.trim()));
  }
  if (frames > 1) {
    box.tabIndex = 0;
    films.add(box, frames, seconds, place);
  }
  return box;
}

// Film strips play while they are in sight, if the reader wants movement at all.
const films = (() => {
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const strips = new Map();
  let playing = !still.matches;
  let timer = null;
  const sight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const strip = strips.get(target);
      if (strip) strip.seen = isIntersecting;
    }
  });
  const tick = () => {
    const now = performance.now();
    for (const [box, strip] of strips) {
      if (!box.isConnected) {
        sight.unobserve(box);
        strips.delete(box);
      } else if (strip.seen && (playing || (strip.near && !still.matches)) && now >= strip.next) {
        strip.at = (strip.at + 1) % strip.frames;
        strip.place(strip.at);
        strip.next = now + strip.pause;
      }
    }
    if (!strips.size) {
      clearInterval(timer);
      timer = null;
    }
  };
  return {
    add(box, frames, seconds, place) {
      const pause = 1000 * Math.min(0.7, Math.max(0.16, seconds || 0));
      const strip = { frames, place, pause, at: 0, next: 0, seen: false, near: false };
      strips.set(box, strip);
      for (const name of ["mouseenter", "focus"]) box.addEventListener(name, () => (strip.near = true));
      for (const name of ["mouseleave", "blur"]) box.addEventListener(name, () => (strip.near = false));
      sight.observe(box);
      timer = timer || setInterval(tick, 80);
      document.getElementById("play").hidden = false;
    },
    button(node) {
      const say = () => {
        node.textContent = playing ? "Pause" : "Play";
        node.setAttribute("aria-label", playing ? "Pause clips" : "Play clips");
      };
      node.addEventListener("click", () => {
        playing = !playing;
        say();
      });
      still.addEventListener("change", () => {
        playing = !still.matches;
        say();
      });
      say();
    },
  };
})();

function figure(member, role) {
  const shown = el("figure", { class: "member" }, tile(member, role));
  const about = el("figcaption", {}, el("span", { class: "role" }, role));
  if (member.modality !== undefined && member.caption) about.append(told("span", member.caption, "caption"));
  shown.append(about);
  return shown;
}

// So many members of a role are shown at once; the others when asked for.
const MOST = 6;

function members(list, role) {
  const several = list.length > 1;
  const figures = (part, from) =>
    part.map((member, at) => figure(member, several ? `${role} ${from + at + 1}` : role));
  const box = el("div", { class: `members ${role}` }, ...figures(list.slice(0, MOST), 0));
  const rest = list.slice(MOST);
  if (rest.length) {
    const more = el("button", { type: "button", class: "plain more" }, `${rest.length} more`);
    more.addEventListener("click", () => {
      const added = figures(rest, MOST);
      more.replaceWith(...added);
      const first = added[0].querySelector(".tile");
      first.tabIndex = 0;
      first.focus({ preventScroll: true });
    });
    box.append(more);
  }
  return box;
}

// An item alone is no reference of anything yet.
const roleOf = (facts) => (facts.level === "items" ? "item" : "reference");

function chips(facts) {
  const shown = [facts.level === "triplets" ? null : facts.level.slice(0, -1), facts.split];
  const known = shown.filter((text) => text !== null);
  return known.map((text) => el("span", { class: "chip" }, text));
}

// Why a row is not among those that were kept.
function reason(row, facts) {
  if (facts.verdict === "kept") return null;
  const by = facts.step ? ` by ${facts.step}` : "";
  const why = facts.rule ? `: ${words(facts.rule)}` : "";
  const chip = el("span", { class: `chip ${facts.verdict}` }, `${facts.verdict}${by}${why}`);
  return el("p", { class: "reason" }, chip, " ", row.detail ? told("span", row.detail) : null);
}

// Negatives are shown when asked for.
function negatives(row) {
  if (!row.negatives.length) return null;
  const strip = el("div", { class: "negatives", hidden: true });
  const name = row.negatives.length === 1 ? "1 negative" : `${row.negatives.length} negatives`;
  const button = el("button", { type: "button", class: "plain", "aria-expanded": "false" }, name);
  button.addEventListener("click", async () => {
    if (!strip.childElementCount) strip.append(...(await negativeFigures(row)));
    strip.hidden = !strip.hidden;
    button.setAttribute("aria-expanded", String(!strip.hidden));
  });
  return { strip, button };
}

function negativeFigures(row) {
  return Promise.all(
    row.negatives.map(async ([kind, score, at]) => {
      const shown = figure(await memberOf(at), `negative, ${words(kind)}`);
      if (score !== null) {
        const value = el("span", { class: "value" }, scoreText(score));
        shown.querySelector(".role").after(value);
      }
      return shown;
    }),
  );
}

function scoreList(scores) {
  if (!scores.length) return null;
  const list = el("dl", { class: "scores" });
  for (const { label, value, whole } of scores) {
    list.append(el("div", {}, el("dt", {}, label), el("dd", {}, scoreText(value, whole))));
  }
  return list;
}

function card(row, facts, scores, open) {
  const more = negatives(row);
  const many = row.targets.length > 1 || row.references.length > 2;
  const details = el("button", { type: "button", class: "plain details" }, "Details");
  details.addEventListener("click", open);
  // Reference, text and target read as one line: the text stands over the arrow.
  const flow = el("div", { class: "flow" });
  if (row.text !== null) flow.append(told("p", row.text, "modification"));
  if (row.targets.length) flow.append(el("div", { class: "arrow", "aria-hidden": "true" }));
  if (row.evidence && row.evidence.reason) flow.append(told("p", row.evidence.reason, "evidence"));
  flow.append(reason(row, facts) || "");
  const actions = el("div", { class: "actions" }, ...chips(facts), details, more && more.button);
  const middle = el("div", { class: "middle" }, flow, actions);
  const made = el(
    "article",
    { class: `card ${facts.verdict}${many ? " several" : ""}`, tabindex: -1, "data-id": facts.id },
    members(row.references, roleOf(facts)),
    middle,
    row.targets.length ? members(row.targets, "target") : null,
    scoreList(scores),
    more && more.strip,
  );
  made.setAttribute("aria-label", `${facts.level.slice(0, -1)} ${facts.id}`);
  return made;
}
