"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let speed = 0.5;

const reports = new Map(all("[data-panel]").map((panel) => [panel, JSON.parse(panel.querySelector("[data-report]").textContent)]));
const reportAt = (node) => reports.get(node.closest("[data-panel]"));
const keyOf = (row) => `${row.case}|${row.seed}`;

function start(video) {
  video.playbackRate = speed;
  if (playing) video.play().catch(() => {});
}

// Only what is on screen plays: eighty decoders at once would stall a laptop.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) start(entry.target);
    else entry.target.pause();
  }
}, { rootMargin: "120px" });
all(".case video").forEach((video) => watcher.observe(video));

// The players of one case start each loop together.
all(".case").forEach((card) => {
  const [first, ...others] = all("video", card);
  if (first) first.addEventListener("seeked", () => others.forEach((other) => {
    if (!other.seeking && Math.abs(other.currentTime - first.currentTime) > 0.08) other.currentTime = first.currentTime;
  }));
});

function sayPlaying() {
  all("[data-play]").forEach((button) => { button.textContent = playing ? "pause" : "play"; });
}
sayPlaying();

function sortCases(gallery, kind) {
  const list = gallery.querySelector(".cases");
  const sign = kind === "worst" ? 1 : -1;
  all(".case", list)
    .sort((a, b) => sign * (Number(a.dataset.gain) - Number(b.dataset.gain)))
    .forEach((card) => list.append(card));
  all("[data-sort]", gallery).forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.sort === kind)));
}

// --- filters: cards and dots of one report
function filter(form) {
  const panel = form.closest("[data-panel]");
  const report = reports.get(panel);
  const wanted = Object.fromEntries(new FormData(form));
  const words = (wanted.prompt ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const headline = report.measures.findIndex((measure) => measure.name === report.headlines[0]);
  const last = report.variants.at(-1);
  const found = new Map();
  for (const row of report.rows) {
    const entry = found.get(keyOf(row)) ?? { row, values: {} };
    entry.values[row.variant] = row.values[headline];
    found.set(keyOf(row), entry);
  }
  const fits = ({ row, values }) => {
    const gain = values[last] - values[report.reference];
    return words.every((word) => row.prompt.toLowerCase().includes(word))
      && (!wanted.people || row.people.length === Number(wanted.people))
      && (!wanted.person || row.people.includes(wanted.person))
      && (!wanted.gain || (wanted.gain === "up" ? gain > 0 : gain < 0));
  };
  const keep = new Set([...found].filter(([, entry]) => fits(entry)).map(([key]) => key));
  const cards = all(".case", panel);
  cards.forEach((card) => { card.hidden = !keep.has(card.dataset.key); });
  all("circle[data-key]", panel).forEach((dot) => dot.classList.toggle("out", found.has(dot.dataset.key) && !keep.has(dot.dataset.key)));
  const shown = cards.filter((card) => !card.hidden).length;
  form.querySelector("[data-count]").textContent = `${shown} of ${cards.length} videos`;
}
all(".filters").forEach((form) => {
  form.addEventListener("input", () => filter(form));
  form.addEventListener("reset", () => setTimeout(() => filter(form)));
  form.addEventListener("submit", (event) => event.preventDefault());
});

// --- definitions, for fingers and keys as well
function showAbout(button) {
  const measure = reportAt(button).measures.find((one) => one.name === button.dataset.about);
  const way = { higher: "Higher is better.", lower: "Lower is better.", neutral: "No direction is better." }[measure.better];
  byId("about-title").textContent = measure.title;
  byId("about-text").textContent = `${way} ${measure.definition}`;
  const about = byId("about");
  about.showPopover();
  const place = button.getBoundingClientRect();
  about.style.left = `${Math.max(8, Math.min(place.left, innerWidth - about.offsetWidth - 8))}px`;
  const below = place.bottom + 6;
  about.style.top = `${below + about.offsetHeight < innerHeight ? below : Math.max(8, place.top - about.offsetHeight - 6)}px`;
  about.focus({ preventScroll: true });
  about.ontoggle = (event) => { if (event.newState === "closed") button.focus({ preventScroll: true }); };
}

// --- leaderboard
function orderBy(head) {
  const body = head.closest("table").tBodies[0];
  const place = head.cellIndex;
  const down = head.getAttribute("aria-sort") !== "descending";
  const value = (row) => Number(row.cells[place].dataset.value ?? row.cells[place].textContent) || 0;
  [...body.rows].sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b))).forEach((row) => body.append(row));
  all("[aria-sort]", head.parentElement).forEach((one) => one.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}

// --- CSV of everything: one line a video
const cell = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));
function csvText(report) {
  const head = ["variant", "case", "seed", "prompt", "people", ...report.measures.map((m) => m.name), "each_person"];
  const lines = report.rows.map((row) => [row.variant, row.case, row.seed, row.prompt, row.people.join(";"), ...row.values.map((v) => v ?? ""),
    Object.entries(row.each).map(([name, values]) => `${name}=${values.join("/")}`).join(";")]);
  return [head, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
}
function saveCsv() {
  const panel = all("[data-panel]").find((one) => !one.hidden);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csvText(reports.get(panel))], { type: "text/csv" }));
  link.download = "samples.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function copyText(button) {
  const block = button.closest(".made").querySelector("pre");
  try {
    await navigator.clipboard.writeText(block.textContent);
    button.textContent = "copied";
  } catch { // not allowed here: mark the text, so that the copy key takes it
    getSelection().selectAllChildren(block);
    button.textContent = "marked: press the copy key";
  }
}

function chooseTab(button, focus = false) {
  all("[data-tab]").forEach((one) => { one.setAttribute("aria-selected", String(one === button)); one.tabIndex = one === button ? 0 : -1; });
  all("[data-panel]").forEach((panel) => { panel.hidden = panel.dataset.panel !== button.dataset.tab; });
  if (focus) button.focus();
}

document.addEventListener("click", (event) => {
  const dot = event.target.closest("circle[data-key]");
  if (dot) { openLarge(dot.closest("[data-panel]"), dot.dataset.key); return; }
  const players = event.target.closest(".players");
  if (players) { openLarge(players.closest("[data-panel]"), players.closest(".case").dataset.key); return; }
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.sort) sortCases(button.closest(".gallery"), button.dataset.sort);
  if ("open" in button.dataset) openLarge(button.closest("[data-panel]"), button.closest(".case").dataset.key);
  if ("about" in button.dataset) showAbout(button);
  if ("order" in button.dataset) orderBy(button.closest("th"));
  if ("csv" in button.dataset) saveCsv();
  if ("copy" in button.dataset) copyText(button);
  if ("play" in button.dataset) {
    playing = !playing;
    sayPlaying();
    all(".case video").forEach((video) => (playing ? start(video) : video.pause()));
  }
  if ("speed" in button.dataset) {
    speed = { 1: 0.25, 0.25: 0.5, 0.5: 1 }[speed];
    const text = { 1: "speed 1×", 0.5: "speed ½×", 0.25: "speed ¼×" }[speed];
    all("[data-speed]").forEach((b) => { b.textContent = text; });
    all("video").forEach((video) => { video.playbackRate = speed; });
  }
  if ("theme" in button.dataset) {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  }
  if (button.dataset.tab) chooseTab(button);
});

document.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const dot = event.target.closest?.("circle[data-key]");
  if (dot && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    openLarge(dot.closest("[data-panel]"), dot.dataset.key);
  } else if (dot && step) {
    event.preventDefault();
    const dots = all("circle[data-key]:not(.out)", dot.ownerSVGElement);
    const next = dots[(dots.indexOf(dot) + step + dots.length) % dots.length];
    dot.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  } else if (event.target.dataset?.tab && step) {
    event.preventDefault();
    const tabs = all("[data-tab]");
    chooseTab(tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length], true);
  }
});
