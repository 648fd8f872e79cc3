// The list of rows: filters, order, search, pages, keys, and the address of what is shown.
const PAGE = 16;
const FACETS = ["level", "verdict", "step", "rule", "split"];
const list = document.getElementById("list");
const dialog = document.getElementById("panel");
const controls = {
  q: document.getElementById("q"),
  sort: document.getElementById("sort"),
  down: document.getElementById("down"),
  pictured: document.getElementById("pictured"),
  ...Object.fromEntries(FACETS.map((name) => [name, document.getElementById(`f-${name}`)])),
};
const state = { q: "", sort: "id", down: false, pictured: false, page: 0, t: "" };
for (const name of FACETS) state[name] = "";

let index = null;
let texts = null;
let found = [];
let drawn = 0;
let address = null;
let turn = 0;

const orders = () => [
  ["id", "id", null],
  ...meta.scores.map(({ name, label }, at) => [name, label, index.scores[at]]),
  ...(index.mined.some((value) => value !== null) ? [["mined", "mining score", index.mined]] : []),
  ...(index.words.some((value) => value !== null) ? [["words", "words of the text", index.words]] : []),
];

function factsOf(at) {
  const known = { id: index.ids[at] };
  for (const name of FACETS) {
    const code = index.facets[name].codes[at];
    known[name] = code < 0 ? null : index.facets[name].values[code];
  }
  return known;
}

function scoresOf(at) {
  const own = meta.scores.map(({ label, whole }, score) => ({ label, whole, value: index.scores[score][at] }));
  if (index.mined[at] !== null) own.push({ label: "mining score", value: index.mined[at] });
  return own.filter(({ value }) => value !== null);
}

// Words that must all occur, in any order; what stands in quotes is one.
function terms(query) {
  return [...query.toLowerCase().matchAll(/"([^"]+)"|(\S+)/g)].map((hit) => hit[1] || hit[2]);
}

async function allTexts() {
  if (texts) return texts;
  const parts = Math.ceil(meta.rows / meta.sizes.texts);
  const files = await Promise.all([...Array(parts).keys()].map((part) => load("texts", part)));
  for (let part = 0; part < parts; part += 1) loaded.delete(`texts-${part}`);
  texts = files.flat().map((text) => text.toLowerCase());
  return texts;
}

async function choose() {
  const wanted = terms(state.q);
  const searched = wanted.length ? await allTexts() : null;
  const rules = FACETS.filter((name) => state[name] !== "").map((name) => {
    const { values, codes } = index.facets[name];
    return [codes, values.indexOf(state[name])];
  });
  const rows = [];
  for (let at = 0; at < meta.rows; at += 1) {
    if (!rules.every(([codes, code]) => codes[at] === code)) continue;
    if (state.pictured && !index.pictured[at]) continue;
    const said = (term) =>
      searched[at].includes(term) || (term.length > 5 && index.ids[at].startsWith(term));
    if (searched && !wanted.every(said)) continue;
    rows.push(at);
  }
  const order = orders().find(([name]) => name === state.sort);
  const by = order && order[2];
  const sign = state.down ? -1 : 1;
  if (by) {
    // Rows without the score come last either way; equal ones stay in the order of ids.
    rows.sort((a, b) => {
      if (by[a] === null || by[b] === null) return (by[a] === null) - (by[b] === null) || a - b;
      return sign * (by[a] - by[b]) || a - b;
    });
  } else if (state.down) {
    rows.reverse();
  }
  return rows;
}

const pages = () => Math.max(1, Math.ceil(found.length / PAGE));

async function show({ focus = false, keep = false } = {}) {
  const mine = (turn += 1);
  const rows = keep ? found : await choose();
  if (mine !== turn) return;
  found = rows;
  state.page = Math.min(Math.max(0, state.page), pages() - 1);
  const chosen = found.slice(state.page * PAGE, (state.page + 1) * PAGE);
  const cards = await Promise.all(
    chosen.map(async (at) => card(await rowOf(at), factsOf(at), scoresOf(at), () => open(at))),
  );
  if (mine !== turn) return;
  list.replaceChildren(...cards);
  if (cards.length) cards[0].tabIndex = 0;
  else list.append(el("p", { class: "nothing" }, "No row is like this. Take a filter away."));
  const first = state.page * PAGE + 1;
  const shown = found.length
    ? `${number(first)}–${number(first + chosen.length - 1)} of ${number(found.length)}`
    : "0 rows";
  document.getElementById("count").textContent = shown;
  document.getElementById("pages").textContent = `Page ${number(state.page + 1)} of ${number(pages())}`;
  for (const id of ["previous", "previous-2"]) document.getElementById(id).disabled = !state.page;
  for (const id of ["next", "next-2"]) document.getElementById(id).disabled = state.page + 1 >= pages();
  drawn += 1;
  list.dataset.drawn = String(drawn);
  list.setAttribute("aria-busy", "false");
  write();
  if (focus && cards.length) cards[0].focus();
}

function failed(error) {
  list.setAttribute("aria-busy", "false");
  list.replaceChildren(el("p", { class: "nothing" }, `This part of the page cannot be shown: ${error.message}.`));
}

const update = (options) => show(options).catch(failed);

// The address says what is shown, so that it can be sent to others.
function write() {
  const parts = new URLSearchParams();
  for (const name of [...FACETS, "q"]) if (state[name]) parts.set(name, state[name]);
  if (state.sort !== "id") parts.set("sort", state.sort);
  if (state.down) parts.set("down", "1");
  if (state.pictured) parts.set("pictured", "1");
  if (state.page) parts.set("page", String(state.page + 1));
  if (state.t) parts.set("t", state.t);
  const next = parts.toString();
  if (next === address) return;
  const silent = address === null && next === "";
  address = next;
  if (silent) return;
  try {
    history.replaceState(null, "", `#${next}`);
  } catch {
    // Some browsers allow no history to pages from a disk. An empty name would scroll to the top.
    if (next) location.replace(`#${next}`);
  }
}

function read(text) {
  const parts = new URLSearchParams(text);
  for (const name of [...FACETS, "q"]) state[name] = parts.get(name) || "";
  for (const name of FACETS) if (!index.facets[name].values.includes(state[name])) state[name] = "";
  state.sort = orders().some(([name]) => name === parts.get("sort")) ? parts.get("sort") : "id";
  state.down = parts.has("down");
  state.pictured = parts.has("pictured");
  state.page = Math.max(0, (parseInt(parts.get("page"), 10) || 1) - 1);
  state.t = parts.get("t") || "";
  for (const [name, control] of Object.entries(controls)) {
    if (name === "pictured") control.checked = state.pictured;
    else if (name !== "down") control.value = state[name];
  }
  sayOrder();
}

function sayOrder() {
  controls.down.setAttribute("aria-pressed", String(state.down));
  controls.down.textContent = state.down ? "↓ high first" : "↑ low first";
}

// The panel with the details of one row.
async function open(at) {
  const row = await rowOf(at);
  const parts = await detailsOf(row, factsOf(at), scoresOf(at));
  state.t = index.ids[at];
  document.getElementById("panel-title").textContent = `${row.text === null ? "Row" : "Triplet"} ${state.t}`;
  document.getElementById("panel-body").replaceChildren(...parts);
  if (!dialog.open) dialog.showModal();
  document.getElementById("panel-body").scrollTop = 0;
  write();
}

function move(step) {
  const now = found.indexOf(index.ids.indexOf(state.t));
  const next = found[now + step];
  if (now >= 0 && next !== undefined) open(next).catch(failed);
}

function openNamed() {
  if (!state.t) {
    if (dialog.open) dialog.close();
    return;
  }
  const at = index.ids.indexOf(state.t);
  if (at < 0) {
    state.t = "";
    return;
  }
  open(at).catch(failed);
}

function focusCard(step) {
  const cards = [...list.querySelectorAll(".card")];
  const now = cards.findIndex((one) => one.contains(document.activeElement));
  const next = cards[now < 0 ? 0 : now + step];
  if (next) {
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  } else if (now >= 0) {
    page(step);
  }
}

function page(step) {
  const next = state.page + step;
  if (next < 0 || next >= pages()) return;
  state.page = next;
  update({ focus: true, keep: true });
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const node = event.target;
  if (node.matches("input, select, textarea")) {
    if (event.key === "Escape") node.blur();
    return;
  }
  const near = list.contains(node);
  const act = (work) => {
    event.preventDefault();
    work();
  };
  if (dialog.open) {
    if (["j", "ArrowRight"].includes(event.key)) act(() => move(1));
    else if (["k", "ArrowLeft"].includes(event.key)) act(() => move(-1));
    return;
  }
  if (event.key === "/") act(() => controls.q.focus());
  else if (event.key === "j" || (near && event.key === "ArrowDown")) act(() => focusCard(1));
  else if (event.key === "k" || (near && event.key === "ArrowUp")) act(() => focusCard(-1));
  else if (near && event.key === "ArrowRight") act(() => page(1));
  else if (near && event.key === "ArrowLeft") act(() => page(-1));
  else if (event.key === "Enter" && node.matches(".card")) {
    act(() => node.querySelector("button.details").click());
  } else if (event.key === "n" && near) {
    const more = node.closest(".card").querySelector("button[aria-expanded]");
    if (more) act(() => more.click());
  } else if (event.key === "Escape" && near) node.blur();
}

function fill(name) {
  const { values, codes } = index.facets[name];
  const counts = new Map();
  for (const code of codes) counts.set(code, (counts.get(code) || 0) + 1);
  const control = controls[name];
  control.replaceChildren(el("option", { value: "" }, "all"));
  values.forEach((value, code) => {
    const shown = name === "rule" ? words(value) : value;
    control.append(el("option", { value }, `${shown} (${number(counts.get(code))})`));
  });
  control.closest("label").hidden = values.length < (name === "level" || name === "verdict" ? 2 : 1);
}

function listen() {
  const changed = () => {
    state.page = 0;
    update();
  };
  let later = null;
  controls.q.addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(() => {
      state.q = controls.q.value;
      changed();
    }, 150);
  });
  for (const name of [...FACETS, "sort"]) {
    controls[name].addEventListener("change", () => {
      state[name] = controls[name].value;
      changed();
    });
  }
  controls.pictured.addEventListener("change", () => {
    state.pictured = controls.pictured.checked;
    changed();
  });
  controls.down.addEventListener("click", () => {
    state.down = !state.down;
    sayOrder();
    changed();
  });
  document.getElementById("clear").addEventListener("click", () => {
    read("");
    changed();
  });
  for (const [id, step] of [["previous", -1], ["next", 1], ["previous-2", -1], ["next-2", 1]]) {
    document.getElementById(id).addEventListener("click", () => page(step));
  }
  document.getElementById("before").addEventListener("click", () => move(-1));
  document.getElementById("after").addEventListener("click", () => move(1));
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    const last = [...list.querySelectorAll(".card")].find((one) => one.dataset.id === state.t);
    state.t = "";
    write();
    if (last) last.focus({ preventScroll: true });
  });
  for (const button of document.querySelectorAll("button[data-step]")) {
    button.addEventListener("click", () => {
      for (const name of FACETS) state[name] = controls[name].value = "";
      state.step = controls.step.value = button.dataset.step;
      state.rule = button.dataset.rule;
      controls.rule.value = state.rule;
      changed();
      document.getElementById("rows").scrollIntoView();
      controls.rule.focus({ preventScroll: true });
    });
  }
  document.addEventListener("keydown", keys);
  window.addEventListener("hashchange", () => {
    if (location.hash.slice(1) === address) return;
    if (/^#(funnel|scores|figures|recipe|rows)$/.test(location.hash)) return;
    read(location.hash.slice(1));
    address = location.hash.slice(1);
    update().then(openNamed);
  });
}

async function start() {
  document.getElementById("filters")?.toggleAttribute("open", matchMedia("(min-width: 40rem)").matches);
  films.button(document.getElementById("play"));
  if (!meta.rows) return;
  const first = load("rows", 0);
  index = await load("index", 0);
  await first;
  FACETS.forEach(fill);
  controls.pictured.closest("label").hidden = index.pictured.every((one) => one === index.pictured[0]);
  controls.sort.replaceChildren(...orders().map(([value, label]) => el("option", { value }, label)));
  list.classList.toggle("items", index.facets.level.values.join() === "items");
  // Where no row has a score, no room is kept for them.
  list.classList.toggle("bare", !meta.scores.length && index.mined.every((one) => one === null));
  read(location.hash.slice(1));
  listen();
  await show();
  performance.mark("gallery");
  openNamed();
}

start().catch(failed);
