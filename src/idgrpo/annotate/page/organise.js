// The organiser's page: state of the session every few seconds, links, export. The token comes with the address and stays in this tab.

import { keep, recall } from "./store.js";

const EVERY_MS = 3000;
const BIASED = 0.15, FEW_RIGHT = 0.7, ENOUGH = 10; // marks, never a verdict
const $ = (id) => document.getElementById(id);
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) keep("idgrpo-organiser", given, { area: "sessionStorage" });
history.replaceState(null, "", location.pathname);
const token = given ?? recall("idgrpo-organiser", "sessionStorage");

async function ask(name, body = {}) {
  const response = await fetch(`api/organise/${name}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token, ...body }) });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `error ${response.status}`);
  return response;
}

const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
function ago(seconds) {
  if (seconds === null) return "–";
  return seconds < 90 ? `${Math.round(seconds)} s ago` : seconds < 5400 ? `${Math.round(seconds / 60)} min ago` : `${(seconds / 3600).toFixed(1)} h ago`;
}

function cells(values) {
  const row = document.createElement("tr");
  values.forEach((value, i) => {
    const cell = document.createElement(i ? "td" : "th");
    if (!i) cell.scope = "row";
    if (value instanceof Node) cell.append(value);
    else if (Array.isArray(value)) { cell.textContent = value[0]; cell.classList.toggle("flag", value[1]); }
    else cell.textContent = value;
    row.append(cell);
  });
  return row;
}

function show(state) {
  const done = `${state.done} of ${state.needed}`;
  const left = state.minutes_left === null ? "–" : state.minutes_left < 90 ? `${Math.round(state.minutes_left)} min` : `${(state.minutes_left / 60).toFixed(1)} h`;
  const figures = { "votes": done, "active now": state.active, "votes a minute": number(state.votes_a_minute, 1), "time left": left, "agreement": percent(state.agreement), "left chosen": percent(state.left_share), "gold right": percent(state.gold_accuracy) };
  $("figures").replaceChildren(...Object.entries(figures).map(([name, value]) => {
    const box = document.createElement("div"), term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = name;
    said.textContent = value;
    box.append(term, said);
    return box;
  }));
  $("annotators").replaceChildren(...state.annotators.map((row) => cells([
    row.annotator, row.votes, number(row.votes_a_minute, 1), ago(row.idle_s), number(row.median_seconds, 1), percent(row.agreement),
    [percent(row.left_share), row.votes >= ENOUGH && row.left_share !== null && Math.abs(row.left_share - 0.5) > BIASED],
    [`${percent(row.gold_accuracy)}${row.num_gold ? ` of ${row.num_gold}` : ""}`, row.num_gold >= 3 && row.gold_accuracy < FEW_RIGHT],
    row.skips, row.code ? `${row.code}${row.complete ? "" : " (not yet)"}` : "–",
  ])));
  const focused = document.activeElement?.dataset.link;
  $("links").replaceChildren(...state.links.map((link) => {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "ghost", textContent: "Revoke", disabled: link.state === "revoked" });
    button.dataset.link = link.id;
    button.setAttribute("aria-label", `Revoke the link of ${link.annotator}`);
    button.onclick = () => ask("revoke", { link: link.id }).then(update, say);
    return cells([link.annotator, link.state, link.expires ? new Date(1000 * link.expires).toLocaleString() : "never", link.id, button]);
  }));
  if (focused) document.querySelector(`[data-link="${focused}"]`)?.focus();
  $("message").textContent = `As of ${new Date().toLocaleTimeString()}${state.needs_link ? "" : ". This session is open on this machine: nobody needs a link."}`;
}

const say = (error) => { $("message").textContent = error.message; };
async function update() { try { show(await (await ask("status")).json()); } catch (error) { say(error); } }

$("make").onsubmit = async (event) => {
  event.preventDefault();
  try {
    const made = await (await ask("link", { annotator: $("who").value.trim() })).json();
    const address = new URL(`./#enter=${made.enter}`, location.href).href;
    $("made").textContent = `${address} (shown once)`;
    $("who").value = "";
    navigator.clipboard?.writeText(address).then(() => { $("made").textContent += ", copied"; }, () => {});
    update();
  } catch (error) { $("made").textContent = error.message; }
};
$("export").onclick = async () => {
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await (await ask("export")).blob());
    link.download = "votes.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) { say(error); }
};

update();
setInterval(() => { if (!document.hidden) update(); }, EVERY_MS);
