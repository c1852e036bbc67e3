// The large view: one case, its clips in one place or side by side, boxes over them, similarity over time.
const large = { panel: null, key: "", variant: "", playing: true, boxes: true, beside: false, videos: new Map(), opener: null };
const SVG = byId("large-curves").querySelector("svg").namespaceURI;
const CHART = { width: 640, height: 150, left: 34, right: 8, top: 8, bottom: 20 };

const make = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
};
const draw = (name, attributes) => {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
const clipOf = (variant) => reports.get(large.panel).clips[`${large.key}|${variant}`] ?? null;
const front = () => large.videos.get(large.variant) ?? [...large.videos.values()][0] ?? null;
const frameAt = (time, clip) => Math.min(Math.floor(time * clip.fps + 1e-3), Math.max(clip.frames - 1, 0));
const frameOf = (video, clip) => frameAt(video.currentTime, clip);

function openLarge(panel, key) {
  const report = reports.get(panel);
  const rows = report.rows.filter((row) => keyOf(row) === key);
  if (!rows.length) return;
  const dialog = byId("large");
  if (!dialog.open) large.opener = document.activeElement;
  if (panel !== large.panel) large.variant = "";
  Object.assign(large, { panel, key, playing: !matchMedia("(prefers-reduced-motion: reduce)").matches });
  if (!report.variants.includes(large.variant)) large.variant = report.variants.at(-1);
  const card = all(".case", panel).find((one) => one.dataset.key === key);
  byId("large-title").textContent = rows[0].prompt;
  byId("large-where").textContent = `${rows[0].case} · seed ${rows[0].seed}`;
  showPeople(card, rows[0].people);
  showClips(report, card);
  showMeasures(report, rows);
  if (!dialog.open) {
    dialog.showModal();
    byId("large-title").focus(); // not the first button: the space bar plays and pauses
  }
  CHART.width = Math.max(280, byId("large").querySelector(".scroll").clientWidth); // its letters keep their size
  showCurves(report);
  dialog.scrollTop = 0;
  choose(large.variant);
  requestAnimationFrame(follow);
}

function showPeople(card, people) {
  const pictures = card ? all(".portrait img", card) : [];
  byId("large-people").replaceChildren(...people.map((name, i) => {
    const item = make("li", { className: `portrait p${i % 6}` });
    if (pictures[i]) item.append(make("img", { src: pictures[i].src, alt: "" }));
    item.append(make("span", {}, make("b", { textContent: String(i + 1) }), ` ${name}`));
    return item;
  }));
}

function showClips(report, card) {
  large.videos.forEach((video) => video.pause());
  large.videos.clear();
  const stage = byId("large-stage");
  if (!card) {
    stage.replaceChildren(make("p", { className: "sub", textContent: "The clips of this case are not in this page: page.max_players and page.max_bytes bound how many are." }));
    byId("large-variants").replaceChildren();
    return;
  }
  stage.replaceChildren(...all("video", card).map((source) => {
    const variant = source.dataset.variant;
    const video = make("video", { src: source.src, muted: true, loop: true, playsInline: true, preload: "auto" });
    video.setAttribute("aria-label", `${variant}, large`);
    video.playbackRate = speed;
    video.addEventListener("seeked", () => goOn(video));
    if (variant === report.reference) video.addEventListener("seeked", alignOthers);
    large.videos.set(variant, video);
    const overlay = make("div", { className: "overlay" });
    overlay.setAttribute("aria-hidden", "true");
    const figure = make("figure", { className: variant === report.reference ? "is-base" : "is-tuned" }, make("div", { className: "screen" }, video, overlay), make("figcaption", { textContent: variant }));
    figure.dataset.variant = variant;
    return figure;
  }));
  byId("large-variants").replaceChildren(...report.variants.map((variant) => {
    const button = make("button", { type: "button", textContent: variant, onclick: () => choose(variant) });
    button.dataset.variant = variant;
    return button;
  }));
  const clip = clipOf(report.variants[0]);
  Object.assign(byId("large-seek"), { max: Math.max((clip?.frames ?? 1) - 1, 1), value: 0 });
}

// One seek at a time: a browser may never end a seek that another one overtakes.
const wanted = new WeakMap();

function go(video, time) {
  wanted.delete(video);
  if (video.seeking) wanted.set(video, time);
  else video.currentTime = time;
}

function goOn(video) {
  const time = wanted.get(video);
  if (time === undefined) return;
  wanted.delete(video);
  video.currentTime = time;
}

function alignOthers() {
  const time = front()?.currentTime ?? 0;
  if (!large.playing) return;
  large.videos.forEach((video) => { if (video !== front() && Math.abs(video.currentTime - time) > 0.1) go(video, time); });
}

function choose(variant) {
  const time = front()?.currentTime ?? 0;
  large.variant = variant;
  all("[data-variant]", byId("large-stage")).forEach((figure) => figure.classList.toggle("front", figure.dataset.variant === variant));
  all("button", byId("large-variants")).forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.variant === variant)));
  all("[data-curve]", byId("large-curves")).forEach((line) => line.classList.toggle("behind", line.dataset.curve !== variant));
  const video = front();
  if (video && Math.abs(video.currentTime - time) > 0.02) go(video, time); // the same moment, in the same place
  setPlaying(large.playing);
}

function setPlaying(on) {
  large.playing = on;
  byId("large-play").textContent = on ? "pause" : "play";
  large.videos.forEach((video) => (on ? video.play().catch(() => {}) : video.pause()));
}

function seekFrame(frame) {
  const clip = clipOf(large.variant);
  if (!clip) return;
  setPlaying(false);
  const at = Math.min(Math.max(frame, 0), Math.max(clip.frames - 1, 0));
  large.videos.forEach((video) => go(video, (at + 0.5) / clip.fps));
}
const step = (by) => {
  const clip = clipOf(large.variant), video = front();
  if (clip) seekFrame(frameAt(wanted.get(video) ?? video.currentTime, clip) + by);
};

function follow() {
  if (!byId("large").open) return;
  requestAnimationFrame(follow);
  const video = front(), clip = clipOf(large.variant);
  if (!video || !clip) return;
  const frame = frameOf(video, clip);
  byId("large-frame").textContent = `frame ${frame + 1} of ${clip.frames}`;
  if (document.activeElement !== byId("large-seek") || large.playing) byId("large-seek").value = frame;
  for (const figure of all("figure", byId("large-stage"))) showBoxes(figure, large.videos.get(figure.dataset.variant), clipOf(figure.dataset.variant));
  const head = byId("large-curves").querySelector(".head");
  if (head) { const x = across(frame, clip.frames); head.setAttribute("x1", x); head.setAttribute("x2", x); }
}

function showBoxes(figure, video, clip) {
  const overlay = figure.querySelector(".overlay");
  const frame = clip && video ? frameOf(video, clip) : -1;
  if (overlay.dataset.frame === `${frame}${large.boxes}`) return;
  overlay.dataset.frame = `${frame}${large.boxes}`;
  overlay.replaceChildren(...(large.boxes && clip ? clip.tracks : []).flatMap((track) => {
    const place = track.frames.indexOf(frame);
    if (place < 0) return [];
    const [left, top, right, bottom] = track.boxes[place].map((v) => v * 100);
    const asked = track.person !== null, near = track.nearest[place];
    const like = asked && near !== null && near !== track.person ? ` like ${near + 1}` : "";
    const value = asked && track.similarity[place] !== null ? ` ${track.similarity[place].toFixed(2)}` : "";
    const box = make("div", { className: `box ${asked ? `p${track.person % 6}` : "other"}` }, make("b", { textContent: asked ? `${track.person + 1}${like}${value}` : "not asked for" }));
    Object.assign(box.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
    box.classList.toggle("low", top < 12);
    return [box];
  }));
}

const across = (frame, frames) => CHART.left + (frame / Math.max(frames - 1, 1)) * (CHART.width - CHART.left - CHART.right);
const up = (value) => CHART.height - CHART.bottom - ((Math.min(Math.max(value, -0.2), 1) + 0.2) / 1.2) * (CHART.height - CHART.top - CHART.bottom);

function showCurves(report) {
  const figure = byId("large-curves");
  const clips = report.variants.map((variant) => [variant, clipOf(variant)]).filter(([, clip]) => clip?.tracks.length);
  figure.hidden = !clips.length;
  const chart = draw("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", "aria-label": curvesInWords(clips) });
  for (const value of [0, 0.5, 1]) {
    chart.append(draw("line", { class: "grid", x1: CHART.left, x2: CHART.width - CHART.right, y1: up(value), y2: up(value) }));
    const text = draw("text", { class: "tick", x: CHART.left - 6, y: up(value) + 4, "text-anchor": "end" });
    text.textContent = value;
    chart.append(text);
  }
  for (const [variant, clip] of clips) {
    for (const track of clip.tracks) {
      if (track.person === null) continue;
      const points = track.frames.map((frame, i) => (track.similarity[i] === null ? "" : `${across(frame, clip.frames)},${up(track.similarity[i])}`)).filter(Boolean);
      const line = draw("polyline", { class: `person-line p${track.person % 6}`, points: points.join(" ") });
      line.dataset.curve = variant;
      chart.append(line);
    }
  }
  const frames = clips[0]?.[1].frames ?? 1;
  for (const [frame, anchor] of [[0, "start"], [frames - 1, "end"]]) {
    const text = draw("text", { class: "tick", x: across(frame, frames), y: CHART.height - 5, "text-anchor": anchor });
    text.textContent = `frame ${frame + 1}`;
    chart.append(text);
  }
  chart.append(draw("line", { class: "head", x1: 0, x2: 0, y1: CHART.top, y2: CHART.height - CHART.bottom }));
  chart.addEventListener("click", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * CHART.width;
    seekFrame(Math.round(((x - CHART.left) / (CHART.width - CHART.left - CHART.right)) * (frames - 1)));
  });
  figure.querySelector("div").replaceChildren(chart);
}

function curvesInWords(clips) {
  const told = clips.flatMap(([variant, clip]) => clip.tracks.filter((track) => track.person !== null).map((track) => {
    const known = track.similarity.filter((v) => v !== null);
    return known.length ? `${variant}, person ${track.person + 1}: ${Math.min(...known).toFixed(2)} to ${Math.max(...known).toFixed(2)}` : "";
  }));
  return `Similarity over time. ${told.filter(Boolean).join("; ")}`;
}

function showMeasures(report, rows) {
  const table = byId("large").querySelector("table");
  const order = [...report.headlines, ...report.measures.map((m) => m.name).filter((name) => !report.headlines.includes(name))];
  const head = make("tr", {}, ...["measure", ...report.variants].map((text) => Object.assign(make("th", { textContent: text }), { scope: "col" })));
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...order.map((name) => {
    const place = report.measures.findIndex((m) => m.name === name);
    const values = report.variants.map((variant) => rows.find((row) => row.variant === variant)?.values[place]);
    return make("tr", {}, Object.assign(make("th", { textContent: report.measures[place].title }), { scope: "row" }),
      ...values.map((value) => make("td", { textContent: value === null || value === undefined ? "–" : value.toFixed(3) })));
  }));
}

function toggle(name) {
  large[name] = !large[name];
  byId(`large-${name}`).setAttribute("aria-pressed", String(large[name]));
  byId("large-stage").classList.toggle("beside", large.beside);
}

function another(by) {
  const cards = all(".case", large.panel).filter((card) => !card.hidden);
  const now = cards.findIndex((card) => card.dataset.key === large.key);
  if (cards.length) openLarge(large.panel, cards[(now + by + cards.length) % cards.length].dataset.key);
}

function otherVariant() {
  const { variants } = reports.get(large.panel);
  choose(variants[(variants.indexOf(large.variant) + 1) % variants.length]);
}

const KEYS = { x: otherVariant, b: () => toggle("boxes"), n: () => another(1), p: () => another(-1), ArrowLeft: () => step(-1), ArrowRight: () => step(1), " ": () => setPlaying(!large.playing) };
byId("large").addEventListener("keydown", (event) => {
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === " " && event.target.closest("button")) return; // a button's own key
  event.preventDefault();
  act();
});
byId("large").addEventListener("close", () => {
  large.videos.forEach((video) => video.pause());
  large.opener?.focus();
});
byId("large-close").onclick = () => byId("large").close();
byId("large-play").onclick = () => setPlaying(!large.playing);
byId("large-back").onclick = () => step(-1);
byId("large-forward").onclick = () => step(1);
byId("large-beside").onclick = () => toggle("beside");
byId("large-boxes").onclick = () => toggle("boxes");
byId("large-next").onclick = () => another(1);
byId("large-previous").onclick = () => another(-1);
byId("large-seek").oninput = (event) => seekFrame(Number(event.target.value));
