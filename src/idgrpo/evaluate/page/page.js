"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
let playing = true;
let speed = 0.5;

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
all("video").forEach((video) => watcher.observe(video));

// The players of one case start each loop together.
all(".case").forEach((card) => {
  const [first, ...others] = all("video", card);
  if (first) first.addEventListener("seeked", () => others.forEach((other) => {
    if (Math.abs(other.currentTime - first.currentTime) > 0.08) other.currentTime = first.currentTime;
  }));
});

function sortCases(gallery, kind) {
  const list = gallery.querySelector(".cases");
  const sign = kind === "worst" ? 1 : -1;
  all(".case", list)
    .sort((a, b) => sign * (Number(a.dataset.gain) - Number(b.dataset.gain)))
    .forEach((card) => list.append(card));
  all("[data-sort]", gallery).forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.sort === kind)));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const gallery = button.closest(".gallery");
  if (button.dataset.sort) sortCases(gallery, button.dataset.sort);
  if ("play" in button.dataset) {
    playing = !playing;
    all("[data-play]").forEach((b) => { b.textContent = playing ? "pause" : "play"; b.setAttribute("aria-pressed", String(playing)); });
    all("video").forEach((video) => (playing ? start(video) : video.pause()));
  }
  if (button.dataset.speed) {
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
  if (button.dataset.tab) {
    all("[data-tab]").forEach((b) => b.setAttribute("aria-selected", String(b === button)));
    all("[data-panel]").forEach((panel) => { panel.hidden = panel.dataset.panel !== button.dataset.tab; });
  }
});
