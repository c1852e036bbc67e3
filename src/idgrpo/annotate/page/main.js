// The session: who, which pair, which answer. Pairs are fetched ahead with their clips, so that the next one is there
// at once and a short loss of the network goes unnoticed.

import { ABOUT_PEOPLE, Keys } from "./keys.js";
import { Outbox, post } from "./outbox.js";
import { PeopleQuestion, answersOf } from "./people.js";
import { Comment, Zoom, openOwnVotes, showCode, showFeedback } from "./extras.js";
import { PairPlayer } from "./player.js";
import { isKept, keep, onTrouble, recall } from "./store.js";
import { $, fitStage, showKeys, showKeyTable, showPair, showPause, showProgress, showSaved, showWork } from "./view.js";

const AHEAD = 2;
const HISTORY = 100;
const KEPT = 5; // answered pairs whose clips stay in memory, for undo
const REASONS = ["A clip does not play", "The pictures are unclear", "The people cannot be seen", "I know these clips"];
const SPEEDS = [0.1, 0.25, 0.5, 1, 1.5, 2];

const keys = new Keys();
const people = new PeopleQuestion(keys);
const state = { annotator: null, current: null, ahead: [], history: [], progress: null, seconds: [], unlocked: false, flipped: false, finished: false };
let outbox, player, zoom, comment, me, startedAt = 0, pausedAt = 0, fetching = false, retry = null, storageKey = "";

const held = () => [...new Set([state.current, ...state.ahead].filter(Boolean).map((pair) => pair.assignment).concat(outbox.assignments))].slice(0, 16);
const medianSeconds = () => { const s = [...state.seconds].sort((a, b) => a - b); return s.length ? s[s.length >> 1] : 10; };

async function blobOf(url) {
  const response = await fetch(url.replace(/^\//, "")); // below the page's own path
  if (!response.ok) throw new Error(`clip: ${response.status}`);
  return URL.createObjectURL(await response.blob());
}

async function withMedia(pair) {
  const one = async (url) => blobOf(url);
  const [left, right, ...sources] = await Promise.all([one(pair.left.url), one(pair.right.url), ...pair.references.flatMap((r) => r.images.map(one))]);
  pair.left.source = left;
  pair.right.source = right;
  for (const reference of pair.references) reference.sources = reference.images.map(() => sources.shift());
  return pair;
}

function release(pair) {
  if (!pair?.left.source) return;
  for (const source of [pair.left.source, pair.right.source, ...pair.references.flatMap((r) => r.sources)]) URL.revokeObjectURL(source);
  pair.left.source = null;
}

async function fetchAhead() {
  if (fetching) return;
  fetching = true;
  clearTimeout(retry);
  try {
    while (state.ahead.length < AHEAD) {
      const answer = await post("claim", { annotator: state.annotator, held: held() });
      noteProgress(answer.progress);
      state.finished = !answer.pair;
      if (!answer.pair) break;
      if (held().includes(answer.pair.assignment)) break;
      state.ahead.push(await withMedia(answer.pair));
      if (!state.current) next();
    }
    if (!state.current) next();
  } catch (error) {
    if (error.status === 403) { showPause("Please open your own link", error.message, false); return; }
    retry = setTimeout(fetchAhead, 1500);
    if (!state.current) showPause("Offline", "Your votes are kept in this browser and sent when the server is back.", state.history.length > 0);
  } finally {
    fetching = false;
  }
}

function next() {
  if (pausedAt) return;
  state.current = state.ahead.shift() ?? null;
  if (!state.current) {
    if (state.finished && !outbox.waiting.length) {
      showCode(state.progress?.code);
      showPause("All done, thank you!", "There is no pair left for you. You may close this page, or leave it open: pairs that come back appear here.", state.history.length > 0);
    } else {
      showPause("One moment", "The next pair is on its way.", state.history.length > 0);
    }
    retry = setTimeout(fetchAhead, state.finished ? 5000 : 300);
    return;
  }
  present();
  fetchAhead();
}

async function present() {
  const pair = state.current;
  lock(me.unlock !== "at_once");
  $("question").textContent = pair.practice ? "Practice: who keeps the people best?" : "Who keeps the people best?";
  comment.clear();
  setFlip(false);
  showPair(pair);
  showWork();
  if (me.ask_people) people.show(pair);
  startedAt = performance.now();
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  try {
    await player.load([pair.left, pair.right], !calm);
    fitStage($("left"), $("right"));
    if (calm && !state.unlocked) $("hint").textContent = "Press play to watch both clips; then answer.";
  } catch (error) {
    if (pair === state.current) $("hint").textContent = `${error.message}: skip this pair.`;
  }
}

function lock(locked) {
  state.unlocked = !locked;
  for (const button of document.querySelectorAll("[data-answer]")) button.disabled = locked;
  $("hint").textContent = locked ? "Watch both clips once to unlock your answer." : "In which clip does every person stay like the pictures?";
  $("undo").disabled = state.history.length === 0;
}

function vote(answer, why = null) {
  const pair = state.current;
  if (!pair || (!state.unlocked && answer !== "skip")) return;
  const words = comment.take();
  const reason = [why, words].filter(Boolean).join(": ").slice(0, 500) || null;
  const seconds = Math.min((performance.now() - startedAt) / 1000, 86400);
  const vote_id = crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  state.seconds = [...state.seconds.slice(-20), seconds];
  state.history.push({ pair, vote_id });
  release(state.history.at(-KEPT - 1)?.pair);
  keepHistory();
  state.current = null;
  outbox.add("vote", { annotator: state.annotator, assignment: pair.assignment, vote_id, answer, seconds, reason, people: answer === "skip" ? null : answersOf(pair) });
  next();
}

function undo() {
  const last = state.history.pop();
  if (!last) return;
  keepHistory();
  if (state.current) state.ahead.unshift(state.current);
  outbox.add("undo", { annotator: state.annotator, vote_id: last.vote_id });
  const again = () => { state.current = last.pair; present(); };
  if (last.pair.left.source) again(); else withMedia(last.pair).then(again, () => { state.current = null; fetchAhead(); });
}

// A vote of the list is taken back: its pair comes again as one that is held here.
function takeBack(vote_id) {
  state.history = state.history.filter((entry) => entry.vote_id !== vote_id);
  keepHistory();
  if (state.current) state.ahead.unshift(state.current);
  state.current = null;
  showPause("One moment", "The pair of that vote is on its way.", false);
  outbox.add("undo", { annotator: state.annotator, vote_id });
  const sent = setInterval(async () => {
    if (outbox.waiting.length) return;
    clearInterval(sent);
    const answer = await post("claim", { annotator: state.annotator, held: held() }).catch(() => null);
    if (answer?.pair) state.ahead.unshift(await withMedia(answer.pair));
    next();
  }, 100);
}

function pause(title, text, code = null) {
  if (pausedAt) return;
  player.pause();
  pausedAt = performance.now();
  showPause(title, text, false);
  showCode(code);
  $("pause-resume").hidden = false;
  $("pause-resume").focus();
}

function resume() {
  if (!pausedAt) return;
  startedAt += performance.now() - pausedAt; // a pause is no time spent on the pair
  pausedAt = 0;
  $("pause-resume").hidden = true;
  showCode(null);
  if (state.current) { showWork(); player.play(); } else next();
}

async function finish() {
  await outbox.flush();
  const mine = state.progress?.mine ?? 0, waiting = outbox.waiting.length;
  const sent = waiting ? `${waiting} votes are still on their way: keep this page open.` : "All your votes are saved; you may close this page.";
  pause("Thank you!", `${mine} votes. ${sent} You can go on at any time.`, state.progress?.code);
}

function keepHistory() {
  state.history = state.history.slice(-HISTORY);
  const plain = state.history.map(({ pair, vote_id }) => ({ vote_id, pair: { ...pair, left: strip(pair.left), right: strip(pair.right), references: pair.references.map(({ person, images }) => ({ person, images })) } }));
  keep(`${storageKey}-history`, JSON.stringify(plain));
}
const strip = ({ url, fps, frames }) => ({ url, fps, frames });

function noteProgress(progress) {
  if (!progress) return;
  state.progress = progress;
  showProgress(progress, medianSeconds());
}

function noteOutbox({ saved, offline, progress, refused, feedback }) {
  noteProgress(progress);
  if (feedback) {
    const since = performance.now();
    showFeedback(feedback, () => { startedAt += performance.now() - since; });
  }
  const waiting = outbox?.waiting.length ?? 0;
  if (refused) showSaved("offline", `Not taken: ${refused}`);
  else if (offline) showSaved("offline", `Offline · ${waiting} kept here`);
  else if (waiting) showSaved("waiting", `Saving ${waiting}…`);
  else if (saved) showSaved("saved", "Saved");
  if (saved && !waiting && !state.current) fetchAhead();
}

function setFlip(on) {
  state.flipped = on;
  $("stage").classList.toggle("flip", on);
  $("flip").setAttribute("aria-pressed", String(on));
  front("left");
}

function front(side) {
  $("figure-left").classList.toggle("front", side === "left");
  $("figure-right").classList.toggle("front", side === "right");
}

function setSpeed(rate) {
  player.rate = rate;
  $("speed").value = String(rate);
}

function toggleLoop() {
  player.loop = !player.loop;
  $("loop").setAttribute("aria-pressed", String(player.loop));
}

const changeSpeed = (by) => setSpeed(SPEEDS[Math.min(Math.max(SPEEDS.indexOf(player.rate) + by, 0), SPEEDS.length - 1)]);
const openSkip = () => { if (state.current) { $("reason-text").value = ""; $("skip-reason").showModal(); } };
const showTable = () => showKeyTable(keys, listen, me.ask_people);
const openHelp = () => { $("key-message").textContent = ""; showTable(); $("help").showModal(); };

const DO = {
  left: () => vote("left"), right: () => vote("right"), tie: () => vote("tie"), both_bad: () => vote("both_bad"),
  skip: openSkip, undo, play: () => player.toggle(), back: () => player.step(-1), forward: () => player.step(1),
  restart: () => { player.seek(0); player.play(); }, loop: toggleLoop, flip: () => setFlip(!state.flipped),
  peek: () => { if (state.flipped) front("right"); }, slower: () => changeSpeed(-1), faster: () => changeSpeed(1), help: openHelp,
  kept: () => people.press("kept"), changed: () => people.press("changed"), mixed: () => people.press("mixed"),
  zoom: () => zoom.set(!zoom.on), comment: () => comment.open(), own_votes: () => openOwnVotes(state.annotator, takeBack),
  guidelines: () => { if (me.guidelines) $("guidelines").showModal(); }, pause: () => pause("Paused", "The clock stands still."),
  missing: () => people.press("missing"), next_person: () => people.press("next"),
};

let listening = null;
function listen(action, button) {
  document.querySelector("#keys .listening")?.classList.remove("listening");
  button.classList.add("listening");
  button.textContent = "press a key";
  listening = action;
}

function onKey(event) {
  if (listening) {
    event.preventDefault();
    const message = event.code === "Escape" ? "" : keys.remap(listening, event.code);
    $("key-message").textContent = message ?? "";
    listening = null;
    showKeys(keys);
    showTable();
    return;
  }
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || document.querySelector("dialog[open]")) return;
  if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.id !== "seek") return;
  if (state.current && !pausedAt && zoom.key(event.code)) { event.preventDefault(); return; }
  const action = keys.action(event.code);
  if (pausedAt) { if (action === "pause") resume(); return; }
  if (!action || !state.annotator || (ABOUT_PEOPLE.includes(action) && !me.ask_people)) return;
  event.preventDefault();
  if (event.repeat && !["back", "forward"].includes(action)) return; // a key held down is one answer
  if (["undo", "help", "guidelines", "own_votes"].includes(action) || state.current) DO[action]();
}

function wire() {
  player = new PairPlayer($("left"), $("right"), {
    onPlayed: () => { if (!state.unlocked) lock(false); },
    onTime: (p) => {
      if (!p.duration) return;
      $("seek").value = Math.round((1000 * p.time) / p.duration);
      $("frame").textContent = `${p.frame + 1} / ${p.numFrames}`;
      $("play").classList.toggle("playing", p.playing);
      $("play").setAttribute("aria-label", p.playing ? "Pause" : "Play");
    },
  });
  for (const id of ["back", "play", "forward", "restart", "loop", "zoom", "flip", "comment", "skip", "undo"]) $(id).onclick = () => { DO[id](); };
  $("play").addEventListener("keyup", (event) => { if (event.code === "Space") event.preventDefault(); });
  for (const screen of document.querySelectorAll(".screen")) screen.onclick = () => { if (state.current) player.toggle(); };
  zoom = new Zoom();
  comment = new Comment();
  for (const [id, act] of [["guidelines-open", DO.guidelines], ["own-open", DO.own_votes], ["pause-open", DO.pause], ["finish-open", finish]]) {
    $(id).onclick = () => { $("menu").hidePopover(); if (state.annotator) act(); };
  }
  $("pause-resume").onclick = resume;
  onTrouble((kind) => {
    $("storage").textContent = `This browser's storage is ${kind}. Votes are still sent at once; keep this page open until it says “Saved”.`;
    $("storage").hidden = false;
  });
  window.addEventListener("beforeunload", (event) => { if (outbox?.waiting.length && !isKept()) event.preventDefault(); });
  $("pause-undo").onclick = undo;
  $("help-open").onclick = openHelp;
  $("keys-reset").onclick = () => { keys.reset(); showKeys(keys); showTable(); };
  $("speed").onchange = (event) => { setSpeed(Number(event.target.value)); event.target.blur(); };
  $("seek").oninput = (event) => { player.pause(); player.seek((player.duration * event.target.value) / 1000); };
  for (const button of document.querySelectorAll("[data-answer]")) button.onclick = () => vote(button.dataset.answer);
  $("reasons").replaceChildren(...REASONS.map((text) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "ghost", textContent: text });
    button.onclick = () => { $("skip-reason").close("done"); vote("skip", text); };
    return button;
  }));
  $("skip-reason").addEventListener("close", (event) => {
    const dialog = event.target;
    if (dialog.returnValue === "other" && $("reason-text").value.trim()) vote("skip", $("reason-text").value.trim());
    dialog.returnValue = "";
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => { if (keys.action(event.code) === "peek") front("left"); });
  window.addEventListener("blur", () => front("left"));
}

async function join() {
  const token = new URLSearchParams(location.hash.slice(1)).get("enter");
  me = await post("me", {});
  $("guidelines-open").hidden = !me.guidelines;
  $("guidelines-text").innerHTML = me.guidelines; // made of the organiser's Markdown by the server: no script, no raw HTML
  const known = me.annotator ?? (me.needs_link ? null : recall("idgrpo-name", "sessionStorage"));
  if (known && !token) return known;
  if (me.needs_link) { $("name").hidden = $("name-label").hidden = true; if (!token) { showPause("A link is needed", "Ask the person who runs this session for your own link.", false); return null; } }
  $("name").value = recall("idgrpo-last-name") ?? "";
  $("join").showModal();
  return new Promise((resolve) => {
    $("join").addEventListener("cancel", (event) => event.preventDefault());
    $("join").querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        const name = me.needs_link ? (await post("enter", { token })).annotator : $("name").value.trim();
        if (!/^[\p{L}\p{N}_][\p{L}\p{N}_ .@+-]{0,39}$/u.test(name)) throw new Error("Letters, digits, spaces and . @ + - only, at most 40.");
        history.replaceState(null, "", location.pathname);
        keep("idgrpo-name", name, { area: "sessionStorage" });
        keep("idgrpo-last-name", name);
        $("join").close();
        if (me.guidelines) $("guidelines").showModal();
        resolve(name);
      } catch (error) { $("join-error").textContent = error.message; }
    };
  });
}

async function start() {
  showKeys(keys);
  wire();
  state.annotator = await join();
  if (!state.annotator) return;
  storageKey = `idgrpo-${me.session}-${state.annotator}`;
  try {
    state.history = JSON.parse(recall(`${storageKey}-history`) ?? "[]");
  } catch { state.history = []; }
  outbox = new Outbox(`${storageKey}-outbox`, noteOutbox, `${storageKey}-history`);
  await outbox.flush();
  await fetchAhead();
}

// For tests and for the curious: what the page knows.
window.idgrpo = { state, get player() { return player; }, get outbox() { return outbox; } };
start().catch((error) => showPause("The server cannot be reached", error.message, false));
